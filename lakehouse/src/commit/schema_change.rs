//! Changes of a table's schema, by field id: add, drop, rename, widen, reorder, nullability, comments, identifier
//! fields, at any depth. Source: Iceberg spec, "Schema Evolution".
//!
//! A path names a column by its levels; the levels within a list are `element`, within a map `key` and `value`. Names
//! are found whatever their letter case.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Fields};
use chainalytics_common::{Error, ErrorCode, Result};
use iceberg::spec::{
    FormatVersion, ListType, Literal, MapType, NestedField, NestedFieldRef, PrimitiveLiteral, PrimitiveType, Schema, StructType, TableMetadata,
    Transform, Type,
};

use crate::err;
use crate::table::arrow_schema;

/// Levels of a column's name, outermost first.
pub type ColumnPath = Vec<String>;

/// Where a column goes among its siblings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    First,
    After(String),
}

/// One change of the schema.
#[derive(Debug, Clone, PartialEq)]
pub enum SchemaEdit {
    /// Adds a column below `parent` (empty: at the top). Its Arrow field carries type, nullability and comment.
    Add {
        parent: ColumnPath,
        field: FieldRef,
        position: Option<Position>,
        if_not_exists: bool,
    },
    Drop {
        path: ColumnPath,
        if_exists: bool,
    },
    Rename {
        path: ColumnPath,
        to: String,
    },
    /// Widens a primitive column to the type of `field`.
    Type {
        path: ColumnPath,
        field: FieldRef,
    },
    Required {
        path: ColumnPath,
        required: bool,
    },
    Comment {
        path: ColumnPath,
        text: String,
    },
    Move {
        path: ColumnPath,
        position: Position,
    },
    /// Sets or drops the value (Iceberg's JSON form) of rows that are written without one; format v3.
    WriteDefault {
        path: ColumnPath,
        value: Option<String>,
    },
    /// Makes these the columns that identify a row.
    SetIdentifiers(Vec<ColumnPath>),
    DropIdentifiers(Vec<ColumnPath>),
}

/// The current schema of `metadata` after `edits`.
///
/// # Errors
/// `ColumnNotFound`, `ColumnExists`; `IncompatibleChange` for what old rows or the partitioning would not survive.
pub(super) fn edited<'a>(metadata: &TableMetadata, edits: impl Iterator<Item = &'a SchemaEdit>) -> Result<Schema> {
    let current = metadata.current_schema();
    let mut editor = Editor {
        format_version: metadata.format_version(),
        fields: current.as_struct().fields().to_vec(),
        identifiers: current.identifier_field_ids().collect(),
        last_id: metadata.last_column_id(),
    };
    for edit in edits {
        editor.apply(edit)?;
    }
    let schema = Schema::builder().with_fields(editor.fields).with_identifier_field_ids(editor.identifiers).build().map_err(err::iceberg_input)?;
    check_sources(metadata, &schema)?;
    Ok(schema)
}

/// Columns that the default partition spec or sort order is computed from must stay.
fn check_sources(metadata: &TableMetadata, schema: &Schema) -> Result<()> {
    let name = |id: i32| metadata.current_schema().name_by_field_id(id).unwrap_or_default().to_owned();
    for field in metadata.default_partition_spec().fields() {
        if field.transform != Transform::Void && schema.field_by_id(field.source_id).is_none() {
            return Err(incompatible(format!(
                "column '{}' cannot be dropped: partition field '{}' is computed from it; ALTER TABLE … DROP PARTITION FIELD first",
                name(field.source_id),
                field.name
            )));
        }
    }
    for field in &metadata.default_sort_order().fields {
        if schema.field_by_id(field.source_id).is_none() {
            return Err(incompatible(format!(
                "column '{}' cannot be dropped: the table is sorted by it; ALTER TABLE … WRITE UNORDERED first",
                name(field.source_id)
            )));
        }
    }
    Ok(())
}

/// Finds a column by its path.
pub(crate) fn find_column<'s>(schema: &'s Schema, path: &[String]) -> Result<&'s NestedFieldRef> {
    let mut level = schema.as_struct().fields().to_vec();
    let mut id = None;
    for name in path {
        let at = position_of(&level, name).ok_or_else(|| not_found(path, &level))?;
        id = Some(level[at].id);
        level = children(&level[at].field_type);
    }
    id.and_then(|id| schema.field_by_id(id)).ok_or_else(|| not_found(path, schema.as_struct().fields()))
}

