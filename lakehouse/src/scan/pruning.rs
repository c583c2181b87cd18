//! What manifests and files say about their rows, in the form that DataFusion's `PruningPredicate` evaluates:
//! column bounds from file metrics, else the source range of the partition value; buckets through `contained`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use iceberg::spec::{Datum, ManifestFile, PartitionSpec, PrimitiveType, Schema, StructType, TableMetadata, Transform, Type};
use iceberg::transform::create_transform_function;

use super::files::ScanFile;
use super::values::{literal_to_scalar, scalar_to_datum, source_range};

/// The columns of a scan by name, with what is needed to find their statistics.
#[derive(Debug, Clone)]
pub struct ScanColumns {
    columns: HashMap<String, (i32, DataType, Option<PrimitiveType>)>,
    specs: HashMap<i32, (Arc<PartitionSpec>, Option<StructType>)>,
}

impl ScanColumns {
    pub fn new(metadata: &TableMetadata, schema: &Schema, arrow: &SchemaRef) -> Self {
        let columns = schema
            .as_struct()
            .fields()
            .iter()
            .filter_map(|f| {
                let arrow = arrow.field_with_name(&f.name).ok()?;
                let primitive = match f.field_type.as_ref() {
                    Type::Primitive(p) => Some(p.clone()),
                    _ => None,
                };
                Some((f.name.clone(), (f.id, arrow.data_type().clone(), primitive)))
            })
            .collect();
        let specs = metadata.partition_specs_iter().map(|spec| (spec.spec_id(), (Arc::clone(spec), spec.partition_type(schema).ok()))).collect();
        Self { columns, specs }
    }

    pub fn id_and_type(&self, column: &Column) -> Option<(i32, &DataType)> {
        self.find(column).map(|(id, data_type, _)| (*id, data_type))
    }

    fn find(&self, column: &Column) -> Option<&(i32, DataType, Option<PrimitiveType>)> {
        self.columns.get(&column.name)
    }
}

/// Statistics of data files.
pub struct FileStatistics<'a> {
    pub columns: &'a ScanColumns,
    pub files: &'a [ScanFile],
}

impl FileStatistics<'_> {
    fn bounds(&self, column: &Column, upper: bool) -> Option<ArrayRef> {
        let (id, data_type, _) = self.columns.find(column)?;
        let null = ScalarValue::try_from(data_type).ok()?;
        let mut known = false;
        let values: Vec<ScalarValue> = self
            .files
            .iter()
            .map(|file| {
                let value = self.bound_of(file, *id, data_type, upper);
                known |= value.is_some();
                value.unwrap_or_else(|| null.clone())
            })
            .collect();
        known.then(|| ScalarValue::iter_to_array(values).ok()).flatten()
    }

    fn bound_of(&self, file: &ScanFile, id: i32, data_type: &DataType, upper: bool) -> Option<ScalarValue> {
        let data = file.data_file();
        // NaN sorts above every number (and -NaN below) and is in no bound: a file that has some cannot be judged.
        if data.nan_value_counts().get(&id).is_some_and(|n| *n > 0) {
            return None;
        }
        let bounds = if upper { data.upper_bounds() } else { data.lower_bounds() };
        if let Some(scalar) = bounds.get(&id).and_then(|d| literal_to_scalar(d.literal(), data_type)) {
            return Some(scalar);
        }
        let (spec, _) = self.columns.specs.get(&file.spec_id)?;
        spec.fields().iter().zip(data.partition().fields()).filter(|(field, _)| field.source_id == id).find_map(|(field, value)| {
            let (min, max) = source_range(&field.transform, value.as_ref()?, data_type);
            if upper { max } else { min }
        })
    }

    pub(super) fn null_count(&self, file: &ScanFile, id: i32) -> Option<u64> {
        let data = file.data_file();
        if let Some(count) = data.null_value_counts().get(&id) {
            return Some(*count);
        }
        let (spec, _) = self.columns.specs.get(&file.spec_id)?;
        spec.fields().iter().zip(data.partition().fields()).filter(|(field, _)| field.source_id == id && field.transform != Transform::Void).find_map(
            |(field, value)| match value {
                None => Some(data.record_count()),
                // Transforms give null for null and for nothing else.
                Some(_) if field.transform != Transform::Unknown => Some(0),
                Some(_) => None,
            },
        )
    }
}

