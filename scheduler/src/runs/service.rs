//! `chainalytics.v1.RunService`.

use super::logs::READ_BYTES_MAX;
use super::manager::{QUERIES_PER_RUN_MAX, Runs, RunsError};
use super::model::RunState;
use super::store::Filter;
use crate::guard::Guard;
use crate::guard::ledger::{Invalidity, Verdict};
use crate::http::{self, HttpState};
use chainalytics_proto::v1;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1_000;
/// How often a followed log is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
/// Pieces of a log that wait for a slow reader.
const PIECES_BUFFERED: usize = 8;
/// After a run's end, how long its executor may still ship the rest of the log.
const LOG_TAIL: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Clone)]
pub struct RunServiceImpl {
    pub runs: Runs,
    pub guard: Guard,
    /// What the pages know of queries.
    pub pages: HttpState,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

type LogSender = mpsc::Sender<Result<v1::LogChunk, Status>>;

#[tonic::async_trait]
impl v1::run_service_server::RunService for RunServiceImpl {
    type StreamLogsStream = BoxStream<'static, Result<v1::LogChunk, Status>>;

    async fn submit_run(&self, request: Request<v1::SubmitRunRequest>) -> Result<Response<v1::SubmitRunResponse>, Status> {
        let (run, created) = self.runs.submit(request.into_inner()).await?;
        let report_interval_ms = u64::try_from(self.runs.options().report_interval.as_millis()).unwrap_or(1_000);
        Ok(Response::new(v1::SubmitRunResponse { run: Some(run.to_proto()), created, report_interval_ms }))
    }

    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let request = request.into_inner();
        let states =
            request.states().filter(|state| *state != v1::RunState::Unspecified).filter_map(|state| RunState::from_label(state.label())).collect();
        let filter = Filter {
            states,
            job: (!request.job.is_empty()).then_some(request.job),
            text: (!request.name_contains.is_empty()).then_some(request.name_contains),
            limit: if request.limit == 0 { LIMIT_DEFAULT } else { request.limit.min(LIMIT_MAX) },
            offset: 0,
        };
        let (runs, _) = self.runs.list(&filter).await?;
        Ok(Response::new(v1::ListRunsResponse { runs: runs.iter().map(super::model::Run::to_proto).collect() }))
    }

    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::Run>, Status> {
        let run_id = request.into_inner().run_id;
        let mut run = self.runs.get(&run_id).await?.to_proto();
        let queries = self.runs.store().queries_of(&run_id, QUERIES_PER_RUN_MAX).await.map_err(RunsError::from)?;
        run.queries = queries.iter().map(super::model::RunQuery::to_proto).collect();
        Ok(Response::new(run))
    }

    async fn kill_run(&self, request: Request<v1::KillRunRequest>) -> Result<Response<v1::Run>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.runs.kill(&request.run_id, &request.reason).await?.to_proto()))
    }

    async fn stream_logs(&self, request: Request<v1::StreamLogsRequest>) -> Result<Response<Self::StreamLogsStream>, Status> {
        let request = request.into_inner();
        if !self.runs.exists(&request.run_id).await? {
            return Err(RunsError::UnknownRun(request.run_id).into());
        }
        let (sender, receiver) = mpsc::channel(PIECES_BUFFERED);
        let (runs, shutdown) = (self.runs.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = sender.closed() => {}
                () = send_log(&runs, request, &sender) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn report_run(&self, request: Request<v1::ReportRunRequest>) -> Result<Response<v1::ReportRunResponse>, Status> {
        Ok(Response::new(self.runs.report(request.into_inner()).await?))
    }

    async fn register_query(&self, request: Request<v1::RegisterQueryRequest>) -> Result<Response<v1::RegisterQueryResponse>, Status> {
        let kill_requested = self.runs.register_query(request.into_inner()).await?;
        Ok(Response::new(v1::RegisterQueryResponse { kill_requested }))
    }

    async fn validate_query(&self, request: Request<v1::ValidateQueryRequest>) -> Result<Response<v1::ValidateQueryResponse>, Status> {
        let verdict = self.guard.validate(&request.into_inner().job_id);
        Ok(Response::new(answer(&verdict)))
    }

    async fn explain_query(&self, request: Request<v1::ExplainQueryRequest>) -> Result<Response<v1::ExplainQueryResponse>, Status> {
        let stages = http::stage_plans(&self.pages, &request.into_inner().job_id).await?;
        Ok(Response::new(v1::ExplainQueryResponse { stages }))
    }

    async fn cancel_query(&self, request: Request<v1::CancelQueryRequest>) -> Result<Response<v1::CancelQueryResponse>, Status> {
        let request = request.into_inner();
        let reason = if request.reason.is_empty() { "asked for" } else { &request.reason };
        let cancelled = self.guard.cancel_query(&request.job_id, reason).await;
        Ok(Response::new(v1::CancelQueryResponse { cancelled }))
    }
}

fn answer(verdict: &Verdict) -> v1::ValidateQueryResponse {
    let (reason, lost_executors, detail) = match verdict {
        Verdict::Valid => (v1::Validity::Ok, Vec::new(), String::new()),
        Verdict::Invalid(why) => match why {
            Invalidity::ExecutorLost(lost) => (v1::Validity::ExecutorLost, lost.iter().cloned().collect(), why.to_string()),
            Invalidity::StageRetried { .. } => (v1::Validity::StageRetried, Vec::new(), why.to_string()),
            Invalidity::Cancelled(_) => (v1::Validity::NotSuccessful, Vec::new(), why.to_string()),
        },
        Verdict::NotSuccessful => (v1::Validity::NotSuccessful, Vec::new(), "the query has not succeeded".to_owned()),
        Verdict::Unknown => (v1::Validity::Unknown, Vec::new(), "this scheduler does not know the query".to_owned()),
    };
    v1::ValidateQueryResponse { valid: *verdict == Verdict::Valid, reason: reason.into(), lost_executors, detail }
}

async fn send_log(runs: &Runs, request: v1::StreamLogsRequest, sender: &LogSender) {
    let mut offset = request.offset;
    let mut ended_since: Option<tokio::time::Instant> = None;
    loop {
        let state = match runs.get(&request.run_id).await {
            Ok(run) => run.state,
            Err(error) => {
                let _ = sender.send(Err(error.into())).await;
                return;
            }
        };
        // Read after the state: what was written before the end is then seen.
        let piece = match runs.logs().read(&request.run_id, offset, READ_BYTES_MAX / 4).await {
            Ok(piece) => piece,
            Err(error) => {
                let _ = sender.send(Err(RunsError::from(error).into())).await;
                return;
            }
        };
        let fresh = !piece.data.is_empty();
        if fresh {
            let next = offset + piece.data.len() as u64;
            let chunk = v1::LogChunk { offset, data: piece.data.into(), end: false };
            if sender.send(Ok(chunk)).await.is_err() {
                return;
            }
            offset = next;
        }
        if state.is_terminal() {
            ended_since.get_or_insert_with(tokio::time::Instant::now);
        }
        let over = !request.follow || ended_since.is_some_and(|since| since.elapsed() > LOG_TAIL);
        if !fresh && over {
            let _ = sender.send(Ok(v1::LogChunk { offset, data: Vec::new().into(), end: true })).await;
            return;
        }
        if !fresh {
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }
}
