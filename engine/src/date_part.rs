//! `date_part` and EXTRACT as Spark has them, and with the part `epoch`, which Spark lacks, by its right type.
//!
//! datafusion-spark 55 declares every part as INT and then calls DataFusion's function, whose `epoch` is a DOUBLE (`nanosecond` a BIGINT): the two types
//! in one plan made queries fail, or cut fractions of seconds off.

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};
use std::sync::{Arc, LazyLock};

static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Arc::new(ScalarUDF::from(DatePart { spark: datafusion_spark::function::datetime::date_part() })));

/// The function.
pub(crate) fn date_part() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

/// Spark's function, with the type that the part has.
#[derive(Debug, PartialEq, Eq, Hash)]
struct DatePart {
    spark: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for DatePart {
    fn name(&self) -> &str {
        self.spark.name()
    }

    fn aliases(&self) -> &[String] {
        self.spark.aliases()
    }

    fn signature(&self) -> &Signature {
        self.spark.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.spark.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let part = args.scalar_arguments.first().copied().flatten().and_then(|part| part.try_as_str().flatten()).unwrap_or_default();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        match part.to_ascii_lowercase().as_str() {
            "epoch" => Ok(Arc::new(Field::new(self.name(), DataType::Float64, nullable))),
            "nanosecond" | "nanoseconds" => Ok(Arc::new(Field::new(self.name(), DataType::Int64, nullable))),
            _ => self.spark.return_field_from_args(args),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.spark.invoke_with_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.spark.simplify(args, info)
    }
}

/// EXTRACT by the same function.
#[derive(Debug)]
pub(crate) struct ExtractPlanner;

impl ExprPlanner for ExtractPlanner {
    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(date_part(), args))))
    }
}
