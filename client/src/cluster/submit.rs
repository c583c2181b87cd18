//! One attempt of a query: hands it to the scheduler, follows it, cancels it when the driver lets go.

use std::time::{Duration, Instant};

use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{
    CancelJobParams, CleanJobDataParams, ExecuteQueryParams, GetJobStatusParams, KeyValuePair, PartitionLocation, execute_query_result, job_status,
};
use ballista_core::version::insert_version_header;
use chainalytics_common::{Error, ErrorCode, Result};
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::reason::error_of;

const RPC_TIMEOUT: Duration = Duration::from_secs(20);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// A new query may be unknown this long, until the scheduler's event loop took it up.
const UNKNOWN_GRACE: Duration = Duration::from_secs(10);
/// How long a scheduler may be away before the driver gives up.
const OUTAGE_LIMIT: Duration = Duration::from_secs(60);
const POLL_MIN: Duration = Duration::from_millis(2);
const POLL_MAX: Duration = Duration::from_millis(100);

pub(crate) type SchedulerClient = SchedulerGrpcClient<Channel>;

/// What became of a submitted query.
#[derive(Debug)]
pub(crate) enum Fate {
    Succeeded(Vec<PartitionLocation>),
    Failed(String),
    Forgotten,
}

/// A query that the scheduler took. Dropped before its end, it is cancelled.
pub(crate) struct Submitted {
    pub(crate) job_id: String,
    client: SchedulerClient,
    tracker: TaskTracker,
    ended: bool,
}

/// Hands the plan over.
///
/// # Errors
/// [`ErrorCode::SchedulerUnreachable`], or the planning error's own code.
pub(crate) async fn submit(
    client: &SchedulerClient,
    tracker: &TaskTracker,
    session_id: &str,
    settings: Vec<KeyValuePair>,
    query: Query,
) -> Result<Submitted> {
    let params =
        ExecuteQueryParams { session_id: session_id.to_owned(), settings, operation_id: uuid::Uuid::now_v7().to_string(), query: Some(query) };
    let mut request = Request::new(params);
    insert_version_header(request.metadata_mut());
    request.set_timeout(RPC_TIMEOUT);
    let response = client.clone().execute_query(request).await.map_err(|status| refused(&status))?.into_inner();
    match response.result {
        Some(execute_query_result::Result::Success(success)) => {
            Ok(Submitted { job_id: success.job_id, client: client.clone(), tracker: tracker.clone(), ended: false })
        }
        Some(execute_query_result::Result::Failure(failure)) => Err(error_of(&format!("the scheduler did not take the query: {failure:?}"))),
        None => Err(Error::internal("the scheduler gave no answer to a query")),
    }
}

fn refused(status: &Status) -> Error {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => {
            Error::new(ErrorCode::SchedulerUnreachable, format!("the scheduler did not take the query: {}", status.message()))
        }
        _ => error_of(&format!("the scheduler did not take the query: {}", status.message())),
    }
}

impl Submitted {
    /// Follows the query to its end. A scheduler that is away for a while is waited for.
    ///
    /// # Errors
    /// [`ErrorCode::SchedulerUnreachable`] after a minute without an answer.
    pub(crate) async fn wait(&mut self) -> Result<Fate> {
        let submitted = Instant::now();
        let mut answered = Instant::now();
        let mut known = false;
        loop {
            match self.status().await {
                Ok(Some(job_status::Status::Successful(job))) => {
                    self.ended = true;
                    return Ok(Fate::Succeeded(job.partition_location));
                }
                Ok(Some(job_status::Status::Failed(job))) => {
                    self.ended = true;
                    return Ok(Fate::Failed(job.error));
                }
                Ok(Some(job_status::Status::Queued(_) | job_status::Status::Running(_))) => {
                    known = true;
                    answered = Instant::now();
                }
                Ok(None) if known || submitted.elapsed() > UNKNOWN_GRACE => {
                    self.ended = true;
                    return Ok(Fate::Forgotten);
                }
                Ok(None) => answered = Instant::now(),
                Err(status) if answered.elapsed() > OUTAGE_LIMIT => {
                    return Err(Error::new(
                        ErrorCode::SchedulerUnreachable,
                        format!("the scheduler is away for {OUTAGE_LIMIT:?}: {}", status.message()),
                    ));
                }
                Err(status) => tracing::debug!(job_id = self.job_id, %status, "no answer about a query; asking again"),
            }
            tokio::time::sleep(poll_interval(submitted.elapsed())).await;
        }
    }

    async fn status(&mut self) -> std::result::Result<Option<job_status::Status>, Status> {
        let mut request = Request::new(GetJobStatusParams { job_id: self.job_id.clone() });
        request.set_timeout(RPC_TIMEOUT);
        let answer = self.client.get_job_status(request).await?.into_inner();
        Ok(answer.status.and_then(|s| s.status))
    }

    /// Lets the executors drop the query's output, which nobody needs any more.
    pub(crate) fn clean(&self) {
        let (mut client, job_id) = (self.client.clone(), self.job_id.clone());
        self.tracker.spawn(async move {
            let mut request = Request::new(CleanJobDataParams { job_id, remove_stage_ids: vec![] });
            request.set_timeout(CANCEL_TIMEOUT);
            if let Err(status) = client.clean_job_data(request).await {
                tracing::debug!(%status, "the output of a query was not removed; its time to live will");
            }
        });
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (mut client, job_id) = (self.client.clone(), self.job_id.clone());
        // Without a runtime this process is ending; the scheduler then notices that the run's driver is gone.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.tracker.spawn_on(
                async move {
                    let mut request = Request::new(CancelJobParams { job_id: job_id.clone() });
                    request.set_timeout(CANCEL_TIMEOUT);
                    if let Err(status) = client.cancel_job(request).await {
                        tracing::warn!(job_id, %status, "a query could not be cancelled");
                    }
                },
                &runtime,
            );
        }
    }
}

/// Asks often at first and then in proportion to the time that passed, so that waiting costs a query at most a twentieth of its time.
fn poll_interval(elapsed: Duration) -> Duration {
    (elapsed / 20).clamp(POLL_MIN, POLL_MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn polling_slows_down_within_bounds() {
        assert_eq!(poll_interval(Duration::ZERO), POLL_MIN);
        assert_eq!(poll_interval(Duration::from_millis(400)), Duration::from_millis(20));
        assert_eq!(poll_interval(Duration::from_secs(3600)), POLL_MAX);
    }
}
