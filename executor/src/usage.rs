//! What this process uses: memory and disk, for the pings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DISK_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes under the work directory, measured now and then.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskUsage(Arc<AtomicU64>);

impl DiskUsage {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Measures until cancelled.
    pub(crate) fn spawn(&self, dir: PathBuf, cancel: CancellationToken) -> JoinHandle<()> {
        let usage = self.clone();
        tokio::spawn(async move {
            loop {
                let dir = dir.clone();
                if let Ok(bytes) = tokio::task::spawn_blocking(move || size_of_dir(&dir)).await {
                    usage.0.store(bytes, Ordering::Relaxed);
                }
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(DISK_INTERVAL) => {}
                }
            }
        })
    }
}

/// Files vanish while this runs; what cannot be read counts as nothing.
fn size_of_dir(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of_dir(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Resident memory of this process in bytes; 0 where `/proc` does not tell.
pub(crate) fn resident_bytes() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_directory_is_measured_with_what_is_below_it() {
        let dir = std::env::temp_dir().join(format!("ca-usage-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        std::fs::write(dir.join("a/x"), [0_u8; 10]).unwrap();
        std::fs::write(dir.join("a/b/y"), [0_u8; 5]).unwrap();
        assert_eq!(size_of_dir(&dir), 15);
        assert_eq!(size_of_dir(&dir.join("missing")), 0);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(resident_bytes() > 0);
    }
}
