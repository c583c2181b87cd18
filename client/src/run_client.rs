//! The run service, as drivers and people use it.

use std::time::Duration;

use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_proto::v1::run_service_client::RunServiceClient;
use chainalytics_proto::v1::{
    CancelQueryRequest, ExplainQueryRequest, GetRunRequest, KillRunRequest, ListRunsRequest, LogChunk, RegisterQueryRequest, ReportRunRequest,
    ReportRunResponse, Run, StagePlan, StreamLogsRequest, SubmitRunRequest, SubmitRunResponse, ValidateQueryRequest, ValidateQueryResponse,
};
use futures::Stream;
use futures::stream::TryStreamExt as _;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::connect;

const RPC_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls that must not be lost are tried this long while the scheduler is away.
const OUTAGE_LIMIT: Duration = Duration::from_secs(60);
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Client of the scheduler's run service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RunClient {
    client: RunServiceClient<Channel>,
    url: String,
}

impl RunClient {
    /// Connects to the scheduler at `url` (`chainalytics://host:7077`).
    ///
    /// # Errors
    /// [`ErrorCode::SchedulerUnreachable`].
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self::new(connect::connect(url).await?, url))
    }

    pub(crate) fn new(channel: Channel, url: &str) -> Self {
        Self { client: RunServiceClient::new(channel), url: url.to_owned() }
    }

    /// Submits a run. Idempotent by its id.
    ///
    /// # Errors
    /// [`ErrorCode::SchedulerUnreachable`], or the scheduler's refusal.
    pub async fn submit(&self, request: SubmitRunRequest) -> Result<SubmitRunResponse> {
        self.call(request, |mut client, request| async move { client.submit_run(request).await }).await
    }

    /// Newest first.
    ///
    /// # Errors
    /// [`ErrorCode::SchedulerUnreachable`].
    pub async fn list(&self, request: ListRunsRequest) -> Result<Vec<Run>> {
        Ok(self.call(request, |mut client, request| async move { client.list_runs(request).await }).await?.runs)
    }

    /// One run with its queries.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::SchedulerUnreachable`].
    pub async fn get(&self, run_id: &str) -> Result<Run> {
        let request = GetRunRequest { run_id: run_id.to_owned() };
        self.call(request, |mut client, request| async move { client.get_run(request).await }).await
    }

    /// Asks for the end of a run.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::SchedulerUnreachable`].
    pub async fn kill(&self, run_id: &str, reason: &str) -> Result<Run> {
        let request = KillRunRequest { run_id: run_id.to_owned(), reason: reason.to_owned() };
        self.call(request, |mut client, request| async move { client.kill_run(request).await }).await
    }

    /// The driver's log from byte `offset`; with `follow` until the run ended.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::SchedulerUnreachable`].
    pub async fn logs(&self, run_id: &str, follow: bool, offset: u64) -> Result<impl Stream<Item = Result<LogChunk>> + Send + use<>> {
        let request = StreamLogsRequest { run_id: run_id.to_owned(), follow, offset };
        let chunks = self.client.clone().stream_logs(request).await.map_err(|status| self.error(&status))?.into_inner();
        let this = self.clone();
        Ok(chunks.map_err(move |status| this.error(&status)))
    }

    /// A driver's heartbeat, progress or end.
    ///
    /// # Errors
    /// [`ErrorCode::SchedulerUnreachable`]; the caller decides how long it goes on without one.
    pub async fn report(&self, request: ReportRunRequest) -> Result<ReportRunResponse> {
        self.call(request, |mut client, request| async move { client.report_run(request).await }).await
    }

    /// Tells which run a query belongs to. True if the run was asked to end. Waits for a scheduler that is away, up to a minute.
    ///
    /// # Errors
    /// [`ErrorCode::SchedulerUnreachable`].
    pub async fn register_query(&self, run_id: &str, job_id: &str, attempt: u32, label: &str, statement: &str) -> Result<bool> {
        let request = RegisterQueryRequest {
            run_id: run_id.to_owned(),
            job_id: job_id.to_owned(),
            attempt,
            label: label.to_owned(),
            statement: statement.to_owned(),
        };
        let answer = self.persist(request, |mut client, request| async move { client.register_query(request).await }).await?;
        Ok(answer.kill_requested)
    }

    /// Whether a query's result may count. Waits for a scheduler that is away, up to a minute.
    ///
    /// # Errors
    /// [`ErrorCode::SchedulerUnreachable`].
    pub async fn validate_query(&self, job_id: &str) -> Result<ValidateQueryResponse> {
        let request = ValidateQueryRequest { job_id: job_id.to_owned() };
        self.persist(request, |mut client, request| async move { client.validate_query(request).await }).await
    }

    /// The stages of a query that ended, with what their operators measured.
    ///
    /// # Errors
    /// [`ErrorCode::SchedulerUnreachable`]; `NotFound` when the scheduler has forgotten the query.
    pub async fn explain_query(&self, job_id: &str) -> Result<Vec<StagePlan>> {
        let request = ExplainQueryRequest { job_id: job_id.to_owned() };
        Ok(self.call(request, |mut client, request| async move { client.explain_query(request).await }).await?.stages)
    }

    /// Cancels one query. False if it was not running.
    ///
    /// # Errors
    /// [`ErrorCode::SchedulerUnreachable`].
    pub async fn cancel_query(&self, job_id: &str, reason: &str) -> Result<bool> {
        let request = CancelQueryRequest { job_id: job_id.to_owned(), reason: reason.to_owned() };
        Ok(self.call(request, |mut client, request| async move { client.cancel_query(request).await }).await?.cancelled)
    }

    async fn call<Q, A, F, W>(&self, message: Q, send: F) -> Result<A>
    where
        F: FnOnce(RunServiceClient<Channel>, Request<Q>) -> W,
        W: Future<Output = std::result::Result<tonic::Response<A>, Status>>,
    {
        match send(self.client.clone(), request(message)).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(self.error(&status)),
        }
    }

    /// As [`Self::call`], but tries again while the scheduler is away.
    async fn persist<Q, A, F, W>(&self, message: Q, send: F) -> Result<A>
    where
        Q: Clone,
        F: Fn(RunServiceClient<Channel>, Request<Q>) -> W,
        W: Future<Output = std::result::Result<tonic::Response<A>, Status>>,
    {
        let deadline = tokio::time::Instant::now() + OUTAGE_LIMIT;
        loop {
            match send(self.client.clone(), request(message.clone())).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if is_outage(&status) && tokio::time::Instant::now() < deadline => {
                    tracing::debug!(%status, "the scheduler is away; trying again");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(status) => return Err(self.error(&status)),
            }
        }
    }

    fn error(&self, status: &Status) -> Error {
        if is_outage(status) {
            return connect::unreachable(&self.url, status.message());
        }
        // The scheduler sends its errors with their codes.
        if let Some(error) = Error::parse(status.message()) {
            return error;
        }
        let code = match status.code() {
            Code::NotFound => ErrorCode::NotFound,
            Code::InvalidArgument => ErrorCode::InvalidArgument,
            Code::ResourceExhausted => ErrorCode::ResourcesExhausted,
            Code::Cancelled => ErrorCode::Cancelled,
            _ => ErrorCode::Internal,
        };
        Error::new(code, format!("the scheduler at {} answered: {}", self.url, status.message()))
    }
}

fn request<Q>(message: Q) -> Request<Q> {
    let mut request = Request::new(message);
    request.set_timeout(RPC_TIMEOUT);
    request
}

fn is_outage(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => true,
        // A connection that breaks under a call.
        Code::Unknown | Code::Cancelled | Code::Internal => {
            std::error::Error::source(status).is_some()
                || status.message().contains("transport error")
                || status.message().contains("Timeout expired")
        }
        _ => false,
    }
}
