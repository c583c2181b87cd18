//! What this executor reports of its drivers: their starts and ends, and their logs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chainalytics_proto::v1::driver_status_request::Status;
use chainalytics_proto::v1::executor_service_client::ExecutorServiceClient;
use chainalytics_proto::v1::{AppendLogRequest, DriverStatusRequest};
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const RPC_TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A report is tried for about ten minutes; then the scheduler has long given the driver up.
const REPORT_ATTEMPTS: u32 = 120;
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const PIECE_BYTES: usize = 256 * 1024;

/// The executor id of the moment; it changes when the scheduler burns the old one.
#[derive(Clone, Debug, Default)]
pub(crate) struct CurrentId(Arc<RwLock<String>>);

impl CurrentId {
    pub(crate) fn set(&self, id: &str) {
        id.clone_into(&mut self.0.write());
    }

    pub(crate) fn get(&self) -> String {
        self.0.read().clone()
    }
}

/// Reports to the scheduler over a connection that comes back by itself.
#[derive(Clone)]
pub(crate) struct Reporter {
    client: ExecutorServiceClient<Channel>,
    executor_id: CurrentId,
}

impl Reporter {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(endpoint: &Endpoint, executor_id: CurrentId) -> Self {
        let client = ExecutorServiceClient::new(endpoint.clone().timeout(RPC_TIMEOUT).connect_lazy());
        Self { client, executor_id }
    }

    /// Delivers a driver's status, over scheduler restarts; gives up after about ten minutes.
    pub(crate) async fn status(&self, run_id: &str, attempt: u32, status: Status) {
        let mut backoff = BACKOFF_MIN;
        for _ in 0..REPORT_ATTEMPTS {
            let request =
                DriverStatusRequest { executor_id: self.executor_id.get(), run_id: run_id.to_owned(), attempt, status: Some(status.clone()) };
            match self.client.clone().driver_status(request).await {
                Ok(_) => return,
                Err(status) if is_final(status.code()) => {
                    tracing::warn!(run_id, attempt, %status, "the scheduler refused a driver's status");
                    return;
                }
                Err(status) => tracing::debug!(run_id, %status, "driver status not delivered; trying again"),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        tracing::error!(run_id, attempt, "the scheduler never took a driver's status");
    }

    async fn append(&self, run_id: &str, attempt: u32, offset: u64, data: Vec<u8>) -> Result<u64, tonic::Status> {
        let request = AppendLogRequest { executor_id: self.executor_id.get(), run_id: run_id.to_owned(), attempt, offset, data: data.into() };
        Ok(self.client.clone().append_log(request).await?.into_inner().next_offset)
    }
}

/// Errors that another try cannot mend.
fn is_final(code: Code) -> bool {
    matches!(code, Code::InvalidArgument | Code::NotFound | Code::PermissionDenied | Code::FailedPrecondition | Code::Unimplemented)
}

/// Sends a driver's log while it grows. The scheduler tells where to go on, so nothing is lost or doubled over its restarts.
pub(crate) struct LogShipper {
    reporter: Reporter,
    run_id: String,
    attempt: u32,
    log: PathBuf,
}

impl LogShipper {
    pub(crate) fn new(reporter: Reporter, run_id: String, attempt: u32, log: PathBuf) -> Self {
        Self { reporter, run_id, attempt, log }
    }

    /// Ends when the driver `ended` and everything was sent.
    pub(crate) async fn run(self, ended: CancellationToken) {
        let mut offset = 0;
        let mut backoff = BACKOFF_MIN;
        loop {
            let last = ended.is_cancelled();
            let piece = match self.read(offset).await {
                Ok(piece) => piece,
                Err(error) => {
                    tracing::warn!(run_id = self.run_id, %error, "cannot read a driver's log");
                    Vec::new()
                }
            };
            if piece.is_empty() {
                if last {
                    return;
                }
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = tokio::time::sleep(POLL_INTERVAL) => {}
                }
                continue;
            }
            match self.reporter.append(&self.run_id, self.attempt, offset, piece).await {
                Ok(next) => {
                    offset = next;
                    backoff = BACKOFF_MIN;
                }
                Err(status) if is_final(status.code()) => {
                    tracing::warn!(run_id = self.run_id, %status, "the scheduler does not take this driver's log");
                    return;
                }
                Err(_) => {
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    async fn read(&self, offset: u64) -> std::io::Result<Vec<u8>> {
        let mut file = tokio::fs::File::open(&self.log).await?;
        file.seek(std::io::SeekFrom::Start(offset)).await?;
        let mut piece = Vec::new();
        file.take(PIECE_BYTES as u64).read_to_end(&mut piece).await?;
        Ok(piece)
    }
}
