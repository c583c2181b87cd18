//! What an answer that is no success looks like.

use crate::runs::manager::RunsError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chainalytics_api_types::ErrorBody;

/// A status and its body.
#[derive(Debug)]
pub struct HttpError {
    pub status: StatusCode,
    pub body: ErrorBody,
}

impl HttpError {
    pub fn not_found(code: &str, message: String) -> Self {
        Self { status: StatusCode::NOT_FOUND, body: ErrorBody::new(code, message, "") }
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, body: ErrorBody::new("INTERNAL", message.to_string(), "see the scheduler's log") }
    }
}

impl From<ErrorBody> for HttpError {
    /// What is wrong with the request.
    fn from(body: ErrorBody) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<RunsError> for HttpError {
    fn from(error: RunsError) -> Self {
        let message = error.to_string();
        match error {
            RunsError::UnknownRun(_) => {
                let mut error = Self::not_found("RUN_NOT_FOUND", message);
                error.body.remedy = "The list of runs has those of this scheduler; the history server shows runs of earlier ones.".to_owned();
                error
            }
            RunsError::Invalid(_) => Self { status: StatusCode::BAD_REQUEST, body: ErrorBody::new("INVALID_REQUEST", message, "") },
            RunsError::Store(_) | RunsError::Log(_) => {
                tracing::error!(%message, "request failed");
                Self::internal(message)
            }
        }
    }
}

/// Unknown paths below `/api/v1` answer like everything else there, not with the web page.
pub async fn no_such_path(uri: axum::http::Uri) -> HttpError {
    HttpError::not_found("NO_SUCH_PATH", format!("{} is not served here", uri.path()))
}
