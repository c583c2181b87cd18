//! Writes into run logs what happens to a run's queries: their ends with the guard's verdict, and the executors that were lost under them.

use super::manager::Runs;
use crate::clock::now_ms;
use crate::guard::ledger::{Invalidity, Verdict};
use crate::guard::{Guard, Loss};
use crate::http::BallistaApi;
use chainalytics_api_types::{QueryState, QuerySummary, Validity, from_ballista};
use std::collections::BTreeSet;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// Follows the guard until `shutdown`.
pub async fn run(guard: Guard, runs: Runs, api: BallistaApi, shutdown: CancellationToken) {
    let (mut ends, mut losses) = (guard.ended_queries(), guard.losses());
    // Ballista tells some ends twice, and so may we.
    let mut written: lately::Lately = lately::Lately::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            end = ends.recv() => match end {
                Ok(job_id) if written.is_new(&job_id) => {
                    if !query_ended(&guard, &runs, &api, &job_id).await {
                        // No run claims it yet: its registration tells the end again.
                        written.forget(&job_id);
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "ends of queries are missing in run logs"),
                Err(RecvError::Closed) => return,
            },
            loss = losses.recv() => match loss {
                Ok(loss) => executor_lost(&runs, &loss).await,
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "lost executors are missing in run logs"),
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// False when no run claims the query.
async fn query_ended(guard: &Guard, runs: &Runs, api: &BallistaApi, job_id: &str) -> bool {
    let registered = match runs.store().query(job_id).await {
        Ok(Some(registered)) => registered,
        Ok(None) => return false,
        Err(error) => {
            tracing::warn!(job_id, %error, "could not read the run of a query");
            return false;
        }
    };
    let job = api.json(&format!("/api/job/{job_id}")).await.ok().flatten();
    let mut summary = match &job {
        Some(job) => from_ballista::query_summary(job),
        // It failed before it had a graph.
        None => QuerySummary { job_id: job_id.to_owned(), state: QueryState::Failed, ..QuerySummary::default() },
    };
    judge(&mut summary, &guard.validate(job_id));
    runs.journal().query_ended(&registered.run_id, &summary, now_ms()).await;
    true
}

async fn executor_lost(runs: &Runs, loss: &Loss) {
    let mut told = BTreeSet::new();
    for job_id in &loss.cancelled {
        if let Ok(Some(query)) = runs.store().query(job_id).await
            && told.insert(query.run_id.clone())
        {
            let reason = loss.cause.to_string();
            runs.journal().executor_lost(&query.run_id, &loss.executor_id, &reason, now_ms()).await;
        }
    }
}

/// Writes the guard's verdict into a summary that was made from Ballista's account.
pub fn judge(summary: &mut QuerySummary, verdict: &Verdict) {
    summary.validity = match verdict {
        Verdict::Valid => Validity::Valid,
        Verdict::Invalid(Invalidity::ExecutorLost(_)) => Validity::ExecutorLost,
        Verdict::Invalid(Invalidity::StageRetried { .. }) => Validity::StageRetried,
        Verdict::Invalid(Invalidity::Cancelled(_)) | Verdict::NotSuccessful => Validity::NotSuccessful,
        Verdict::Unknown => summary.validity,
    };
    if let Verdict::Invalid(why) = verdict {
        summary.validity_reason = Some(why.to_string());
        if summary.state == QueryState::Failed {
            summary.state = QueryState::Cancelled;
        }
    }
}

/// Remembers the latest ids, a bounded number of them.
mod lately {
    use std::collections::{HashSet, VecDeque};

    const MAX: usize = 10_000;

    #[derive(Default)]
    pub struct Lately {
        ids: HashSet<String>,
        order: VecDeque<String>,
    }

    impl Lately {
        pub fn is_new(&mut self, id: &str) -> bool {
            if !self.ids.insert(id.to_owned()) {
                return false;
            }
            self.order.push_back(id.to_owned());
            if self.order.len() > MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.ids.remove(&oldest);
            }
            true
        }

        pub fn forget(&mut self, id: &str) {
            self.ids.remove(id);
        }
    }
}
