//! Connections to other executors, kept open between shuffle reads (Ballista's own pool is private to its crate).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::client::BallistaClient;
use ballista_core::client_pool::{BallistaClientPool, PooledClient};
use ballista_core::extension::BallistaConfigGrpcEndpoint;
use ballista_core::utils::GrpcClientConfig;
use parking_lot::Mutex;

const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle connections kept to one executor.
const MAX_IDLE: usize = 32;

type Key = (String, u16, GrpcClientConfig);
type Idle = Arc<Mutex<HashMap<Key, VecDeque<(BallistaClient, Instant)>>>>;

/// Idle connections by address, most recently used last.
#[derive(Clone, Default)]
pub(crate) struct ConnectionPool {
    idle: Idle,
}

impl fmt::Debug for ConnectionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionPool").finish_non_exhaustive()
    }
}

impl ConnectionPool {
    fn take(&self, key: &Key) -> Option<BallistaClient> {
        let mut idle = self.idle.lock();
        evict(&mut idle);
        idle.get_mut(key)?.pop_back().map(|(client, _)| client)
    }
}

fn evict(idle: &mut HashMap<Key, VecDeque<(BallistaClient, Instant)>>) {
    idle.retain(|_, clients| {
        while clients.front().is_some_and(|(_, since)| since.elapsed() > IDLE_TIMEOUT) {
            clients.pop_front();
        }
        !clients.is_empty()
    });
}

fn put_back(idle: &Idle, key: Key, client: BallistaClient) {
    let mut idle = idle.lock();
    let clients = idle.entry(key).or_default();
    if clients.len() >= MAX_IDLE {
        clients.pop_front();
    }
    clients.push_back((client, Instant::now()));
}

#[async_trait]
impl BallistaClientPool for ConnectionPool {
    async fn acquire(
        &self,
        host: &str,
        port: u16,
        config: &GrpcClientConfig,
        customize_endpoint: Option<Arc<BallistaConfigGrpcEndpoint>>,
    ) -> ballista_core::error::Result<PooledClient> {
        let key: Key = (host.to_owned(), port, config.clone());
        let client = match self.take(&key) {
            Some(client) => client,
            None => {
                BallistaClient::try_new(
                    host,
                    port,
                    config.max_message_size,
                    config.use_tls,
                    customize_endpoint,
                    config.io_retries_times,
                    config.io_retry_wait_time_ms,
                    config.initial_connection_window_size,
                    config.initial_stream_window_size,
                )
                .await?
            }
        };
        let idle = Arc::clone(&self.idle);
        Ok(PooledClient::new(client, Box::new(move |client| put_back(&idle, key, client))))
    }

    async fn evict_idle(&self) {
        evict(&mut self.idle.lock());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn the_pool_stays_bounded_and_hands_connections_out_again() {
        let pool = ConnectionPool::default();
        let key: Key = ("127.0.0.1".to_owned(), 1, GrpcClientConfig::default());
        for _ in 0..MAX_IDLE * 2 {
            put_back(&pool.idle, key.clone(), BallistaClient::new_for_test("127.0.0.1", 1));
        }
        assert_eq!(pool.idle.lock()[&key].len(), MAX_IDLE);
        assert!(pool.take(&key).is_some());
        assert_eq!(pool.idle.lock()[&key].len(), MAX_IDLE - 1);
    }
}
