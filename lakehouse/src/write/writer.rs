//! Rolling Parquet files, one open per partition value.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Fields, Schema as ArrowSchema, SchemaRef};
use chainalytics_common::{Error, ErrorCode, Result};
use iceberg::spec::Schema;
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use uuid::Uuid;

use super::data_file::{DataFileInfo, FileContent};
use super::footer;
use super::metrics::MetricsConfig;
use super::partition::{Key, PartitionValue, Splitter};
use super::spec::WriteSpec;
use crate::err;
use crate::store::StoreRegistry;

/// Writes batches to data files and reports them. Belongs to one task.
///
/// Files are complete or absent: a writer that is dropped before [`Self::close`] deletes what it had finished and
/// abandons what was open.
pub struct DataFileWriter {
    spec: WriteSpec,
    store: Arc<StoreRegistry>,
    schema: Arc<Schema>,
    arrow_schema: SchemaRef,
    spec_id: i32,
    properties: WriterProperties,
    metrics: MetricsConfig,
    splitter: Splitter,
    projection: Option<Projection>,
    /// The table's columns as they are encoded, as of the first batch: text that comes in views stays so.
    layout: Option<SchemaRef>,
    open: HashMap<Key, OpenFile>,
    closed: Vec<DataFileInfo>,
    clock: u64,
    rows: u64,
}

struct OpenFile {
    path: String,
    writer: AsyncArrowWriter<BufWriter>,
    value: PartitionValue,
    last_used: u64,
}

/// How the columns of incoming batches become the table's.
struct Projection {
    input: SchemaRef,
    /// Input column of each table column; `None` for one that stays null.
    columns: Vec<Option<usize>>,
}

impl DataFileWriter {
    /// A writer with no file open yet.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown codec; `Internal` if the spec does not parse.
    pub fn new(spec: WriteSpec, store: Arc<StoreRegistry>) -> Result<Self> {
        for credentials in &spec.lent {
            store.lend(credentials)?;
        }
        let schema = Arc::new(spec.iceberg_schema()?);
        let arrow_schema = spec.arrow_schema()?;
        let partition_spec = spec.partition_spec()?;
        let spec_id = partition_spec.spec_id();
        let splitter = Splitter::new(partition_spec, Arc::clone(&schema), &arrow_schema)?;
        let properties = writer_properties(&spec, false)?;
        let metrics = MetricsConfig::new(&schema, &spec.properties)?;
        Ok(Self {
            spec,
            store,
            schema,
            arrow_schema,
            spec_id,
            properties,
            metrics,
            splitter,
            projection: None,
            layout: None,
            open: HashMap::new(),
            closed: Vec::new(),
            clock: 0,
            rows: 0,
        })
    }

    /// Rows taken so far.
    pub fn rows_written(&self) -> u64 {
        self.rows
    }

