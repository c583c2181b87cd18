//! The two sockets: gRPC (Ballista's services and ours on one port) and HTTP.

use crate::ballista::Ballista;
use crate::error::SchedulerError;
use crate::executors::service::ExecutorServiceImpl;
use crate::guard::task_reports::CheckedReports;
use crate::runs::service::RunServiceImpl;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpcServer;
use chainalytics_proto::v1::executor_service_server::ExecutorServiceServer;
use chainalytics_proto::v1::run_service_server::RunServiceServer;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};

/// Streams that one connection may hold: every task status of an executor is a call, drivers poll.
const STREAMS_PER_CONNECTION_MAX: u32 = 4_096;
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Finds connections that broke without a word. Leases are the quicker judge of executors; this must be the more patient one, as a busy
/// process answers late.
const HTTP2_KEEPALIVE: Duration = Duration::from_secs(5);
const HTTP2_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Binds `host:port`, so that a port in use is known before anything starts. `key` is the configuration key to name.
pub async fn bind(host: &str, port: u16, key: &'static str) -> Result<TcpListener, SchedulerError> {
    TcpListener::bind((host, port)).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => SchedulerError::PortInUse { host: host.to_owned(), port, key },
        _ => SchedulerError::Bind { host: host.to_owned(), port, key, source },
    })
}

/// Serves gRPC until `shutdown`.
pub fn grpc(
    listener: TcpListener,
    ballista: Ballista,
    runs: RunServiceImpl,
    executors: ExecutorServiceImpl,
    message_bytes_max: u32,
    shutdown: CancellationToken,
) -> impl Future<Output = Result<(), SchedulerError>> {
    let bytes_max = message_bytes_max as usize;
    let ballista = SchedulerGrpcServer::new(CheckedReports::new(ballista)).max_decoding_message_size(bytes_max).max_encoding_message_size(bytes_max);
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(HTTP2_KEEPALIVE))
        .http2_keepalive_timeout(Some(HTTP2_KEEPALIVE_TIMEOUT))
        .add_service(InterceptedService::new(ballista, note_peer))
        .add_service(RunServiceServer::new(runs).max_decoding_message_size(bytes_max).max_encoding_message_size(bytes_max))
        .add_service(ExecutorServiceServer::new(executors));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(TCP_KEEPALIVE));
    async move { server.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await.map_err(SchedulerError::Grpc) }
}

/// Ballista looks for the peer's address where axum puts it.
fn note_peer(mut request: Request<()>) -> Result<Request<()>, Status> {
    if let Some(peer) = request.remote_addr() {
        request.extensions_mut().insert(axum::extract::ConnectInfo::<SocketAddr>(peer));
    }
    Ok(request)
}

/// Serves HTTP until `shutdown`.
pub async fn http(listener: TcpListener, router: axum::Router, shutdown: CancellationToken) -> Result<(), SchedulerError> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(shutdown.cancelled_owned()).await.map_err(SchedulerError::Http)
}
