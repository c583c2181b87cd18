//! CREATE TABLE, CREATE TABLE AS and their replacing forms.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;

use chainalytics_common::{Error, ErrorCode, Result};

use super::catalog::{find_table, table_not_found};
use super::create_table::{CreateMode, CreateTableStatement};
use super::defaults::{has_default, resolve};
use super::names::{ident_of, plan, wrap};
use super::{Runner, StatementResult, unsupported};
use crate::catalog::{CreateTable, PartitionFieldDef};
use crate::commit::{Decision, ReplaceTable, TableChange, TableEdit, Term, Transaction};
use crate::dml::{Casting, Matching, Purpose, WriteMode, align, committed_step};
use crate::ident::TableIdent;
use crate::scan::plain_type;
use crate::table::Table;

impl Runner<'_> {
    pub(super) async fn create_table(&self, create: CreateTableStatement) -> Result<StatementResult> {
        let ident = ident_of(self.ctx, &create.name)?;
        let existing = find_table(self.lakehouse, &ident).await?;
        // A repeated step of a run finds the table that it made.
        if let Some(existing) = &existing
            && let Some(done) = committed_step(existing, &self.options)
        {
            return Ok(StatementResult::Affected { rows: done.added_rows, snapshot_id: done.snapshot_id });
        }
        match (&existing, create.mode) {
            (Some(_), CreateMode::CreateIfNotExists) => return Ok(StatementResult::Ok),
            (Some(existing), CreateMode::Create) => {
                return Err(Error::new(
                    ErrorCode::TableExists,
                    format!("table {} exists already; use CREATE TABLE IF NOT EXISTS or CREATE OR REPLACE TABLE", existing.ident()),
                ));
            }
            (None, CreateMode::Replace) => return Err(table_not_found(self.lakehouse, &ident).await),
            _ => {}
        }
        let query = match create.query {
            Some(query) => Some(plan(self.ctx, self.lakehouse, wrap(SqlStatement::Query(query))).await?),
            None => None,
        };
        let fields: Vec<Field> = match &query {
            Some(query) => query.schema().fields().iter().map(|f| Field::new(f.name(), plain_type(f.data_type()), true)).collect(),
            None => {
                let version = create.properties.iter().find(|(key, _)| key == "format-version");
                if create.columns.iter().any(has_default) && version.is_none_or(|(_, version)| version != "3") {
                    return Err(unsupported("DEFAULT of a column below format-version 3 (TBLPROPERTIES ('format-version' = '3'))"));
                }
                let mut fields = Vec::with_capacity(create.columns.len());
                for column in create.columns {
                    fields.push(resolve(column).await?);
                }
                fields
            }
        };
        let schema = Arc::new(Schema::new(fields));
        check_columns(&schema)?;
        let definition = ReplaceTable {
            partition: create.partition.iter().map(|term| partition_field(&schema, term)).collect::<Result<_>>()?,
            schema,
            properties: create.properties.into_iter().collect::<BTreeMap<_, _>>(),
            location: create.location,
        };
        match existing {
            Some(existing) => self.replace_table(&existing, definition, query).await,
            None => self.new_table(ident, definition, create.mode, query).await,
        }
    }

    async fn new_table(&self, ident: TableIdent, definition: ReplaceTable, mode: CreateMode, query: Option<LogicalPlan>) -> Result<StatementResult> {
        let catalog = self.lakehouse.catalog();
        let mut create = CreateTable::new(ident.clone(), definition.schema);
        create.partition = definition.partition;
        create.properties = definition.properties;
        create.location = definition.location;
        let table = catalog.create_table(create, mode == CreateMode::CreateIfNotExists).await?;
        let Some(query) = query else {
            return Ok(StatementResult::Ok);
        };
        let state = self.ctx.state();
        let written = self.write(&state).plan(&table, query, &Matching::ByPosition, Casting::Checked, WriteMode::OverwriteAll).await;
        match written {
            Ok(done) => Ok(StatementResult::Affected { rows: done.added_rows, snapshot_id: done.snapshot_id }),
            Err(error) => {
                // The table must not stay behind empty, unless its commit may have happened.
                if error.code() != ErrorCode::CommitUnknown {
                    let dropped = catalog.drop_table(&ident, false).await;
                    tracing::debug!(table = %ident, ?dropped, "removed the table of a failed CREATE TABLE AS");
                }
                Err(error)
            }
        }
    }

    /// Puts a new definition, and the rows of a query, in the place of a table's own in one commit. Its snapshots stay
    /// reachable by their ids.
    async fn replace_table(&self, table: &Table, definition: ReplaceTable, query: Option<LogicalPlan>) -> Result<StatementResult> {
        let ident = table.ident().clone();
        let edits = vec![TableEdit::Replace(definition)];
        let base = table.metadata_location().to_owned();
        let validator = move |table: &Table| {
            Ok(match table.metadata_location() == base {
                true => Decision::Commit,
                false => Decision::Conflict("it was changed while it was being replaced".to_owned()),
            })
        };
        let Some(query) = query else {
            let change = TableChange::metadata(ident).edit(edits).validate(validator);
            Transaction::new(self.lakehouse).add(change).commit(self.options.clone()).await?;
            return Ok(StatementResult::Ok);
        };
        let staged = table.redefined(&edits)?;
        let state = self.ctx.state();
        let write = self.write(&state);
        let query = align(query, staged.schema(), &ident.to_string(), &Matching::ByPosition, Casting::Checked)?;
        let added = write.data_files(&staged, query, Purpose::Append).await?;
        let change = TableChange::append(ident.clone(), added.clone()).edit(edits).validate(validator);
        match Transaction::new(self.lakehouse).add(change).commit(self.options.clone()).await {
            Ok(outcome) => {
                let done = outcome.table(&ident);
                Ok(StatementResult::Affected { rows: done.map_or(0, |done| done.added_rows), snapshot_id: done.and_then(|done| done.snapshot_id) })
            }
            Err(error) => {
                if error.code() != ErrorCode::CommitUnknown {
                    write.discard(&added).await;
                }
                Err(error)
            }
        }
    }
}

