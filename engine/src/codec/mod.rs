//! How plans travel between driver, scheduler and executors: Ballista's codecs, widened by our table providers and operators.

mod logical;
mod physical;

use datafusion::error::{DataFusionError, Result};

pub use logical::ChainLogicalCodec;
pub use physical::ChainPhysicalCodec;

/// First byte of everything we encode. No protobuf message begins with it (field number 0 does not exist), so Ballista's own nodes and ours
/// cannot be mistaken for each other.
const ENVELOPE: u8 = 0;

/// Marks a call of DataFusion's function where Spark's has the name (see [`crate::functions`]).
const SHADOWED_FUNCTION: &[u8] = b"datafusion";

/// Whose node stands in the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Owner {
    Lakehouse = 1,
    Streaming = 2,
    MemoryTable = 3,
}

fn seal(owner: Owner, payload: chainalytics_common::Result<Vec<u8>>, buf: &mut Vec<u8>) -> Result<()> {
    let payload = payload.map_err(external)?;
    buf.reserve(payload.len() + 2);
    buf.extend_from_slice(&[ENVELOPE, owner as u8]);
    buf.extend_from_slice(&payload);
    Ok(())
}

/// What an owner made of its payload; `None` means that it does not know it, as when driver and cluster are of different versions.
fn decoded<T>(result: Option<chainalytics_common::Result<T>>) -> Result<T> {
    match result {
        Some(result) => result.map_err(external),
        None => {
            Err(DataFusionError::Plan("a plan holds a node that this version does not know; driver and cluster must be of one version".to_owned()))
        }
    }
}

fn external(error: chainalytics_common::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The owner and payload, or nothing if it is not ours.
fn open(buf: &[u8]) -> Option<(Owner, &[u8])> {
    match buf {
        [ENVELOPE, owner, payload @ ..] => {
            let owner = [Owner::Lakehouse, Owner::Streaming, Owner::MemoryTable].into_iter().find(|o| *o as u8 == *owner)?;
            Some((owner, payload))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_envelope_opens_only_for_what_was_sealed() {
        let mut buf = vec![];
        seal(Owner::Streaming, Ok(b"abc".to_vec()), &mut buf).unwrap();
        assert_eq!(open(&buf), Some((Owner::Streaming, b"abc".as_slice())));
        assert_eq!(open(b""), None);
        assert_eq!(open(&[0, 99, 1]), None);
        assert_eq!(open(&[0x0a, 1, 1]), None);
    }

    /// A projection over an in-memory table, sent and taken out again.
    async fn round_trip(expr: datafusion::prelude::Expr) -> datafusion::logical_expr::LogicalPlan {
        use datafusion_proto::logical_plan::AsLogicalPlan as _;
        use datafusion_proto::protobuf::LogicalPlanNode;

        let state = crate::functions::register(datafusion::execution::SessionStateBuilder::new().with_default_features()).build();
        let ctx = datafusion::prelude::SessionContext::new_with_state(state);
        let column: datafusion::arrow::array::ArrayRef =
            std::sync::Arc::new(datafusion::arrow::array::TimestampMicrosecondArray::from(vec![1_700_000_000_000_000]));
        let batch = datafusion::arrow::array::RecordBatch::try_from_iter(vec![("t", column)]).unwrap();
        let plan = ctx.read_batch(batch).unwrap().select(vec![expr]).unwrap().into_unoptimized_plan();

        let codec = ChainLogicalCodec::new(chainalytics_lakehouse::StoreRegistry::local());
        let node = LogicalPlanNode::try_from_logical_plan(&plan, &codec).unwrap();
        let mut bytes = vec![];
        node.try_encode(&mut bytes).unwrap();
        let decoded = LogicalPlanNode::try_decode(&bytes).unwrap().try_into_logical_plan(&ctx.task_ctx(), &codec).unwrap();
        let rows = ctx.execute_logical_plan(decoded.clone()).await.unwrap().count().await.unwrap();
        assert_eq!(rows, 1);
        decoded
    }

    fn function_of(plan: &datafusion::logical_expr::LogicalPlan) -> std::sync::Arc<datafusion::logical_expr::ScalarUDF> {
        use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
        let mut found = None;
        plan.expressions().iter().for_each(|expr| {
            expr.apply(|e| {
                if let datafusion::prelude::Expr::ScalarFunction(call) = e {
                    found = Some(std::sync::Arc::clone(&call.func));
                }
                Ok(TreeNodeRecursion::Continue)
            })
            .unwrap();
        });
        found.unwrap()
    }

    #[tokio::test]
    async fn a_call_keeps_its_function_even_where_two_share_a_name() {
        use datafusion::prelude::{col, lit};
        let native = datafusion::functions::datetime::date_part();
        let spark = crate::functions::registry().scalar_functions["date_part"].clone();
        assert_ne!(native, spark);
        for function in [native, spark] {
            let plan = round_trip(function.call(vec![lit("year"), col("t")])).await;
            assert_eq!(function_of(&plan), function);
        }
    }
}