struct Editor {
    format_version: FormatVersion,
    fields: Vec<NestedFieldRef>,
    identifiers: BTreeSet<i32>,
    last_id: i32,
}

impl Editor {
    fn apply(&mut self, edit: &SchemaEdit) -> Result<()> {
        match edit {
            SchemaEdit::Add { parent, field, position, if_not_exists } => self.add(parent, field, position.as_ref(), *if_not_exists),
            SchemaEdit::Drop { path, if_exists } => self.drop(path, *if_exists),
            SchemaEdit::Rename { path, to } => change(&mut self.fields, path, &mut |siblings, at| match position_of(siblings, to) {
                Some(other) if other != at => Err(exists(to)),
                _ => {
                    replace(siblings, at, |field| field.name.clone_from(to));
                    Ok(())
                }
            }),
            SchemaEdit::Type { path, field } => {
                let new = arrow_schema::fields_from_arrow(&Fields::from(vec![Arc::clone(field)]), self.last_id)?;
                let new = new.first().ok_or_else(|| err::internal("a field became none"))?.field_type.clone();
                change(&mut self.fields, path, &mut |siblings, at| {
                    check_widening(path, &siblings[at].field_type, &new)?;
                    replace(siblings, at, |field| {
                        field.field_type = new.clone();
                        field.initial_default = field.initial_default.take().map(|value| promoted(value, &new));
                        field.write_default = field.write_default.take().map(|value| promoted(value, &new));
                    });
                    Ok(())
                })
            }
            SchemaEdit::Required { path, required } => {
                let identifiers = &self.identifiers;
                change(&mut self.fields, path, &mut |siblings, at| {
                    let field = &siblings[at];
                    if *required && !field.required {
                        return Err(incompatible(format!("column '{}' cannot become NOT NULL: rows written before may hold NULL", path.join("."))));
                    }
                    if !*required && identifiers.contains(&field.id) {
                        return Err(incompatible(format!(
                            "identifier column '{}' must stay NOT NULL; ALTER TABLE … DROP IDENTIFIER FIELDS first",
                            path.join(".")
                        )));
                    }
                    replace(siblings, at, |field| field.required = *required);
                    Ok(())
                })
            }
            SchemaEdit::Comment { path, text } => change(&mut self.fields, path, &mut |siblings, at| {
                replace(siblings, at, |field| field.doc = (!text.is_empty()).then(|| text.clone()));
                Ok(())
            }),
            SchemaEdit::Move { path, position } => change(&mut self.fields, path, &mut |siblings, at| move_to(siblings, at, position)),
            SchemaEdit::WriteDefault { path, value } => {
                if value.is_some() && self.format_version < FormatVersion::V3 {
                    return Err(err::unsupported("defaults of columns below format-version 3"));
                }
                change(&mut self.fields, path, &mut |siblings, at| {
                    let default = match value {
                        Some(json) => arrow_schema::default_from_json(json, &siblings[at].field_type)?,
                        None => None,
                    };
                    replace(siblings, at, |field| field.write_default.clone_from(&default));
                    Ok(())
                })
            }
            SchemaEdit::SetIdentifiers(paths) => {
                self.identifiers = paths.iter().map(|path| self.identifier(path)).collect::<Result<_>>()?;
                Ok(())
            }
            SchemaEdit::DropIdentifiers(paths) => {
                for path in paths {
                    let id = self.find(path)?.id;
                    if !self.identifiers.remove(&id) {
                        return Err(err::invalid(format!("'{}' is no identifier field", path.join("."))));
                    }
                }
                Ok(())
            }
        }
    }

