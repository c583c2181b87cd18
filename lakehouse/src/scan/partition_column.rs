//! `_partition`: the partition values of a row's data file, one field for each field of any of the table's specs.
//! Source: Iceberg's `Partitioning.partitionType`; the fields are unified by their ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::ScalarValue;
use iceberg::spec::{Literal, PrimitiveType, TableMetadata, Transform, Type};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use chainalytics_common::{Error, Result};

use super::files::ScanFile;
use super::metadata_columns::PARTITION_COLUMN;
use super::values::literal_to_scalar;
use crate::err;
use crate::table::arrow_schema::arrow_primitive;

/// The fields of all specs by their ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionColumn {
    fields: BTreeMap<i32, (String, PrimitiveType)>,
}

impl PartitionColumn {
    /// `None` for a table that was never partitioned.
    pub(crate) fn of(metadata: &TableMetadata) -> Option<Self> {
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
                    fields.insert(field.field_id, (field.name.clone(), result));
                }
            }
        }
        (!fields.is_empty()).then_some(Self { fields })
    }

    /// Id, name and type of each field, in order of the ids.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (i32, &str, &PrimitiveType)> {
        self.fields.iter().map(|(id, (name, result))| (*id, name.as_str(), result))
    }

    fn arrow_fields(&self) -> Result<Fields> {
        self.fields().map(|(_, name, result)| Ok(Field::new(name, arrow_primitive(result)?, true))).collect()
    }

    pub(crate) fn field(&self) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(PARTITION_COLUMN, DataType::Struct(self.arrow_fields()?), true)))
    }

    /// A file's value of each field; null also for fields that its spec lacks.
    pub(crate) fn values(&self, metadata: &TableMetadata, file: &ScanFile) -> Result<Vec<Value>> {
        let Some(spec) = metadata.partition_spec_by_id(file.spec_id) else { return Ok(vec![Value::Null; self.fields.len()]) };
        let partition = file.data_file().partition();
        self.fields()
            .map(|(id, _, result)| {
                let at = spec.fields().iter().position(|field| field.field_id == id && field.transform != Transform::Void);
                let value = at.and_then(|at| partition.fields().get(at)).and_then(Option::as_ref);
                let value = value.map(|value| value.clone().try_into_json(&Type::Primitive(result.clone())));
                Ok(value.transpose().map_err(err::iceberg)?.unwrap_or(Value::Null))
            })
            .collect()
    }

    /// The column's value for rows of a file with these [`Self::values`].
    pub(crate) fn scalar(&self, values: &[Value]) -> Result<ScalarValue> {
        let arrow = self.arrow_fields()?;
        let columns = self.fields().zip(&arrow).enumerate().map(|(at, ((_, _, result), field))| {
            let json = values.get(at).cloned().unwrap_or(Value::Null);
            let literal = Literal::try_from_json(json, &Type::Primitive(result.clone())).map_err(err::iceberg)?;
            let literal = literal.and_then(|literal| literal.as_primitive_literal());
            let scalar = match literal.and_then(|literal| literal_to_scalar(&literal, field.data_type())) {
                Some(scalar) => scalar,
                None => ScalarValue::try_from(field.data_type()).map_err(Error::from_datafusion)?,
            };
            scalar.to_array_of_size(1).map_err(Error::from_datafusion)
        });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        let value = StructArray::try_new(arrow, columns, None).map_err(err::arrow)?;
        Ok(ScalarValue::Struct(Arc::new(value)))
    }
}
