//! What time does to runs: queued ones are placed, orders repeated, silent drivers given up, old runs forgotten.

use super::manager::{Result, Runs};
use super::model::{DeployMode, RunState};
use super::placement;
use super::states::Event;
use crate::clock::now_ms;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often queued runs are placed and silence is noticed.
const TICK: Duration = Duration::from_millis(500);
/// A launch order is repeated when the executor's pings do not show the driver after this time.
const LAUNCH_AGAIN_AFTER_MS: i64 = 2_000;
/// How often old runs are removed; the first time right after the start.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

impl Runs {
    /// Places, repeats, and notices silence until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = Instant::now();
        let mut pruned: Option<Instant> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = tick.tick() => {}
            }
            let stalled = before.elapsed() > TICK * 6;
            before = Instant::now();
            if stalled {
                // We were the silent one: everybody gets a fresh start.
                self.inner.open.lock().await.values_mut().for_each(|open| open.last_heard = before);
                continue;
            }
            if let Err(error) = self.tick().await {
                tracing::error!(%error, "runs could not be moved on; tried again");
            }
            if pruned.is_none_or(|at| at.elapsed() > PRUNE_EVERY) {
                pruned = Some(before);
                if let Err(error) = self.prune().await {
                    tracing::error!(%error, "old runs could not be removed; tried again later");
                }
            }
        }
    }

    async fn tick(&self) -> Result<()> {
        let options = &self.inner.options;
        let now = now_ms();
        let mut events: Vec<(String, Event)> = Vec::new();
        let mut waiting: Vec<(i32, i64, String, Option<String>)> = Vec::new();
        let mut ordered: HashMap<String, usize> = HashMap::new();
        {
            let open = self.inner.open.lock().await;
            for entry in open.values() {
                let run = &entry.run;
                let silent = entry.last_heard.elapsed();
                let overdue = run.kill_requested_at_ms.is_some_and(|at| now - at > i64::try_from(options.kill_grace.as_millis()).unwrap_or(i64::MAX));
                if overdue {
                    events.push((run.run_id.clone(), Event::KillOverdue));
                    continue;
                }
                match (run.state, run.deploy_mode, &run.executor_id) {
                    (RunState::Queued, DeployMode::Cluster, None) => {
                        waiting.push((-run.priority, run.submitted_at_ms, run.run_id.clone(), entry.avoid.clone()));
                    }
                    (RunState::Queued, DeployMode::Cluster, Some(executor_id)) => {
                        let placed = run.placed_at_ms.unwrap_or(now);
                        let live = self.inner.guard.ledger(|ledger| ledger.leases().is_live(executor_id));
                        let waited_ms = now - placed;
                        // After our own restart the executor gets the same time to come back.
                        let given_up = silent > options.launch_timeout;
                        if given_up || (!live && silent > options.launch_timeout / 2) {
                            let message = format!("executor {executor_id} did not start it within {waited_ms} ms");
                            events.push((run.run_id.clone(), Event::LaunchFailed { message }));
                        } else {
                            *ordered.entry(executor_id.clone()).or_default() += 1;
                            if live && waited_ms > LAUNCH_AGAIN_AFTER_MS {
                                self.order_launch(executor_id, run);
                            }
                        }
                    }
                    (RunState::Queued, DeployMode::Client, _) | (RunState::Running, _, _) if silent > options.driver_timeout => {
                        let for_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
                        events.push((run.run_id.clone(), Event::Silent { for_ms }));
                    }
                    _ => {}
                }
            }
        }
        for (run_id, event) in events {
            self.happen(&run_id, &event).await?;
        }
        waiting.sort();
        for (_, _, run_id, avoid) in waiting {
            let candidates = self.inner.directory.candidates(&self.inner.guard, &ordered);
            let Some(chosen) = placement::choose(&candidates, options.drivers_per_executor_max, avoid.as_deref()) else {
                break;
            };
            *ordered.entry(chosen.executor_id.clone()).or_default() += 1;
            self.heard_of(&run_id).await;
            self.happen(&run_id, &Event::Placed { executor_id: chosen.executor_id.clone() }).await?;
        }
        Ok(())
    }

    pub(super) async fn heard_of(&self, run_id: &str) {
        if let Some(entry) = self.inner.open.lock().await.get_mut(run_id) {
            entry.last_heard = Instant::now();
        }
    }
}
