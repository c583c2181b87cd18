//! How this crate's operator crosses the wire. The engine's codec asks here: `None` means "not one of ours".

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;

use chainalytics_common::Result;
use chainalytics_lakehouse::StoreRegistry;

use crate::err;
use crate::exec::{IngestSpec, KafkaToIcebergExec};

const PHYSICAL_INGEST: &[u8] = b"streaming:1:ki:";

/// Bytes of a physical node of ours, without its inputs.
pub fn try_encode_physical(plan: &Arc<dyn ExecutionPlan>) -> Option<Result<Vec<u8>>> {
    let ingest = plan.downcast_ref::<KafkaToIcebergExec>()?;
    let mut bytes = PHYSICAL_INGEST.to_vec();
    Some(
        serde_json::to_writer(&mut bytes, ingest.spec().as_ref())
            .map(|()| bytes)
            .map_err(|e| err::internal(format!("a plan node does not encode: {e}"))),
    )
}

/// The physical node that [`try_encode_physical`] made bytes of.
pub fn try_decode_physical(bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>], store: &Arc<StoreRegistry>) -> Option<Result<Arc<dyn ExecutionPlan>>> {
    let body = bytes.strip_prefix(PHYSICAL_INGEST)?;
    Some(match (serde_json::from_slice::<IngestSpec>(body), inputs) {
        (Ok(spec), [input]) => Ok(Arc::new(KafkaToIcebergExec::new(Arc::clone(input), Arc::new(spec), Arc::clone(store))) as _),
        (Ok(_), _) => Err(err::internal("KafkaToIcebergExec has exactly one input")),
        (Err(e), _) => Err(err::internal(format!("a plan node does not decode: {e}"))),
    })
}
