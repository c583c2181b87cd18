//! A commit by the protocol's endpoints: one table by its own, several by the transactions endpoint.

use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use chainalytics_common::Result;
use iceberg::TableUpdate;
use iceberg::spec::TableMetadata;
use reqwest::Method;
use serde_json::Value;

use super::body::{CommitBody, CommittedBody, TransactionBody};
use super::difference::difference;
use super::http::Failure;
use super::{RestCatalog, ident_body, unknown};
use crate::catalog::{Swap, TableCommit};
use crate::err;
use crate::ident::TableIdent;
use crate::store::StoreRegistry;
use crate::table::{Refs, Table};

const TRANSACTIONS: &str = "POST /v1/{prefix}/transactions/commit";
/// Looks for a commit whose answer did not come. A gateway that gave up may be ahead of its server.
const LOOKS_MAX: u32 = 4;
const LOOK_WAIT: Duration = Duration::from_millis(250);

/// One table's step, ready to be sent.
struct Move {
    ident: TableIdent,
    new: Arc<TableMetadata>,
    new_refs: Arc<Refs>,
    body: CommitBody,
}

impl RestCatalog {
    /// Moves all tables. The metadata files at `new_location` were only our way to say what we want: the server writes
    /// its own, so they are removed when the move is done.
    ///
    /// Whether several tables move together is up to the server; Iceberg's reference servlet moves one after the other.
    /// So for several tables a refusal is no proof that none has moved, and is reported as unknown: who asks then looks
    /// at each table for its own snapshot.
    pub(crate) async fn swap(&self, commits: &[TableCommit], store: &Arc<StoreRegistry>) -> Result<Swap> {
        let mut moves = Vec::with_capacity(commits.len());
        // Last added goes first: a stream adds its dead letters last, and they must not be missing when its data is there.
        for commit in commits.iter().rev() {
            let old = store.metadata_cache().load_metadata(store, &commit.old_location).await?;
            let new = store.metadata_cache().load_metadata(store, &commit.new_location).await?;
            let cache = store.metadata_cache();
            let (old_refs, new_refs) = (cache.references(&commit.old_location, &old)?, cache.references(&commit.new_location, &new)?);
            let steps = difference((&old, &old_refs), (&new, &new_refs));
            if !steps.updates.is_empty() {
                let identifier = ident_body(&commit.ident);
                let body = CommitBody { identifier, requirements: steps.requirements, updates: steps.updates };
                moves.push(Move { ident: commit.ident.clone(), new, new_refs, body });
            }
        }
        let outcome = match moves.as_slice() {
            [] => Swap::Done,
            [only] => self.move_one(only, store).await?,
            several => self.move_several(several, store).await?,
        };
        if matches!(outcome, Swap::Done) {
            store.delete_best_effort(commits.iter().map(|commit| commit.new_location.clone()).collect()).await;
        }
        Ok(outcome)
    }

    async fn move_one(&self, one: &Move, store: &Arc<StoreRegistry>) -> Result<Swap> {
        let ident = &one.ident;
        let failure = match self.http.send::<CommittedBody>(Method::POST, &self.table_path(ident), &[], Some(&one.body)).await {
            Ok(body) => {
                if let Some(location) = body.metadata_location {
                    store.metadata_cache().put_metadata(&location, Arc::new(body.metadata));
                }
                return Ok(Swap::Done);
            }
            Err(failure) => failure,
        };
        match failure {
            Failure::NoAnswer(reason) => {
                if self.arrived(std::slice::from_ref(one), store).await {
                    return Ok(Swap::Done);
                }
                Ok(Swap::Unknown(unknown(&format!("committing to table {ident}"), &reason)))
            }
            failure if is_conflict(&failure) => Ok(Swap::Conflict(ident.clone())),
            failure if super::is_absent(&failure) => Err(err::table_not_found(ident)),
            // The commit stands: only our reading of the answer failed.
            failure if failure.is(200) => Ok(Swap::Done),
            failure => Err(failure.into_error(&format!("committing to table {ident}"))),
        }
    }

