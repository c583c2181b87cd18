//! DDL and listings: CREATE TABLE (and AS SELECT), DROP, namespaces, SHOW, DESCRIBE.

use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::{ObjectName, Statement as SqlStatement};

use chainalytics_common::{Error, ErrorCode, Result};

use super::catalog::{find_table, load_table, table_not_found};
use super::create_table::CreateTableStatement;
use super::names::{ident_of, part_value, plan, wrap};
use super::{Runner, StatementResult, rows, type_name};
use crate::catalog::{CreateTable, PartitionFieldDef};
use crate::dml::{Casting, Matching, WriteMode, committed_step};
use crate::scan::plain_type;

impl Runner<'_> {
    pub(super) async fn create_table(&self, create: CreateTableStatement) -> Result<StatementResult> {
        let ident = ident_of(self.ctx, &create.name)?;
        let catalog = self.lakehouse.catalog();
        if !create.or_replace
            && let Some(existing) = find_table(self.lakehouse, &ident).await?
        {
            // A repeated step of a run finds the table that it made.
            if let Some(done) = committed_step(&existing, &self.options) {
                return Ok(StatementResult::Affected { rows: done.added_rows, snapshot_id: done.snapshot_id });
            }
            if create.if_not_exists {
                return Ok(StatementResult::Ok);
            }
            return Err(Error::new(
                ErrorCode::TableExists,
                format!("table {} exists already; use CREATE TABLE IF NOT EXISTS or CREATE OR REPLACE TABLE", existing.ident()),
            ));
        }
        let query = match create.query {
            Some(query) => Some(plan(self.ctx, self.lakehouse, wrap(SqlStatement::Query(query))).await?),
            None => None,
        };
        let fields: Vec<Field> = match &query {
            Some(query) => query
                .schema()
                .fields()
                .iter()
                .map(|f| Field::new(f.name(), plain_type(f.data_type()), true))
                .collect(),
            None => create
                .columns
                .iter()
                .map(|c| {
                    let field = Field::new(&c.name, c.data_type.clone(), !c.required);
                    match &c.comment {
                        Some(text) => field.with_metadata([("comment".to_string(), text.clone())].into()),
                        None => field,
                    }
                })
                .collect(),
        };
        let mut definition = CreateTable::new(ident.clone(), Arc::new(Schema::new(fields)));
        for term in &create.partition {
            // Columns are case-insensitive; the catalog wants the spelling of the schema.
            let column = definition
                .schema
                .fields()
                .iter()
                .find(|f| f.name().eq_ignore_ascii_case(&term.column))
                .map_or_else(|| term.column.clone(), |f| f.name().clone());
            definition.partition.push(PartitionFieldDef::new(column, term.transform.clone()));
        }
        definition.properties = create.properties.into_iter().collect();
        definition.location = create.location;
        let table = if create.or_replace {
            catalog.create_or_replace_table(definition).await?
        } else {
            catalog.create_table(definition, create.if_not_exists).await?
        };
        let Some(query) = query else {
            return Ok(StatementResult::Ok);
        };
        let state = self.ctx.state();
        let written =
            self.write(&state).plan(&table, query, &Matching::ByPosition, Casting::Checked, WriteMode::OverwriteAll).await;
        match written {
            Ok(done) => Ok(StatementResult::Affected { rows: done.added_rows, snapshot_id: done.snapshot_id }),
            Err(error) => {
                // The table must not stay behind empty, unless its commit may have happened.
                if error.code() != ErrorCode::CommitUnknown && !create.or_replace {
                    let dropped = catalog.drop_table(&ident, false).await;
                    tracing::debug!(table = %ident, ?dropped, "removed the table of a failed CREATE TABLE AS");
                }
                Err(error)
            }
        }
    }

    pub(super) async fn drop_tables(&self, names: &[ObjectName], if_exists: bool, purge: bool) -> Result<StatementResult> {
        for name in names {
            let parts: Vec<String> = name.0.iter().map(part_value).collect();
            if let [bare] = parts.as_slice()
                && self.ctx.deregister_table(TableReference::bare(bare.clone())).map_err(Error::from_datafusion)?.is_some()
            {
                continue; // a temporary table of the session
            }
            let ident = ident_of(self.ctx, name)?;
            match find_table(self.lakehouse, &ident).await? {
                Some(table) => {
                    self.lakehouse.catalog().drop_table(table.ident(), purge).await?;
                }
                None if if_exists => {}
                None => return Err(table_not_found(self.lakehouse, &ident).await),
            }
        }
        Ok(StatementResult::Ok)
    }

    pub(super) async fn create_namespace(&self, name: &ObjectName, if_not_exists: bool) -> Result<StatementResult> {
        let namespace = self.namespace(name);
        let catalog = self.lakehouse.catalog();
        if !if_not_exists && catalog.namespace_exists(&namespace).await? {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("namespace {namespace} exists already; use CREATE SCHEMA IF NOT EXISTS"),
            ));
        }
        catalog.create_namespace(&namespace).await?;
        Ok(StatementResult::Ok)
    }

    pub(super) async fn drop_namespaces(&self, names: &[ObjectName], if_exists: bool) -> Result<StatementResult> {
        for name in names {
            let namespace = self.namespace(name);
            if !self.lakehouse.catalog().drop_namespace(&namespace).await? && !if_exists {
                return Err(Error::new(ErrorCode::InvalidArgument, format!("there is no namespace {namespace}")));
            }
        }
        Ok(StatementResult::Ok)
    }

    pub(super) async fn show_namespaces(&self) -> Result<StatementResult> {
        let names = self.lakehouse.catalog().list_namespaces().await?;
        rows(text_batch(&[("namespace", names)])?)
    }

    pub(super) async fn show_tables(&self, namespace: Option<&ObjectName>) -> Result<StatementResult> {
        let namespace = match namespace {
            Some(name) => self.namespace(name),
            None => self.ctx.state().config_options().catalog.default_schema.clone(),
        };
        let mut names: Vec<(String, bool)> = self
            .lakehouse
            .catalog()
            .list_tables(&namespace)
            .await?
            .iter()
            .map(|t| (t.name().to_string(), false))
            .collect();
        let state = self.ctx.state();
        if let Some(schema) = self.ctx.catalog(&state.config_options().catalog.default_catalog).and_then(|c| c.schema(&namespace)) {
            for name in schema.table_names() {
                if !names.iter().any(|(known, _)| *known == name) {
                    names.push((name, true));
                }
            }
        }
        names.sort();
        let batch = RecordBatch::try_from_iter([
            ("namespace", Arc::new(names.iter().map(|_| Some(namespace.as_str())).collect::<StringArray>()) as _),
            ("tableName", Arc::new(names.iter().map(|(n, _)| Some(n.as_str())).collect::<StringArray>()) as _),
            ("isTemporary", Arc::new(names.iter().map(|(_, t)| Some(*t)).collect::<BooleanArray>()) as _),
        ]);
        rows(batch.map_err(|e| Error::new(ErrorCode::Internal, format!("SHOW TABLES: {e}")))?)
    }

    pub(super) async fn describe(&self, name: &ObjectName) -> Result<StatementResult> {
        let parts: Vec<String> = name.0.iter().map(part_value).collect();
        let mut described: Vec<(String, String, String)> = Vec::new();
        let lower = parts.last().map(|p| p.to_lowercase()).unwrap_or_default();
        let temporary = match parts.len() {
            1 if !lower.is_empty() => {
                let provider = self.ctx.table_provider(TableReference::bare(lower)).await.ok();
                provider.filter(|p| !p.is::<crate::scan::IcebergTableProvider>())
            }
            _ => None,
        };
        if let Some(provider) = temporary {
            for field in provider.schema().fields() {
                described.push((field.name().clone(), type_name(field.data_type()), nullability(field)));
            }
        } else {
            let table = load_table(self.lakehouse, &ident_of(self.ctx, name)?).await?;
            for field in table.schema().fields() {
                described.push((field.name().clone(), type_name(field.data_type()), nullability(field)));
            }
            let partition = table.partition_fields();
            if !partition.is_empty() {
                described.push(("# Partitioning".to_string(), String::new(), String::new()));
                for (i, field) in partition.iter().enumerate() {
                    let term = match field.transform.as_str() {
                        "identity" => field.source.clone(),
                        transform => format!("{transform}({})", field.source),
                    };
                    described.push((format!("Part {i}"), term, String::new()));
                }
            }
        }
        let column = |pick: fn(&(String, String, String)) -> &String| described.iter().map(|d| pick(d).clone()).collect();
        rows(text_batch(&[
            ("col_name", column(|d| &d.0)),
            ("data_type", column(|d| &d.1)),
            ("nullable", column(|d| &d.2)),
        ])?)
    }

    /// A namespace as written, without the catalog's name.
    fn namespace(&self, name: &ObjectName) -> String {
        let mut parts: Vec<String> = name.0.iter().map(part_value).collect();
        if parts.len() > 1 && self.ctx.catalog_names().contains(&parts[0]) {
            parts.remove(0);
        }
        parts.join(".")
    }
}

fn nullability(field: &Field) -> String {
    if field.is_nullable() { "true".to_string() } else { "false".to_string() }
}

fn text_batch(columns: &[(&str, Vec<String>)]) -> Result<RecordBatch> {
    let columns = columns
        .iter()
        .map(|(name, values)| (*name, Arc::new(StringArray::from_iter_values(values)) as Arc<dyn datafusion::arrow::array::Array>));
    RecordBatch::try_from_iter(columns).map_err(|e| Error::new(ErrorCode::Internal, format!("listing: {e}")))
}
