//! Requests of the Iceberg REST protocol: who asks, how long, what an answer means.

use std::time::Duration;

use chainalytics_common::{Error, ErrorCode, Result};
use reqwest::header::{ETAG, IF_NONE_MATCH};
use reqwest::{Client, Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::RestOptions;
use super::auth::Auth;
use super::body::ErrorBody;
use crate::err;

/// Attempts of a request that changes nothing.
const READ_ATTEMPTS: u32 = 4;
const READ_WAIT: Duration = Duration::from_millis(200);
/// Characters of a server's message that are repeated.
const MESSAGE_CHARS_MAX: usize = 500;

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server answered, and refused.
    Refused { status: u16, kind: String, message: String },
    /// The request never left: nothing happened.
    Unsent(String),
    /// No answer, or one of a gateway: it may have happened.
    NoAnswer(String),
}

impl Failure {
    pub(super) fn is(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }

    /// Whether the server has no such endpoint.
    pub(super) fn is_no_endpoint(&self) -> bool {
        matches!(self, Self::Refused { status: 404 | 405 | 406 | 501, kind, .. }
            if !kind.starts_with("NoSuch"))
    }

    /// As the platform's error; `what` says what was asked.
    pub(super) fn into_error(self, what: &str) -> Error {
        match self {
            Self::Refused { status, kind, message } => {
                let code = match status {
                    401 | 403 => ErrorCode::CatalogDenied,
                    409 => ErrorCode::CommitConflict,
                    429 => ErrorCode::CatalogBusy,
                    501 => ErrorCode::Unsupported,
                    400 | 404 | 422 => ErrorCode::Catalog,
                    500.. => ErrorCode::CatalogUnreachable,
                    _ => ErrorCode::Catalog,
                };
                let kind = if kind.is_empty() { String::new() } else { format!(" {kind}") };
                Error::new(code, format!("{what}: the REST catalog answers {status}{kind}: {message}"))
            }
            Self::Unsent(reason) => err::catalog_unreachable(format!("{what}: cannot reach the REST catalog: {reason}")),
            Self::NoAnswer(reason) => err::catalog_unreachable(format!("{what}: no answer of the REST catalog: {reason}")),
        }
    }
}

/// What a server answered.
struct Answer {
    text: String,
    /// Names this version of what was asked for.
    tag: Option<String>,
    /// It is the version that the request named; `text` is empty.
    unchanged: bool,
}

/// A server, and how we show who we are.
pub(super) struct Http {
    client: Client,
    /// `http://host:port/path/v1`.
    base: String,
    auth: Auth,
}

