//! Start, scans, end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chainalytics_event_log::LogPaths;
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::http::{Scans, Shared, now_ms, router};
use crate::replayed::Replayed;
use crate::scan::Scanner;
use crate::{HistoryError, HistoryOptions};

/// Longest wait for open requests when the server ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until `shutdown` is cancelled. Answers requests at once; `/readyz` turns ready after the first scan.
pub async fn serve(options: HistoryOptions, shutdown: CancellationToken) -> Result<(), HistoryError> {
    options.check()?;
    let listener = bind(&options).await?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, event_log_dir = %options.event_log_dir.display(), "history server listens");
    }
    let shared = Arc::new(shared(options));
    let scans = tokio::spawn(scan_loop(Arc::clone(&shared), shutdown.clone()));
    let server = axum::serve(listener, router(shared)).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    let served = tokio::select! {
        served = server.into_future() => served.map_err(HistoryError::Http),
        () = drained => {
            tracing::warn!("requests still open after {DRAIN_TIMEOUT:?} are dropped");
            Ok(())
        }
    };
    shutdown.cancel();
    if timeout(DRAIN_TIMEOUT, scans).await.is_err() {
        tracing::warn!("the scan of the event logs did not end in time");
    }
    served
}

pub(crate) fn shared(options: HistoryOptions) -> Shared {
    Shared {
        started_at_ms: now_ms(),
        catalog: RwLock::default(),
        replayed: Replayed::new(options.details_cached),
        scans: RwLock::new(Scans::default()),
        options,
    }
}

async fn bind(options: &HistoryOptions) -> Result<TcpListener, HistoryError> {
    let host = options.bind_host.trim_start_matches('[').trim_end_matches(']');
    TcpListener::bind((host, options.port)).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => HistoryError::PortInUse { host: options.bind_host.clone(), port: options.port, key: "history.port" },
        _ => HistoryError::Bind { host: options.bind_host.clone(), port: options.port, key: "history.port", source },
    })
}

async fn scan_loop(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut scanner = Scanner::new(LogPaths::new(&shared.options.event_log_dir), shared.options.entries_max.max(1));
    loop {
        let (stop, for_scan) = (shutdown.clone(), Arc::clone(&shared));
        let scan = tokio::task::spawn_blocking(move || {
            scan_once(&mut scanner, &for_scan, &stop);
            scanner
        });
        match scan.await {
            Ok(back) => scanner = back,
            Err(error) => {
                tracing::error!(%error, "the scan of the event logs broke off; starting anew");
                scanner = Scanner::new(LogPaths::new(&shared.options.event_log_dir), shared.options.entries_max.max(1));
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(shared.options.scan_interval.max(Duration::from_millis(100))) => {}
        }
    }
}

pub(crate) fn scan_once(scanner: &mut Scanner, shared: &Shared, stop: &CancellationToken) {
    let begun = Instant::now();
    let result = scanner.scan(stop);
    let mut scans = shared.scans.write();
    scans.last_duration = begun.elapsed();
    match result {
        Ok(catalog) => {
            scans.done += 1;
            scans.error = None;
            if let Some(catalog) = catalog {
                *shared.catalog.write() = Arc::new(catalog);
            }
        }
        Err(error) => {
            scans.failed += 1;
            let text = format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
            if scans.error.as_ref() != Some(&text) {
                tracing::warn!(error = text, "event logs not scanned");
            }
            scans.error = Some(text);
        }
    }
}
