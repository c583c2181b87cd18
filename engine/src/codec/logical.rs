use std::sync::Arc;

use ballista_core::serde::BallistaLogicalExtensionCodec;
use chainalytics_lakehouse::{StoreRegistry, codec};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::datasource::file_format::FileFormatFactory;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, Extension, LogicalPlan, ScalarUDF, WindowUDF};
use datafusion_proto::logical_plan::LogicalExtensionCodec;

use super::{Owner, SHADOWED_FUNCTION, decoded, open, seal};
use crate::{functions, memtable};

/// Ballista's logical codec and our tables: Iceberg scans, Iceberg writes, small in-memory tables.
#[derive(Debug)]
pub struct ChainLogicalCodec {
    ballista: BallistaLogicalExtensionCodec,
    store: Arc<StoreRegistry>,
}

impl ChainLogicalCodec {
    /// `store` is what decoded tables read through.
    #[must_use]
    pub fn new(store: Arc<StoreRegistry>) -> Self {
        Self { ballista: BallistaLogicalExtensionCodec::default(), store }
    }
}

impl LogicalExtensionCodec for ChainLogicalCodec {
    fn try_decode(&self, buf: &[u8], inputs: &[LogicalPlan], ctx: &TaskContext) -> Result<Extension> {
        match open(buf) {
            Some((Owner::Lakehouse, payload)) => decoded(codec::try_decode_logical(payload, inputs)),
            Some((owner, _)) => Err(DataFusionError::Internal(format!("{owner:?} has no logical nodes"))),
            None => self.ballista.try_decode(buf, inputs, ctx),
        }
    }

    fn try_encode(&self, node: &Extension, buf: &mut Vec<u8>) -> Result<()> {
        match codec::try_encode_logical(node.node.as_ref()) {
            Some(payload) => seal(Owner::Lakehouse, payload, buf),
            None => self.ballista.try_encode(node, buf),
        }
    }

    fn try_decode_table_provider(
        &self,
        buf: &[u8],
        table_ref: &TableReference,
        schema: SchemaRef,
        ctx: &TaskContext,
    ) -> Result<Arc<dyn TableProvider>> {
        match open(buf) {
            Some((Owner::Lakehouse, payload)) => decoded(codec::try_decode_table_provider(payload, &self.store)),
            Some((Owner::MemoryTable, payload)) => Ok(Arc::new(memtable::decode(payload, schema)?)),
            Some((Owner::Streaming, _)) => Err(DataFusionError::Internal("streaming has no table providers".to_owned())),
            None => self.ballista.try_decode_table_provider(buf, table_ref, schema, ctx),
        }
    }

    fn try_encode_table_provider(&self, table_ref: &TableReference, node: Arc<dyn TableProvider>, buf: &mut Vec<u8>) -> Result<()> {
        if let Some(payload) = codec::try_encode_table_provider(&node) {
            return seal(Owner::Lakehouse, payload, buf);
        }
        if let Some(table) = node.downcast_ref::<MemTable>() {
            let mut payload = Vec::new();
            memtable::encode(table, &node.schema(), &mut payload)?;
            return seal(Owner::MemoryTable, Ok(payload), buf);
        }
        self.ballista
            .try_encode_table_provider(table_ref, node, buf)
            .map_err(|_| DataFusionError::NotImplemented(format!("table {table_ref} lives only in this process and cannot be read by a cluster")))
    }

    fn try_decode_file_format(&self, buf: &[u8], ctx: &TaskContext) -> Result<Arc<dyn FileFormatFactory>> {
        self.ballista.try_decode_file_format(buf, ctx)
    }

    fn try_encode_file_format(&self, buf: &mut Vec<u8>, node: Arc<dyn FileFormatFactory>) -> Result<()> {
        self.ballista.try_encode_file_format(buf, node)
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        match functions::shadowed_scalar(name) {
            Some(function) if buf == SHADOWED_FUNCTION => Ok(function),
            _ => self.ballista.try_decode_udf(name, buf),
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