    /// Writes one batch. Columns are matched by name (exactly, else without regard to case) and cast to the table's
    /// types; a missing optional column becomes null.
    ///
    /// # Errors
    /// `InvalidArgument` for a column that the table does not have or a null in a required one; `StorageWrite`.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = self.conform(batch)?;
        self.rows += batch.num_rows() as u64;
        for (key, part) in self.splitter.split(batch)? {
            self.write_part(key, &part).await?;
        }
        self.keep_within_buffer().await
    }

    /// Finishes all files and reports them.
    pub async fn close(mut self) -> Result<Vec<DataFileInfo>> {
        let keys: Vec<Key> = self.open.keys().copied().collect();
        for key in keys {
            self.finish(key).await?;
        }
        // Taken out, so that `drop` finds nothing to delete.
        Ok(std::mem::take(&mut self.closed))
    }

    /// Deletes everything written so far. Best effort.
    pub async fn abort(mut self) {
        for (_, file) in self.open.drain() {
            let mut upload = file.writer.into_inner();
            if let Err(error) = upload.abort().await {
                tracing::debug!(path = file.path, %error, "abandoning an open data file");
            }
        }
        let closed = std::mem::take(&mut self.closed);
        self.store.delete_best_effort(closed.into_iter().map(|file| file.path).collect()).await;
    }

    async fn write_part(&mut self, key: Key, part: &RecordBatch) -> Result<()> {
        self.clock += 1;
        if !self.open.contains_key(&key) {
            self.make_room().await?;
            let file = self.start(key)?;
            self.open.insert(key, file);
        }
        let Some(file) = self.open.get_mut(&key) else {
            return Err(err::internal("a data file that was just opened is gone"));
        };
        file.last_used = self.clock;
        file.writer.write(part).await.map_err(|e| err::storage_write(&file.path, e))?;
        let size = (file.writer.bytes_written() + file.writer.in_progress_size()) as u64;
        if size >= self.spec.target_file_size_bytes {
            self.finish(key).await?;
        }
        Ok(())
    }

    /// Closes the least recently used file if no other may be opened.
    async fn make_room(&mut self) -> Result<()> {
        while self.open.len() >= self.spec.open_files_max {
            let Some(oldest) = self.open.iter().min_by_key(|(_, file)| file.last_used).map(|(key, _)| *key) else {
                return Ok(());
            };
            self.finish(oldest).await?;
        }
        Ok(())
    }

    /// Flushes the largest row groups until all open files together fit the buffer.
    async fn keep_within_buffer(&mut self) -> Result<()> {
        loop {
            let sizes = self.open.iter().map(|(key, file)| (file.writer.memory_size() as u64, *key));
            let (total, largest) = sizes.fold((0, None), |(total, largest): (u64, Option<(u64, Key)>), next| {
                (total + next.0, if largest.is_none_or(|l| next.0 > l.0) { Some(next) } else { largest })
            });
            let Some((size, key)) = largest.filter(|_| total > self.spec.buffer_bytes_max) else { return Ok(()) };
            let Some(file) = self.open.get_mut(&key) else { return Ok(()) };
            if file.writer.in_progress_rows() == 0 {
                tracing::debug!(size, "nothing to flush in the largest open file");
                return Ok(());
            }
            file.writer.flush().await.map_err(|e| err::storage_write(&file.path, e))?;
        }
    }

    fn start(&self, key: Key) -> Result<OpenFile> {
        let value = self.splitter.value(key)?.clone();
        let folder = if value.path.is_empty() { String::new() } else { format!("/{}", value.path) };
        let path = format!("{}{folder}/{}.parquet", self.spec.data_location, Uuid::now_v7());
        let at = self.store.resolve(&path)?;
        let options = ArrowWriterOptions::new()
            .with_properties(self.properties.clone())
            // Readers take the schema from the table; the embedded copy would only lengthen each footer.
            .with_skip_arrow_metadata(true);
        let upload = BufWriter::new(at.store, at.path);
        let layout = Arc::clone(self.layout.as_ref().unwrap_or(&self.arrow_schema));
        let writer = AsyncArrowWriter::try_new_with_options(upload, layout, options).map_err(|e| err::storage_write(&path, e))?;
        Ok(OpenFile { path, writer, value, last_used: self.clock })
    }

    async fn finish(&mut self, key: Key) -> Result<()> {
        let Some(mut file) = self.open.remove(&key) else { return Ok(()) };
        let footer = file.writer.finish().await.map_err(|e| err::storage_write(&file.path, e))?;
        let mut info = DataFileInfo {
            path: file.path,
            content: FileContent::Data,
            format: "PARQUET".to_owned(),
            partition_spec_id: self.spec_id,
            partition: file.value.json,
            record_count: 0,
            file_size_bytes: file.writer.bytes_written() as u64,
            column_sizes: Default::default(),
            value_counts: Default::default(),
            null_value_counts: Default::default(),
            nan_value_counts: Default::default(),
            lower_bounds: Default::default(),
            upper_bounds: Default::default(),
            split_offsets: Vec::new(),
            sort_order_id: self.spec.sort_order_id,
            equality_ids: None,
            referenced_data_file: None,
            references: Vec::new(),
            content_offset: None,
            content_size_bytes: None,
        };
        footer::fill(&mut info, &footer, &self.schema)?;
        self.metrics.apply(&mut info);
        self.closed.push(info);
        Ok(())
    }

    fn conform(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let input = batch.schema_ref();
        let current = match &self.projection {
            Some(projection) if Arc::ptr_eq(&projection.input, input) || &projection.input == input => projection,
            _ => self.projection.insert(Projection::new(input, &self.arrow_schema, &self.spec.table)?),
        };
        let layout = self.layout.get_or_insert_with(|| layout(&self.arrow_schema, current));
        let cast = CastOptions { safe: false, ..CastOptions::default() };
        let mut columns = Vec::with_capacity(layout.fields().len());
        for (field, from) in layout.fields().iter().zip(&current.columns) {
            let target = field.data_type();
            columns.push(match from {
                None => arrow::array::new_null_array(target, batch.num_rows()),
                Some(at) if batch.column(*at).data_type() == target => Arc::clone(batch.column(*at)),
                Some(at) => cast_with_options(batch.column(*at), target, &cast)
                    .map_err(|e| err::invalid(format!("table {}, column '{}': {e}", self.spec.table, field.name())))?,
            });
        }
        for (field, column) in self.arrow_schema.fields().iter().zip(&columns) {
            if !field.is_nullable() && column.null_count() > 0 {
                return Err(Error::new(
                    ErrorCode::SchemaMismatch,
                    format!("table {}: column '{}' is required (NOT NULL) but a row has NULL", self.spec.table, field.name()),
                ));
            }
        }
        // Refuses nulls in required fields of structs.
        RecordBatch::try_new(Arc::clone(layout), columns).map_err(|e| err::invalid(format!("table {}: {e}", self.spec.table)))
    }
}

