//! A small HTTP port for probes: `/healthz` (the process answers) and `/readyz` (the scheduler takes its heartbeats).

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use ballista_executor::health::ExecutorHealth;
use chainalytics_common::Result;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ports;

/// Serves until cancelled.
///
/// # Errors
/// `PortInUse` if the port is taken.
pub(crate) async fn serve(host: &str, port: u16, health: ExecutorHealth, cancel: CancellationToken) -> Result<JoinHandle<()>> {
    let ip = ports::resolve(host).await?;
    let (listener, port) = ports::bind(ip, port, "health port").await?;
    tracing::info!(port, "health port is open");
    let router = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(health);
    Ok(tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::warn!(%error, "the health port failed");
        }
    }))
}

async fn ready(State(health): State<ExecutorHealth>) -> (StatusCode, &'static str) {
    if health.is_ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "the scheduler has not taken a heartbeat\n") }
}
