//! Nested columns by field id: a struct's fields may have been renamed, added, dropped, reordered or widened since a file
//! was written, and so may those of structs within lists and maps. Source: Iceberg spec, "Column Projection".

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as DfResult};
use iceberg::spec::{NestedFieldRef, Type};

use chainalytics_common::Result;

use crate::err;
use crate::scan::values::literal_to_scalar;
use crate::table::arrow_schema::FIELD_ID_KEY;

/// How the fields of a file are found by their ids.
pub(super) struct ById<'a> {
    /// Path of the file, for messages.
    pub path: &'a str,
    /// Whether the file's schema carries field ids; imported files have none.
    pub has_ids: bool,
    /// Names by id for files without ids; the schema's own where the table has no mapping.
    pub names: Option<&'a BTreeMap<i32, Vec<String>>>,
}

impl ById<'_> {
    /// Index of the field among those of one level of the file.
    pub fn find(&self, fields: &Fields, field: &NestedFieldRef) -> Option<usize> {
        if self.has_ids {
            return fields.iter().position(|f| id_of(f) == Some(field.id));
        }
        let at = |name: &str| fields.iter().position(|f| f.name() == name);
        match self.names {
            Some(names) => names.get(&field.id)?.iter().find_map(|name| at(name)),
            None => at(&field.name),
        }
    }

    /// How a value of a file's type becomes one of the table's.
    pub fn reshape(&self, of: &Type, target: &DataType, source: &DataType) -> Result<Reshape> {
        let mismatch = || err::metadata(format!("data file {} has {source} where the table has {target}", self.path));
        Ok(match (of, target, source) {
            (Type::Struct(of), DataType::Struct(target), DataType::Struct(source)) => {
                let children = of.fields().iter().zip(target).map(|(field, target)| self.child(field, target, source)).collect::<Result<_>>()?;
                Reshape::Struct(target.clone(), children)
            }
            (Type::List(of), DataType::List(target), DataType::List(source)) => {
                let element = self.reshape(&of.element_field.field_type, target.data_type(), source.data_type())?;
                Reshape::List(Arc::clone(target), Box::new(element))
            }
            (Type::Map(of), DataType::Map(target, sorted), DataType::Map(source, _)) => {
                let (target_key, target_value) = key_and_value(target).ok_or_else(mismatch)?;
                let (source_key, source_value) = key_and_value(source).ok_or_else(mismatch)?;
                let key = self.reshape(&of.key_field.field_type, target_key.data_type(), source_key.data_type())?;
                let value = self.reshape(&of.value_field.field_type, target_value.data_type(), source_value.data_type())?;
                Reshape::Map(Arc::clone(target), *sorted, Box::new(key), Box::new(value))
            }
            (Type::Primitive(_), target, source) if !source.is_nested() => match target == source {
                true => Reshape::Keep,
                false => Reshape::Cast(target.clone()),
            },
            _ => return Err(mismatch()),
        })
    }

    fn child(&self, field: &NestedFieldRef, target: &FieldRef, source: &Fields) -> Result<Child> {
        if let Some(at) = self.find(source, field) {
            return Ok(Child::Field(at, self.reshape(&field.field_type, target.data_type(), source[at].data_type())?));
        }
        let default = field.initial_default.as_ref().and_then(|d| d.as_primitive_literal());
        let value = default.and_then(|v| literal_to_scalar(&v, target.data_type()));
        if value.is_none() && (field.required || field.initial_default.is_some()) {
            return Err(err::metadata(format!("data file {} lacks the nested field '{}', which has no value for it", self.path, field.name)));
        }
        Ok(Child::Constant(value))
    }
}

/// Field id of a field that was read from a Parquet schema.
pub(super) fn id_of(field: &Field) -> Option<i32> {
    field.metadata().get(FIELD_ID_KEY)?.parse().ok()
}

/// Whether any field of a file's schema carries an id.
pub(super) fn has_ids(fields: &Fields) -> bool {
    fields.iter().any(|field| id_of(field).is_some())
}

fn key_and_value(entries: &FieldRef) -> Option<(&FieldRef, &FieldRef)> {
    match entries.data_type() {
        DataType::Struct(fields) => match fields.iter().as_slice() {
            [key, value] => Some((key, value)),
            _ => None,
        },
        _ => None,
    }
}

/// How arrays of a file's type become arrays of the table's.
#[derive(Debug)]
pub(super) enum Reshape {
    /// The types are equal.
    Keep,
    /// A widened primitive.
    Cast(DataType),
    Struct(Fields, Vec<Child>),
    List(FieldRef, Box<Reshape>),
    Map(FieldRef, bool, Box<Reshape>, Box<Reshape>),
}

/// A field of a struct.
#[derive(Debug)]
pub(super) enum Child {
    /// The file's field at this index.
    Field(usize, Reshape),
    /// The file has none: the same value everywhere, null without one.
    Constant(Option<ScalarValue>),
}

impl Reshape {
    /// The array as the table has it.
    pub fn apply(&self, array: &ArrayRef) -> DfResult<ArrayRef> {
        let other = || DataFusionError::Internal(format!("a nested column came as {}", array.data_type()));
        Ok(match self {
            Self::Keep => Arc::clone(array),
            Self::Cast(to) => cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() })?,
            Self::Struct(fields, children) => {
                let array = array.as_struct_opt().ok_or_else(other)?;
                let columns = children
                    .iter()
                    .zip(fields)
                    .map(|(child, field)| match child {
                        Child::Field(at, reshape) => reshape.apply(array.columns().get(*at).ok_or_else(other)?),
                        Child::Constant(None) => Ok(new_null_array(field.data_type(), array.len())),
                        Child::Constant(Some(value)) => value.to_array_of_size(array.len()),
                    })
                    .collect::<DfResult<Vec<_>>>()?;
                Arc::new(StructArray::try_new_with_length(fields.clone(), columns, array.nulls().cloned(), array.len())?)
            }
            Self::List(field, element) => {
                let array = array.as_list_opt::<i32>().ok_or_else(other)?;
                let values = element.apply(array.values())?;
                Arc::new(ListArray::try_new(Arc::clone(field), array.offsets().clone(), values, array.nulls().cloned())?)
            }
            Self::Map(entries, sorted, key, value) => {
                let array = array.as_map_opt().ok_or_else(other)?;
                let DataType::Struct(fields) = entries.data_type() else { return Err(other()) };
                let columns = vec![key.apply(array.keys())?, value.apply(array.values())?];
                let pairs = StructArray::try_new(fields.clone(), columns, None)?;
                Arc::new(MapArray::try_new(Arc::clone(entries), array.offsets().clone(), pairs, array.nulls().cloned(), *sorted)?)
            }
        })
    }
}
