//! What executors report about tasks, made harmless before Ballista reads it.
//!
//! Ballista 55.0 folds a task's operator metrics into its stage's by position. A report whose metrics do not fit is refused after the task was
//! already marked as done: its output never reaches the next stage, and the query answers without those rows, or never. Metrics are worth less than
//! rows, so a report that would be refused is passed on without them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::{
    CancelJobParams, CancelJobResult, CleanJobDataParams, CleanJobDataResult, CreateUpdateSessionParams, CreateUpdateSessionResult,
    ExecuteQueryParams, ExecuteQueryResult, ExecutorStoppedParams, ExecutorStoppedResult, GetJobMetricsParams, GetJobMetricsResult,
    GetJobStatusParams, GetJobStatusResult, HeartBeatParams, HeartBeatResult, PollWorkParams, PollWorkResult, RegisterExecutorParams,
    RegisterExecutorResult, RemoveSessionParams, RemoveSessionResult, TaskStatus, UpdateTaskStatusParams, UpdateTaskStatusResult,
};
use datafusion::physical_plan::metrics::MetricValue;
use futures::stream::BoxStream;
use lru::LruCache;
use parking_lot::Mutex;
use tonic::{Request, Response, Status, async_trait};

use crate::ballista::Ballista;

/// Stages whose number of metrics is remembered; far more than run at once.
const STAGES_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// How many operators of each stage attempt report metrics: what the first report said.
struct Shapes(LruCache<(String, u32, u32), usize>);

impl Shapes {
    fn new() -> Self {
        Self(LruCache::new(STAGES_MAX))
    }

    /// Takes the metrics off a report that Ballista would refuse. True when it did.
    fn fit(&mut self, task: &mut TaskStatus) -> bool {
        if task.metrics.is_empty() {
            return false;
        }
        let stage = (task.job_id.clone(), task.stage_id, task.stage_attempt_num);
        let expected = *self.0.get_or_insert(stage, || task.metrics.len());
        if task.metrics.len() == expected && task.metrics.iter().flat_map(|set| &set.metrics).all(readable) {
            return false;
        }
        task.metrics.clear();
        true
    }
}

fn readable(metric: &ballista_core::serde::protobuf::OperatorMetric) -> bool {
    metric.metric.clone().is_some_and(|inner| TryInto::<MetricValue>::try_into(inner).is_ok())
}

/// As Ballista has it.
type PushStream = BoxStream<'static, Result<GetJobStatusResult, Status>>;

/// Ballista's service behind that check. Its type is hidden: with it in sight the compiler takes minutes over the methods below.
#[derive(Clone)]
pub struct CheckedReports {
    ballista: Arc<dyn SchedulerGrpc<ExecuteQueryPushStream = PushStream>>,
    shapes: Arc<Mutex<Shapes>>,
}

impl CheckedReports {
    /// Puts the check before `ballista`.
    #[must_use]
    pub fn new(ballista: Ballista) -> Self {
        Self { ballista: Arc::new(ballista), shapes: Arc::new(Mutex::new(Shapes::new())) }
    }
}

#[async_trait]
impl SchedulerGrpc for CheckedReports {
    type ExecuteQueryPushStream = PushStream;

    async fn update_task_status(&self, mut request: Request<UpdateTaskStatusParams>) -> Result<Response<UpdateTaskStatusResult>, Status> {
        {
            let mut shapes = self.shapes.lock();
            for task in &mut request.get_mut().task_status {
                if shapes.fit(task) {
                    let (job_id, stage_id, task_id) = (&task.job_id, task.stage_id, task.task_id);
                    tracing::warn!(job_id, stage_id, task_id, "the task's metrics do not fit its stage's and are left out");
                }
            }
        }
        self.ballista.update_task_status(request).await
    }

    async fn poll_work(&self, request: Request<PollWorkParams>) -> Result<Response<PollWorkResult>, Status> {
        self.ballista.poll_work(request).await
    }

    async fn register_executor(&self, request: Request<RegisterExecutorParams>) -> Result<Response<RegisterExecutorResult>, Status> {
        self.ballista.register_executor(request).await
    }

    async fn heart_beat_from_executor(&self, request: Request<HeartBeatParams>) -> Result<Response<HeartBeatResult>, Status> {
        self.ballista.heart_beat_from_executor(request).await
    }

    async fn create_update_session(&self, request: Request<CreateUpdateSessionParams>) -> Result<Response<CreateUpdateSessionResult>, Status> {
        self.ballista.create_update_session(request).await
    }

    async fn remove_session(&self, request: Request<RemoveSessionParams>) -> Result<Response<RemoveSessionResult>, Status> {
        self.ballista.remove_session(request).await
    }

    async fn execute_query_push(&self, request: Request<ExecuteQueryParams>) -> Result<Response<Self::ExecuteQueryPushStream>, Status> {
        self.ballista.execute_query_push(request).await
    }

    async fn execute_query(&self, request: Request<ExecuteQueryParams>) -> Result<Response<ExecuteQueryResult>, Status> {
        self.ballista.execute_query(request).await
    }

    async fn get_job_status(&self, request: Request<GetJobStatusParams>) -> Result<Response<GetJobStatusResult>, Status> {
        self.ballista.get_job_status(request).await
    }

    async fn get_job_metrics(&self, request: Request<GetJobMetricsParams>) -> Result<Response<GetJobMetricsResult>, Status> {
        self.ballista.get_job_metrics(request).await
    }

    async fn executor_stopped(&self, request: Request<ExecutorStoppedParams>) -> Result<Response<ExecutorStoppedResult>, Status> {
        self.ballista.executor_stopped(request).await
    }

    async fn cancel_job(&self, request: Request<CancelJobParams>) -> Result<Response<CancelJobResult>, Status> {
        self.ballista.cancel_job(request).await
    }

    async fn clean_job_data(&self, request: Request<CleanJobDataParams>) -> Result<Response<CleanJobDataResult>, Status> {
        self.ballista.clean_job_data(request).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use ballista_core::serde::protobuf::{OperatorMetric, OperatorMetricsSet, operator_metric};

    use super::*;

    fn report(job: &str, stage_id: u32, operators: usize) -> TaskStatus {
        let rows = OperatorMetric { metric: Some(operator_metric::Metric::OutputRows(1)), ..Default::default() };
        let metrics = vec![OperatorMetricsSet { metrics: vec![rows] }; operators];
        TaskStatus { job_id: job.to_owned(), stage_id, metrics, ..Default::default() }
    }

    #[test]
    fn a_report_of_another_shape_loses_its_metrics_only() {
        let mut shapes = Shapes::new();
        assert!(!shapes.fit(&mut report("j", 1, 9)));
        assert!(!shapes.fit(&mut report("j", 1, 9)));
        let mut odd = report("j", 1, 10);
        assert!(shapes.fit(&mut odd));
        assert!(odd.metrics.is_empty());
        assert_eq!(odd.job_id, "j");
        assert!(!shapes.fit(&mut odd), "nothing left to take off");
        assert!(!shapes.fit(&mut report("j", 2, 10)), "another stage has its own shape");
    }

    #[test]
    fn a_metric_that_cannot_be_read_is_left_out() {
        let mut broken = report("j", 1, 1);
        broken.metrics[0].metrics[0].metric = None;
        assert!(Shapes::new().fit(&mut broken));
    }
}
