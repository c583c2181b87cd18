//! Files and offsets of a batch to one transaction.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use chainalytics_common::Result;
use chainalytics_lakehouse::commit::TableEdit;
use chainalytics_lakehouse::{CommitOptions, CommitOutcome, DataFileInfo, Decision, Lakehouse, Table, TableChange, TableIdent, Transaction};

use super::ahead::{Ahead, OWNERS_KEY, RESTARTS_PROPERTY, restarts};
use super::load::{BATCH_ID_KEY, table_standing};
use super::spec::{StreamSpec, TopicSubscription};
use crate::batch::{
    ABSENT_KEY, ABSENT_PROPERTY, AbsentOffsets, BATCH_TIME_KEY, Basis, BatchDecision, BatchOffsets, BatchPlan, OFFSETS_KEY, OFFSETS_PROPERTY, ProgressError, TOPIC_IDS_PROPERTY, TopicPlan, Unit, decide,
    merge_absent, merge_property, merge_topic_id,
};
use crate::err;
use crate::exec::TaskReport;

/// A batch ready to be committed.
pub(super) struct BatchCommit<'a> {
    pub(super) spec: &'a StreamSpec,
    /// The topics of the batch, those found by pattern among them.
    pub(super) topics: &'a [TopicSubscription],
    pub(super) plan: &'a BatchPlan,
    pub(super) batch_id: i64,
    /// The tables as they were planned on.
    pub(super) tables: &'a BTreeMap<TableIdent, Table>,
    /// What the commit changes of their schemas; the files are written by it.
    pub(super) edits: &'a BTreeMap<TableIdent, Vec<TableEdit>>,
    pub(super) report: TaskReport,
    /// Whose the dead letters are, and how far they were ahead of the tables when the batch was planned.
    pub(super) ahead: &'a Ahead,
    /// What the rows have as `ingested_at`, microseconds since the epoch.
    pub(super) stored_at_us: i64,
}

