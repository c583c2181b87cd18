use std::sync::Arc;

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use chainalytics_lakehouse::StoreRegistry;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};

use super::{Owner, SHADOWED_FUNCTION, decoded, open, seal};
use crate::functions;

/// Ballista's physical codec (shuffle readers and writers) and our operators: the Iceberg writer and the Kafka reader.
#[derive(Debug)]
pub struct ChainPhysicalCodec {
    ballista: BallistaPhysicalExtensionCodec,
    store: Arc<StoreRegistry>,
}

impl ChainPhysicalCodec {
    /// `store` is what decoded operators read and write through.
    #[must_use]
    pub fn new(store: Arc<StoreRegistry>) -> Self {
        Self { ballista: BallistaPhysicalExtensionCodec::default(), store }
    }
}

impl PhysicalExtensionCodec for ChainPhysicalCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match open(buf) {
            Some((Owner::Lakehouse, payload)) => decoded(chainalytics_lakehouse::codec::try_decode_physical(payload, inputs, &self.store)),
            Some((Owner::Streaming, payload)) => decoded(chainalytics_streaming::codec::try_decode_physical(payload, inputs, &self.store)),
            Some((owner, _)) => Err(DataFusionError::Internal(format!("{owner:?} has no operators"))),
            None => self.ballista.try_decode(buf, inputs, ctx, converter),
        }
    }

    fn try_encode(&self, node: Arc<dyn ExecutionPlan>, buf: &mut Vec<u8>, converter: &dyn PhysicalProtoConverterExtension) -> Result<()> {
        if let Some(payload) = chainalytics_lakehouse::codec::try_encode_physical(&node) {
            return seal(Owner::Lakehouse, payload, buf);
        }
        if let Some(payload) = chainalytics_streaming::codec::try_encode_physical(&node) {
            return seal(Owner::Streaming, payload, buf);
        }
        self.ballista.try_encode(node, buf, converter)
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        match functions::shadowed_scalar(name) {
            Some(function) if buf == SHADOWED_FUNCTION => Ok(function),
            _ => match chainalytics_lakehouse::codec::try_decode_function(name) {
                Some(function) => Ok(function),
                None => self.ballista.try_decode_udf(name, buf),
            },
        }
    }

    fn try_encode_udf(&self, node: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        if functions::is_shadowed_scalar(node) {
            buf.extend_from_slice(SHADOWED_FUNCTION);
        }
        Ok(())
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        match functions::shadowed_aggregate(name) {
            Some(function) if buf == SHADOWED_FUNCTION => Ok(function),
            _ => self.ballista.try_decode_udaf(name, buf),
        }
    }

    fn try_encode_udaf(&self, node: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        if functions::is_shadowed_aggregate(node) {
            buf.extend_from_slice(SHADOWED_FUNCTION);
        }
        Ok(())
    }

    fn try_decode_udwf(&self, name: &str, buf: &[u8]) -> Result<Arc<WindowUDF>> {
        match functions::shadowed_window(name) {
            Some(function) if buf == SHADOWED_FUNCTION => Ok(function),
            _ => self.ballista.try_decode_udwf(name, buf),
        }
    }

    fn try_encode_udwf(&self, node: &WindowUDF, buf: &mut Vec<u8>) -> Result<()> {
        if functions::is_shadowed_window(node) {
            buf.extend_from_slice(SHADOWED_FUNCTION);
        }
        Ok(())
    }
}
