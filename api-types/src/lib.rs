//! The REST bodies of `/api/v1`: one set, served by the scheduler (live) and the history server (replayed), read by the web page and the CLI.
//!
//! Serde only: no engine types, no I/O. Every timestamp is milliseconds since the Unix epoch (`*_at_ms: i64`), every duration carries its
//! unit in the name. Readers ignore unknown fields and every field added later carries a default, so that an older log or server stays readable.
//!
//! | path | body |
//! |---|---|
//! | `GET /api/v1/cluster` | [`ClusterInfo`] |
//! | `GET /api/v1/cluster/samples` | [`Page`] of [`ClusterSample`], oldest first: the last half hour; empty in the history |
//! | `GET /api/v1/executors` | [`Page`] of [`ExecutorInfo`] |
//! | `GET /api/v1/runs?state=&job=&q=&limit=&after=` | [`Page`] of [`RunSummary`], newest first |
//! | `GET /api/v1/runs/{run_id}` | [`RunDetail`] |
//! | `GET /api/v1/runs/{run_id}/logs?offset=&limit=` | [`LogPage`]; without `offset` the last `limit` bytes |
//! | `GET /api/v1/queries?state=&run_id=&q=&limit=&after=` | [`Page`] of [`QuerySummary`], newest first |
//! | `GET /api/v1/queries/{job_id}` | [`QueryDetail`] |
//! | `POST /api/v1/runs/{run_id}/kill` | [`RunDetail`]; the scheduler only |
//! | `POST /api/v1/queries/{job_id}/cancel` | [`QueryDetail`]; the scheduler only |
//!
//! Anything but a 2xx answers [`ErrorBody`].

mod cluster;
mod page;
mod plan;
mod query;
mod run;

pub mod from_ballista;
pub mod redact;

pub use cluster::{ClusterInfo, ClusterMode, ClusterSample, ExecutorCounts, ExecutorInfo, LeaseState, MemoryUse, SlotUse};
pub use page::{ErrorBody, LIMIT_DEFAULT, LIMIT_MAX, ListParams, LogPage, Page};
pub use plan::{OperatorMetrics, PlanEdge, PlanNode};
pub use query::{QueryDetail, QueryState, QuerySummary, StageDetail, StageState, TaskDetail, TaskState, Validity};
pub use run::{DeployMode, RunDetail, RunError, RunProgress, RunState, RunSummary, StreamingBatch};
