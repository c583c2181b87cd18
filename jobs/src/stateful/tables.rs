//! Tables that a query with state makes for itself.

use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema};
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::sql::load_table;
use chainalytics_lakehouse::{CreateTable, Table};

use crate::JobContext;

/// The column of a table, by its name.
///
/// # Errors
/// `InvalidArgument` if there is none.
pub(crate) fn column<'a>(table: &'a Table, name: &str) -> Result<&'a FieldRef> {
    table.schema().fields().iter().find(|field| field.name() == name).ok_or_else(|| {
        let known: Vec<&str> = table.schema().fields().iter().map(|field| field.name().as_str()).collect();
        Error::new(ErrorCode::InvalidArgument, format!("table {} has no column '{name}'; it has {}", table.ident(), known.join(", ")))
    })
}

/// The named columns of a table, all of them if none is named; always with `kept` first where they were left out.
///
/// # Errors
/// `InvalidArgument` for one that is not there.
pub(crate) fn columns_of(table: &Table, named: &[String], kept: &[&str]) -> Result<Vec<FieldRef>> {
    if named.is_empty() {
        return Ok(table.schema().fields().iter().cloned().collect());
    }
    let names = kept.iter().copied().filter(|kept| !named.iter().any(|name| name == kept)).chain(named.iter().map(String::as_str));
    names.map(|name| column(table, name).cloned()).collect()
}

/// The table of that name, made with these columns (all optional) if it is not there.
///
/// # Errors
/// Of the catalog; `InvalidArgument` if one is there that lacks a column.
pub(crate) async fn ensure(context: &JobContext, name: &str, columns: Vec<(String, FieldRef)>, partition: Option<(&str, &str)>) -> Result<Table> {
    let ident = context.table(name)?;
    let lakehouse = context.session().lakehouse();
    if !lakehouse.catalog().table_exists(&ident).await? {
        let fields: Vec<Field> = columns.iter().map(|(name, field)| Field::new(name, field.data_type().clone(), true)).collect();
        let mut create = CreateTable::new(ident.clone(), Arc::new(Schema::new(fields)))
            .with_property("write.parquet.compression-codec", "snappy")
            .with_property("chainalytics.maintenance.enabled", "true");
        if let Some((column, transform)) = partition {
            create = create.partitioned_by(column, transform);
        }
        lakehouse.catalog().create_table(create, true).await?;
    }
    let table = load_table(lakehouse, &ident).await?;
    for (name, _) in &columns {
        column(&table, name)?;
    }
    Ok(table)
}
