//! Every executor with an open lease stream, its last ping, and the way to send it commands; and the last ones that were lost.

use crate::guard::Guard;
use crate::runs::placement::Candidate;
use chainalytics_proto::v1;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Commands that wait for one executor.
pub const COMMANDS_BUFFERED: usize = 64;
/// Ended executors that are still shown.
const ENDED_MAX: usize = 100;

/// What is known of one executor.
#[derive(Debug, Clone)]
pub struct ExecutorEntry {
    pub ping: v1::ExecutorPing,
    pub opened_at_ms: i64,
    pub last_seen_at_ms: i64,
    /// When and why its lease ended, and whether that was in order.
    pub ended: Option<Ended>,
}

/// The end of a lease.
#[derive(Debug, Clone)]
pub struct Ended {
    pub at_ms: i64,
    pub reason: String,
    pub in_order: bool,
}

struct Live {
    entry: ExecutorEntry,
    commands: mpsc::Sender<v1::Command>,
}

#[derive(Default)]
struct State {
    live: HashMap<String, Live>,
    ended: VecDeque<ExecutorEntry>,
    draining: std::collections::HashSet<String>,
}

/// Shared handle; cheap to clone.
#[derive(Clone, Default)]
pub struct Directory {
    state: Arc<Mutex<State>>,
}

impl Directory {
    /// A lease opened. The receiver yields the commands to be written into its stream.
    pub fn open(&self, ping: v1::ExecutorPing, now_ms: i64) -> mpsc::Receiver<v1::Command> {
        let (commands, receiver) = mpsc::channel(COMMANDS_BUFFERED);
        let entry = ExecutorEntry { opened_at_ms: now_ms, last_seen_at_ms: now_ms, ended: None, ping };
        self.state.lock().live.insert(entry.ping.executor_id.clone(), Live { entry, commands });
        receiver
    }

    /// A ping arrived.
    pub fn seen(&self, ping: v1::ExecutorPing, now_ms: i64) {
        if let Some(live) = self.state.lock().live.get_mut(&ping.executor_id) {
            live.entry.last_seen_at_ms = now_ms;
            live.entry.ping = ping;
        }
    }

    /// A lease ended. Repeats change nothing.
    pub fn end(&self, executor_id: &str, ended: Ended) {
        let mut state = self.state.lock();
        state.draining.remove(executor_id);
        if let Some(live) = state.live.remove(executor_id) {
            state.ended.push_front(ExecutorEntry { ended: Some(ended), ..live.entry });
            state.ended.truncate(ENDED_MAX);
        }
    }

    /// Sends a command. False when the executor has no lease or reads nothing.
    pub fn send(&self, executor_id: &str, command: v1::command::Command) -> bool {
        let state = self.state.lock();
        let Some(live) = state.live.get(executor_id) else { return false };
        live.commands.try_send(v1::Command { command: Some(command) }).is_ok()
    }

    /// Live ones by name and id, then the ended ones, latest first.
    #[must_use]
    pub fn list(&self) -> Vec<ExecutorEntry> {
        let state = self.state.lock();
        let mut all: Vec<_> = state.live.values().map(|live| live.entry.clone()).collect();
        all.sort_by(|a, b| (&a.ping.name, &a.ping.executor_id).cmp(&(&b.ping.name, &b.ping.executor_id)));
        all.extend(state.ended.iter().cloned());
        all
    }

    /// Number of open leases.
    #[must_use]
    pub fn live(&self) -> usize {
        self.state.lock().live.len()
    }

    /// Executors that may be given a driver; `ordered` tells how many more than the reported ones each was told to launch.
    #[must_use]
    pub fn candidates(&self, guard: &Guard, ordered: &HashMap<String, usize>) -> Vec<Candidate> {
        let entries: Vec<_> = self.state.lock().live.values().map(|live| live.entry.clone()).collect();
        guard.ledger(|ledger| {
            entries
                .into_iter()
                .filter(|entry| {
                    let id = &entry.ping.executor_id;
                    ledger.leases().is_live(id) && ledger.leases().is_schedulable(id)
                })
                .map(|entry| Candidate {
                    drivers: entry.ping.drivers.len() + ordered.get(&entry.ping.executor_id).copied().unwrap_or(0),
                    cores: entry.ping.cores,
                    executor_id: entry.ping.executor_id,
                })
                .collect()
        })
    }
}
