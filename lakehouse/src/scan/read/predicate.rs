//! Conditions of the operators above, as far as a file's row groups and pages can be judged by them.

use std::sync::Arc;

use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::{Column, DynamicFilterPhysicalExpr, Literal};
use datafusion::physical_expr::utils::{conjunction_opt, split_conjunction};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion_proto::physical_plan::DefaultPhysicalExtensionCodec;
use datafusion_proto::physical_plan::from_proto::parse_physical_expr;
use datafusion_proto::physical_plan::to_proto::serialize_physical_expr;
use datafusion_proto::protobuf::PhysicalExprNode;
use prost::Message;

use super::open::Source;
use super::spec::Output;
use crate::scan::metadata_columns::MetadataColumn;

/// The conditions on the output as one on the columns of a file. A condition on something else than columns that the file
/// has in the table's form is left out.
pub(super) fn of_file(
    filters: &[Arc<dyn PhysicalExpr>],
    outputs: &[Output],
    sources: &[Source],
    columns: &[FieldRef],
    present: &[FieldRef],
    path: &str,
) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let replaced = |at: usize| -> Option<Arc<dyn PhysicalExpr>> {
        match outputs.get(at)? {
            Output::Metadata(MetadataColumn::File) => Some(Arc::new(Literal::new(ScalarValue::from(path)))),
            Output::Metadata(_) | Output::ChangeType | Output::ChangeOrdinal | Output::CommitSnapshot => None,
            Output::Column(column) => match sources.get(*column)? {
                Source::File(index, None) => Some(Arc::new(Column::new(present.get(*index)?.name(), *index))),
                Source::File(_, Some(_)) => None,
                Source::Constant(Some(value)) => Some(Arc::new(Literal::new(value.clone()))),
                Source::Constant(None) => Some(Arc::new(Literal::new(ScalarValue::try_from(columns.get(*column)?.data_type()).ok()?))),
            },
        }
    };
    let mut judged = Vec::new();
    for filter in filters.iter().flat_map(split_conjunction) {
        let mut known = true;
        let moved = Arc::clone(filter).transform(|node| {
            let Some(column) = node.downcast_ref::<Column>() else { return Ok(Transformed::no(node)) };
            Ok(match replaced(column.index()) {
                Some(new) => Transformed::yes(new),
                None => {
                    known = false;
                    Transformed::no(node)
                }
            })
        })?;
        if known {
            judged.push(moved.data);
        }
    }
    Ok(conjunction_opt(judged))
}

/// Bytes of the conditions that an executor can use: those known before the query runs.
pub(super) fn encode(filters: &[Arc<dyn PhysicalExpr>]) -> Option<Vec<u8>> {
    // Functions are left out: statistics do not judge them, and their names are the session's business.
    let other = |e: &Arc<dyn PhysicalExpr>| Ok(e.is::<DynamicFilterPhysicalExpr>() || e.is::<ScalarFunctionExpr>());
    let plain = |e: &Arc<dyn PhysicalExpr>| !e.exists(other).unwrap_or(true);
    let known = conjunction_opt(filters.iter().flat_map(split_conjunction).filter(|e| plain(e)).cloned())?;
    let node = serialize_physical_expr(&known, &DefaultPhysicalExtensionCodec {}).ok()?;
    Some(node.encode_to_vec())
}

/// The inverse of [`encode`].
pub(super) fn decode(bytes: &[u8], schema: &SchemaRef, context: &TaskContext) -> Result<Arc<dyn PhysicalExpr>> {
    let node = PhysicalExprNode::decode(bytes).map_err(|e| DataFusionError::Internal(format!("a condition of a scan does not decode: {e}")))?;
    parse_physical_expr(&node, context, schema, &DefaultPhysicalExtensionCodec {})
}
