//! `/api/v1/cluster` and `/api/v1/executors`.

use super::HttpState;
use super::error::HttpError;
use crate::clock::now_ms;
use crate::executors::directory::ExecutorEntry;
use crate::runs::manager::RunsError;
use axum::Json;
use axum::extract::{Query, State};
use ballista_core::serde::protobuf::task_status;
use ballista_scheduler::state::execution_stage::ExecutionStage;
use chainalytics_api_types::{
    ClusterInfo, ClusterMode, ClusterSample, ExecutorCounts, ExecutorInfo, LeaseState, ListParams, MemoryUse, Page, SlotUse,
};
use std::collections::HashMap;

pub async fn cluster(State(state): State<HttpState>) -> Result<Json<ClusterInfo>, HttpError> {
    let (executors, now) = look(&state);
    let count = |wanted: LeaseState| executors.iter().filter(|e| e.state == wanted).count() as u64;
    let runs = state.runs.store().count_by_state().await.map_err(RunsError::from)?;
    Ok(Json(ClusterInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: ClusterMode::Live,
        started_at_ms: state.about.started_at_ms,
        now_ms: now.at_ms,
        scheduler_id: state.about.scheduler_id.clone(),
        scheduler_url: state.about.scheduler_url.clone(),
        other_url: state.about.history_url.clone(),
        executors: ExecutorCounts {
            alive: count(LeaseState::Alive),
            draining: count(LeaseState::Draining),
            lost: state.guard.executors_lost_total(),
        },
        cores: now.cores,
        memory: now.memory,
        runs: runs.into_iter().map(|(run_state, n)| (run_state.label().to_owned(), n)).collect(),
        queries_running: now.queries_running,
        tasks_running: now.tasks_running,
        event_log_dir: Some(state.about.event_log_dir.clone()),
        unreadable_logs: 0,
    }))
}

pub async fn executors(State(state): State<HttpState>, Query(params): Query<ListParams>) -> Result<Json<Page<ExecutorInfo>>, HttpError> {
    params.check()?;
    let matching: Vec<_> =
        look(&state).0.into_iter().filter(|e| params.wants_state(state_label(e.state)) && params.wants_text(&[&e.id, &e.name, &e.host])).collect();
    let total = matching.len();
    Ok(Json(Page::cut(matching, total, &params)))
}

/// The cluster's sums at this moment.
pub(super) fn glance(state: &HttpState) -> ClusterSample {
    look(state).1
}

/// All executors known, and the sums over those that are there.
pub(super) fn look(state: &HttpState) -> (Vec<ExecutorInfo>, ClusterSample) {
    let work = running_work(state);
    let executors = list(state, &work);
    let present = || executors.iter().filter(|e| matches!(e.state, LeaseState::Alive | LeaseState::Draining));
    let sum = |of: fn(&ExecutorInfo) -> u64| present().map(of).sum::<u64>();
    let now = ClusterSample {
        at_ms: now_ms(),
        executors: present().count() as u64,
        queries_running: state.guard.ledger(|ledger| ledger.open_jobs()) as u64,
        tasks_running: work.tasks.values().map(|n| u64::from(*n)).sum(),
        cores: SlotUse { total: sum(|e| e.cores.into()), used: work.slots.values().map(|n| u64::from(*n)).sum() },
        memory: MemoryUse {
            limit_bytes: sum(|e| e.memory_limit_bytes),
            used_bytes: sum(|e| e.memory_used_bytes),
            rss_bytes: sum(|e| e.memory_rss_bytes),
        },
    };
    (executors, now)
}

/// Tasks and task slots in use, by executor.
#[derive(Default)]
struct Work {
    tasks: HashMap<String, u32>,
    slots: HashMap<String, u32>,
}

fn running_work(state: &HttpState) -> Work {
    let mut work = Work::default();
    for job in state.ballista.state.task_manager.get_running_job_cache().values() {
        // A graph that is being changed is left out: this is a glance, not an account.
        let Ok(graph) = job.execution_graph.try_read() else { continue };
        for task in graph.stages().values().filter_map(ExecutionStage::task_infos).flatten() {
            if let task_status::Status::Running(running) = &task.task_status {
                *work.tasks.entry(running.executor_id.clone()).or_default() += 1;
                *work.slots.entry(running.executor_id.clone()).or_default() += task.vcores_consumed;
            }
        }
    }
    work
}

fn list(state: &HttpState, work: &Work) -> Vec<ExecutorInfo> {
    state.directory.list().into_iter().map(|entry| info(state, work, entry)).collect()
}

fn info(state: &HttpState, work: &Work, entry: ExecutorEntry) -> ExecutorInfo {
    let ping = entry.ping;
    let lease = match &entry.ended {
        Some(ended) if ended.in_order => LeaseState::Left,
        Some(_) => LeaseState::Lost,
        None => state.guard.ledger(|ledger| {
            let leases = ledger.leases();
            if leases.is_draining(&ping.executor_id) {
                LeaseState::Draining
            } else if leases.is_live(&ping.executor_id) {
                LeaseState::Alive
            } else {
                LeaseState::Lost
            }
        }),
    };
    ExecutorInfo {
        tasks_running: if entry.ended.is_none() { work.tasks.get(&ping.executor_id).copied().unwrap_or(0) } else { 0 },
        id: ping.executor_id,
        name: ping.name,
        host: ping.host,
        flight_port: ping.flight_port,
        grpc_port: ping.grpc_port,
        pid: ping.pid,
        version: ping.version,
        state: lease,
        cores: ping.cores,
        memory_used_bytes: ping.memory_used_bytes,
        memory_limit_bytes: ping.memory_pool_bytes,
        memory_rss_bytes: ping.memory_rss_bytes,
        disk_used_bytes: ping.disk_used_bytes,
        work_dir: ping.work_dir,
        started_at_ms: entry.opened_at_ms,
        last_seen_at_ms: entry.last_seen_at_ms,
        ended_at_ms: entry.ended.as_ref().map(|ended| ended.at_ms),
        drivers: ping.drivers.into_iter().map(|driver| driver.run_id).collect(),
        reason: entry.ended.map(|ended| ended.reason),
    }
}

pub(super) fn state_label(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Alive => "alive",
        LeaseState::Draining => "draining",
        LeaseState::Lost => "lost",
        LeaseState::Left => "left",
        LeaseState::Unknown => "unknown",
    }
}
