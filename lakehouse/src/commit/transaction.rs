use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chainalytics_common::{Error, ErrorCode, Result};

use super::change::TableChange;
use super::prepare::{Prepared, Step, prepare};
use super::retry::RetryPolicy;
use super::{CommitOptions, CommitOutcome, TableOutcome};
use crate::Lakehouse;
use crate::catalog::{Catalog, Swap, TableCommit};
use crate::err;
use crate::ident::TableIdent;
use crate::table::Table;

/// Loads tried before an unknown outcome is reported as such.
const RESOLVE_ATTEMPTS: u32 = 5;

/// Changes to one or several tables that become visible together or not at all.
pub struct Transaction {
    catalog: Arc<Catalog>,
    changes: Vec<TableChange>,
}

/// What one round of loading, building and swapping came to.
enum Round {
    Done(Vec<TableOutcome>),
    Retry(Error),
    InDoubt(Vec<Prepared>, Error),
}

/// A version whose swap may or may not have happened.
struct Doubt {
    outcome: TableOutcome,
}

impl Doubt {
    fn is_in(&self, table: &Table) -> bool {
        let metadata = table.metadata();
        table.metadata_location() == self.outcome.metadata_location
            || self.outcome.snapshot_id.is_some_and(|id| metadata.snapshot_by_id(id).is_some())
            || metadata.metadata_log().iter().any(|log| log.metadata_file == self.outcome.metadata_location)
    }
}

impl Transaction {
    /// An empty transaction on a lakehouse's catalog.
    pub fn new(lakehouse: &Lakehouse) -> Self {
        Self::on(Arc::clone(lakehouse.catalog()))
    }

    /// An empty transaction on a catalog.
    pub fn on(catalog: Arc<Catalog>) -> Self {
        Self { catalog, changes: Vec::new() }
    }

    /// Adds a change; one per table.
    #[allow(clippy::should_implement_trait)]
    #[must_use]
    pub fn add(mut self, change: TableChange) -> Self {
        self.changes.push(change);
        self
    }

