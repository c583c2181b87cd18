//! Gets the rows of a finished query from the executors that hold them.

use std::sync::Arc;

use ballista_core::client::BallistaClient;
use ballista_core::serde::protobuf::{ExecutorMetadata, PartitionLocation};
use chainalytics_common::{Error, ErrorCode, Result};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::spool::{Budget, Spool, conform};

/// Partitions fetched at once.
const PARALLEL_FETCHES: usize = 8;
/// One more try after a broken connection; an executor that is gone stays gone, and the query is then repeated anyway.
const IO_RETRIES: u8 = 2;
const IO_RETRY_WAIT_MS: u64 = 200;

/// Why rows could not be had.
#[derive(Debug)]
pub(crate) enum FetchError {
    /// The executor or its data is gone: the query must run again.
    Lost(String),
    /// This process cannot keep the rows (disk full): another run would not help.
    Local(Error),
}

/// All partitions, complete, in the order of the locations.
pub(crate) async fn fetch(
    locations: Vec<PartitionLocation>,
    budget: &Arc<Budget>,
    max_message_bytes: usize,
) -> std::result::Result<Vec<Spool>, FetchError> {
    stream::iter(locations.into_iter().filter(|l| l.partition_stats.as_ref().is_none_or(|s| s.num_rows != 0)))
        .map(|location| fetch_one(location, Arc::clone(budget), max_message_bytes))
        .buffered(PARALLEL_FETCHES)
        .try_collect()
        .await
}

async fn fetch_one(location: PartitionLocation, budget: Arc<Budget>, max_message_bytes: usize) -> std::result::Result<Spool, FetchError> {
    let layout = location.layout();
    let expected_rows = location.partition_stats.as_ref().and_then(|s| u64::try_from(s.num_rows).ok());
    let (Some(executor), Some(partition)) = (location.executor_meta, location.partition_id) else {
        return Err(FetchError::Lost("the scheduler named no executor for a partition".to_owned()));
    };
    let port = u16::try_from(executor.port).map_err(|_| FetchError::Lost(format!("executor {} has port {}", executor.id, executor.port)))?;
    let lost = |e: &dyn std::fmt::Display| FetchError::Lost(format!("executor {} at {}: {e}", executor.id, address(&executor)));

    let mut client = BallistaClient::try_new(&executor.host, port, max_message_bytes, false, None, IO_RETRIES, IO_RETRY_WAIT_MS, 64 << 20, 16 << 20)
        .await
        .map_err(|e| lost(&e))?;
    let mut batches = client.fetch_partition(&executor.id, &partition.into(), location.file_id, layout, false).await.map_err(|e| lost(&e))?;
    let mut spool = Spool::new(budget);
    let mut rows = 0_u64;
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(|e| lost(&e))?;
        rows += batch.num_rows() as u64;
        spool.push(batch).await.map_err(FetchError::Local)?;
    }
    // A stream that was cut may look like one that ended.
    match expected_rows {
        Some(expected) if expected != rows => Err(lost(&format!("{rows} of {expected} rows came"))),
        _ => Ok(spool),
    }
}

fn address(executor: &ExecutorMetadata) -> String {
    format!("{}:{}", executor.host, executor.port)
}

/// The rows of all partitions as one stream of the promised schema.
pub(crate) async fn into_stream(spools: Vec<Spool>, schema: SchemaRef) -> Result<SendableRecordBatchStream> {
    let mut streams = Vec::with_capacity(spools.len());
    for spool in spools {
        streams.push(spool.into_stream().await?);
    }
    let target = Arc::clone(&schema);
    let rows = stream::iter(streams).flatten().map(move |batch| batch.and_then(|batch| conform(batch, &target)));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

impl From<FetchError> for DataFusionError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Lost(message) => Self::External(Box::new(Error::new(ErrorCode::ExecutorLost, message))),
            FetchError::Local(error) => Self::External(Box::new(error)),
        }
    }
}