    async fn move_several(&self, moves: &[Move], store: &Arc<StoreRegistry>) -> Result<Swap> {
        if !self.offers(TRANSACTIONS) {
            return self.move_in_turn(moves, store).await;
        }
        let bodies: Vec<&CommitBody> = moves.iter().map(|one| &one.body).collect();
        let body = TransactionBody { table_changes: &bodies };
        match self.http.send::<Value>(Method::POST, &self.path("transactions/commit"), &[], Some(&body)).await {
            // Not even this is believed: where another commit comes between the reference servlet's checks and its moves, it
            // begins anew from that one's metadata, with none of our changes, and calls that done.
            Ok(_) => match self.moved(moves, store).await {
                Some(count) if count == moves.len() => Ok(Swap::Done),
                _ => Ok(Swap::Unknown(unknown("committing to several tables", "the server says that it is done, and the tables do not show it"))),
            },
            Err(failure) if failure.is_no_endpoint() => self.move_in_turn(moves, store).await,
            Err(Failure::NoAnswer(reason)) => match self.arrived(moves, store).await {
                true => Ok(Swap::Done),
                false => Ok(Swap::Unknown(unknown("committing to several tables", &reason))),
            },
            // Nothing left this machine.
            Err(failure @ Failure::Unsent(_)) => Err(failure.into_error("committing to several tables")),
            // An answer is final, but only the tables tell what it left behind.
            Err(failure) => match self.moved(moves, store).await {
                Some(count) if count == moves.len() => Ok(Swap::Done),
                Some(0) if is_conflict(&failure) => Ok(Swap::Conflict(moves[0].ident.clone())),
                Some(0) => Err(failure.into_error("committing to several tables")),
                _ => {
                    let error = failure.into_error("committing to several tables");
                    Ok(Swap::Unknown(unknown("committing to several tables", error.message())))
                }
            },
        }
    }

    /// For servers without transactions. What comes after the first is no longer certain when it fails.
    async fn move_in_turn(&self, moves: &[Move], store: &Arc<StoreRegistry>) -> Result<Swap> {
        for (at, one) in moves.iter().enumerate() {
            match self.move_one(one, store).await {
                Ok(Swap::Done) => {}
                outcome if at == 0 => return outcome,
                Ok(Swap::Conflict(ident)) => {
                    let message = format!("table {ident} was changed by another commit after others of this one had moved");
                    return Ok(Swap::Unknown(unknown("committing to several tables", &message)));
                }
                Ok(doubt @ Swap::Unknown(_)) => return Ok(doubt),
                Err(error) => return Ok(Swap::Unknown(unknown("committing to several tables", error.message()))),
            }
        }
        Ok(Swap::Done)
    }

    /// Whether every move shows in its table, now or soon.
    async fn arrived(&self, moves: &[Move], store: &Arc<StoreRegistry>) -> bool {
        let mut wait = LOOK_WAIT;
        for look in 1..=LOOKS_MAX {
            if self.moved(moves, store).await == Some(moves.len()) {
                return true;
            }
            if look < LOOKS_MAX {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
        }
        false
    }

    /// How many moves show in their tables; `None` if that cannot be seen.
    async fn moved(&self, moves: &[Move], store: &Arc<StoreRegistry>) -> Option<usize> {
        let mut count = 0;
        for one in moves {
            match self.find_table(&one.ident, store).await {
                Ok(Some(now)) => count += usize::from(one.is_in(&now)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot see whether a commit went through");
                    return None;
                }
            }
        }
        Some(count)
    }
}

impl Move {
    /// By its snapshots where it has any: their ids are ours alone. Else by whether anything of its kind is left to do.
    fn is_in(&self, table: &Table) -> bool {
        let now = table.metadata();
        let mut snapshots = self.body.updates.iter().filter_map(|update| match update {
            TableUpdate::AddSnapshot { snapshot } => Some(snapshot.snapshot_id()),
            _ => None,
        });
        if let Some(first) = snapshots.next() {
            return now.snapshot_by_id(first).is_some() && snapshots.all(|id| now.snapshot_by_id(id).is_some());
        }
        let Ok(refs) = table.references() else { return false };
        let left = difference((now, &refs), (&self.new, &self.new_refs));
        !left.updates.iter().any(|left| self.body.updates.iter().any(|own| discriminant(left) == discriminant(own)))
    }
}

/// A requirement that no longer holds. Another branch's commit shows as a sequence number that is taken.
fn is_conflict(failure: &Failure) -> bool {
    match failure {
        Failure::Refused { status: 409, .. } => true,
        Failure::Refused { status: 400, message, .. } => message.contains("sequence number"),
        _ => false,
    }
}