impl PruningStatistics for FileStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, false)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, true)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let (id, _, _) = self.columns.find(column)?;
        let counts: UInt64Array = self.files.iter().map(|f| self.null_count(f, *id)).collect();
        Some(Arc::new(counts))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts: UInt64Array = self.files.iter().map(|f| Some(f.data_file().record_count())).collect();
        Some(Arc::new(counts))
    }

    fn contained(&self, column: &Column, values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        let (id, _, primitive) = self.columns.find(column)?;
        let primitive = primitive.as_ref()?;
        // Buckets of the literals, once per number of buckets.
        let mut buckets: HashMap<u32, Option<HashSet<i32>>> = HashMap::new();
        let mut known = false;
        let result: BooleanArray = self
            .files
            .iter()
            .map(|file| {
                let (spec, _) = self.columns.specs.get(&file.spec_id)?;
                let partition = file.data_file().partition().fields();
                for (field, value) in spec.fields().iter().zip(partition) {
                    let Transform::Bucket(n) = field.transform else { continue };
                    if field.source_id != *id {
                        continue;
                    }
                    let wanted = buckets.entry(n).or_insert_with(|| literal_buckets(n, values, primitive)).as_ref()?;
                    let literal = value.as_ref()?.as_primitive_literal()?;
                    let iceberg::spec::PrimitiveLiteral::Int(bucket) = literal else { return None };
                    if !wanted.contains(&bucket) {
                        known = true;
                        return Some(false);
                    }
                }
                None
            })
            .collect();
        known.then_some(result)
    }
}

/// The buckets that hold any of `values`; `None` if one of them cannot be hashed as the column's type.
fn literal_buckets(n: u32, values: &HashSet<ScalarValue>, primitive: &PrimitiveType) -> Option<HashSet<i32>> {
    let function = create_transform_function(&Transform::Bucket(n)).ok()?;
    values
        .iter()
        .map(|value| {
            let datum = function.transform_literal(&scalar_to_datum(value, primitive)?).ok()??;
            match datum.literal() {
                iceberg::spec::PrimitiveLiteral::Int(bucket) => Some(*bucket),
                _ => None,
            }
        })
        .collect()
}

/// Statistics of manifests, from the partition summaries in the manifest list.
pub struct ManifestStatistics<'a> {
    pub columns: &'a ScanColumns,
    pub manifests: &'a [ManifestFile],
}

impl ManifestStatistics<'_> {
    fn bounds(&self, column: &Column, upper: bool) -> Option<ArrayRef> {
        let (id, data_type, _) = self.columns.find(column)?;
        let null = ScalarValue::try_from(data_type).ok()?;
        let mut known = false;
        let values: Vec<ScalarValue> = self
            .manifests
            .iter()
            .map(|manifest| {
                let value = self.bound_of(manifest, *id, data_type, upper);
                known |= value.is_some();
                value.unwrap_or_else(|| null.clone())
            })
            .collect();
        known.then(|| ScalarValue::iter_to_array(values).ok()).flatten()
    }

    fn bound_of(&self, manifest: &ManifestFile, id: i32, data_type: &DataType, upper: bool) -> Option<ScalarValue> {
        let (spec, partition_type) = self.columns.specs.get(&manifest.partition_spec_id)?;
        let summaries = manifest.partitions.as_ref()?;
        let types = partition_type.as_ref()?.fields();
        for ((field, summary), partition_field) in spec.fields().iter().zip(summaries).zip(types) {
            if field.source_id != id || summary.contains_nan == Some(true) {
                continue;
            }
            let Type::Primitive(primitive) = partition_field.field_type.as_ref() else { continue };
            let bytes = if upper { summary.upper_bound.as_ref() } else { summary.lower_bound.as_ref() };
            let Some(datum) = bytes.and_then(|b| Datum::try_from_bytes(b, primitive.clone()).ok()) else { continue };
            let (min, max) = source_range(&field.transform, &datum.into(), data_type);
            if let Some(value) = if upper { max } else { min } {
                return Some(value);
            }
        }
        None
    }
}

impl PruningStatistics for ManifestStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, false)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, true)
    }

    fn num_containers(&self) -> usize {
        self.manifests.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let (id, _, _) = self.columns.find(column)?;
        let counts: UInt64Array = self
            .manifests
            .iter()
            .map(|manifest| {
                let (spec, _) = self.columns.specs.get(&manifest.partition_spec_id)?;
                let summaries = manifest.partitions.as_ref()?;
                let no_nulls = spec.fields().iter().zip(summaries).any(|(field, summary)| {
                    field.source_id == *id && !matches!(field.transform, Transform::Void | Transform::Unknown) && !summary.contains_null
                });
                no_nulls.then_some(0)
            })
            .collect();
        Some(Arc::new(counts))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        None
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
