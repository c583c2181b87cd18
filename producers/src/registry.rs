//! Registering schemas with a Confluent-compatible schema registry.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;

use crate::encode::schema::schema_of;
use crate::error::{ProducerError, Result};
use crate::options::Format;
use crate::topics::Topic;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPTS_MAX: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const COMPATIBILITY: &str = "BACKWARD";
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Where the registry is. Credentials may also stand in the URL; they appear in no message.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryTarget {
    /// Base URL, without a slash at the end.
    pub url: String,
    /// User and password of basic authentication.
    pub auth: Option<(String, String)>,
}

impl std::fmt::Debug for RegistryTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = without_credentials(self.clone());
        f.debug_struct("RegistryTarget").field("url", &shown.url).finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
struct Registered {
    id: u32,
}

/// A client of the registry.
#[derive(Debug)]
pub struct Registry {
    target: RegistryTarget,
    http: Client,
}

impl Registry {
    /// Makes the client; nothing is asked yet.
    ///
    /// # Errors
    /// The TLS library cannot be set up.
    pub fn new(target: RegistryTarget) -> Result<Self> {
        let target = without_credentials(target);
        let http = Client::builder().timeout(REQUEST_TIMEOUT).build().map_err(|e| ProducerError::Registry {
            url: target.url.clone(),
            reason: e.to_string(),
            retryable: false,
        })?;
        Ok(Self { target, http })
    }

    /// Sets the subject's compatibility to BACKWARD and registers the topic's schema. Returns its id; the same schema
    /// gets the same id each time.
    ///
    /// # Errors
    /// [`ProducerError::Registry`]: unreachable, or the schema is refused as incompatible.
    pub async fn register(&self, topic: Topic, format: Format) -> Result<u32> {
        let subject = topic.subject();
        let schema = schema_of(topic, format).unwrap_or_default();
        let kind = if format == Format::Avro { "AVRO" } else { "JSON" };
        // some registries know a subject's configuration only once the subject exists
        let before = self.set_compatibility(&subject).await?;
        let body = json!({"schema": schema, "schemaType": kind}).to_string();
        let url = format!("{}/subjects/{subject}/versions", self.target.url);
        let (status, text) = self.send(|| self.http.post(&url).body(body.clone())).await?;
        if !status.is_success() {
            let reason = match status {
                StatusCode::CONFLICT => format!("the schema of {subject} is incompatible with its predecessor: {text}"),
                _ => format!("cannot register {subject}: {status} {text}"),
            };
            return Err(self.refused(reason));
        }
        let registered: Registered =
            serde_json::from_str(&text).map_err(|e| self.refused(format!("unexpected answer to the registration of {subject}: {e}")))?;
        if !before && !self.set_compatibility(&subject).await? {
            return Err(self.refused(format!("cannot set the compatibility of {subject}")));
        }
        Ok(registered.id)
    }

    /// `false` if the registry doesn't know the subject (yet).
    async fn set_compatibility(&self, subject: &str) -> Result<bool> {
        let url = format!("{}/config/{subject}", self.target.url);
        let body = json!({"compatibility": COMPATIBILITY}).to_string();
        let (status, text) = self.send(|| self.http.put(&url).body(body.clone())).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            status => Err(self.refused(format!("cannot set the compatibility of {subject}: {status} {text}"))),
        }
    }

    /// Sends, again after a pause if the registry is unreachable or busy; refusals come back at once.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<(StatusCode, String)> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let mut request = request().header("Content-Type", CONTENT_TYPE).header("Accept", CONTENT_TYPE);
            if let Some((user, password)) = &self.target.auth {
                request = request.basic_auth(user, Some(password));
            }
            let answer = async {
                let response = request.send().await?;
                let status = response.status();
                Ok::<_, reqwest::Error>((status, response.text().await?))
            };
            let reason = match answer.await {
                Ok((status, text)) if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                    return Ok((status, text));
                }
                Ok((status, text)) => format!("{status} {text}"),
                Err(error) => error.without_url().to_string(),
            };
            if attempt == ATTEMPTS_MAX {
                return Err(ProducerError::Registry { url: self.target.url.clone(), reason, retryable: true });
            }
            tracing::debug!(attempt, reason, "schema registry: trying again");
            tokio::time::sleep(pause).await;
            pause *= 2;
            attempt += 1;
        }
    }

    fn refused(&self, reason: String) -> ProducerError {
        ProducerError::Registry { url: self.target.url.clone(), reason, retryable: false }
    }
}

/// Moves user and password from the URL to where no message shows them.
fn without_credentials(target: RegistryTarget) -> RegistryTarget {
    let RegistryTarget { url, mut auth } = target;
    let Ok(mut parsed) = Url::parse(&url) else {
        return RegistryTarget { url: url.trim_end_matches('/').to_owned(), auth };
    };
    if !parsed.username().is_empty() {
        let password = parsed.password().unwrap_or_default().to_owned();
        auth = auth.or(Some((parsed.username().to_owned(), password)));
        // both fail only for URLs that cannot have credentials in the first place
        let _ = parsed.set_username("");
        let _ = parsed.set_password(None);
    }
    RegistryTarget { url: parsed.as_str().trim_end_matches('/').to_owned(), auth }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Gives the answers one after the other, each on its own connection; returns its address and the requests seen.
    async fn registry(answers: Vec<(u16, &'static str)>) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&seen);
        tokio::spawn(async move {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = String::new();
                loop {
                    let mut buffer = [0; 4096];
                    let n = stream.read(&mut buffer).await.unwrap();
                    request.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
                    let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
                    let length = head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
                    if body.len() >= length.unwrap_or(0) {
                        break;
                    }
                }
                requests.lock().unwrap().push(request);
                let length = body.len();
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address.to_string(), seen)
    }

    #[tokio::test]
    async fn compatibility_is_set_again_when_the_subject_was_new() {
        let answers = vec![(404, "{}"), (503, "busy"), (200, "{\"id\":7}"), (200, "{}")];
        let (address, seen) = registry(answers).await;
        let target = RegistryTarget { url: format!("http://me:secret@{address}/api/"), auth: None };
        assert!(!format!("{target:?}").contains("secret"));
        let registry = Registry::new(target).unwrap();
        assert_eq!(registry.register(Topic::Products, Format::Avro).await.unwrap(), 7);
        let seen = seen.lock().unwrap();
        assert!(seen[0].starts_with("PUT /api/config/products-value "));
        assert!(seen[0].contains("BACKWARD") && seen[0].contains("Basic bWU6c2VjcmV0"));
        assert!(seen[2].starts_with("POST /api/subjects/products-value/versions ") && seen[2].contains("AVRO"));
        assert!(seen[3].starts_with("PUT "));
    }

    #[tokio::test]
    async fn refusals_are_told_apart_from_silence() {
        let (address, _) = registry(vec![(200, "{}"), (409, "{\"message\":\"nope\"}")]).await;
        let target = RegistryTarget { url: format!("http://me:secret@{address}"), auth: None };
        let refused = Registry::new(target).unwrap().register(Topic::Products, Format::JsonSchema).await.unwrap_err();
        assert!(matches!(&refused, ProducerError::Registry { retryable: false, .. }));
        assert!(refused.to_string().contains("incompatible") && !refused.to_string().contains("secret"));
        let nobody = RegistryTarget { url: "http://127.0.0.1:1".to_owned(), auth: None };
        let silent = Registry::new(nobody).unwrap().register(Topic::Products, Format::Avro).await.unwrap_err();
        assert!(matches!(silent, ProducerError::Registry { retryable: true, .. }));
    }
}
