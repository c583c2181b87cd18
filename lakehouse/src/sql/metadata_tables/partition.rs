//! Partition values of files that may be of several specs, as one struct type.
//! Source: Iceberg spec, "Partition Evolution"; the fields are unified by their ids.

use std::collections::BTreeMap;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use iceberg::spec::{DataFile, TableMetadata};

use chainalytics_common::Result;

use super::columns::{Named, scalars, structs};
use crate::scan::PartitionColumn;
use crate::scan::values::literal_to_scalar;
use crate::table::arrow_schema::arrow_primitive;

/// The fields of all specs, by field id.
pub struct PartitionFields<'a> {
    metadata: &'a TableMetadata,
    fields: BTreeMap<i32, (String, DataType)>,
}

impl<'a> PartitionFields<'a> {
    pub fn new(metadata: &'a TableMetadata) -> Result<Self> {
        let mut fields = BTreeMap::new();
        if let Some(unified) = PartitionColumn::of(metadata) {
            for (id, name, result) in unified.fields() {
                fields.insert(id, (name.to_owned(), arrow_primitive(result)?));
            }
        }
        Ok(Self { metadata, fields })
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// A file's value of every field; `None` for null and for fields that its spec lacks.
    pub fn values(&self, file: &DataFile, spec_id: i32) -> Vec<Option<ScalarValue>> {
        let Some(spec) = self.metadata.partition_spec_by_id(spec_id) else {
            return vec![None; self.fields.len()];
        };
        let of = |field_id: i32| {
            let at = spec.fields().iter().position(|field| field.field_id == field_id)?;
            file.partition().fields().get(at)?.as_ref()?.as_primitive_literal()
        };
        self.fields.iter().map(|(id, (_, data_type))| of(*id).and_then(|literal| literal_to_scalar(&literal, data_type))).collect()
    }

    /// The struct column of rows of values.
    pub fn column(&self, rows: &[Vec<Option<ScalarValue>>]) -> Result<ArrayRef> {
        let columns: Vec<Named> = self
            .fields
            .values()
            .enumerate()
            .map(|(i, (name, data_type))| {
                let values = rows.iter().map(|row| row.get(i).cloned().flatten()).collect();
                Ok((name.clone(), scalars(values, data_type)?))
            })
            .collect::<Result<_>>()?;
        Ok(structs(columns, rows.len()))
    }
}