impl BatchCommit<'_> {
    /// Commits all tables of the batch at once.
    ///
    /// # Errors
    /// `CommitConflict` if a table does not stand where the plan began: nothing was written, the batch must be planned
    /// anew. Whatever the transaction reports.
    pub(super) async fn run(self, lakehouse: &Lakehouse) -> Result<CommitOutcome> {
        let mut files: BTreeMap<&str, Vec<DataFileInfo>> = BTreeMap::new();
        for written in &self.report.data {
            files.entry(&written.table).or_default().push(written.file.clone());
        }
        let mut transaction = Transaction::new(lakehouse);
        for (ident, table) in self.tables {
            let plans: Vec<&TopicPlan> = self.plans_of(ident);
            if !plans.iter().any(|plan| plan.needs_commit()) {
                continue;
            }
            let added = files.remove(ident.to_string().as_str()).unwrap_or_default();
            transaction = transaction.add(self.change(table, &plans, added)?);
        }
        if let Some(table) = files.keys().next() {
            return Err(err::internal(format!("data files of table {table}, which the batch does not commit")));
        }
        if !self.report.dead_letters.is_empty() {
            let added = self.report.dead_letters.iter().map(|written| written.file.clone()).collect();
            let offsets = self.dead_letter_offsets();
            let ahead = self.ahead.clone();
            transaction = transaction.add(
                TableChange::append(self.spec.dead_letters.clone(), added)
                    .with_summary(OWNERS_KEY, ahead.owners_of(offsets.0.keys()))
                    .with_summary(OFFSETS_KEY, offsets.to_json())
                    .with_summary(BATCH_ID_KEY, self.batch_id.to_string())
                    // Another attempt's dead letters of the same records would be doubled by these.
                    .validate(move |current| match ahead.still_holds(current)? {
                        true => Ok(Decision::Commit),
                        false => Ok(Decision::Conflict("another writer has stored dead letters of this batch".to_owned())),
                    }),
            );
        }
        // The step names this very attempt: an outcome that was unknown is recognised as ours, while another plan of the
        // same batch, however alike, is judged by its offsets. Were a step shared, a zombie's dead letters could slip
        // in beside tables that call the step done.
        let step = format!("{}/batch-{}/{}", self.spec.name, self.batch_id, Uuid::new_v4().simple());
        transaction.commit(CommitOptions::step(self.spec.run_id.clone(), step)).await
    }

    fn plans_of(&self, ident: &TableIdent) -> Vec<&TopicPlan> {
        let topics: BTreeSet<&str> = self.topics.iter().filter(|topic| &topic.table == ident).map(|topic| topic.topic.as_str()).collect();
        self.plan.topics.iter().filter(|plan| topics.contains(plan.topic.as_str())).collect()
    }

    fn change(&self, table: &Table, plans: &[&TopicPlan], added: Vec<DataFileInfo>) -> Result<TableChange> {
        let mut offsets = BatchOffsets::default();
        let lost = |e: ProgressError| err::progress_lost(format!("table {}: {e}", table.ident()));
        let mut property = table.property(OFFSETS_PROPERTY).map(str::to_owned);
        let mut ids = table.property(TOPIC_IDS_PROPERTY).map(str::to_owned);
        for plan in plans {
            offsets.0.insert(plan.topic.clone(), plan.commit.clone());
            property = Some(merge_property(property.as_deref(), &plan.topic, plan.ends()).map_err(lost)?);
            if let Some(id) = &plan.topic_id {
                ids = Some(merge_topic_id(ids.as_deref(), &plan.topic, id).map_err(lost)?);
            }
        }
        let absent = self.absent(plans);
        let checks: Vec<TopicPlan> = plans.iter().map(|plan| (*plan).clone()).collect();
        let planned_on = table.uuid();
        let mut change = TableChange::append(table.ident().clone(), added);
        let mut staged_on = None;
        if let Some(edits) = self.edits.get(table.ident()) {
            change = change.edit(edits.clone());
            staged_on = Some(table.metadata_location().to_owned());
        }
        if let Some(ids) = ids {
            change = change.set_property(TOPIC_IDS_PROPERTY, ids);
        }
        if plans.iter().any(|plan| matches!(plan.basis, Basis::Restart(_))) {
            change = change.set_property(RESTARTS_PROPERTY, (restarts(table) + 1).to_string());
        }
        if !absent.0.is_empty() {
            change = change
                .with_summary(ABSENT_KEY, absent.to_json())
                .set_property(ABSENT_PROPERTY, merge_absent(table.property(ABSENT_PROPERTY), &absent));
        }
        Ok(change
            .with_summary(OFFSETS_KEY, offsets.to_json())
            .with_summary(BATCH_TIME_KEY, self.stored_at_us.to_string())
            .with_summary(BATCH_ID_KEY, self.batch_id.to_string())
            .set_property(OFFSETS_PROPERTY, property.unwrap_or_default())
            .validate(move |current| {
                if current.uuid() != planned_on {
                    return Ok(Decision::Conflict("the table was dropped and made anew".to_owned()));
                }
                // The files carry the field ids that the staged schema has; another change could take them.
                if staged_on.as_ref().is_some_and(|location| location != current.metadata_location()) {
                    return Ok(Decision::Conflict("the table was changed while it was to get columns".to_owned()));
                }
                for plan in &checks {
                    let topic = &plan.topic;
                    // Only `Commit` lets a table go on. "Already committed" would skip this table while the others of
                    // the batch, dead letters among them, went in: so it refuses the whole batch, which is then
                    // planned anew from where the tables stand.
                    let (planned, read) = (plan.planned_id.as_deref(), plan.topic_id.as_deref());
                    match decide(&plan.commit, &plan.basis, planned, read, &table_standing(current, topic)?) {
                        BatchDecision::Commit => {}
                        BatchDecision::AlreadyCommitted => {
                            return Ok(Decision::Conflict(format!("another writer has committed this batch of topic '{topic}'")));
                        }
                        BatchDecision::Conflict(reason) => {
                            return Ok(Decision::Conflict(format!("topic '{topic}': {reason}")));
                        }
                    }
                }
                Ok(Decision::Commit)
            }))
    }

    /// Positions that were read and gave neither a row nor a dead letter.
    fn absent(&self, plans: &[&TopicPlan]) -> AbsentOffsets {
        let mut absent = AbsentOffsets::default();
        for consumed in self.report.consumed.iter().filter(|consumed| plans.iter().any(|plan| plan.topic == consumed.unit.topic)) {
            let kept = consumed.accepted + consumed.rejected_rows() + consumed.settled;
            absent.add(&consumed.unit.topic, consumed.unit.partition, consumed.unit.len().saturating_sub(kept));
        }
        absent
    }

    /// Which ranges the dead letters come from, by topic: several topics and queries share the table.
    fn dead_letter_offsets(&self) -> BatchOffsets {
        let with_rejects: BTreeSet<&str> =
            self.report.consumed.iter().filter(|consumed| consumed.rejected_rows() > 0).map(|consumed| consumed.unit.topic.as_str()).collect();
        BatchOffsets(
            self.plan
                .topics
                .iter()
                .filter(|plan| with_rejects.contains(plan.topic.as_str()))
                .map(|plan| (plan.topic.clone(), plan.commit.clone()))
                .collect(),
        )
    }
}

/// Checks that the tasks did exactly what was planned: each unit once, every record a row or a dead letter.
///
/// # Errors
/// `Internal`: a task ran twice, or not at all. Nothing may be committed then.
pub(super) fn check_complete(groups: &[Vec<Unit>], report: &TaskReport) -> Result<()> {
    let mut planned: Vec<&Unit> = groups.iter().flatten().collect();
    let mut consumed: Vec<&Unit> = report.consumed.iter().map(|consumed| &consumed.unit).collect();
    planned.sort();
    consumed.sort();
    if planned != consumed {
        return Err(err::internal(format!("the batch was planned as {} units, the tasks report {}, and they differ", planned.len(), consumed.len())));
    }
    let rows = |files: &[crate::exec::WrittenFile]| files.iter().map(|written| written.file.record_count).sum::<u64>();
    let accepted: u64 = report.consumed.iter().map(|consumed| consumed.accepted).sum();
    let rejected: u64 = report.consumed.iter().map(crate::exec::ConsumedUnit::rejected_rows).sum();
    if rows(&report.data) != accepted || rows(&report.dead_letters) != rejected {
        return Err(err::internal(format!(
            "{accepted} records were accepted and {rejected} rejected, the data files hold {} and {} rows",
            rows(&report.data),
            rows(&report.dead_letters)
        )));
    }
    Ok(())
}
