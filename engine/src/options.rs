//! Session options: what Ballista and DataFusion are told, in order of precedence: their defaults, ours, `query.*` keys, and last whatever
//! stands under `ballista.` or `datafusion.` in the configuration.

use ballista_core::config::{BALLISTA_ADAPTIVE_PLANNER_ENABLED, BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE, BallistaConfig};
use ballista_core::extension::SessionConfigExt as _;
use chainalytics_common::{Config, Error, ErrorCode, Result, keys};
use datafusion::prelude::SessionConfig;

/// Largest gRPC message (a plan, a task, a batch of rows) that any of our processes sends or takes, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Prefixes of configuration keys that are handed on as they are.
const PASSED_ON: [&str; 2] = ["ballista.", "datafusion."];

/// Where plans made with these options will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this process, on so many threads.
    Local(usize),
    /// On a cluster, with Ballista's restrictions (no operator may share state across stages).
    Cluster,
}

/// The options of a session.
///
/// # Errors
/// [`ErrorCode::Config`] for an unknown `ballista.`/`datafusion.` key or a value that it does not take.
pub fn session_config(config: &Config, place: Place) -> Result<SessionConfig> {
    let mut session = match place {
        Place::Cluster => SessionConfig::new_with_ballista(),
        Place::Local(_) => SessionConfig::new().with_option_extension(BallistaConfig::default()),
    };
    let partitions = match place {
        Place::Local(threads) => threads.max(1),
        Place::Cluster => config.get(&keys::QUERY_SHUFFLE_PARTITIONS),
    };
    session = session
        .with_information_schema(true)
        .with_collect_statistics(true)
        .with_target_partitions(partitions)
        .with_batch_size(config.get(&keys::QUERY_BATCH_SIZE));
    let options = session.options_mut();
    let parquet = &mut options.execution.parquet;
    parquet.pushdown_filters = config.get(&keys::QUERY_PARQUET_PUSHDOWN);
    parquet.reorder_filters = parquet.pushdown_filters;
    // Ballista cannot ship string views, and results must not depend on where a query ran.
    parquet.schema_force_view_types = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    // Ballista prefers sort-merge joins because they spill; on TPC-H they take 2.5 times as long. The driver plans a query that runs out of
    // memory anew with them.
    options.optimizer.prefer_hash_join = true;
    set(&mut session, BALLISTA_ADAPTIVE_PLANNER_ENABLED, &config.get(&keys::QUERY_ADAPTIVE).to_string())?;
    set(&mut session, BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE, &MAX_MESSAGE_BYTES.to_string())?;
    for prefix in PASSED_ON {
        for (key, value) in config.with_prefix(prefix) {
            set(&mut session, &key, &value)?;
        }
    }
    Ok(session)
}

fn set(session: &mut SessionConfig, key: &str, value: &str) -> Result<()> {
    session.options_mut().set(key, value).map_err(|e| Error::new(ErrorCode::Config, format!("{key} = {value:?}: {}", e.strip_backtrace())))
}
