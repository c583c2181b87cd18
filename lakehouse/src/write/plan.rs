use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::{DFSchemaRef, ToDFSchema};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};

use super::exec::{IcebergWriteExec, data_file_schema};
use super::spec::WriteSpec;
use crate::store::StoreRegistry;

/// Logical form of a write: its input's rows become data files, its own rows name them.
#[derive(Debug, Clone)]
pub struct IcebergWriteNode {
    input: LogicalPlan,
    spec: WriteSpec,
    schema: DFSchemaRef,
}

impl IcebergWriteNode {
    /// A write of `input`, whose columns are matched to the table's by name.
    pub fn try_new(input: LogicalPlan, spec: WriteSpec) -> Result<Self> {
        let schema = data_file_schema().to_dfschema_ref()?;
        Ok(Self { input, spec, schema })
    }

    /// As a plan node.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// What is written.
    pub fn spec(&self) -> &WriteSpec {
        &self.spec
    }

    /// Where the rows come from.
    pub fn input(&self) -> &LogicalPlan {
        &self.input
    }
}

// The schema is the same for every write, so that input and spec decide.
impl PartialEq for IcebergWriteNode {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec && self.input == other.input
    }
}

impl Eq for IcebergWriteNode {}

impl Hash for IcebergWriteNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.spec.hash(state);
        self.input.hash(state);
    }
}

impl PartialOrd for IcebergWriteNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.spec.partial_cmp(&other.spec) {
            Some(Ordering::Equal) => self.input.partial_cmp(&other.input),
            ordering => ordering,
        }
    }
}

impl UserDefinedLogicalNodeCore for IcebergWriteNode {
    fn name(&self) -> &str {
        "IcebergWrite"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IcebergWrite: table={}", self.spec.table)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Ok(Self { input, spec: self.spec.clone(), schema: Arc::clone(&self.schema) }),
            _ => Err(DataFusionError::Internal("IcebergWrite has exactly one input".to_owned())),
        }
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        // All of them; saying so lets the optimizer go on pruning columns below.
        Some(vec![(0..self.input.schema().fields().len()).collect()])
    }
}

/// Plans [`IcebergWriteNode`] as [`IcebergWriteExec`].
#[derive(Debug)]
pub struct IcebergWritePlanner {
    store: Arc<StoreRegistry>,
}

impl IcebergWritePlanner {
    /// A planner whose writes go to these stores.
    pub fn new(store: Arc<StoreRegistry>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl ExtensionPlanner for IcebergWritePlanner {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        _session: &dyn datafusion::catalog::Session,
        _planning_ctx: &datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(write) = node.as_any().downcast_ref::<IcebergWriteNode>() else { return Ok(None) };
        let [input] = physical_inputs else {
            return Err(DataFusionError::Internal("IcebergWrite has exactly one input".to_owned()));
        };
        Ok(Some(Arc::new(IcebergWriteExec::new(Arc::clone(input), write.spec.clone(), Arc::clone(&self.store)))))
    }
}
