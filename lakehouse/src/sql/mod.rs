//! SQL on the lakehouse. Queries go to the executor as logical plans; DDL and DML are planned here, in the driver,
//! their query parts run by the executor and their commits done here.
//!
//! Path of a statement: `statement` (split, parse) with `time_travel` and `letter_case` (rewriting of tokens) →
//! `ddl`, `changes` (INSERT, UPDATE, DELETE), `merge` or DataFusion's planner over `catalog`.

mod alter;
mod alter_parse;
mod call;
mod catalog;
mod changes;
mod create;
mod create_table;
mod ddl;
mod defaults;
mod describe;
mod incremental;
mod insert;
mod letter_case;
mod listing;
mod merge;
mod metadata_columns;
mod metadata_tables;
mod names;
mod namespaces;
mod output_names;
mod procedures;
mod refs;
mod sample;
mod session;
mod set;
mod statement;
mod terms;
mod time_travel;
mod types;
mod views;
mod words;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::DataType;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::dialect::{Dialect, dialect_from_str};
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;
use futures::TryStreamExt;

use chainalytics_common::{Error, ErrorCode, Result};

pub use catalog::{LakehouseCatalogProvider, LakehouseSchemaProvider, load_table};
pub use statement::split_text;

use crate::dml::{Write, WriteOptions};
use crate::exec::QueryExecutor;
use crate::lakehouse::Lakehouse;
use statement::{ParsedStatement, split_statements};

/// What a statement gave.
pub enum StatementResult {
    /// Rows of a query, of EXPLAIN, SHOW or DESCRIBE.
    Rows(SendableRecordBatchStream),
    /// A change of a table's rows: how many, and the snapshot that holds them (none if nothing changed).
    Affected { rows: u64, snapshot_id: Option<i64> },
    /// Done, nothing to show (DDL, SET).
    Ok,
}

impl std::fmt::Debug for StatementResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rows(stream) => write!(f, "Rows({:?})", stream.schema()),
            Self::Affected { rows, snapshot_id } => write!(f, "Affected({rows} rows, snapshot {snapshot_id:?})"),
            Self::Ok => f.write_str("Ok"),
        }
    }
}

/// Runs the statements of `sql` (separated by `;`) one after the other and returns the last one's result; rows of the
/// others are read to their end and dropped.
///
/// `ctx` must have the lakehouse registered (`LakehouseCatalogProvider::register`) as its default catalog. With a run
/// and step in `options`, each changing statement commits at most once: the n-th statement's step is `step`, `step#2`, …
///
/// # Errors
/// `SqlSyntax`, `SqlPlan`, `SqlUnsupported`, `TableNotFound`, `SchemaMismatch`, and those of execution and commit.
pub async fn execute(
    ctx: &SessionContext,
    lakehouse: &Lakehouse,
    executor: &dyn QueryExecutor,
    sql: &str,
    options: WriteOptions,
) -> Result<StatementResult> {
    let statements = split_statements(sql, dialect_of(&ctx.state())?.as_ref())?;
    let mut result = StatementResult::Ok;
    for (index, tokens) in statements.into_iter().enumerate() {
        if let StatementResult::Rows(mut rows) = result {
            while rows.try_next().await.map_err(Error::from_datafusion)?.is_some() {}
        }
        let mut options = options.clone();
        if let (Some(step), true) = (&mut options.step, index > 0) {
            *step = format!("{step}#{}", index + 1);
        }
        let runner = Runner { ctx, lakehouse, executor, options };
        result = runner.run(tokens).await?;
    }
    Ok(result)
}

/// Plans one query on the lakehouse without running it, time travel included; for DataFrames from SQL text.
pub async fn plan_query(ctx: &SessionContext, lakehouse: &Lakehouse, sql: &str) -> Result<LogicalPlan> {
    let mut statements = split_statements(sql, dialect_of(&ctx.state())?.as_ref())?;
    if statements.len() != 1 {
        return Err(Error::new(ErrorCode::SqlSyntax, "exactly one query is expected"));
    }
    let statement = names::prepare(ctx, lakehouse, statements.remove(0)).await?;
    match statement {
        ParsedStatement::DataFusion(statement) => names::plan_result(ctx, lakehouse, *statement).await,
        _ => Err(Error::new(ErrorCode::SqlUnsupported, "a query is expected, not a statement that changes something")),
    }
}

fn dialect_of(state: &SessionState) -> Result<Box<dyn Dialect>> {
    let name = state.config_options().sql_parser.dialect.to_string();
    dialect_from_str(&name).ok_or_else(|| Error::new(ErrorCode::InvalidArgument, format!("unknown SQL dialect '{name}'")))
}

/// One statement's surroundings.
struct Runner<'a> {
    ctx: &'a SessionContext,
    lakehouse: &'a Lakehouse,
    executor: &'a dyn QueryExecutor,
    options: WriteOptions,
}

