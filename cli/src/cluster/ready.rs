//! Asks the processes of a cluster whether they are ready.

use std::time::Duration;

use chainalytics_api_types::ClusterInfo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One question, on loopback, is answered within this or counts as not answered.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// ApiVersions, request version 0, correlation id 1, no client id, with its length before it.
const API_VERSIONS_REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];

/// `Ok` if ready, else why not.
pub type Readiness = Result<(), String>;

/// HTTP questions to schedulers and history servers.
#[derive(Clone)]
pub struct Asker {
    http: reqwest::Client,
}

impl Asker {
    pub fn new() -> Self {
        // Loopback and the cluster's own hosts: a proxy of the environment is not meant for them.
        let http = reqwest::Client::builder().timeout(ASK_TIMEOUT).no_proxy().build().unwrap_or_default();
        Self { http }
    }

    /// The scheduler answers `/readyz` and at least `executors` executors hold a lease.
    pub async fn scheduler(&self, base: &str, executors: u64) -> Readiness {
        let cluster = self.cluster(base).await?;
        if cluster.executors.alive < executors {
            return Err(format!("{} of {executors} executors have registered", cluster.executors.alive));
        }
        self.ok(&format!("{base}/readyz")).await
    }

    pub async fn cluster(&self, base: &str) -> Result<ClusterInfo, String> {
        let response = self.http.get(format!("{base}/api/v1/cluster")).send().await.map_err(|e| reason(&e))?;
        if !response.status().is_success() {
            return Err(format!("{base}/api/v1/cluster answers {}", response.status()));
        }
        response.json().await.map_err(|e| reason(&e))
    }

    /// The server answers `/healthz`.
    pub async fn alive(&self, base: &str) -> Readiness {
        self.ok(&format!("{base}/healthz")).await
    }

    async fn ok(&self, url: &str) -> Readiness {
        let response = self.http.get(url).send().await.map_err(|e| reason(&e))?;
        if response.status().is_success() { Ok(()) } else { Err(format!("{url} answers {}", response.status())) }
    }

    /// A broker is ready once it answers ApiVersions without an error; an open port alone proves nothing.
    pub async fn broker(&self, address: &str) -> Readiness {
        match tokio::time::timeout(ASK_TIMEOUT, api_versions(address)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("{address}: {error}")),
            Err(_) => Err(format!("{address} does not answer")),
        }
    }
}

async fn api_versions(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&API_VERSIONS_REQUEST).await?;
    // Length, correlation id, error code.
    let mut head = [0u8; 10];
    stream.read_exact(&mut head).await?;
    check_api_versions(&head).map_err(std::io::Error::other)
}

fn check_api_versions(head: &[u8; 10]) -> Result<(), &'static str> {
    match (&head[4..8], &head[8..10]) {
        ([0, 0, 0, 1], [0, 0]) => Ok(()),
        ([0, 0, 0, 1], _) => Err("the broker refuses ApiVersions"),
        _ => Err("what listens there does not speak Kafka's protocol"),
    }
}

/// reqwest's own text hides the cause behind `source`.
fn reason(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    match error.url() {
        Some(url) => format!("{url}: {text}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_kafka_counts_as_a_broker() {
        assert!(check_api_versions(&[0, 0, 0, 20, 0, 0, 0, 1, 0, 0]).is_ok());
        assert!(check_api_versions(&[0, 0, 0, 20, 0, 0, 0, 1, 0, 35]).is_err());
        assert!(check_api_versions(b"HTTP/1.1 4").is_err());
    }

    #[tokio::test]
    async fn nobody_there_is_told_as_such() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let asker = Asker::new();
        assert!(asker.broker(&address).await.unwrap_err().contains("refused"));
        assert!(asker.alive(&format!("http://{address}")).await.unwrap_err().contains("refused"));
    }
}
