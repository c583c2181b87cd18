//! When late data is worth telling someone: the platform's SLAs (data-model.md, "Data quality"). Pure.

use super::completeness::HourCount;

/// Average delay should stay under this.
const AVERAGE_DELAY_MAX_S: f64 = 300.0;
/// No row should be later than this.
const DELAY_MAX_S: f64 = 1_800.0;
/// Late rows for each on-time row.
const LATE_SHARE_MAX: f64 = 0.01;

/// What one batch of the handler saw of a topic.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct BatchFigures {
    pub rows: u64,
    pub on_time: u64,
    pub too_late: u64,
    pub average_delay_s: f64,
    pub max_delay_s: f64,
    pub idle_partitions: u64,
    pub completeness: HourCount,
    pub days_requested: u64,
    /// Dead letters whose writer's schema does not go with the table.
    pub incompatible: u64,
}

/// A row of `late_data_alerts`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Alert {
    pub kind: &'static str,
    pub severity: &'static str,
    pub metric: &'static str,
    pub value: f64,
    pub threshold: f64,
    pub message: String,
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn alerts(topic: &str, figures: &BatchFigures) -> Vec<Alert> {
    let mut found = Vec::new();
    let mut tell = |kind, severity, metric, value: f64, threshold: f64, message: String| {
        found.push(Alert { kind, severity, metric, value, threshold, message });
    };
    let late = figures.rows.saturating_sub(figures.on_time);
    let share = if late == 0 { 0.0 } else { late as f64 / (figures.on_time as f64).max(1.0) };
    if share > LATE_SHARE_MAX {
        tell("LATE_SHARE", "warning", "late_share", share, LATE_SHARE_MAX, format!("{late} of {} rows of {topic} came late", figures.rows));
    }
    if figures.too_late > 0 {
        let message = format!("{} rows of {topic} came behind the watermark; see monitoring_rejected_late_data", figures.too_late);
        tell("TOO_LATE", "critical", "too_late_rows", figures.too_late as f64, 0.0, message);
    }
    if figures.average_delay_s > AVERAGE_DELAY_MAX_S {
        let message = format!("rows of {topic} came {:.0} s after their events on average", figures.average_delay_s);
        tell("AVERAGE_DELAY", "warning", "average_delay_s", figures.average_delay_s, AVERAGE_DELAY_MAX_S, message);
    }
    if figures.max_delay_s > DELAY_MAX_S {
        let message = format!("a row of {topic} came {:.0} s after its event", figures.max_delay_s);
        tell("MAX_DELAY", "warning", "max_delay_s", figures.max_delay_s, DELAY_MAX_S, message);
    }
    let missing = figures.completeness.missing();
    if missing > 0 {
        let message =
            format!("{missing} of {} log positions of {topic} are neither in bronze nor among the dead letters", figures.completeness.expected);
        tell("INCOMPLETE", "critical", "completeness", figures.completeness.completeness(), 1.0, message);
    }
    if figures.incompatible > 0 {
        let message =
            format!("{} records of {topic} were written with schemas that its table does not take; see bronze_dead_letters", figures.incompatible);
        tell("INCOMPATIBLE_SCHEMA", "critical", "incompatible_records", figures.incompatible as f64, 0.0, message);
    }
    if figures.idle_partitions > 0 {
        let message = format!("{} partitions of {topic} are idle and do not hold back its watermark", figures.idle_partitions);
        tell("IDLE_PARTITION", "info", "idle_partitions", figures.idle_partitions as f64, 0.0, message);
    }
    if figures.days_requested > 0 {
        let message = format!("late rows of {topic} ask for {} days to be rebuilt", figures.days_requested);
        tell("REPROCESSING_REQUESTED", "info", "days", figures.days_requested as f64, 0.0, message);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_punctual_batch_alerts_nobody() {
        let figures = BatchFigures {
            rows: 1000,
            on_time: 995,
            average_delay_s: 12.0,
            max_delay_s: 1_000.0,
            completeness: HourCount { expected: 1000, arrived: 1000, dead_letters: 0 },
            ..BatchFigures::default()
        };
        assert!(alerts("t", &figures).is_empty());
    }

    #[test]
    fn each_limit_has_its_alert() {
        let figures = BatchFigures {
            rows: 10,
            on_time: 5,
            too_late: 1,
            average_delay_s: 400.0,
            max_delay_s: 5_000.0,
            idle_partitions: 1,
            completeness: HourCount { expected: 12, arrived: 10, dead_letters: 0 },
            days_requested: 2,
            incompatible: 3,
        };
        let kinds: Vec<_> = alerts("t", &figures).into_iter().map(|a| a.kind).collect();
        assert_eq!(
            kinds,
            ["LATE_SHARE", "TOO_LATE", "AVERAGE_DELAY", "MAX_DELAY", "INCOMPLETE", "INCOMPATIBLE_SCHEMA", "IDLE_PARTITION", "REPROCESSING_REQUESTED"]
        );
    }
}
