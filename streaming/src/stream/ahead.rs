//! Dead letters of batches that came no further.
//!
//! A catalog that moves several tables one after the other may stop in between, and its client with it. The dead letters go first, so that none is missing
//! when the rows beside them are there: then they are stored, and the table still stands before their records. Whoever plans the batch anew finds out from
//! the snapshots of the dead-letter table, which say whose they are and of which ranges, and passes those very records over.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::prelude::{SessionConfig, col, lit};

use chainalytics_common::{Error, Result};
use chainalytics_lakehouse::exec::LocalExecutor;
use chainalytics_lakehouse::scan::{IcebergTableProvider, SnapshotSelector};
use chainalytics_lakehouse::{Lakehouse, Table};

use crate::batch::{BatchOffsets, OFFSETS_KEY, PartitionEnds};
use crate::err;
use crate::exec::Settled;
use crate::topics::lineage;

/// Summary key of the dead-letter table: whose dead letters a snapshot brought, JSON `{"topic":"owner"}`.
pub(super) const OWNERS_KEY: &str = "chainalytics.kafka.dead-letters-of";

/// Table property: how often a batch began where the log of a topic begins, as it was made anew or cut off.
pub(super) const RESTARTS_PROPERTY: &str = "chainalytics.kafka.restarts";

/// How often that was.
pub(super) fn restarts(table: &Table) -> u64 {
    table.property(RESTARTS_PROPERTY).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Where a topic's table stands when a batch is planned.
#[derive(Debug, Clone)]
struct Standing {
    /// Table and topic, each by its id, and how often the topic's log began anew: its offsets meant other records before.
    owner: String,
    /// Where the next batch begins; a partition that is missing was never read.
    next: PartitionEnds,
}

/// How far the dead letters of a stream are ahead of its tables.
#[derive(Debug, Clone)]
pub(super) struct Ahead {
    standings: BTreeMap<String, Standing>,
    /// Snapshot of the dead-letter table up to which nothing was: not looked at again.
    known: Option<i64>,
    /// Ends of stored dead letters' ranges beyond the standings.
    ends: BTreeMap<String, PartitionEnds>,
}

impl Ahead {
    pub(super) fn new(known: Option<i64>) -> Self {
        Self { standings: BTreeMap::new(), known, ends: BTreeMap::new() }
    }

    /// A topic that the batch reads, its id, and the table that it goes to, which has come as far as `next`.
    pub(super) fn add(&mut self, topic: &str, topic_id: Option<&str>, table: &Table, next: PartitionEnds) {
        let owner = format!("{}/{}/{}", table.uuid(), topic_id.unwrap_or_default(), restarts(table));
        self.standings.insert(topic.to_owned(), Standing { owner, next });
    }

    /// Looks how far they are ahead; whether they are at all.
    ///
    /// # Errors
    /// A summary that cannot be read.
    pub(super) fn look(&mut self, dead_letters: &Table) -> Result<bool> {
        self.ends = self.ends_in(dead_letters)?;
        Ok(!self.ends.is_empty())
    }

    /// Whether the dead letters are as far ahead as they were when this was looked at.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub(super) fn still_holds(&self, dead_letters: &Table) -> Result<bool> {
        Ok(self.ends_in(dead_letters)? == self.ends)
    }

    fn ends_in(&self, dead_letters: &Table) -> Result<BTreeMap<String, PartitionEnds>> {
        let mut ahead: BTreeMap<String, PartitionEnds> = BTreeMap::new();
        for snapshot in dead_letters.ancestry().take_while(|snapshot| Some(snapshot.snapshot_id) != self.known) {
            let (Some(owners), Some(offsets)) = (snapshot.summary.get(OWNERS_KEY), snapshot.summary.get(OFFSETS_KEY)) else { continue };
            let unreadable = |e: serde_json::Error| err::progress_lost(format!("table {}: snapshot {}: {e}", dead_letters.ident(), snapshot.snapshot_id));
            let owners: BTreeMap<String, String> = serde_json::from_str(owners).map_err(unreadable)?;
            let offsets = BatchOffsets::from_json(offsets).map_err(unreadable)?;
            for (topic, standing) in self.standings.iter().filter(|(topic, standing)| owners.get(*topic) == Some(&standing.owner)) {
                for (partition, range) in offsets.0.get(topic).into_iter().flatten() {
                    if !range.is_empty() && standing.next.get(partition).is_none_or(|next| range.end > *next) {
                        let end = ahead.entry(topic.clone()).or_default().entry(*partition).or_insert(range.end);
                        *end = range.end.max(*end);
                    }
                }
            }
        }
        Ok(ahead)
    }

    /// The summary's value for the dead letters of these topics.
    pub(super) fn owners_of<'t>(&self, topics: impl Iterator<Item = &'t String>) -> String {
        let owners: BTreeMap<&String, &String> = topics.filter_map(|topic| Some((topic, &self.standings.get(topic)?.owner))).collect();
        // A map of texts: serialising cannot fail.
        serde_json::to_string(&owners).unwrap_or_default()
    }

    /// The records that are dead letters although the table has not come to them.
    ///
    /// # Errors
    /// Those of reading the dead-letter table.
    pub(super) async fn settled(&self, lakehouse: &Lakehouse, dead_letters: &Table) -> Result<Settled> {
        let mut settled = Settled::new();
        // Read here: it is a handful of rows, once after an accident.
        let session = LocalExecutor::open(lakehouse, lakehouse.catalog().name(), SessionConfig::new())?;
        for (topic, ends) in &self.ends {
            for partition in ends.keys() {
                let from = self.standings.get(topic).and_then(|standing| standing.next.get(partition)).copied().unwrap_or(0);
                let provider = IcebergTableProvider::try_new(dead_letters, &SnapshotSelector::Current)?;
                let of_partition = col(lineage::TOPIC).eq(lit(topic)).and(col(lineage::PARTITION).eq(lit(*partition)));
                let all = session.ctx().read_table(Arc::new(provider)).map_err(Error::from_datafusion)?;
                let rows = all.filter(of_partition.and(col(lineage::OFFSET).gt_eq(lit(from)))).map_err(Error::from_datafusion)?;
                let rows = rows.select_columns(&[lineage::OFFSET]).map_err(Error::from_datafusion)?;
                let batches = rows.collect().await.map_err(Error::from_datafusion)?;
                let mut offsets: Vec<i64> = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
                offsets.sort_unstable();
                offsets.dedup();
                let count = offsets.len();
                tracing::warn!(topic, partition, from, count, "a batch was committed as far as its dead letters; it is read again without them");
                if !offsets.is_empty() {
                    settled.entry(topic.clone()).or_default().insert(*partition, offsets);
                }
            }
        }
        Ok(settled)
    }
}
