//! Partition values of files that may be of several specs, as one struct type.
//! Source: Iceberg spec, "Partition Evolution"; the fields are unified by their ids.

use std::collections::BTreeMap;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use iceberg::spec::{DataFile, TableMetadata, Transform, Type};

use chainalytics_common::Result;

use super::columns::{Named, scalars, structs};
use crate::scan::values::literal_to_scalar;
use crate::table::arrow_schema::arrow_primitive;

/// The fields of all specs, by field id.
pub struct PartitionFields<'a> {
    metadata: &'a TableMetadata,
    fields: BTreeMap<i32, (String, DataType)>,
}

impl<'a> PartitionFields<'a> {
    pub fn new(metadata: &'a TableMetadata) -> Result<Self> {
        let mut specs: Vec<_> = metadata.partition_specs_iter().collect();
        specs.sort_by_key(|spec| spec.spec_id());
        let mut fields = BTreeMap::new();
        // Newer specs last: their names win. A void field tells nothing that an older spec does not.
        for spec in specs {
            for field in spec.fields() {
                if field.transform == Transform::Void && fields.contains_key(&field.field_id) {
                    continue;
                }
                let source = metadata
                    .current_schema()
                    .field_by_id(field.source_id)
                    .or_else(|| metadata.schemas_iter().find_map(|schema| schema.field_by_id(field.source_id)));
                let result = source.and_then(|source| field.transform.result_type(&source.field_type).ok());
                if let Some(Type::Primitive(result)) = result {
                    fields.insert(field.field_id, (field.name.clone(), arrow_primitive(&result)?));
                }
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