/// Names of one level must differ by more than letter case, because they are found whatever theirs.
fn check_columns(schema: &SchemaRef) -> Result<()> {
    fn check(fields: &Fields) -> Result<()> {
        for (i, field) in fields.iter().enumerate() {
            if fields.iter().take(i).any(|other| other.name().eq_ignore_ascii_case(field.name())) {
                return Err(Error::new(ErrorCode::ColumnExists, format!("column '{}' is defined twice", field.name())));
            }
            check_type(field.data_type())?;
        }
        Ok(())
    }
    fn check_type(data_type: &DataType) -> Result<()> {
        match data_type {
            DataType::Struct(fields) => check(fields),
            DataType::List(element) => check_type(element.data_type()),
            DataType::Map(entries, _) => check_type(entries.data_type()),
            _ => Ok(()),
        }
    }
    check(schema.fields())
}

/// The partition field of a term, its column in the schema's letter case.
fn partition_field(schema: &SchemaRef, term: &Term) -> Result<PartitionFieldDef> {
    let mut fields = schema.fields().clone();
    let mut spelled: Vec<String> = Vec::new();
    for level in &term.column {
        let exact = fields.iter().find(|f| f.name() == level);
        let found = exact.or_else(|| fields.iter().find(|f| f.name().eq_ignore_ascii_case(level))).cloned();
        let Some(found) = found else {
            let known: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
            return Err(Error::new(
                ErrorCode::ColumnNotFound,
                format!("there is no partition column '{}'; there is {}", term.column.join("."), known.join(", ")),
            ));
        };
        spelled.push(found.name().clone());
        fields = match found.data_type() {
            DataType::Struct(fields) => fields.clone(),
            _ => Fields::empty(),
        };
    }
    Ok(PartitionFieldDef::new(spelled.join("."), term.transform.clone()))
}
