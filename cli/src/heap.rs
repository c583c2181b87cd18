//! The C library's allocator, told to keep little: a server that runs for days should hold what it uses, not what it once used.
//!
//! Bounded and trimmed, glibc's heaps took half the memory of other allocators under queries and streams, and less of the processor's time
//! (benches/README.md).

pub use imp::{bound, trim_in_background};

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod imp {
    use std::time::Duration;

    use tokio::runtime::Runtime;
    use tokio::time::{Instant, interval_at};

    /// Between two returns of free pages. glibc itself returns only those at a heap's end.
    const TRIM_INTERVAL: Duration = Duration::from_secs(10);

    /// As many heaps as cores: glibc makes eight a core, each of which keeps what was freed in it. Call it before any thread starts.
    pub fn bound() {
        let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        if std::env::var_os("MALLOC_ARENA_MAX").is_none()
            && let Ok(cores) = libc::c_int::try_from(cores)
        {
            // SAFETY: it sets a number of the allocator's, before any other thread runs.
            let _set = unsafe { libc::mallopt(libc::M_ARENA_MAX, cores) };
        }
    }

    /// Returns free pages to the system from time to time, as long as the runtime lives.
    pub fn trim_in_background(runtime: &Runtime) {
        let _ends_with_the_runtime = runtime.spawn(async {
            let mut ticks = interval_at(Instant::now() + TRIM_INTERVAL, TRIM_INTERVAL);
            loop {
                ticks.tick().await;
                // SAFETY: it takes the allocator's own locks and moves nothing.
                let _trimmed = tokio::task::spawn_blocking(|| unsafe { libc::malloc_trim(0) }).await;
            }
        });
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod imp {
    pub fn bound() {}

    pub fn trim_in_background(_runtime: &tokio::runtime::Runtime) {}
}
