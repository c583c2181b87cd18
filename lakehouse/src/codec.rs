//! How this crate's plan nodes cross the wire. The engine's codecs ask here first: `None` means "not one of ours".
//!
//! Bytes begin with a prefix that names crate, format version and kind; the rest is JSON.

use std::sync::Arc;

use chainalytics_common::Result;
use datafusion::catalog::TableProvider;
use datafusion::logical_expr::{Extension, LogicalPlan, ScalarUDF, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::err;
use crate::maintenance::{ZORDER_FUNCTION, zorder_function};
use crate::scan::read::ReadSpec;
use crate::scan::{IcebergReadExec, IcebergTableProvider, LentCredentialsExec};
use crate::store::{LentCredentials, StoreRegistry};
use crate::write::{IcebergWriteExec, IcebergWriteNode, WriteSpec};

const PHYSICAL_WRITE: &[u8] = b"lakehouse:1:pw:";
const PHYSICAL_READ: &[u8] = b"lakehouse:1:pr:";
const PHYSICAL_LENT: &[u8] = b"lakehouse:1:pl:";
const LOGICAL_WRITE: &[u8] = b"lakehouse:1:lw:";
const TABLE: &[u8] = b"lakehouse:1:tp:";

/// Bytes of a physical node of ours, without its inputs.
pub fn try_encode_physical(plan: &Arc<dyn ExecutionPlan>) -> Option<Result<Vec<u8>>> {
    if let Some(read) = plan.downcast_ref::<IcebergReadExec>() {
        return Some(encode(PHYSICAL_READ, &read.to_wire()));
    }
    if let Some(lent) = plan.downcast_ref::<LentCredentialsExec>() {
        return Some(encode(PHYSICAL_LENT, &lent.credentials()));
    }
    let write = plan.downcast_ref::<IcebergWriteExec>()?;
    Some(encode(PHYSICAL_WRITE, write.spec()))
}

/// The physical node that [`try_encode_physical`] made bytes of.
pub fn try_decode_physical(bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>], store: &Arc<StoreRegistry>) -> Option<Result<Arc<dyn ExecutionPlan>>> {
    if let Some(body) = bytes.strip_prefix(PHYSICAL_READ) {
        return Some(decode::<ReadSpec>(body).and_then(|spec| match inputs {
            [input] => Ok(Arc::new(IcebergReadExec::try_new(Arc::clone(input), Arc::new(spec), Arc::clone(store))?) as _),
            _ => Err(err::internal("IcebergReadExec has exactly one input")),
        }));
    }
    if let Some(body) = bytes.strip_prefix(PHYSICAL_LENT) {
        return Some(decode::<Vec<LentCredentials>>(body).and_then(|credentials| match inputs {
            [input] => Ok(Arc::new(LentCredentialsExec::try_new(Arc::clone(input), credentials.into(), Arc::clone(store))?) as _),
            _ => Err(err::internal("LentCredentialsExec has exactly one input")),
        }));
    }
    let body = bytes.strip_prefix(PHYSICAL_WRITE)?;
    Some(decode::<WriteSpec>(body).and_then(|spec| match inputs {
        [input] => Ok(Arc::new(IcebergWriteExec::new(Arc::clone(input), spec, Arc::clone(store))) as _),
        _ => Err(err::internal("IcebergWriteExec has exactly one input")),
    }))
}

/// A function that plans of ours call, by its name.
pub fn try_decode_function(name: &str) -> Option<Arc<ScalarUDF>> {
    (name == ZORDER_FUNCTION).then(zorder_function)
}

/// Bytes of a logical node of ours, without its inputs.
pub fn try_encode_logical(node: &dyn UserDefinedLogicalNode) -> Option<Result<Vec<u8>>> {
    let write = node.as_any().downcast_ref::<IcebergWriteNode>()?;
    Some(encode(LOGICAL_WRITE, write.spec()))
}

/// The logical node that [`try_encode_logical`] made bytes of.
pub fn try_decode_logical(bytes: &[u8], inputs: &[LogicalPlan]) -> Option<Result<Extension>> {
    let body = bytes.strip_prefix(LOGICAL_WRITE)?;
    Some(decode::<WriteSpec>(body).and_then(|spec| match inputs {
        [input] => {
            let node = IcebergWriteNode::try_new(input.clone(), spec).map_err(|e| err::internal(format!("IcebergWrite does not decode: {e}")))?;
            Ok(Extension { node: Arc::new(node) })
        }
        _ => Err(err::internal("IcebergWrite has exactly one input")),
    }))
}

/// Bytes of a table provider of ours.
pub fn try_encode_table_provider(provider: &Arc<dyn TableProvider>) -> Option<Result<Vec<u8>>> {
    let table = provider.downcast_ref::<IcebergTableProvider>()?;
    Some(table.to_bytes().map(|body| [TABLE, &body].concat()))
}

/// The provider that [`try_encode_table_provider`] made bytes of.
pub fn try_decode_table_provider(bytes: &[u8], store: &Arc<StoreRegistry>) -> Option<Result<Arc<dyn TableProvider>>> {
    let body = bytes.strip_prefix(TABLE)?;
    Some(IcebergTableProvider::from_bytes(body, Arc::clone(store)).map(|table| Arc::new(table) as _))
}

fn encode<T: Serialize>(prefix: &[u8], value: &T) -> Result<Vec<u8>> {
    let mut bytes = prefix.to_vec();
    serde_json::to_writer(&mut bytes, value).map_err(|e| err::internal(format!("a plan node does not encode: {e}")))?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| err::internal(format!("a plan node does not decode: {e}")))
}
