//! The broker's parts together, and its life: open, listen, serve, flush.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::connection;
use crate::error::BrokerError;
use crate::groups::{self, Groups};
use crate::offsets::OffsetStore;
use crate::options::BrokerOptions;
use crate::producer_ids::ProducerIds;
use crate::topics::Topics;

/// The only node's id.
pub const NODE_ID: i32 = 1;
/// Memory budgets count in units of this many bytes (a semaphore counts to 2^29 on 32-bit machines).
pub const BUDGET_UNIT_BYTES: usize = 1024;
/// Connections get this long to finish their request at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    pub options: BrokerOptions,
    pub host: String,
    pub port: u16,
    pub cluster_id: String,
    pub topics: Topics,
    pub offsets: OffsetStore,
    pub groups: Groups,
    pub producer_ids: ProducerIds,
    /// Counts appends and topic changes; waiting fetches look again at each.
    pub changes: watch::Sender<u64>,
    pub request_budget: Arc<Semaphore>,
    pub fetch_budget: Arc<Semaphore>,
    pub shutdown: CancellationToken,
}

impl Shared {
    /// Wakes waiting fetches.
    pub fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// A broker that listens but doesn't serve yet.
#[derive(Debug)]
pub struct Broker {
    listener: TcpListener,
    shared: Arc<Shared>,
    /// Locked while the broker lives.
    lock: File,
}

#[derive(Debug, Serialize, Deserialize)]
struct ClusterMeta {
    cluster_id: String,
}

impl Broker {
    /// Binds the port, locks and repairs the data. Clients may connect from here on; they are served by
    /// [`Broker::serve`].
    ///
    /// # Errors
    /// [`BrokerError`]: the port or the data directory is taken, or the data cannot be read.
    pub async fn open(options: BrokerOptions, shutdown: CancellationToken) -> Result<Self, BrokerError> {
        let address = options.listen;
        let listen_error = |source| BrokerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen_error)?;
        let local = listener.local_addr().map_err(listen_error)?;
        let dir = options.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || open_data(options, local, shutdown)).await;
        let (shared, lock) = opened.unwrap_or_else(|join_error| Err(BrokerError::Data { dir, source: std::io::Error::other(join_error) }))?;
        Ok(Self { listener, shared: Arc::new(shared), lock })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        SocketAddr::new(self.shared.options.listen.ip(), self.shared.port)
    }

    /// Serves until the token given to [`Broker::open`] is cancelled, then flushes everything.
    pub async fn serve(self) -> Result<(), BrokerError> {
        let Self { listener, shared, lock } = self;
        tracing::info!(host = shared.host, port = shared.port, "broker is ready");
        let mut background = JoinSet::new();
        background.spawn(maintain(Arc::clone(&shared)));
        background.spawn(tick_groups(Arc::clone(&shared)));
        let mut connections = JoinSet::new();
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            let accepted = tokio::select! {
                () = shared.shutdown.cancelled() => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    log_panic(&ended);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if open.load(Ordering::Relaxed) >= shared.options.connections_max {
                        let limit = shared.options.connections_max;
                        tracing::warn!(%peer, limit, "too many connections: refused");
                        continue;
                    }
                    open.fetch_add(1, Ordering::Relaxed);
                    let (shared, open) = (Arc::clone(&shared), CountGuard(Arc::clone(&open)));
                    connections.spawn(async move {
                        let _open = open;
                        connection::serve(shared, stream, peer).await;
                    });
                }
                Err(error) => {
                    // out of descriptors and the like: wait for connections to end instead of spinning
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
            while let Some(ended) = connections.join_next().await {
                log_panic(&ended);
            }
        });
        if drained.await.is_err() {
            tracing::warn!("connections were still busy at shutdown: cut");
            connections.shutdown().await;
        }
        background.shutdown().await;
        let flushing = Arc::clone(&shared);
        if let Err(error) = tokio::task::spawn_blocking(move || flushing.topics.flush()).await {
            tracing::error!(%error, "the last flush failed");
        }
        drop(lock);
        tracing::info!("broker stopped");
        Ok(())
    }
}

/// Lowers the count of open connections also when a handler panics.
struct CountGuard(Arc<AtomicUsize>);

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn log_panic(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's handler died");
    }
}

fn open_data(options: BrokerOptions, local: SocketAddr, shutdown: CancellationToken) -> Result<(Shared, File), BrokerError> {
    let dir = options.data_dir.clone();
    let data = |source| BrokerError::Data { dir: dir.clone(), source };
    std::fs::create_dir_all(&dir).map_err(data)?;
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(data)?;
    lock.try_lock().map_err(|_| BrokerError::DataDirInUse { dir: dir.clone() })?;
    let cluster_id = cluster_id(&dir).map_err(data)?;
    let topics = Topics::open(&options).map_err(data)?;
    let offsets = OffsetStore::open(&dir, options.groups_max).map_err(data)?;
    let producer_ids = ProducerIds::open(&dir, topics.largest_producer_id());
    let host = options.advertised_host.clone().unwrap_or_else(|| local.ip().to_string());
    let units = |bytes: usize| Arc::new(Semaphore::new((bytes / BUDGET_UNIT_BYTES).max(1)));
    let shared = Shared {
        host,
        port: local.port(),
        cluster_id,
        topics,
        offsets,
        groups: Groups::new(options.groups_max),
        producer_ids,
        changes: watch::Sender::new(0),
        request_budget: units(options.requests_in_memory_bytes_max.max(options.request_bytes_max)),
        fetch_budget: units(options.fetches_in_memory_bytes_max.max(options.fetch_bytes_max)),
        shutdown,
        options,
    };
    Ok((shared, lock))
}

fn cluster_id(dir: &Path) -> std::io::Result<String> {
    let path = dir.join("cluster.json");
    if let Ok(bytes) = std::fs::read(&path) {
        return Ok(serde_json::from_slice::<ClusterMeta>(&bytes)?.cluster_id);
    }
    let meta = ClusterMeta { cluster_id: Uuid::new_v4().simple().to_string() };
    std::fs::write(&path, serde_json::to_vec(&meta)?)?;
    Ok(meta.cluster_id)
}

/// Flushes and enforces retention at their intervals.
async fn maintain(shared: Arc<Shared>) {
    let mut flush = tokio::time::interval(shared.options.flush_interval.max(Duration::from_millis(10)));
    flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut retention = tokio::time::interval(shared.options.retention_check_interval.max(Duration::from_millis(10)));
    retention.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let retain = tokio::select! {
            _ = flush.tick() => false,
            _ = retention.tick() => true,
        };
        let shared = Arc::clone(&shared);
        let work = move || if retain { shared.topics.enforce_retention() } else { shared.topics.flush() };
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::error!(%error, "maintenance failed");
        }
    }
}

async fn tick_groups(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(groups::TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.groups.tick();
    }
}
