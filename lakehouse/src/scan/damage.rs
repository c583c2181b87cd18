//! Which data file a query could not read. DataFusion's Parquet reader does not say: its errors tell of a footer or a page,
//! not of a file. When a plan has failed so, its files are read one by one until one fails the same way.

use std::sync::Arc;
use std::time::Duration;

use chainalytics_common::{Error, ErrorCode};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;

use crate::err;

/// How long the file is looked for. A query that has failed must not keep its caller waiting for long.
const SEARCH_MAX: Duration = Duration::from_secs(30);

/// The rows of a plan that runs in `context`; an error about a data file names it.
#[must_use]
pub fn naming_damaged_files(rows: SendableRecordBatchStream, plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let rows = rows.then(move |batch| {
        let (plan, context) = (Arc::clone(&plan), Arc::clone(&context));
        async move {
            match batch {
                Ok(batch) => Ok(batch),
                Err(error) => Err(name_damaged_file(error, &plan, &context).await),
            }
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

/// `error`, with which `plan` failed; if it is about a data file that it does not name, one that does.
pub async fn name_damaged_file(error: DataFusionError, plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> DataFusionError {
    let text = error.to_string();
    if let Some(path) = named_file(&text) {
        return DataFusionError::External(Box::new(err::data_file(&path, error)));
    }
    if !is_about_a_file(&text) {
        return error;
    }
    match tokio::time::timeout(SEARCH_MAX, damaged_file(plan, context)).await {
        Ok(Some((path, why))) => DataFusionError::External(Box::new(err::data_file(&path, why))),
        Ok(None) => error,
        Err(_) => {
            tracing::warn!(%error, "the damaged file was not found in time");
            error
        }
    }
}

/// The data file that an error of our stores names.
fn named_file(text: &str) -> Option<String> {
    let ours = Error::parse(text).filter(|ours| ours.code() == ErrorCode::StorageRead)?;
    let (path, _) = ours.message().strip_prefix("cannot read ")?.split_once(": ")?;
    path.ends_with(".parquet").then(|| path.to_owned())
}

/// By text: there are several ways in which DataFusion and Arrow wrap such errors. One that is ours names its file.
fn is_about_a_file(text: &str) -> bool {
    let ours = Error::parse(text).is_some_and(|ours| ours.code() != ErrorCode::QueryFailed);
    !ours && ["Parquet", "parquet", "Object Store error", "Object at location"].iter().any(|word| text.contains(word))
}

async fn damaged_file(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Option<(String, DataFusionError)> {
    let mut scans = Vec::new();
    collect(plan, &mut scans);
    for scan in scans {
        for file in scan.file_groups.iter().flat_map(FileGroup::iter) {
            if let Err(error) = read(&scan, file.clone(), context).await
                && is_about_a_file(&error.to_string())
            {
                let store = scan.object_store_url.as_str().trim_end_matches('/');
                return Some((format!("{store}/{}", file.object_meta.location), error));
            }
        }
    }
    None
}

fn collect(plan: &Arc<dyn ExecutionPlan>, scans: &mut Vec<FileScanConfig>) {
    if let Some(source) = plan.downcast_ref::<DataSourceExec>()
        && source.downcast_to_file_source::<ParquetSource>().is_some()
        && let Some(scan) = source.data_source().downcast_ref::<FileScanConfig>()
    {
        scans.push(scan.clone());
    }
    for child in plan.children() {
        collect(child, scans);
    }
}

/// Reads one file as the scan does.
async fn read(scan: &FileScanConfig, file: PartitionedFile, context: &Arc<TaskContext>) -> Result<(), DataFusionError> {
    let one = FileScanConfigBuilder::from(scan.clone()).with_file_groups(vec![FileGroup::new(vec![file])]).with_limit(None).build();
    let mut rows = DataSourceExec::from_data_source(one).execute(0, Arc::clone(context))?;
    while let Some(batch) = rows.next().await {
        drop(batch?);
    }
    Ok(())
}
