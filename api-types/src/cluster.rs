//! The cluster page: the scheduler, its executors, and what they hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which server answered. The page hides live-only parts in history mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ClusterMode {
    #[default]
    Live,
    History,
}

/// `GET /api/v1/cluster`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ClusterInfo {
    pub version: String,
    pub mode: ClusterMode,
    /// When this server process started.
    pub started_at_ms: i64,
    /// The server's clock when it answered; lets a page show ages in spite of a skewed client clock.
    pub now_ms: i64,
    pub scheduler_id: String,
    /// `chainalytics://host:port`, what `--master` takes. Empty in history mode.
    pub scheduler_url: String,
    /// Where this page's other server answers, if known (history server from the scheduler and the other way round).
    pub other_url: Option<String>,
    pub executors: ExecutorCounts,
    pub cores: SlotUse,
    pub memory: MemoryUse,
    /// Number of runs by state, as the strings of [`crate::RunState`].
    pub runs: BTreeMap<String, u64>,
    pub queries_running: u64,
    pub tasks_running: u64,
    /// History mode: the directory or URL whose logs are shown, and how many of them could not be read.
    pub event_log_dir: Option<String>,
    pub unreadable_logs: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ExecutorCounts {
    pub alive: u64,
    pub draining: u64,
    /// Lost since the scheduler started.
    pub lost: u64,
}

/// Task slots over all alive executors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct SlotUse {
    pub total: u64,
    pub used: u64,
}

/// Memory pools over all alive executors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct MemoryUse {
    pub limit_bytes: u64,
    /// Reserved in the pools now.
    pub used_bytes: u64,
    /// Resident size of the processes.
    pub rss_bytes: u64,
}

/// One look at the cluster, `GET /api/v1/cluster/samples`; taken in equal steps, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ClusterSample {
    pub at_ms: i64,
    pub executors: u64,
    pub queries_running: u64,
    pub tasks_running: u64,
    pub cores: SlotUse,
    pub memory: MemoryUse,
}

/// An executor's lease. Once lost, an executor id never comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    Alive,
    /// Finishes what it has, takes nothing more.
    Draining,
    /// No ping within the lease or its connection broke.
    Lost,
    /// Ended in order.
    Left,
    #[default]
    #[serde(other)]
    Unknown,
}

/// One executor process, `GET /api/v1/executors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ExecutorInfo {
    pub id: String,
    /// Stable name of the process across executor ids, such as `executor-1`; may be empty.
    pub name: String,
    pub host: String,
    pub flight_port: u32,
    pub grpc_port: u32,
    pub pid: u32,
    pub version: String,
    pub state: LeaseState,
    pub cores: u32,
    pub tasks_running: u32,
    pub memory_used_bytes: u64,
    pub memory_limit_bytes: u64,
    pub memory_rss_bytes: u64,
    pub disk_used_bytes: u64,
    pub work_dir: String,
    pub started_at_ms: i64,
    pub last_seen_at_ms: i64,
    /// Set once lost or left.
    pub ended_at_ms: Option<i64>,
    /// Run ids of the drivers that this executor hosts.
    pub drivers: Vec<String>,
    /// Why the lease ended.
    pub reason: Option<String>,
}
