//! What kind of machine a figure was measured on.

use serde_json::{Value, json};

/// Cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// CPU, cores, memory and system, and how busy the machine was.
#[must_use]
pub fn describe() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_owned()).unwrap_or_default()
    };
    let cpu = after(&read("/proc/cpuinfo"), "model name");
    let memory_kib: u64 = after(&read("/proc/meminfo"), "MemTotal").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    json!({
        "cpu": cpu,
        "cores": cores(),
        "memory_gib": memory_kib.div_ceil(1 << 20),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": read("/proc/loadavg").split_whitespace().next().and_then(|n| n.parse::<f64>().ok()),
    })
}

/// One line for a table's head.
#[must_use]
pub fn line(machine: &Value) -> String {
    format!(
        "{} cores ({}), {} GiB, load {} at the start",
        machine["cores"],
        machine["cpu"].as_str().filter(|c| !c.is_empty()).unwrap_or("unknown CPU"),
        machine["memory_gib"],
        machine["load"]
    )
}

/// The system's CPU time so far that was not idle, in seconds, over all cores.
#[must_use]
pub fn busy_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
    let idle = ticks.get(3).copied().unwrap_or(0) + ticks.get(4).copied().unwrap_or(0);
    (ticks.iter().sum::<u64>().saturating_sub(idle)) as f64 / crate::sampler::TICKS_PER_SECOND
}