    fn add(&mut self, parent: &[String], field: &FieldRef, position: Option<&Position>, lenient: bool) -> Result<()> {
        if !field.is_nullable() && !field.metadata().contains_key(arrow_schema::INITIAL_DEFAULT_KEY) {
            return Err(incompatible(format!("new column '{}' cannot be NOT NULL: rows written before have no value", field.name())));
        }
        let new = arrow_schema::fields_from_arrow(&Fields::from(vec![Arc::clone(field)]), self.last_id)?;
        let new = new.into_iter().next().ok_or_else(|| err::internal("a field became none"))?;
        let last_id = highest_id(&new).max(self.last_id);
        let insert = |siblings: &mut Vec<NestedFieldRef>| {
            if position_of(siblings, &new.name).is_some() {
                return if lenient { Ok(()) } else { Err(exists(&new.name)) };
            }
            siblings.push(Arc::clone(&new));
            match position {
                Some(position) => move_to(siblings, siblings.len() - 1, position),
                None => Ok(()),
            }
        };
        if parent.is_empty() {
            insert(&mut self.fields)?;
        } else {
            change(&mut self.fields, parent, &mut |siblings, at| {
                let field = &siblings[at];
                let Type::Struct(fields) = field.field_type.as_ref() else {
                    return Err(incompatible(format!("'{}' is no struct: no column can be added to it", parent.join("."))));
                };
                let mut fields = fields.fields().to_vec();
                insert(&mut fields)?;
                let new_type = Type::Struct(StructType::new(fields));
                replace(siblings, at, |field| *field.field_type = new_type.clone());
                Ok(())
            })?;
        }
        self.last_id = last_id;
        Ok(())
    }

