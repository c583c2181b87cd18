//! `ALTER TABLE` in the spelling of Spark and Iceberg's Spark extensions.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::ObjectName;
use datafusion::sql::sqlparser::parser::Parser;

use chainalytics_common::Result;

use super::create_table::{parse_properties, property_key};
use super::defaults::parse_value;
use super::refs::{RefStatement, parse_ref_drop, parse_ref_set};
use super::statement::{expect_end, parse_error, syntax_error};
use super::terms::{parse_sort_term, parse_target, parse_term};
use super::types::{parse_options, parse_type};
use super::unsupported;
use super::words::{accept, expect, expected, list, name, next_are, path, text};
use crate::commit::{ColumnPath, PartitionEdit, Position, SchemaEdit, SortTerm};

/// A parsed `ALTER TABLE`.
#[derive(Debug)]
pub struct AlterTable {
    pub name: ObjectName,
    pub if_exists: bool,
    pub action: AlterAction,
}

#[derive(Debug)]
pub enum AlterAction {
    Schema(Vec<SchemaEdit>),
    /// A new write default, its SQL; none drops it.
    Default {
        path: ColumnPath,
        value: Option<String>,
    },
    Partition(PartitionEdit),
    /// `WRITE …`: the order (if it is given) and the value of `write.distribution-mode`.
    Write {
        order: Vec<SortTerm>,
        distribution: &'static str,
    },
    SetProperties(Vec<(String, String)>),
    UnsetProperties(Vec<String>),
    SetLocation(String),
    RenameTo(ObjectName),
    Ref(RefStatement),
}

/// Parses what follows `ALTER TABLE`.
pub fn parse_alter_table(parser: &mut Parser<'_>) -> Result<AlterTable> {
    let if_exists = accept(parser, "IF EXISTS");
    let name = parser.parse_object_name(false).map_err(parse_error)?;
    let action = parse_action(parser)?;
    expect_end(parser)?;
    Ok(AlterTable { name, if_exists, action })
}

fn parse_action(parser: &mut Parser<'_>) -> Result<AlterAction> {
    if accept(parser, "ADD PARTITION FIELD") {
        let term = parse_term(parser)?;
        return Ok(AlterAction::Partition(PartitionEdit::Add { term, name: alias(parser)? }));
    }
    if accept(parser, "DROP PARTITION FIELD") {
        return Ok(AlterAction::Partition(PartitionEdit::Drop(parse_target(parser)?)));
    }
    if accept(parser, "REPLACE PARTITION FIELD") {
        let from = parse_target(parser)?;
        expect(parser, "WITH")?;
        let to = parse_term(parser)?;
        return Ok(AlterAction::Partition(PartitionEdit::Replace { from, to, name: alias(parser)? }));
    }
    if next_are(parser, "ADD PARTITION") || next_are(parser, "DROP PARTITION") || next_are(parser, "RENAME PARTITION") {
        return Err(unsupported("partitions of Hive tables: Iceberg's partitions follow from the rows; use ADD PARTITION FIELD"));
    }
    if accept(parser, "ADD COLUMNS") || accept(parser, "ADD COLUMN") || accept(parser, "ADD") {
        let lenient = accept(parser, "IF NOT EXISTS");
        return Ok(AlterAction::Schema(list(parser, true, |p| parse_new_column(p, lenient))?));
    }
    if accept(parser, "DROP COLUMNS") || accept(parser, "DROP COLUMN") {
        let if_exists = accept(parser, "IF EXISTS");
        let paths = list(parser, true, path)?;
        return Ok(AlterAction::Schema(paths.into_iter().map(|path| SchemaEdit::Drop { path, if_exists }).collect()));
    }
    if accept(parser, "RENAME COLUMN") {
        let path = path(parser)?;
        expect(parser, "TO")?;
        return Ok(AlterAction::Schema(vec![SchemaEdit::Rename { path, to: name(parser)? }]));
    }
    if accept(parser, "RENAME TO") {
        return Ok(AlterAction::RenameTo(parser.parse_object_name(false).map_err(parse_error)?));
    }
    if accept(parser, "ALTER COLUMN") || accept(parser, "ALTER") {
        return parse_alter_column(parser);
    }
    if accept(parser, "CHANGE COLUMN") || accept(parser, "CHANGE") {
        return Ok(AlterAction::Schema(parse_change_column(parser)?));
    }
    if accept(parser, "WRITE") {
        return parse_write(parser);
    }
    if accept(parser, "SET TBLPROPERTIES") {
        return Ok(AlterAction::SetProperties(parse_properties(parser)?));
    }
    if accept(parser, "UNSET TBLPROPERTIES") {
        let _lenient_anyway = accept(parser, "IF EXISTS");
        return Ok(AlterAction::UnsetProperties(list(parser, false, property_key)?));
    }
    if accept(parser, "SET LOCATION") {
        return Ok(AlterAction::SetLocation(text(parser)?));
    }
    if accept(parser, "SET IDENTIFIER FIELDS") {
        return Ok(AlterAction::Schema(vec![SchemaEdit::SetIdentifiers(list(parser, true, path)?)]));
    }
    if accept(parser, "DROP IDENTIFIER FIELDS") {
        return Ok(AlterAction::Schema(vec![SchemaEdit::DropIdentifiers(list(parser, true, path)?)]));
    }
    if let Some(statement) = parse_ref_set(parser)? {
        return Ok(AlterAction::Ref(statement));
    }
    if let Some(statement) = parse_ref_drop(parser)? {
        return Ok(AlterAction::Ref(statement));
    }
    Err(expected(parser, "ADD, DROP, RENAME, ALTER, REPLACE, WRITE, SET, UNSET or CREATE"))
}

