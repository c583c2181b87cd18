//! Results of checks and their tables.

use chainalytics_common::Result;
use datafusion::dataframe::DataFrame;
use serde_json::{Value, json};

use crate::JobContext;
use crate::rows::{days, doubles, frame, moments, texts};

/// How bad a failed check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// A figure, nothing to fail.
    Info,
    Warning,
    Critical,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One check's result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    pub table: String,
    pub check: &'static str,
    pub metric: String,
    pub value: Option<f64>,
    /// Greatest value that passes.
    pub threshold: Option<f64>,
    pub severity: Severity,
    pub message: String,
}

impl Finding {
    pub(super) fn passed(&self) -> bool {
        match (self.value, self.threshold) {
            (Some(value), Some(threshold)) => value <= threshold,
            (Some(_), None) => true,
            // Not measurable: an empty table has no share of anything.
            (None, _) => true,
        }
    }

    fn status(&self) -> &'static str {
        match (self.passed(), self.severity) {
            (true, Severity::Info) => "INFO",
            (true, _) => "PASS",
            (false, Severity::Critical) => "FAIL",
            (false, _) => "WARN",
        }
    }
}

/// All results of a run.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn failed(&self, severity: Severity) -> Vec<&Finding> {
        self.findings.iter().filter(|f| !f.passed() && f.severity == severity).collect()
    }

    /// The share `part / whole` as a finding; nothing to say of an empty table.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn share(
        &mut self,
        table: &str,
        check: &'static str,
        metric: impl Into<String>,
        part: u64,
        whole: u64,
        threshold: f64,
        severity: Severity,
    ) {
        let metric = metric.into();
        let value = (whole > 0).then(|| part as f64 / whole as f64);
        let message = format!("{part} of {whole} rows");
        self.findings.push(Finding { table: table.to_owned(), check, metric, value, threshold: Some(threshold), severity, message });
    }

    #[allow(clippy::cast_precision_loss)]
    pub(super) fn count(
        &mut self,
        table: &str,
        check: &'static str,
        metric: impl Into<String>,
        value: u64,
        threshold: Option<u64>,
        severity: Severity,
    ) {
        let (value, threshold) = (Some(value as f64), threshold.map(|t| t as f64));
        self.value(table, check, metric, value, threshold, severity, String::new());
    }

    pub(super) fn value(
        &mut self,
        table: &str,
        check: &'static str,
        metric: impl Into<String>,
        value: Option<f64>,
        threshold: Option<f64>,
        severity: Severity,
        message: String,
    ) {
        self.findings.push(Finding { table: table.to_owned(), check, metric: metric.into(), value, threshold, severity, message });
    }

    /// Rows for `data_quality_report`.
    pub(super) fn frame(&self, context: &JobContext, now: i64) -> Result<DataFrame> {
        let all = &self.findings;
        let run = context.session().run().run_id();
        let day = i32::try_from(now.div_euclid(86_400_000_000)).unwrap_or(0);
        frame(
            context.session(),
            vec![
                ("table_name", texts(all.iter().map(|f| Some(f.table.as_str())))),
                ("check_type", texts(all.iter().map(|f| Some(f.check)))),
                ("metric", texts(all.iter().map(|f| Some(f.metric.as_str())))),
                ("value", doubles(all.iter().map(|f| f.value))),
                ("status", texts(all.iter().map(|f| Some(f.status())))),
                ("check_timestamp", moments(all.iter().map(|_| Some(now)))),
                ("check_date", days(all.iter().map(|_| Some(day)))),
                ("threshold", doubles(all.iter().map(|f| f.threshold))),
                ("severity", texts(all.iter().map(|f| Some(f.severity.name())))),
                ("message", texts(all.iter().map(|f| (!f.message.is_empty()).then_some(f.message.as_str())))),
                ("run_id", texts(all.iter().map(|_| run))),
            ],
        )
    }

    /// Rows for `data_quality_alerts`; `None` if nothing failed.
    pub(super) fn alerts(&self, context: &JobContext, now: i64) -> Result<Option<DataFrame>> {
        let failed: Vec<&Finding> = self.findings.iter().filter(|f| !f.passed()).collect();
        if failed.is_empty() {
            return Ok(None);
        }
        let run = context.session().run().run_id();
        let id = |f: &Finding| format!("{}/{}/{}/{}", run.unwrap_or("local"), f.table, f.check, f.metric);
        frame(
            context.session(),
            vec![
                ("alert_id", texts(failed.iter().map(|f| Some(id(f))))),
                ("alert_timestamp", moments(failed.iter().map(|_| Some(now)))),
                ("severity", texts(failed.iter().map(|f| Some(f.severity.name())))),
                ("table_name", texts(failed.iter().map(|f| Some(f.table.as_str())))),
                ("check_type", texts(failed.iter().map(|f| Some(f.check)))),
                ("metric", texts(failed.iter().map(|f| Some(f.metric.as_str())))),
                ("value", doubles(failed.iter().map(|f| f.value))),
                ("threshold", doubles(failed.iter().map(|f| f.threshold))),
                ("message", texts(failed.iter().map(|f| (!f.message.is_empty()).then_some(f.message.as_str())))),
                ("run_id", texts(failed.iter().map(|_| run))),
            ],
        )
        .map(Some)
    }

    pub(super) fn to_json(&self) -> Value {
        let name = |f: &&Finding| json!({ "table": f.table, "check": f.check, "metric": f.metric, "value": f.value, "threshold": f.threshold });
        let list = |severity| self.failed(severity).iter().map(name).collect::<Vec<_>>();
        json!({
            "checks": self.findings.iter().filter(|f| f.severity != Severity::Info).count(),
            "passed": self.findings.iter().filter(|f| f.severity != Severity::Info && f.passed()).count(),
            "critical": list(Severity::Critical), "warnings": list(Severity::Warning),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_fails_no_share() {
        let mut report = Report::default();
        report.share("t", "completeness", "null_a", 0, 0, 0.0, Severity::Critical);
        report.share("t", "completeness", "null_b", 1, 2, 0.0, Severity::Critical);
        assert_eq!(report.failed(Severity::Critical).len(), 1);
        assert_eq!(report.findings.iter().map(Finding::status).collect::<Vec<_>>(), ["PASS", "FAIL"]);
    }
}