impl Drop for DataFileWriter {
    fn drop(&mut self) {
        let closed = std::mem::take(&mut self.closed);
        if closed.is_empty() {
            return;
        }
        // A cancelled task: its finished files would never be referenced.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let store = Arc::clone(&self.store);
            let paths = closed.into_iter().map(|file| file.path).collect();
            runtime.spawn(async move { store.delete_best_effort(paths).await });
        }
    }
}

impl Projection {
    fn new(input: &SchemaRef, table: &SchemaRef, name: &str) -> Result<Self> {
        let mut used = vec![false; input.fields().len()];
        let mut columns = Vec::with_capacity(table.fields().len());
        for field in table.fields() {
            let exact = input.fields().iter().position(|candidate| candidate.name() == field.name());
            let found = exact.or_else(|| input.fields().iter().position(|candidate| candidate.name().eq_ignore_ascii_case(field.name())));
            match found {
                Some(at) => used[at] = true,
                None if !field.is_nullable() => {
                    return Err(err::invalid(format!("table {name}: no value for required column '{}'", field.name())));
                }
                None => {}
            }
            // A column of type Null holds nothing but nulls; casting it would cost a pass.
            columns.push(found.filter(|at| input.field(*at).data_type() != &DataType::Null));
        }
        match used.iter().position(|used| !used) {
            Some(at) => Err(err::invalid(format!("table {name} has no column '{}'", input.field(at).name()))),
            None => Ok(Self { input: Arc::clone(input), columns }),
        }
    }
}

