//! Connections to the scheduler.

use std::time::Duration;

use chainalytics_common::{Error, ErrorCode, Result};
use tonic::transport::{Channel, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The scheduler's address as tonic wants it: `chainalytics://host:7077` and `host:7077` become `http://host:7077`.
#[must_use]
pub fn http_url(url: &str) -> String {
    if let Some(rest) = url.strip_prefix("chainalytics://") {
        format!("http://{rest}")
    } else if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    }
}

fn endpoint(url: &str) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(http_url(url))
        .map_err(|e| Error::new(ErrorCode::Config, format!("scheduler URL {url:?} cannot be used: {e}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true))
}

/// Connects, within five seconds; afterwards the channel connects again by itself.
///
/// # Errors
/// [`ErrorCode::SchedulerUnreachable`] with the address and what to do.
pub(crate) async fn connect(url: &str) -> Result<Channel> {
    let endpoint = endpoint(url)?;
    match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(unreachable(url, &root_cause(&error))),
        Err(_) => Err(unreachable(url, "no answer within 5 s")),
    }
}

pub(crate) fn unreachable(url: &str, cause: &str) -> Error {
    Error::new(
        ErrorCode::SchedulerUnreachable,
        format!(
            "no scheduler answers at {url} ({cause}); start one with `chainalytics cluster start`, give another address with --master, or run \
             in this process with --master 'local[2]'"
        ),
    )
}

/// tonic's own message is only "transport error"; what helps is at the end of the chain.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn addresses_become_http() {
        assert_eq!(http_url("chainalytics://a:7077"), "http://a:7077");
        assert_eq!(http_url("a:7077"), "http://a:7077");
        assert_eq!(http_url("http://a:7077"), "http://a:7077");
    }

    #[tokio::test]
    async fn an_unreachable_scheduler_is_named_with_the_remedy() {
        let error = connect("chainalytics://127.0.0.1:1").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SchedulerUnreachable);
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:1") && text.contains("cluster start"), "{text}");
    }
}