impl Runner<'_> {
    async fn run(&self, tokens: Vec<TokenWithSpan>) -> Result<StatementResult> {
        let statement = names::prepare(self.ctx, self.lakehouse, tokens).await?;
        match statement {
            ParsedStatement::CreateTable(create) => self.create_table(*create).await,
            ParsedStatement::DropTable { names, if_exists, purge } => self.drop_tables(&names, if_exists, purge).await,
            ParsedStatement::CreateNamespace(create) => self.create_namespace(create).await,
            ParsedStatement::AlterNamespace(alter) => self.alter_namespace(alter).await,
            ParsedStatement::DropNamespace { names, if_exists, cascade } => self.drop_namespaces(&names, if_exists, cascade).await,
            ParsedStatement::CreateView(create) => self.create_view(*create).await,
            ParsedStatement::DropView { names, if_exists } => self.drop_views(&names, if_exists).await,
            ParsedStatement::ShowViews(listing) => self.show_views(&listing).await,
            ParsedStatement::AlterTable(alter) => self.alter_table(*alter).await,
            ParsedStatement::ShowNamespaces(listing) => self.show_namespaces(&listing).await,
            ParsedStatement::ShowTables(listing) => self.show_tables(&listing).await,
            ParsedStatement::ShowCreateTable { name } => self.show_create_table(&name).await,
            ParsedStatement::ShowProperties { name, key } => self.show_properties(&name, key.as_deref()).await,
            ParsedStatement::Describe { name, extended } => self.describe(&name, extended).await,
            ParsedStatement::DescribeNamespace { name, extended } => self.describe_namespace(&name, extended).await,
            ParsedStatement::Insert(insert) => self.insert(*insert).await,
            ParsedStatement::Delete(delete) => self.delete(*delete).await,
            ParsedStatement::Update(update) => self.update(*update).await,
            ParsedStatement::Merge(merge) => self.merge(*merge).await,
            ParsedStatement::Set(set) => self.set(&set),
            ParsedStatement::Session(statement) => self.session(statement).await,
            ParsedStatement::Call(call) => self.call(*call).await,
            ParsedStatement::DataFusion(statement) => self.datafusion(*statement).await,
        }
    }

    async fn datafusion(&self, statement: DfStatement) -> Result<StatementResult> {
        if names::needs_listing(&statement) {
            self.refresh().await?;
        }
        let plan = names::plan_result(self.ctx, self.lakehouse, statement).await?;
        match plan {
            LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => {
                let df = self.ctx.execute_logical_plan(plan).await.map_err(Error::from_datafusion)?;
                df.collect().await.map_err(Error::from_datafusion)?;
                Ok(StatementResult::Ok)
            }
            LogicalPlan::Dml(dml) => Err(unsupported(&format!("{} on {}", dml.op, dml.table_name))),
            LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_) => self.local_rows(plan).await,
            plan => Ok(StatementResult::Rows(self.executor.execute_logical(plan).await?)),
        }
    }

    /// Runs a plan in this process.
    async fn local_rows(&self, plan: LogicalPlan) -> Result<StatementResult> {
        let state = self.ctx.state();
        let plan = state.create_physical_plan(&plan).await.map_err(Error::from_datafusion)?;
        let stream = execute_stream(plan, self.ctx.task_ctx()).map_err(Error::from_datafusion)?;
        Ok(StatementResult::Rows(stream))
    }

    /// Reads the names of tables for `information_schema`.
    async fn refresh(&self) -> Result<()> {
        for name in self.ctx.catalog_names() {
            if let Some(catalog) = self.ctx.catalog(&name)
                && let Some(catalog) = catalog.downcast_ref::<LakehouseCatalogProvider>()
            {
                catalog.refresh().await?;
            }
        }
        Ok(())
    }

    fn write<'b>(&'b self, state: &'b SessionState) -> Write<'b> {
        Write { lakehouse: self.lakehouse, executor: self.executor, state, options: &self.options }
    }
}

/// Rows of a batch that is already here.
fn rows(batch: RecordBatch) -> Result<StatementResult> {
    let schema = batch.schema();
    let stream = MemoryStream::try_new(vec![batch], schema, None).map_err(Error::from_datafusion)?;
    Ok(StatementResult::Rows(Box::pin(stream)))
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorCode::SqlUnsupported, format!("not supported: {what}"))
}

/// A type as `DESCRIBE` shows it: Spark's names.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_string(),
        DataType::Int32 => "int".to_string(),
        DataType::Int64 => "bigint".to_string(),
        DataType::Float32 => "float".to_string(),
        DataType::Float64 => "double".to_string(),
        DataType::Decimal128(p, s) => format!("decimal({p},{s})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_string(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".to_string(),
        DataType::Date32 => "date".to_string(),
        DataType::Timestamp(_, None) => "timestamp_ntz".to_string(),
        DataType::Timestamp(_, Some(_)) => "timestamp_ltz".to_string(),
        DataType::List(item) | DataType::LargeList(item) => format!("array<{}>", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|f| format!("{}:{}", f.name(), type_name(f.data_type()))).collect();
            format!("struct<{}>", fields.join(","))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                let types: Vec<String> = fields.iter().map(|f| type_name(f.data_type())).collect();
                format!("map<{}>", types.join(","))
            }
            other => type_name(other),
        },
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests;