impl Http {
    pub(super) fn new(options: &RestOptions) -> Result<Self> {
        let client = Client::builder()
            .connect_timeout(options.connect_timeout)
            .timeout(options.request_timeout)
            .user_agent(concat!("chainalytics/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| err::config(format!("catalog.uri: {e}")))?;
        let base = format!("{}/v1", options.uri.trim_end_matches('/').trim_end_matches("/v1"));
        let auth = Auth::new(options, &base)?;
        Ok(Self { client, base, auth })
    }

    /// The same with the address or token that the server's configuration asks for.
    pub(super) fn redirect(&mut self, uri: Option<&str>, token: Option<&str>) {
        if let Some(uri) = uri {
            self.base = format!("{}/v1", uri.trim_end_matches('/').trim_end_matches("/v1"));
        }
        if let Some(token) = token {
            self.auth = Auth::token(token);
        }
    }

    /// Reads; tried again while the server is away or busy.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Failure> {
        let answer = self.read(path, query, None).await?;
        parse(path, &answer.text)
    }

    /// Reads what may be known already: `None` if it is still the version of the tag `known`; else with its own tag.
    pub(super) async fn get_newer<T: DeserializeOwned>(&self, path: &str, known: Option<&str>) -> Result<Option<(T, Option<String>)>, Failure> {
        let answer = self.read(path, &[], known).await?;
        match answer.unchanged {
            true => Ok(None),
            false => Ok(Some((parse(path, &answer.text)?, answer.tag))),
        }
    }

    async fn read(&self, path: &str, query: &[(&str, &str)], known: Option<&str>) -> Result<Answer, Failure> {
        let mut wait = READ_WAIT;
        let mut attempt = 1;
        loop {
            match self.once::<()>(Method::GET, path, query, None, known).await {
                Ok(answer) => return Ok(answer),
                Err(failure) if attempt >= READ_ATTEMPTS || !passes(&failure) => return Err(failure),
                Err(failure) => tracing::debug!(?failure, path, attempt, "asking the REST catalog again"),
            }
            attempt += 1;
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
    }

    /// Changes something; sent once. An empty answer is `null`.
    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, Failure> {
        let answer = self.once(method, path, query, body, None).await?;
        parse(path, &answer.text)
    }

    async fn once<B: Serialize + Sync>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&B>,
        known: Option<&str>,
    ) -> Result<Answer, Failure> {
        let mut renewed = false;
        loop {
            let token = self.auth.bearer(&self.client, renewed).await?;
            let mut request = self
                .client
                .request(method.clone(), format!("{}/{path}", self.base))
                .query(query)
                .header("X-Iceberg-Access-Delegation", "vended-credentials");
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Some(known) = known {
                request = request.header(IF_NONE_MATCH, known);
            }
            let response = request.send().await.map_err(failure)?;
            let status = response.status();
            // 419: the token's time is over.
            if matches!(status.as_u16(), 401 | 419) && !renewed && self.auth.renews() {
                renewed = true;
                continue;
            }
            let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
            let text = response.text().await.map_err(|e| Failure::NoAnswer(told(&e)))?;
            let unchanged = known.is_some() && status == StatusCode::NOT_MODIFIED;
            return if unchanged || status.is_success() { Ok(Answer { text, tag, unchanged }) } else { Err(refusal(status, &text)) };
        }
    }
}

fn parse<T: DeserializeOwned>(path: &str, text: &str) -> Result<T, Failure> {
    let text = if text.trim().is_empty() { "null" } else { text };
    serde_json::from_str(text).map_err(|e| Failure::Refused { status: 200, kind: "UnreadableAnswer".to_owned(), message: format!("{path}: {e}") })
}

/// Whether asking again may help.
fn passes(failure: &Failure) -> bool {
    match failure {
        Failure::Unsent(_) | Failure::NoAnswer(_) => true,
        Failure::Refused { status, .. } => *status == 429,
    }
}

/// What a refusal says. A server or gateway in trouble has not answered the question.
pub(super) fn refusal(status: StatusCode, text: &str) -> Failure {
    let body: Option<ErrorBody> = serde_json::from_str(text).ok();
    // The token endpoint has OAuth's own form.
    let oauth = || serde_json::from_str::<Value>(text).ok().and_then(|v| Some(v.get("error")?.as_str()?.to_owned()));
    let (kind, message) = match body {
        Some(body) => (body.error.kind.unwrap_or_default(), body.error.message.unwrap_or_default()),
        None => (String::new(), oauth().unwrap_or_else(|| title(text).to_owned())),
    };
    let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
    match status.as_u16() {
        501 => Failure::Refused { status: 501, kind, message },
        500.. => Failure::NoAnswer(format!("{status} {kind} {message}").trim_end().to_owned()),
        status => Failure::Refused { status, kind, message },
    }
}

/// What a page says in its title; other text as it is.
fn title(text: &str) -> &str {
    let inner = text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    inner.map_or(text, |(title, _)| title)
}

pub(super) fn failure(error: reqwest::Error) -> Failure {
    let told = told(&error);
    if error.is_connect() || error.is_builder() { Failure::Unsent(told) } else { Failure::NoAnswer(told) }
}

/// The innermost cause: the outer ones only repeat the address, which may hold a password.
fn told(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
