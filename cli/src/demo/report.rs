//! Shows what the demo did: counts per layer, what was rejected and why, the checks, the gold tables, the URLs.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::counts::{Check, Counts, sum};
use crate::error::CliResult;
use crate::output::{self, Rows, thousands};

/// Everything that the demo has to tell.
pub struct Report {
    pub counts: Counts,
    pub checks: Vec<Check>,
    /// Rows of each table that files were loaded into.
    pub files: BTreeMap<String, u64>,
    pub catalog_uri: String,
    pub warehouse: String,
    pub urls: BTreeMap<String, String>,
    pub seconds: f64,
    /// First rows of the gold tables that have any.
    pub gold_rows: Vec<(String, Vec<Map<String, Value>>)>,
}

impl Report {
    pub fn to_json(&self) -> Value {
        let c = &self.counts;
        json!({
            "produced": c.produced,
            "bronze": c.bronze,
            "dead_letters": c.dead_letters,
            "silver": c.silver,
            "quarantined": c.quarantined,
            "duplicates": c.duplicates,
            "gold": c.gold,
            "dead_letters_by_reason": c.dead_letters_by_reason,
            "quarantined_by_rule": c.quarantined_by_rule,
            "duplicates_by_source": c.duplicates_by_source,
            "files": self.files,
            "checks": self.checks.iter().map(|check| json!({
                "equation": check.equation, "left": check.left, "right": check.right, "holds": check.holds(),
            })).collect::<Vec<_>>(),
            "catalog_uri": self.catalog_uri,
            "warehouse": self.warehouse,
            "urls": self.urls,
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
        })
    }

    pub fn print(&self) -> CliResult<()> {
        let c = &self.counts;
        heading("Counts per layer (all that ever went through)")?;
        for (layer, map) in [
            ("produced", &c.produced),
            ("bronze", &c.bronze),
            ("dead letters", &c.dead_letters),
            ("silver", &c.silver),
            ("quarantined", &c.quarantined),
            ("duplicates removed", &c.duplicates),
            ("gold", &c.gold),
            ("from files", &self.files),
        ] {
            let total = if layer == "gold" { String::new() } else { thousands(sum(map)) };
            output::line(&format!("{layer:20}{total:>12}"))?;
            for (name, n) in map {
                output::line(&format!("  {name:40}{:>12}", thousands(*n)))?;
            }
        }
        reasons("Dead letters by reason", &c.dead_letters_by_reason)?;
        reasons("Quarantined by rule", &c.quarantined_by_rule)?;
        for (table, rows) in &self.gold_rows {
            heading(table)?;
            output::text(&grid(rows))?;
        }
        heading("Do the sums add up?")?;
        for check in &self.checks {
            let mark = if check.holds() { "yes" } else { "NO " };
            output::line(&format!("{mark}  {:60} {} = {}", check.equation, thousands(check.left), thousands(check.right)))?;
        }
        heading("The cluster stays up")?;
        for (name, url) in &self.urls {
            output::line(&format!("{name:12}{url}"))?;
        }
        output::line(&format!("\n{:.1} seconds", self.seconds))
    }
}

fn heading(text: &str) -> CliResult<()> {
    output::line(&format!("\n{text}\n{}", "─".repeat(output::width(text))))
}

fn reasons(title: &str, map: &BTreeMap<String, BTreeMap<String, u64>>) -> CliResult<()> {
    if map.values().all(BTreeMap::is_empty) {
        return Ok(());
    }
    heading(title)?;
    let mut rows = Rows::new(&["of", "reason", "rows"]);
    for (of, reasons) in map {
        for (reason, n) in reasons {
            rows.push(vec![json!(of), json!(reason), json!(n)]);
        }
    }
    output::text(&rows.table())
}

/// Rows whose columns are known only now.
fn grid(rows: &[Map<String, Value>]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let names: Vec<&String> = first.keys().collect();
    let cell = |value: Option<&Value>| -> String {
        let text = match value {
            None | Some(Value::Null) => "NULL".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(n)) if n.is_f64() => format!("{:.2}", n.as_f64().unwrap_or_default()),
            Some(other) => other.to_string(),
        };
        text.chars().take(32).collect()
    };
    let cells: Vec<Vec<String>> = rows.iter().map(|row| names.iter().map(|name| cell(row.get(*name))).collect()).collect();
    let widths: Vec<usize> = names
        .iter()
        .enumerate()
        .map(|(i, name)| cells.iter().map(|row| output::width(&row[i])).chain([output::width(name)]).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    let header: Vec<String> = names.iter().map(|name| (*name).clone()).collect();
    for row in std::iter::once(&header).chain(&cells) {
        let line: Vec<String> = row.iter().zip(&widths).map(|(text, width)| format!("{text}{}", " ".repeat(width - output::width(text)))).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_json_has_what_scripts_read() {
        let report = Report {
            counts: Counts { produced: [("t".to_owned(), 3)].into(), ..Counts::default() },
            checks: Vec::new(),
            files: BTreeMap::new(),
            catalog_uri: "sqlite:////x".to_owned(),
            warehouse: "/w".to_owned(),
            urls: BTreeMap::new(),
            seconds: 1.234_56,
            gold_rows: Vec::new(),
        };
        let json = report.to_json();
        for key in [
            "produced",
            "bronze",
            "dead_letters",
            "silver",
            "quarantined",
            "duplicates",
            "gold",
            "files",
            "catalog_uri",
            "warehouse",
            "urls",
            "seconds",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["produced"]["t"], 3);
        assert_eq!(json["seconds"], 1.235);
    }

    #[test]
    fn grids_align() {
        let row = |n: i64, t: &str| json!({ "n": n, "text": t }).as_object().unwrap().clone();
        assert_eq!(grid(&[row(1, "a"), row(100, "é")]), "n    text\n1    a\n100  é\n");
    }
}