fn alias(parser: &mut Parser<'_>) -> Result<Option<String>> {
    if accept(parser, "AS") { name(parser).map(Some) } else { Ok(None) }
}

/// `a.b type [COMMENT '…'] [FIRST | AFTER c]`.
fn parse_new_column(parser: &mut Parser<'_>, if_not_exists: bool) -> Result<SchemaEdit> {
    let mut parent = path(parser)?;
    let Some(name) = parent.pop() else {
        return Err(syntax_error("a new column needs a name"));
    };
    let field = parse_type(parser, &name)?;
    let field = Arc::new(parse_options(parser, field)?);
    let position = parse_position(parser)?;
    Ok(SchemaEdit::Add { parent, field, position, if_not_exists })
}

fn parse_position(parser: &mut Parser<'_>) -> Result<Option<Position>> {
    if accept(parser, "FIRST") {
        return Ok(Some(Position::First));
    }
    if accept(parser, "AFTER") {
        // Siblings only: of a path its last level says which.
        let sibling = path(parser)?.pop().unwrap_or_default();
        return Ok(Some(Position::After(sibling)));
    }
    Ok(None)
}

/// `c TYPE t`, `c SET DATA TYPE t`, `c SET | DROP NOT NULL`, `c COMMENT '…'`, `c FIRST | AFTER d`, one after the other.
fn parse_alter_column(parser: &mut Parser<'_>) -> Result<AlterAction> {
    let column: ColumnPath = path(parser)?;
    if accept(parser, "SET DEFAULT") {
        return Ok(AlterAction::Default { path: column, value: Some(parse_value(parser)?) });
    }
    if accept(parser, "DROP DEFAULT") {
        return Ok(AlterAction::Default { path: column, value: None });
    }
    let mut edits = Vec::new();
    loop {
        let path = column.clone();
        if accept(parser, "SET DATA TYPE") || accept(parser, "TYPE") {
            edits.push(SchemaEdit::Type { path, field: Arc::new(parse_type(parser, "type")?) });
        } else if accept(parser, "SET NOT NULL") {
            edits.push(SchemaEdit::Required { path, required: true });
        } else if accept(parser, "DROP NOT NULL") {
            edits.push(SchemaEdit::Required { path, required: false });
        } else if accept(parser, "COMMENT") {
            edits.push(SchemaEdit::Comment { path, text: text(parser)? });
        } else if let Some(position) = parse_position(parser)? {
            edits.push(SchemaEdit::Move { path, position });
        } else if edits.is_empty() {
            return Err(expected(parser, "TYPE, SET NOT NULL, DROP NOT NULL, COMMENT, FIRST or AFTER"));
        } else {
            return Ok(AlterAction::Schema(edits));
        }
    }
}

/// Hive's `CHANGE COLUMN old new type [COMMENT '…'] [FIRST | AFTER c]`.
fn parse_change_column(parser: &mut Parser<'_>) -> Result<Vec<SchemaEdit>> {
    let mut column: ColumnPath = path(parser)?;
    let new = name(parser)?;
    let field = parse_type(parser, &new)?;
    let mut edits = vec![SchemaEdit::Type { path: column.clone(), field: Arc::new(field) }];
    if accept(parser, "COMMENT") {
        edits.push(SchemaEdit::Comment { path: column.clone(), text: text(parser)? });
    }
    if let Some(position) = parse_position(parser)? {
        edits.push(SchemaEdit::Move { path: column.clone(), position });
    }
    if column.last() != Some(&new) {
        edits.push(SchemaEdit::Rename { path: std::mem::take(&mut column), to: new });
    }
    Ok(edits)
}

/// `WRITE [DISTRIBUTED BY PARTITION] [[LOCALLY] ORDERED BY …]`, `WRITE UNORDERED`.
fn parse_write(parser: &mut Parser<'_>) -> Result<AlterAction> {
    let mut distributed = false;
    let mut order: Option<Vec<SortTerm>> = None;
    let mut local = false;
    let mut unordered = false;
    loop {
        if !distributed && accept(parser, "DISTRIBUTED BY PARTITION") {
            distributed = true;
        } else if order.is_none() && !unordered && (next_are(parser, "ORDERED BY") || next_are(parser, "LOCALLY ORDERED BY")) {
            local = accept(parser, "LOCALLY");
            expect(parser, "ORDERED BY")?;
            order = Some(list(parser, true, parse_sort_term)?);
        } else if order.is_none() && !unordered && accept(parser, "UNORDERED") {
            unordered = true;
        } else {
            break;
        }
    }
    if !distributed && order.is_none() && !unordered {
        return Err(expected(parser, "ORDERED BY, LOCALLY ORDERED BY, UNORDERED or DISTRIBUTED BY PARTITION"));
    }
    let distribution = match (distributed, &order) {
        (true, _) => "hash",
        (false, Some(_)) if !local => "range",
        _ => "none",
    };
    Ok(AlterAction::Write { order: order.unwrap_or_default(), distribution })
}
