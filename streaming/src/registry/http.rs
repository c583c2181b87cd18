use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use chainalytics_common::Result;

use super::body::ErrorBody;
use super::options::RegistryOptions;
use crate::err;

/// First pause before a repeated attempt; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Largest answer that is read.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// An answer that is no failure of the transport.
pub(super) enum Answer<T> {
    Done(T),
    /// 404, with the registry's own code (40401 subject, 40402 version, 40403 schema).
    NotFound,
    /// 409 or 422: the registry understood and says no.
    Refused {
        code: i64,
        message: String,
    },
}

/// Requests with retries.
pub(super) struct Http {
    client: Client,
    options: RegistryOptions,
}

impl Http {
    pub(super) fn new(options: RegistryOptions) -> Result<Self> {
        let client =
            Client::builder().timeout(options.request_timeout()).build().map_err(|e| err::config(format!("schema registry {}: {e}", options.url)))?;
        Ok(Self { client, options })
    }

    pub(super) fn options(&self) -> &RegistryOptions {
        &self.options
    }

    /// Sends a request until it is answered or `attempts_max` is used up. Time-outs, connection errors, 429 and 5xx are
    /// repeated; every other answer is the registry's word.
    pub(super) async fn send<B: Serialize + Sync, T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&B>) -> Result<Answer<T>> {
        let mut pause = BACKOFF_FIRST;
        let mut attempt = 1;
        loop {
            let failure = match self.send_once(method.clone(), path, body).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(error) => return Err(error),
            };
            if attempt >= self.options.attempts_max.max(1) {
                return Err(err::registry_unreachable(format!("schema registry {}: {failure} (after {attempt} attempts)", self.options.url)));
            }
            tracing::warn!(url = %self.options.url, attempt, failure, "schema registry request failed, trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
            attempt += 1;
        }
    }

    /// The inner error is one that may pass.
    async fn send_once<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<std::result::Result<Answer<T>, String>> {
        let url = format!("{}/{path}", self.options.url.trim_end_matches('/'));
        let mut request = self.client.request(method, &url).header("Accept", "application/vnd.schemaregistry.v1+json, application/json");
        if let Some(info) = &self.options.user_info {
            let (user, password) = info.split_once(':').unwrap_or((info, ""));
            request = request.basic_auth(user, Some(password));
        }
        if let Some(body) = body {
            let json = serde_json::to_vec(body).map_err(|e| err::internal(format!("registry request: {e}")))?;
            request = request.header("Content-Type", "application/vnd.schemaregistry.v1+json").body(json);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => {
                return Err(err::config(format!("schema registry URL {url}: {error}")));
            }
            Err(error) => return Ok(Err(describe(&error))),
        };
        let status = response.status();
        if response.content_length().is_some_and(|len| len > BODY_BYTES_MAX as u64) {
            return Err(err::registry(format!("schema registry {url}: the answer is larger than {BODY_BYTES_MAX} bytes")));
        }
        let bytes = match response.bytes().await {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(describe(&error))),
        };
        if status.is_success() {
            return match serde_json::from_slice(&bytes) {
                Ok(body) => Ok(Ok(Answer::Done(body))),
                Err(error) => Err(err::registry(format!("schema registry {url}: unexpected answer: {error}"))),
            };
        }
        let error: ErrorBody = serde_json::from_slice(&bytes).unwrap_or_default();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Ok(Err(format!("{status} {}", error.message)));
        }
        match status {
            StatusCode::NOT_FOUND => Ok(Ok(Answer::NotFound)),
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Ok(Ok(Answer::Refused { code: error.error_code, message: error.message })),
            _ => Err(err::registry(format!("schema registry {url}: {status} {}", error.message))),
        }
    }
}

/// reqwest's errors hide their cause behind `source`.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