    /// Commits all changes in one step.
    ///
    /// A lost race is tried again from the loading, as often as the first table's `commit.retry.*` properties allow.
    /// Files that a failed attempt wrote (manifests, metadata) are deleted; data files are the caller's.
    ///
    /// # Errors
    /// `CommitConflict`: a change contradicts what others committed, or the retries are used up. `CommitUnknown`: the
    /// connection broke during COMMIT and the catalog could not be asked since; committing again with the same run and
    /// step is safe. `CatalogBusy`, `CatalogUnreachable`, `TableNotFound`, `StorageRead`, `StorageWrite`: nothing was
    /// committed.
    pub async fn commit(self, options: CommitOptions) -> Result<CommitOutcome> {
        if self.changes.is_empty() {
            return Ok(CommitOutcome { tables: Vec::new(), attempts: 0 });
        }
        let mut idents: Vec<&TableIdent> = self.changes.iter().map(TableChange::ident).collect();
        idents.sort();
        if let Some(pair) = idents.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(err::invalid(format!("two changes to table {} in one transaction", pair[0])));
        }
        let started = Instant::now();
        let mut policy: Option<RetryPolicy> = None;
        let mut doubts: HashMap<TableIdent, Vec<Doubt>> = HashMap::new();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let round = self.round(&options, attempt, &mut policy, &doubts).await.map_err(|e| while_in_doubt(e, &doubts))?;
            let reason = match round {
                Round::Done(tables) => return Ok(CommitOutcome { tables, attempts: attempt }),
                Round::Retry(reason) => reason,
                Round::InDoubt(prepared, reason) => {
                    if self.resolve(&prepared).await.map_err(|_| reason)? {
                        let tables = prepared.into_iter().map(|p| p.outcome).collect();
                        return Ok(CommitOutcome { tables, attempts: attempt });
                    }
                    for p in prepared {
                        let ident = p.outcome.ident.clone();
                        doubts.entry(ident).or_default().push(Doubt { outcome: p.outcome });
                    }
                    err::conflict("the connection to the catalog broke during COMMIT")
                }
            };
            let policy = policy.clone().unwrap_or_default();
            if attempt > policy.retries_max || started.elapsed() >= policy.total_max {
                return Err(while_in_doubt(reason, &doubts));
            }
            let wait = policy.wait(attempt);
            tracing::info!(attempt, wait_ms = wait.as_millis() as u64, %reason, "commit lost a race, trying again");
            tokio::time::sleep(wait).await;
        }
    }

    /// One attempt. `Err` ends the transaction; its files are gone.
    async fn round(
        &self,
        options: &CommitOptions,
        attempt: u32,
        policy: &mut Option<RetryPolicy>,
        doubts: &HashMap<TableIdent, Vec<Doubt>>,
    ) -> Result<Round> {
        let mut written = Vec::new();
        let steps = match self.prepare_all(options, attempt, policy, doubts, &mut written).await {
            Ok(steps) => steps,
            Err(error) => {
                self.discard(written).await;
                // Another writer held the catalog's lock: nothing is wrong with the change.
                return if err::is_busy(&error) { Ok(Round::Retry(error)) } else { Err(error) };
            }
        };
        let commits: Vec<TableCommit> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Ready(prepared) => Some(prepared.commit.clone()),
                Step::Done(_) => None,
            })
            .collect();
        if commits.is_empty() {
            return Ok(Round::Done(steps.into_iter().map(Step::into_outcome).collect()));
        }
        match self.catalog.swap(&commits).await {
            Ok(Swap::Done) => Ok(Round::Done(self.finish(steps).await)),
            Ok(Swap::Conflict(ident)) => {
                self.discard(written).await;
                Ok(Round::Retry(err::conflict(format!("table {ident} was changed by another commit"))))
            }
            Ok(Swap::Unknown(error)) => {
                let prepared = steps.into_iter().filter_map(|step| match step {
                    Step::Ready(prepared) => Some(*prepared),
                    Step::Done(_) => None,
                });
                Ok(Round::InDoubt(prepared.collect(), error))
            }
            Err(error) => {
                self.discard(written).await;
                if err::is_busy(&error) { Ok(Round::Retry(error)) } else { Err(error) }
            }
        }
    }

    async fn prepare_all(
        &self,
        options: &CommitOptions,
        attempt: u32,
        policy: &mut Option<RetryPolicy>,
        doubts: &HashMap<TableIdent, Vec<Doubt>>,
        written: &mut Vec<String>,
    ) -> Result<Vec<Step>> {
        let mut steps = Vec::with_capacity(self.changes.len());
        for change in &self.changes {
            let mut table = self.catalog.load_table(change.ident()).await?;
            if let Some(branch) = &change.branch {
                table = table.for_writes_to(branch);
            }
            policy.get_or_insert_with(|| RetryPolicy::from_properties(table.properties()));
            let landed = doubts.get(change.ident()).into_iter().flatten().find(|doubt| doubt.is_in(&table));
            steps.push(match landed {
                Some(doubt) => Step::Done(doubt.outcome.clone()),
                None => prepare(&table, change, options, attempt, written).await?,
            });
        }
        Ok(steps)
    }

    /// After the swap: deletes metadata files that fell out of the log.
    async fn finish(&self, steps: Vec<Step>) -> Vec<TableOutcome> {
        let store = self.catalog.store();
        let mut expired = Vec::new();
        let mut outcomes = Vec::with_capacity(steps.len());
        for step in steps {
            if let Step::Ready(prepared) = &step {
                expired.extend(prepared.expired_metadata.iter().cloned());
            }
            outcomes.push(step.into_outcome());
        }
        store.delete_best_effort(expired).await;
        outcomes
    }

    /// Looks whether a swap of unknown outcome happened. A database moved all tables or none, a REST catalog perhaps only
    /// some: then this says no, and the next round finds those that moved among its doubts.
    async fn resolve(&self, prepared: &[Prepared]) -> Result<bool> {
        for one in prepared {
            let doubt = Doubt { outcome: one.outcome.clone() };
            if !doubt.is_in(&self.load_patiently(&one.commit.ident).await?) {
                return Ok(false);
            }
        }
        Ok(!prepared.is_empty())
    }

    async fn load_patiently(&self, ident: &TableIdent) -> Result<Table> {
        let mut wait = Duration::from_millis(200);
        let mut tried = 0;
        loop {
            tried += 1;
            match self.catalog.load_table(ident).await {
                Ok(table) => return Ok(table),
                Err(error) if tried >= RESOLVE_ATTEMPTS => return Err(error),
                Err(error) => tracing::warn!(%error, "cannot yet see whether a commit went through"),
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
    }

    async fn discard(&self, written: Vec<String>) {
        self.catalog.store().delete_best_effort(written).await;
    }
}

/// An attempt of unknown outcome may still show, or has moved some tables of a catalog that moves them one by one: then no
/// later failure proves that nothing was committed, and the caller must not delete its data files.
fn while_in_doubt(error: Error, doubts: &HashMap<TableIdent, Vec<Doubt>>) -> Error {
    if doubts.is_empty() || error.code() == ErrorCode::CommitUnknown {
        return error;
    }
    let message = format!("{}; an earlier attempt may or may not have been committed", error.message());
    Error::new(ErrorCode::CommitUnknown, message).with_source(error)
}

impl Step {
    fn into_outcome(self) -> TableOutcome {
        match self {
            Self::Ready(prepared) => prepared.outcome,
            Self::Done(outcome) => outcome,
        }
    }
}