/// The table's columns, with views where the input has them: they are encoded the same, and copied much more cheaply.
fn layout(table: &SchemaRef, input: &Projection) -> SchemaRef {
    let fields = table.fields().iter().zip(&input.columns).map(|(field, from)| {
        let given = from.map(|at| input.input.field(at).data_type());
        match (field.data_type(), given) {
            (DataType::Utf8, Some(DataType::Utf8View)) | (DataType::Binary, Some(DataType::BinaryView)) => {
                Arc::new(field.as_ref().clone().with_data_type(given.cloned().unwrap_or(DataType::Null)))
            }
            _ => Arc::clone(field),
        }
    });
    Arc::new(ArrowSchema::new(fields.collect::<Fields>()))
}

/// Parquet's settings for data files, or for delete files (`write.delete.parquet.*` first).
pub(super) fn writer_properties(spec: &WriteSpec, deletes: bool) -> Result<WriterProperties> {
    let bad_level = |e: parquet::errors::ParquetError| err::invalid(format!("compression level: {e}"));
    let own = |key: &str| spec.properties.get(&format!("write.delete.parquet.{key}")).filter(|_| deletes);
    let level = own("compression-level").and_then(|level| level.parse().ok()).or(spec.compression_level);
    let codec = own("compression-codec").map(|codec| codec.to_ascii_lowercase());
    let unsigned = |level: i32| u32::try_from(level).unwrap_or(0);
    let compression = match codec.as_deref().unwrap_or(&spec.compression) {
        "zstd" => Compression::ZSTD(ZstdLevel::try_new(level.unwrap_or(3)).map_err(bad_level)?),
        "snappy" => Compression::SNAPPY,
        "gzip" => Compression::GZIP(match level {
            Some(level) => GzipLevel::try_new(unsigned(level)).map_err(bad_level)?,
            None => GzipLevel::default(),
        }),
        "brotli" => Compression::BROTLI(match level {
            Some(level) => BrotliLevel::try_new(unsigned(level)).map_err(bad_level)?,
            None => BrotliLevel::default(),
        }),
        "lz4" => Compression::LZ4_RAW,
        "none" | "uncompressed" => Compression::UNCOMPRESSED,
        other => return Err(err::invalid(format!("compression codec '{other}'"))),
    };
    let rows = usize::try_from(spec.row_group_rows_max).unwrap_or(usize::MAX);
    let bytes = usize::try_from(spec.row_group_size_bytes).unwrap_or(usize::MAX);
    let mut builder = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(rows))
        .set_max_row_group_bytes(Some(bytes))
        .set_created_by(concat!("chainalytics ", env!("CARGO_PKG_VERSION")).to_owned());
    let size = |key: &str| spec.properties.get(key).and_then(|v| v.parse::<usize>().ok()).filter(|n| *n > 0);
    if let Some(bytes) = size("write.parquet.page-size-bytes") {
        builder = builder.set_data_page_size_limit(bytes);
    }
    if let Some(bytes) = size("write.parquet.dict-size-bytes") {
        builder = builder.set_dictionary_page_size_limit(bytes);
    }
    if deletes {
        return Ok(builder.build());
    }
    for (key, value) in &spec.properties {
        let path = |prefix: &str| key.strip_prefix(prefix).map(|c| ColumnPath::new(c.split('.').map(str::to_owned).collect()));
        if let Some(column) = path("write.parquet.bloom-filter-enabled.column.") {
            builder = builder.set_column_bloom_filter_enabled(column, value.eq_ignore_ascii_case("true"));
        } else if let Some(column) = path("write.parquet.bloom-filter-fpp.column.") {
            let fpp = value.parse().ok().filter(|p: &f64| *p > 0.0 && *p < 1.0);
            let fpp = fpp.ok_or_else(|| err::invalid(format!("{key} is '{value}', it must be between 0 and 1")))?;
            // Setting the rate turns the filter on: leave it as it was asked for.
            let enabled = spec.properties.get(&key.replace("-fpp.", "-enabled.")).is_some_and(|v| v.eq_ignore_ascii_case("true"));
            if enabled {
                builder = builder.set_column_bloom_filter_fpp(column, fpp);
            }
        }
    }
    Ok(builder.build())
}
