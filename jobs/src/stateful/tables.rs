//! Tables that a query with state makes for itself, and the columns of those that it reads.
//!
//! Columns are found whatever the letter case they are asked for in; from then on they have the spelling that their table gives them, and
//! stand quoted in queries.

use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema};
use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::sql::load_table;
use chainalytics_lakehouse::{CreateTable, Table};

use crate::JobContext;

/// A column's name as an SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The column of a table, by its name in any letter case; one spelled exactly so comes first.
///
/// # Errors
/// `InvalidArgument` if there is none, or several that differ in letter case alone.
pub(crate) fn column<'a>(table: &'a Table, name: &str) -> Result<&'a FieldRef> {
    find(table.schema().fields(), name).map_err(|what| Error::new(ErrorCode::InvalidArgument, format!("table {} {what}", table.ident())))
}

fn find<'a>(fields: &'a [FieldRef], name: &str) -> Result<&'a FieldRef, String> {
    if let Some(exact) = fields.iter().find(|field| field.name() == name) {
        return Ok(exact);
    }
    let similar: Vec<&FieldRef> = fields.iter().filter(|field| field.name().to_lowercase() == name.to_lowercase()).collect();
    let names = |fields: &[&FieldRef]| fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
    match similar.as_slice() {
        [one] => Ok(one),
        [] => Err(format!("has no column '{name}'; it has {}", names(&fields.iter().collect::<Vec<_>>()))),
        several => Err(format!("has several columns '{name}': {}; spell it as one of them", names(several))),
    }
}

/// The named columns of a table, all of them if none is named; always with `kept` first where they were left out.
///
/// # Errors
/// `InvalidArgument` for one that is not there.
pub(crate) fn columns_of(table: &Table, named: &[String], kept: &[&str]) -> Result<Vec<FieldRef>> {
    let find = |name: &str| column(table, name).cloned();
    let kept = kept.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
    if named.is_empty() {
        return Ok(table.schema().fields().iter().cloned().collect());
    }
    let named = named.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
    let mut columns: Vec<FieldRef> = Vec::new();
    for field in kept.into_iter().filter(|field| !named.contains(field)).chain(named.iter().cloned()) {
        if !columns.contains(&field) {
            columns.push(field);
        }
    }
    Ok(columns)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::datatypes::DataType;

    use super::*;

    #[test]
    fn columns_are_found_in_any_case_and_keep_theirs() {
        let fields: Vec<FieldRef> = ["id", "EventTime", "at", "AT", "\"q\""].iter().map(|n| Arc::new(Field::new(*n, DataType::Int64, true))).collect();
        for (asked, found) in [("ID", "id"), ("eventtime", "EventTime"), ("EventTime", "EventTime"), ("AT", "AT"), ("at", "at")] {
            assert_eq!(find(&fields, asked).unwrap().name(), found);
        }
        assert!(find(&fields, "At").unwrap_err().contains("at, AT"));
        assert!(find(&fields, "nothing").unwrap_err().contains("EventTime"));
        assert_eq!(quoted("\"q\""), "\"\"\"q\"\"\"");
    }
}
