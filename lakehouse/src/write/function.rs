//! Iceberg's transforms as a SQL function, `iceberg_transform('bucket[16]', id)`: what distributes and orders rows by
//! partition value before they are written. Every process that decodes plans must know it.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::new_empty_array;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, internal_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit};
use iceberg::spec::Transform;

use super::transform;

static FUNCTION: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::from(IcebergTransform { signature: Signature::any(2, Volatility::Immutable) })));

/// `iceberg_transform(transform, column)`.
pub fn transform_function() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

/// The value of a partition or sort field: of `column` itself where nothing is transformed.
pub(crate) fn transformed(transform: Transform, column: Expr) -> Expr {
    match transform {
        Transform::Identity => column,
        other => FUNCTION.call(vec![lit(other.to_string()), column]),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct IcebergTransform {
    signature: Signature,
}

impl ScalarUDFImpl for IcebergTransform {
    fn name(&self) -> &str {
        "iceberg_transform"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        internal_err!("the type of iceberg_transform depends on its first argument")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let (Some(Some(ScalarValue::Utf8(Some(name)))), Some(column)) = (args.scalar_arguments.first(), args.arg_fields.get(1)) else {
            return plan_err!("iceberg_transform takes the name of a transform and a column");
        };
        let result = transform::apply(parse(name)?, &new_empty_array(column.data_type())).map_err(external)?;
        Ok(Arc::new(Field::new(self.name(), result.data_type().clone(), true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [ColumnarValue::Scalar(ScalarValue::Utf8(Some(name))), column] = args.args.as_slice() else {
            return exec_err!("iceberg_transform takes the name of a transform and a column");
        };
        let result = transform::apply(parse(name)?, &column.to_array(args.number_rows)?).map_err(external)?;
        Ok(ColumnarValue::Array(result))
    }
}

fn parse(name: &str) -> Result<Transform> {
    crate::catalog::parse_transform(name).map_err(external)
}

fn external(error: chainalytics_common::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
