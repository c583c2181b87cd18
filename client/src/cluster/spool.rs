//! Holds the rows of a query until it is known that they count: in memory up to a bound that all partitions share, then in a temporary file.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chainalytics_common::{Error, ErrorCode, Result};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::error::DataFusionError;
use futures::stream::{self, BoxStream, StreamExt as _};

/// Memory that all spools of one query share.
#[derive(Debug)]
pub(crate) struct Budget {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
    dir: PathBuf,
}

impl Budget {
    /// What does not fit into `limit_bytes` goes to unnamed files in `dir`.
    pub(crate) fn new(limit_bytes: usize, dir: PathBuf) -> Arc<Self> {
        Arc::new(Self { limit_bytes, used_bytes: AtomicUsize::new(0), dir })
    }

    fn take(&self, bytes: usize) -> bool {
        let before = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.limit_bytes {
            return true;
        }
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        false
    }
}

/// Rows of one partition, in order.
pub(crate) struct Spool {
    budget: Arc<Budget>,
    memory: Vec<RecordBatch>,
    disk: Option<StreamWriter<BufWriter<File>>>,
}

impl Spool {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, memory: Vec::new(), disk: None }
    }

    /// Adds rows. Once a partition went to disk, the rest of it follows, so that the order stays.
    ///
    /// # Errors
    /// [`ErrorCode::Io`], for instance on a full disk.
    pub(crate) async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        if self.disk.is_none() && self.budget.take(batch.get_array_memory_size()) {
            self.memory.push(batch);
            return Ok(());
        }
        let dir = self.budget.dir.clone();
        let writer = self.disk.take();
        let written = tokio::task::spawn_blocking(move || write(writer, &dir, &batch)).await;
        self.disk = Some(written.map_err(|e| Error::internal(format!("the spool's writer panicked: {e}")))??);
        Ok(())
    }

    /// The rows, in the order in which they came.
    ///
    /// # Errors
    /// [`ErrorCode::Io`].
    pub(crate) async fn into_stream(self) -> Result<BoxStream<'static, datafusion::error::Result<RecordBatch>>> {
        let memory = stream::iter(self.memory.into_iter().map(Ok));
        let Some(writer) = self.disk else { return Ok(memory.boxed()) };
        let reader =
            tokio::task::spawn_blocking(move || reopen(writer)).await.map_err(|e| Error::internal(format!("the spool's writer panicked: {e}")))??;
        Ok(memory.chain(read(reader)).boxed())
    }

    #[cfg(test)]
    fn is_on_disk(&self) -> bool {
        self.disk.is_some()
    }
}

fn write(writer: Option<StreamWriter<BufWriter<File>>>, dir: &Path, batch: &RecordBatch) -> Result<StreamWriter<BufWriter<File>>> {
    let failed = |e: &dyn std::fmt::Display| Error::new(ErrorCode::Io, format!("cannot spool the rows of a query to {}: {e}", dir.display()));
    let mut writer = match writer {
        Some(writer) => writer,
        None => {
            std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
            // Without a name, so that it vanishes however this process ends.
            let file = tempfile::tempfile_in(dir).map_err(|e| failed(&e))?;
            StreamWriter::try_new(BufWriter::with_capacity(1 << 20, file), batch.schema_ref()).map_err(|e| failed(&e))?
        }
    };
    writer.write(batch).map_err(|e| failed(&e))?;
    Ok(writer)
}

fn reopen(mut writer: StreamWriter<BufWriter<File>>) -> Result<StreamReader<BufReader<File>>> {
    let failed = |e: &dyn std::fmt::Display| Error::new(ErrorCode::Io, format!("cannot read back the spooled rows of a query: {e}"));
    writer.finish().map_err(|e| failed(&e))?;
    let mut file = writer.into_inner().map_err(|e| failed(&e))?.into_inner().map_err(|e| failed(&e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| failed(&e))?;
    StreamReader::try_new(BufReader::with_capacity(1 << 20, file), None).map_err(|e| failed(&e))
}

fn read(reader: StreamReader<BufReader<File>>) -> BoxStream<'static, datafusion::error::Result<RecordBatch>> {
    stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        let next = tokio::task::spawn_blocking(move || {
            let batch = reader.next();
            (reader, batch)
        })
        .await;
        match next {
            Ok((reader, Some(Ok(batch)))) => Some((Ok(batch), Some(reader))),
            Ok((_, Some(Err(error)))) => Some((Err(DataFusionError::from(error)), None)),
            Ok((_, None)) => None,
            Err(error) => Some((Err(DataFusionError::External(Box::new(error))), None)),
        }
    })
    .boxed()
}

/// Gives a batch the schema that the query promised: same columns, perhaps other names, nullability or string kinds.
pub(crate) fn conform(batch: RecordBatch, schema: &SchemaRef) -> datafusion::error::Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    if batch.num_columns() != schema.fields().len() {
        return Err(DataFusionError::Internal(format!(
            "the cluster returned {} columns where {} were planned",
            batch.num_columns(),
            schema.fields().len()
        )));
    }
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() { Ok(Arc::clone(column)) } else { datafusion::arrow::compute::cast(column, field.data_type()) }
        })
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use datafusion::arrow::array::{ArrayRef, AsArray as _, Int64Array};
    use datafusion::arrow::datatypes::Int64Type;
    use futures::TryStreamExt as _;

    fn batch(start: i64, rows: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(start..start + rows));
        RecordBatch::try_from_iter(vec![("n", column)]).unwrap()
    }

    async fn rows(spool: Spool) -> Vec<i64> {
        let batches: Vec<RecordBatch> = spool.into_stream().await.unwrap().try_collect().await.unwrap();
        batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    #[tokio::test]
    async fn few_rows_stay_in_memory() {
        let mut spool = Spool::new(Budget::new(1 << 20, std::env::temp_dir()));
        spool.push(batch(0, 10)).await.unwrap();
        assert!(!spool.is_on_disk());
        assert_eq!(rows(spool).await, (0..10).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn many_rows_go_to_disk_and_keep_their_order() {
        let mut spool = Spool::new(Budget::new(20_000, std::env::temp_dir()));
        for i in 0..50 {
            spool.push(batch(i * 1000, 1000)).await.unwrap();
        }
        assert!(spool.is_on_disk());
        assert_eq!(rows(spool).await, (0..50_000).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn spools_share_their_budget() {
        let budget = Budget::new(10_000, std::env::temp_dir());
        let (mut a, mut b) = (Spool::new(Arc::clone(&budget)), Spool::new(budget));
        a.push(batch(0, 1000)).await.unwrap();
        b.push(batch(0, 1000)).await.unwrap();
        assert!(!a.is_on_disk() && b.is_on_disk());
        assert_eq!(rows(b).await.len(), 1000);
    }
}
