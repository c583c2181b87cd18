//! Memory and CPU time of processes and all their descendants, read from `/proc` while something runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// `sysconf(_SC_CLK_TCK)`: 100 on every Linux that we run on.
pub const TICKS_PER_SECOND: f64 = 100.0;
const INTERVAL: Duration = Duration::from_millis(200);
const PAGE_BYTES: u64 = 4096;
/// Proportional memory is dear to read: every so many samples.
const PSS_EVERY: u32 = 5;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Highest sum of resident memory of all processes at one moment, in bytes.
    pub peak_rss_bytes: u64,
    /// The same with pages that several processes share (the program itself) counted once.
    pub peak_pss_bytes: u64,
    /// CPU time of all processes between start and end, in seconds.
    pub cpu_seconds: f64,
}

/// Samples until [`Sampler::stop`].
pub struct Sampler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    roots: Vec<u32>,
    /// Its children are watched, it itself is not.
    parent: Option<u32>,
    ended: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    samples: u32,
    peak_rss_bytes: u64,
    peak_pss_bytes: u64,
    /// CPU ticks of each process when first and last seen.
    ticks: BTreeMap<u32, (u64, u64)>,
}

struct Process {
    parent: u32,
    ticks: u64,
    rss_bytes: u64,
}

impl Sampler {
    /// Watches `roots` (those that run already), this process's children, and all their descendants.
    #[must_use]
    pub fn start(roots: Vec<u32>) -> Self {
        Self::new(roots, Some(std::process::id()))
    }

    /// Watches `roots` and their descendants only.
    #[must_use]
    pub fn watch(roots: Vec<u32>) -> Self {
        Self::new(roots, None)
    }

    fn new(roots: Vec<u32>, parent: Option<u32>) -> Self {
        let shared = Arc::new(Shared { roots, parent, ended: AtomicBool::new(false), state: Mutex::default() });
        // What the roots did before does not count.
        shared.sample(true);
        let watched = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !watched.ended.load(Ordering::Acquire) {
                watched.sample(false);
                std::thread::sleep(INTERVAL);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// The end of the measurement.
    #[must_use]
    pub fn stop(mut self) -> Usage {
        self.shared.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
        self.shared.sample(false);
        let state = self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let ticks: u64 = state.ticks.values().map(|(first, last)| last - first).sum();
        Usage { peak_rss_bytes: state.peak_rss_bytes, peak_pss_bytes: state.peak_pss_bytes, cpu_seconds: ticks as f64 / TICKS_PER_SECOND }
    }
}

impl Shared {
    fn sample(&self, first: bool) {
        let all = processes();
        let mut wanted: BTreeSet<u32> = self.roots.iter().copied().collect();
        loop {
            let more: Vec<u32> = all
                .iter()
                .filter(|(pid, p)| !wanted.contains(pid) && (wanted.contains(&p.parent) || Some(p.parent) == self.parent))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                break;
            }
            wanted.extend(more);
        }
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (mut rss, mut pss) = (0, 0);
        let with_pss = state.samples.is_multiple_of(PSS_EVERY);
        state.samples += 1;
        for (pid, process) in all.iter().filter(|(pid, _)| wanted.contains(pid)) {
            rss += process.rss_bytes;
            if with_pss {
                pss += pss_bytes(*pid).unwrap_or(process.rss_bytes);
            }
            let entry = state.ticks.entry(*pid).or_insert((if first { process.ticks } else { 0 }, process.ticks));
            entry.1 = entry.1.max(process.ticks);
        }
        state.peak_rss_bytes = state.peak_rss_bytes.max(rss);
        state.peak_pss_bytes = state.peak_pss_bytes.max(pss);
    }
}

/// Resident memory and proportional share of one process, in bytes; `None` if it is gone.
#[must_use]
pub fn memory(pid: u32) -> Option<(u64, u64)> {
    let (_, process) = read(PathBuf::from(format!("/proc/{pid}")), pid)?;
    Some((process.rss_bytes, pss_bytes(pid).unwrap_or(process.rss_bytes)))
}

fn pss_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|l| l.starts_with("Pss:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

fn processes() -> BTreeMap<u32, Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    entries.flatten().filter_map(|entry| read(entry.path(), entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn read(dir: PathBuf, pid: u32) -> Option<(u32, Process)> {
    let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|n| n.parse::<u64>().ok());
    // After the name: state, ppid, ..., utime (11), stime (12), ..., rss (21).
    Some((pid, Process { parent: u32::try_from(number(1)?).ok()?, ticks: number(11)? + number(12)?, rss_bytes: number(21)? * PAGE_BYTES }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_child_is_seen() {
        let sampler = Sampler::start(vec![]);
        let mut child =
            std::process::Command::new("sh").args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 0.5"]).spawn().unwrap();
        child.wait().unwrap();
        let usage = sampler.stop();
        assert!(usage.peak_rss_bytes > 100_000, "{usage:?}");
        assert!(usage.cpu_seconds > 0.0, "{usage:?}");
    }
}
