//! The wish to end, from the keyboard or from another process.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::output;

/// Waits for SIGINT or SIGTERM. Signals that came before the call are not seen.
pub async fn interrupted() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        // Without handlers the signals end the process as they always do.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Ends the process when an interrupt is not answered within this time.
pub struct LastResort {
    over: CancellationToken,
}

impl LastResort {
    /// A query in this process may compute for minutes without giving way, on every thread of the runtime; then nobody would notice the
    /// interrupt. So a thread of its own waits for it, until this is dropped.
    pub fn after(grace: Duration) -> Self {
        let over = CancellationToken::new();
        let done = over.clone();
        // Without that thread an interrupt is noticed as soon as the query gives way.
        let _ = std::thread::Builder::new().name("interrupts".to_owned()).spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            let stuck = runtime.block_on(async {
                tokio::select! {
                    () = done.cancelled() => false,
                    _ = tokio::signal::ctrl_c() => tokio::time::timeout(grace, done.cancelled()).await.is_err(),
                }
            });
            if stuck {
                output::note("interrupted");
                std::process::exit(crate::error::EXIT_INTERRUPTED.into());
            }
        });
        Self { over }
    }
}

impl Drop for LastResort {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// A token that fires at the first signal; the second ends the process at once.
pub fn cancel_on_signal() -> CancellationToken {
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        interrupted().await;
        cancel.cancel();
        interrupted().await;
        std::process::exit(crate::error::EXIT_INTERRUPTED.into());
    });
    token
}
