//! The comparison as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::Value;

use super::run::{Measured, Options, Side};
use crate::results::{geometric_mean, now, ratio};
use crate::{Result, machine};

/// Milliseconds of each query and side, and the cluster's time over each other side's.
pub(super) fn table(options: &Options, machine: &Value, measured: &BTreeMap<Side, Measured>, numbers: &[usize]) -> String {
    let sides: Vec<Side> = measured.keys().copied().collect();
    let others: Vec<Side> = sides.iter().copied().filter(|s| *s != Side::Cluster).collect();
    let compare = sides.contains(&Side::Cluster);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "`make bench-tpch SF={} ROUNDS={}`, {}: {} executors, best of {} rounds of {} passes, in turn; {}.\n",
        options.scale,
        options.rounds,
        now(),
        options.executors,
        options.rounds,
        options.passes,
        machine::line(machine)
    );
    let mut head = "| query |".to_owned();
    for side in &sides {
        let _ = write!(head, " {} ms |", side.name());
    }
    if compare {
        for side in &others {
            let _ = write!(head, " cluster / {} |", side.name());
        }
    }
    let columns = head.matches('|').count() - 1;
    let _ = writeln!(text, "{head}\n|{}", "---|".repeat(columns));
    let best = |side: Side, number: usize| measured.get(&side).and_then(|m| m.best.get(&number)).copied();
    for number in numbers {
        let _ = write!(text, "| q{number:02} |");
        for side in &sides {
            let _ = write!(text, " {} |", best(*side, *number).map_or("-".to_owned(), |s| format!("{:.0}", s * 1000.0)));
        }
        if compare {
            for side in &others {
                let _ = write!(text, " {} |", ratio(best(Side::Cluster, *number), best(*side, *number)));
            }
        }
        text.push('\n');
    }
    let total = |side: Side| -> f64 { numbers.iter().filter_map(|n| best(side, *n)).sum() };
    let _ = write!(text, "| total |");
    for side in &sides {
        let _ = write!(text, " {:.0} |", total(*side) * 1000.0);
    }
    if compare {
        for side in &others {
            let _ = write!(text, " {} |", ratio(Some(total(Side::Cluster)), Some(total(*side))));
        }
        let _ = write!(text, "\n| geometric mean |{}", " |".repeat(sides.len()));
        for side in &others {
            let ratios: Vec<f64> = numbers.iter().filter_map(|n| Some(best(Side::Cluster, *n)? / best(*side, *n)?)).collect();
            let _ = write!(text, " {} |", geometric_mean(&ratios).map_or("-".to_owned(), |m| format!("{m:.2}")));
        }
    }
    for (name, of) in [("RSS", (|m| m.peak_rss_bytes) as fn(&Measured) -> u64), ("PSS", |m| m.peak_pss_bytes)] {
        let _ = write!(text, "\n| peak {name} MB |");
        for side in &sides {
            let _ = write!(text, " {} |", of(&measured[side]) >> 20);
        }
        if compare {
            let _ = write!(text, "{}", " |".repeat(others.len()));
        }
    }
    let _ = write!(text, "\n| CPU s a pass |");
    let cpu = |side: &Side| measured[side].cpu_seconds.iter().copied().fold(f64::INFINITY, f64::min) / options.passes.max(1) as f64;
    for side in &sides {
        let _ = write!(text, " {:.1} |", cpu(side));
    }
    if compare {
        for side in &others {
            let _ = write!(text, " {} |", ratio(Some(cpu(&Side::Cluster)), Some(cpu(side))));
        }
    }
    text.push('\n');
    text
}

/// Prints it.
pub(super) fn show(table: &str) -> Result<()> {
    std::io::stdout().write_all(table.as_bytes()).map_err(|e| format!("cannot print: {e}"))
}