    fn drop(&mut self, path: &[String], if_exists: bool) -> Result<()> {
        let dropped = match self.find(path) {
            Ok(field) => field,
            Err(error) if if_exists && error.code() == ErrorCode::ColumnNotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut ids = BTreeSet::new();
        all_ids(&dropped, &mut ids);
        if self.identifiers.iter().any(|id| ids.contains(id)) {
            return Err(incompatible(format!(
                "column '{}' cannot be dropped: it identifies rows; ALTER TABLE … DROP IDENTIFIER FIELDS first",
                path.join(".")
            )));
        }
        change(&mut self.fields, path, &mut |siblings, at| {
            if siblings.len() == 1 {
                return Err(incompatible(format!("column '{}' is the last one and cannot be dropped", path.join("."))));
            }
            siblings.remove(at);
            Ok(())
        })
    }

    fn find(&self, path: &[String]) -> Result<NestedFieldRef> {
        let mut level = self.fields.clone();
        let mut found = None;
        for name in path {
            let at = position_of(&level, name).ok_or_else(|| not_found(path, &level))?;
            let field = Arc::clone(&level[at]);
            level = children(&field.field_type);
            found = Some(field);
        }
        found.ok_or_else(|| err::invalid("an empty column name"))
    }

    /// An identifier: required, primitive, no floating point, within required structs only.
    fn identifier(&self, path: &[String]) -> Result<i32> {
        let field = self.find(path)?;
        let text = path.join(".");
        for depth in 1..=path.len() {
            let level = self.find(&path[..depth])?;
            if !level.required || (depth < path.len() && !level.field_type.is_struct()) {
                return Err(incompatible(format!("'{text}' cannot be an identifier field: it is not NOT NULL at every level")));
            }
        }
        if !field.field_type.is_primitive() || field.field_type.is_floating_type() {
            return Err(incompatible(format!("'{text}' cannot be an identifier field: its type is {}", field.field_type)));
        }
        Ok(field.id)
    }
}

/// Runs `edit` on the siblings of the column at `path` and its position among them.
fn change(fields: &mut Vec<NestedFieldRef>, path: &[String], edit: &mut dyn FnMut(&mut Vec<NestedFieldRef>, usize) -> Result<()>) -> Result<()> {
    let Some((first, rest)) = path.split_first() else {
        return Err(err::invalid("an empty column name"));
    };
    let at = position_of(fields, first).ok_or_else(|| not_found(path, fields))?;
    if rest.is_empty() {
        return edit(fields, at);
    }
    let mut nested = children(&fields[at].field_type);
    change(&mut nested, rest, edit)?;
    let new_type = with_children(&fields[at].field_type, nested)?;
    replace(fields, at, |field| *field.field_type = new_type.clone());
    Ok(())
}

fn replace(fields: &mut [NestedFieldRef], at: usize, edit: impl FnOnce(&mut NestedField)) {
    let mut field = fields[at].as_ref().clone();
    edit(&mut field);
    fields[at] = Arc::new(field);
}

fn children(field_type: &Type) -> Vec<NestedFieldRef> {
    match field_type {
        Type::Primitive(_) => Vec::new(),
        Type::Struct(fields) => fields.fields().to_vec(),
        Type::List(list) => vec![Arc::clone(&list.element_field)],
        Type::Map(map) => vec![Arc::clone(&map.key_field), Arc::clone(&map.value_field)],
    }
}

fn with_children(field_type: &Type, nested: Vec<NestedFieldRef>) -> Result<Type> {
    let refused = || incompatible("the element of a list and the key and value of a map can only be widened or extended");
    Ok(match field_type {
        Type::Primitive(_) => return Err(err::internal("a primitive has no fields")),
        Type::Struct(_) => Type::Struct(StructType::new(nested)),
        Type::List(list) => match nested.as_slice() {
            [element] if element.name == list.element_field.name => Type::List(ListType::new(Arc::clone(element))),
            _ => return Err(refused()),
        },
        Type::Map(map) => match nested.as_slice() {
            [key, value] if *key == map.key_field && value.name == map.value_field.name => {
                Type::Map(MapType::new(Arc::clone(key), Arc::clone(value)))
            }
            _ => return Err(refused()),
        },
    })
}

fn move_to(siblings: &mut Vec<NestedFieldRef>, at: usize, position: &Position) -> Result<()> {
    let field = siblings.remove(at);
    let to = match position {
        Position::First => 0,
        Position::After(other) if other.eq_ignore_ascii_case(&field.name) => {
            return Err(err::invalid(format!("column '{other}' cannot come after itself")));
        }
        Position::After(other) => position_of(siblings, other).ok_or_else(|| not_found(std::slice::from_ref(other), siblings))? + 1,
    };
    siblings.insert(to, field);
    Ok(())
}

/// Promotions that every reader of old files knows.
fn check_widening(path: &[String], from: &Type, to: &Type) -> Result<()> {
    use PrimitiveType as P;
    let allowed = match (from, to) {
        (Type::Primitive(from), Type::Primitive(to)) => match (from, to) {
            (from, to) if from == to => true,
            (P::Int, P::Long) | (P::Float, P::Double) => true,
            (P::Decimal { precision: p, scale: s }, P::Decimal { precision, scale }) => scale == s && precision >= p,
            _ => false,
        },
        _ => false,
    };
    if allowed {
        return Ok(());
    }
    Err(incompatible(format!(
        "column '{}' cannot change from {from} to {to}: only int to bigint, float to double and a larger decimal \
         precision of the same scale keep old values",
        path.join(".")
    )))
}

/// A default in the widened type.
fn promoted(value: Literal, to: &Type) -> Literal {
    match (value, to) {
        (Literal::Primitive(PrimitiveLiteral::Int(v)), Type::Primitive(PrimitiveType::Long)) => Literal::long(i64::from(v)),
        (Literal::Primitive(PrimitiveLiteral::Float(v)), Type::Primitive(PrimitiveType::Double)) => Literal::double(f64::from(v.0)),
        (value, _) => value,
    }
}

fn position_of(fields: &[NestedFieldRef], name: &str) -> Option<usize> {
    let exact = fields.iter().position(|field| field.name == name);
    exact.or_else(|| fields.iter().position(|field| field.name.eq_ignore_ascii_case(name)))
}

fn highest_id(field: &NestedFieldRef) -> i32 {
    children(&field.field_type).iter().map(highest_id).fold(field.id, i32::max)
}

fn all_ids(field: &NestedFieldRef, ids: &mut BTreeSet<i32>) {
    ids.insert(field.id);
    for child in children(&field.field_type) {
        all_ids(&child, ids);
    }
}

fn not_found(path: &[String], level: &[NestedFieldRef]) -> Error {
    let known: Vec<&str> = level.iter().map(|field| field.name.as_str()).collect();
    let there = if known.is_empty() { "a primitive column has no fields".to_owned() } else { format!("there is {}", known.join(", ")) };
    Error::new(ErrorCode::ColumnNotFound, format!("there is no column '{}'; {there}", path.join(".")))
}

fn exists(name: &str) -> Error {
    Error::new(ErrorCode::ColumnExists, format!("there is a column '{name}' already"))
}

pub(super) fn incompatible(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::IncompatibleChange, message)
}
