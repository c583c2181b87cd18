//! Ballista's own REST routes, and a way to ask them without a socket, so that our bodies are made of the same ones that its event log
//! holds and the history server replays.

use super::error::HttpError;
use crate::ballista::Ballista;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::Value;
use std::sync::Arc;
use tower::ServiceExt;

/// Largest body read from an in-process answer.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Shared handle; cheap to clone.
#[derive(Clone)]
pub struct BallistaApi {
    router: Router,
}

impl BallistaApi {
    /// Around a server whose `web_tui_route` does not collide with our page.
    #[must_use]
    pub fn new(ballista: Ballista) -> Self {
        Self { router: ballista_scheduler::api::get_routes(Arc::new(ballista)) }
    }

    /// To be merged into ours.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// `GET path`. `None` when Ballista answers 404.
    pub async fn json(&self, path: &str) -> Result<Option<Value>, HttpError> {
        let (status, bytes) = self.get(path).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let value: Value = serde_json::from_slice(&bytes).map_err(HttpError::internal)?;
        if status.is_success() { Ok(Some(value)) } else { Err(HttpError::internal(value)) }
    }

    /// `GET path` as text; empty when it is not answered with success.
    pub async fn text(&self, path: &str) -> Result<String, HttpError> {
        let (status, bytes) = self.get(path).await?;
        Ok(if status.is_success() { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() })
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Vec<u8>), HttpError> {
        let request = Request::builder()
            .uri(path)
            .header(axum::http::header::ACCEPT, "application/json, text/plain")
            .body(Body::empty())
            .map_err(HttpError::internal)?;
        let response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), BODY_BYTES_MAX).await.map_err(HttpError::internal)?;
        Ok((status, bytes.to_vec()))
    }
}
