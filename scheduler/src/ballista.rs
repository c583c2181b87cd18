//! Ballista's scheduler, assembled around the guard: push-staged, our codecs and sessions, its query logs in our event log directory.

use crate::guard::Guard;
use crate::guard::cluster_state::GuardedClusterState;
use crate::guard::job_state::GuardedJobState;
use crate::options::Options;
use ballista_core::ConfigProducer;
use ballista_core::config::{BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE, TaskSchedulingPolicy};
use ballista_core::error::Result;
use ballista_core::serde::BallistaCodec;
use ballista_scheduler::cluster::memory::InMemoryJobState;
use ballista_scheduler::cluster::{BallistaCluster, JobState};
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::metrics::default_metrics_collector;
use ballista_scheduler::scheduler_server::{SchedulerServer, SessionBuilder};
use ballista_scheduler::state::session_manager::share_file_statistics_cache;
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use std::sync::Arc;

/// The server type that everything here uses.
pub type Ballista = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// What the engine crate contributes.
pub struct EngineParts {
    pub session_builder: SessionBuilder,
    pub config_producer: ConfigProducer,
    pub logical_codec: Arc<dyn LogicalExtensionCodec>,
    pub physical_codec: Arc<dyn PhysicalExtensionCodec>,
}

/// Builds and starts the server; it works as long as the process. Answers also the job state, from which ended graphs are read.
pub async fn start(options: &Options, engine: EngineParts, guard: &Guard) -> Result<(Ballista, Arc<dyn JobState>)> {
    let config = Arc::new(config(options, &engine));
    config.validate()?;
    let in_memory = InMemoryJobState::new(config.scheduler_id.clone(), share_file_statistics_cache(engine.session_builder), engine.config_producer);
    let job_state: Arc<dyn JobState> = Arc::new(GuardedJobState::new(in_memory, guard.clone()));
    let cluster = BallistaCluster::new(Arc::new(GuardedClusterState::new(guard.clone())), Arc::clone(&job_state));
    let codec = BallistaCodec::new(engine.logical_codec, engine.physical_codec);
    let endpoint = config.scheduler_endpoint();
    let mut server = Ballista::new(endpoint, cluster, codec, config, default_metrics_collector()?);
    server.init().await?;
    guard.attach(server.clone());
    Ok((server, job_state))
}

fn config(options: &Options, engine: &EngineParts) -> SchedulerConfig {
    SchedulerConfig {
        scheduler_id: options.scheduler_id.clone(),
        external_host: options.external_host.clone(),
        bind_host: options.bind_host.clone(),
        bind_port: options.grpc_port,
        // Pull mode loses a fully busy executor: it stops polling and counts as dead.
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        task_distribution: TaskDistributionPolicy::RoundRobin,
        event_loop_buffer_size: 10_000,
        finished_job_data_clean_up_interval_seconds: options.job_data_kept.as_secs(),
        finished_job_state_clean_up_interval_seconds: options.job_state_kept.as_secs(),
        grpc_server_max_decoding_message_size: options.message_bytes_max,
        grpc_server_max_encoding_message_size: options.message_bytes_max,
        grpc_client_max_message_size: options.message_bytes_max,
        // Leases find a lost executor much earlier; this is the net below.
        executor_timeout_seconds: options.ballista_executor_timeout.as_secs(),
        expire_dead_executor_interval_seconds: 5,
        no_executors_grace_period_seconds: options.ballista_executor_timeout.as_secs(),
        // An executor that drains says so in its heartbeats and goes on; its lease tells when it has left.
        executor_termination_grace_period: options.ballista_executor_timeout.as_secs(),
        override_config_producer: Some(for_calls_to_executors(options, Arc::clone(&engine.config_producer))),
        override_session_builder: Some(Arc::clone(&engine.session_builder)),
        override_logical_codec: Some(Arc::clone(&engine.logical_codec)),
        override_physical_codec: Some(Arc::clone(&engine.physical_codec)),
        min_ready_executors: options.min_ready_executors,
        event_log_dir: Some(options.query_log_dir.display().to_string()),
        // "/" is our page.
        web_tui_route: "/api/tui".to_owned(),
        ..SchedulerConfig::default()
    }
}

/// Ballista takes the limits of its calls to executors from here (sessions have a producer of their own). A task that is larger than a
/// message would look like an executor that cannot be reached.
fn for_calls_to_executors(options: &Options, producer: ConfigProducer) -> ConfigProducer {
    let bytes_max = options.message_bytes_max.to_string();
    Arc::new(move || {
        let mut config = producer();
        if let Err(error) = config.options_mut().set(BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE, &bytes_max) {
            tracing::warn!(%error, "the size of messages to executors stays at Ballista's default");
        }
        config
    })
}
