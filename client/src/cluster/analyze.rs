//! EXPLAIN ANALYZE on a cluster: the query runs there as ever, its rows are dropped, and what each stage measured is the answer.

use std::sync::Arc;
use std::time::Instant;

use chainalytics_common::{Error, Result};
use chainalytics_proto::v1::StagePlan;
use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;

use super::{Answer, Cluster};

impl Cluster {
    /// Runs `plan` and tells what happened: rows of `plan_type` and `plan`, the query first, then one per stage.
    ///
    /// # Errors
    /// Those of the query; `NotFound` when the scheduler has forgotten it meanwhile.
    pub(super) async fn analyze(&self, plan: LogicalPlan, schema: SchemaRef, state: &SessionState) -> Result<RecordBatch> {
        let started = Instant::now();
        let answer = self.run_logical(plan, state).await?;
        let elapsed_ms = started.elapsed().as_millis();
        let stages = self.shared.runs.explain_query(&answer.job_id).await?;
        let (kinds, plans): (Vec<String>, Vec<String>) =
            std::iter::once(summary(&answer, stages.len(), elapsed_ms)).chain(stages.into_iter().map(stage)).unzip();
        RecordBatch::try_new(schema, vec![Arc::new(StringArray::from(kinds)), Arc::new(StringArray::from(plans))])
            .map_err(|error| Error::internal(format!("EXPLAIN ANALYZE has no rows of plan_type and plan: {error}")))
    }
}

fn summary(answer: &Answer, stages: usize, elapsed_ms: u128) -> (String, String) {
    let text = format!("job_id={}, attempt={}, stages={stages}, elapsed={elapsed_ms}ms\n", answer.job_id, answer.attempt);
    ("Query".to_owned(), text)
}

fn stage(stage: StagePlan) -> (String, String) {
    let StagePlan { stage_id, tasks, partitions, duration_ms, output_rows, plan, .. } = stage;
    (format!("Stage {stage_id}"), format!("tasks={tasks}, partitions={partitions}, elapsed={duration_ms}ms, output_rows={output_rows}\n{plan}"))
}
