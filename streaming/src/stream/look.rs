//! Where everything stands: what the brokers have, how far the tables are, and which topics there are to read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chainalytics_common::{ErrorCode, Result};
use chainalytics_lakehouse::commit::TableEdit;
use chainalytics_lakehouse::{Table, TableIdent};

use super::ahead::Ahead;
use super::load::{last_batch_id, table_standing};
use super::runner::BatchRunner;
use super::spec::{EARLIEST, LATEST, StartPolicy, TopicSubscription};
use crate::batch::{PartitionEnds, Progress, TopicState, Watermarks};
use crate::err;
use crate::exec::Settled;
use crate::topics::{RecordSchema, record_of_table};

/// Bytes of a record while none has been seen.
const RECORD_BYTES_GUESS: u64 = 512;
/// How long a topic that cannot be read is left alone.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(30);

/// Where everything stands when a batch is planned.
pub(super) struct Situation {
    /// The tables, with what their next commit changes of them.
    pub(super) tables: BTreeMap<TableIdent, Table>,
    /// That change.
    pub(super) edits: BTreeMap<TableIdent, Vec<TableEdit>>,
    pub(super) dead_letters: Table,
    /// How far its dead letters are ahead of the tables, and the records that this is about.
    pub(super) ahead: Ahead,
    pub(super) settled: Settled,
    /// In the order of the runner's topics.
    pub(super) topics: Vec<TopicState>,
    /// The records of each topic as its table takes them now, in the same order.
    pub(super) schemas: Vec<RecordSchema>,
    pub(super) batch_id: i64,
}

type Marks = BTreeMap<String, BTreeMap<i32, Watermarks>>;

impl BatchRunner {
    /// Bounds the query by what is in the log now.
    ///
    /// # Errors
    /// Those of the brokers; a topic that is not there.
    pub(super) async fn bound_by_now(&mut self) -> Result<()> {
        let marks = self.watermarks().await?;
        let ceilings = marks.into_iter().map(|(topic, marks)| (topic, marks.into_iter().map(|(partition, marks)| (partition, marks.high)).collect()));
        self.ceilings = Some(ceilings.collect());
        Ok(())
    }

    /// Asks tables and brokers.
    pub(super) async fn look(&mut self) -> Result<Situation> {
        let marks = self.watermarks().await?;
        let names: Vec<String> = self.topics.iter().map(|topic| topic.topic.clone()).collect();
        let ids = self.kafka.topic_ids(&names).await?;
        // Before the tables: what is committed meanwhile is not ahead of them.
        let dead_letters = self.lakehouse.catalog().load_table(&self.spec.dead_letters).await?;
        let (mut tables, mut edits) = (BTreeMap::new(), BTreeMap::new());
        for topic in self.topics.clone() {
            if !tables.contains_key(&topic.table) {
                let table = self.lakehouse.catalog().load_table(&topic.table).await?;
                let (table, staged) = self.stage(table)?;
                if !staged.is_empty() {
                    edits.insert(topic.table.clone(), staged);
                }
                tables.insert(topic.table.clone(), table);
            }
        }
        let batch_id = tables.values().filter_map(last_batch_id).max().map_or(0, |last| last + 1);

        let mut topics = Vec::with_capacity(self.topics.len());
        let mut schemas = Vec::with_capacity(self.topics.len());
        let mut ahead = Ahead::new(self.dead_letters_known);
        for subscription in self.topics.clone() {
            let table = tables.get(&subscription.table).ok_or_else(|| err::internal(format!("table {} was not loaded", subscription.table)))?;
            schemas.push(schema_of(table, &subscription)?);
            let standing = table_standing(table, &subscription.topic)?;
            let watermarks = marks.get(&subscription.topic).cloned().unwrap_or_default();
            let next = if let Progress::At(ends) = &standing.progress { ends.clone() } else { PartitionEnds::new() };
            ahead.add(&subscription.topic, ids.get(&subscription.topic).map(String::as_str), table, next);
            let first_offsets = match standing.progress {
                Progress::At(_) => PartitionEnds::new(),
                Progress::Fresh => self.first_offsets(&subscription.topic, &watermarks).await?,
            };
            topics.push(TopicState {
                first_offsets,
                standing,
                topic_id: ids.get(&subscription.topic).cloned(),
                watermarks,
                ceilings: self.ceilings.as_ref().map(|all| all.get(&subscription.topic).cloned().unwrap_or_default()),
                record_bytes_avg: self.record_bytes.get(&subscription.topic).copied().unwrap_or(RECORD_BYTES_GUESS),
                topic: subscription.topic,
            });
        }
        let settled = match ahead.look(&dead_letters)? {
            true => ahead.settled(&self.lakehouse, &dead_letters).await?,
            false => {
                self.dead_letters_known = dead_letters.current_snapshot_id();
                Settled::new()
            }
        };
        Ok(Situation { tables, edits, dead_letters, ahead, settled, topics, schemas, batch_id })
    }

    /// Watermarks of all topics; those that the pattern finds join before.
    async fn watermarks(&mut self) -> Result<Marks> {
        let mut there = self.kafka.topics().await?;
        self.discover(&there).await?;
        let mut marks = Marks::new();
        for topic in &self.topics {
            let partitions = match there.remove(&topic.topic) {
                Some(partitions) if !partitions.is_empty() => partitions,
                _ => return Err(self.kafka.not_found(&topic.topic, there.keys().map(String::as_str))),
            };
            let of_topic = self.kafka.watermarks(&topic.topic, &partitions).await?;
            marks.insert(topic.topic.clone(), of_topic);
        }
        Ok(marks)
    }

    /// Subscribes to topics that match the pattern and are new; lets go of those that it had found and that are gone.
    async fn discover(&mut self, there: &BTreeMap<String, Vec<i32>>) -> Result<()> {
        let Some(pattern) = self.spec.pattern.clone() else { return Ok(()) };
        self.topics.retain(|topic| {
            let stays = there.contains_key(&topic.topic) || self.spec.topics.iter().any(|own| own.topic == topic.topic);
            if !stays {
                tracing::warn!(topic = topic.topic, "the topic is gone; the stream goes on without it");
            }
            stays
        });
        for name in there.keys().filter(|name| pattern.matches(name)) {
            let known = self.topics.iter().any(|topic| &topic.topic == name);
            if known || self.unreadable.get(name).is_some_and(|since| since.elapsed() < UNREADABLE_PAUSE) {
                continue;
            }
            let subscription = match pattern.resolver().subscribe(name).await {
                Ok(subscription) => self.spec.check_topic(&subscription).map(|()| subscription),
                Err(error) => Err(error),
            };
            match subscription {
                Ok(subscription) => {
                    tracing::info!(topic = name, table = %subscription.table, "the stream reads a topic that its pattern found");
                    self.unreadable.remove(name);
                    self.topics.push(subscription);
                }
                Err(error) if err::may_pass(&error) && error.code() != ErrorCode::TopicNotFound => return Err(error),
                Err(error) => {
                    tracing::warn!(topic = name, %error, "a topic that the pattern found cannot be read; it is left out for now");
                    self.unreadable.insert(name.clone(), Instant::now());
                }
            }
        }
        if self.topics.is_empty() && self.unreadable.is_empty() {
            tracing::debug!("no topic matches the pattern yet");
        }
        Ok(())
    }

    async fn first_offsets(&mut self, topic: &str, marks: &BTreeMap<i32, Watermarks>) -> Result<PartitionEnds> {
        if let Some(known) = self.first_offsets.get(topic) {
            return Ok(known.clone());
        }
        let offsets = match &self.spec.start {
            StartPolicy::Earliest => {
                return Ok(marks.iter().map(|(partition, marks)| (*partition, marks.low)).collect());
            }
            StartPolicy::Latest => marks.iter().map(|(partition, marks)| (*partition, marks.high)).collect(),
            StartPolicy::Timestamp(at_ms) => self.kafka.offsets_at(topic, marks, *at_ms).await?,
            StartPolicy::Offsets(all) => given_offsets(topic, all.get(topic).unwrap_or(&PartitionEnds::new()), marks)?,
        };
        self.first_offsets.insert(topic.to_owned(), PartitionEnds::clone(&offsets));
        Ok(offsets)
    }
}

/// The offsets that the user named, checked against the log.
fn given_offsets(topic: &str, given: &PartitionEnds, marks: &BTreeMap<i32, Watermarks>) -> Result<PartitionEnds> {
    if let Some(partition) = given.keys().find(|partition| !marks.contains_key(partition)) {
        return Err(err::invalid(format!(
            "starting offsets: topic '{topic}' has no partition {partition}; it has {} (0 to {})",
            marks.len(),
            marks.len().saturating_sub(1)
        )));
    }
    marks
        .iter()
        .map(|(partition, marks)| match given.get(partition).copied() {
            None | Some(EARLIEST) => Ok((*partition, marks.low)),
            Some(LATEST) => Ok((*partition, marks.high)),
            Some(offset) if (marks.low..=marks.high).contains(&offset) => Ok((*partition, offset)),
            Some(offset) => Err(err::invalid(format!(
                "starting offsets: topic '{topic}' partition {partition} has the offsets {} to {}, not {offset}",
                marks.low, marks.high
            ))),
        })
        .collect()
}

/// What a topic's records are by the table's word: the declared fields and the columns that were added since.
fn schema_of(table: &Table, subscription: &TopicSubscription) -> Result<RecordSchema> {
    let mut schema = record_of_table(table.schema(), Some(&subscription.schema))
        .map_err(|reason| err::schema_mismatch(format!("table {}: {reason}", table.ident())))?;
    let lacks = |name: &str| table.schema().field_with_name(name).is_err();
    if let Some(field) = schema.fields.iter().find(|field| field.required && lacks(&field.name)) {
        return Err(err::schema_mismatch(format!(
            "table {} has no column '{}', which every record of topic '{}' has",
            table.ident(),
            field.name,
            subscription.topic
        )));
    }
    schema.fields.retain(|field| !lacks(&field.name));
    Ok(schema)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_offsets_are_checked_against_the_log() {
        let marks = BTreeMap::from([(0, Watermarks { low: 5, high: 20 }), (1, Watermarks { low: 0, high: 7 })]);
        let given = |list: &[(i32, i64)]| given_offsets("t", &list.iter().copied().collect(), &marks);
        assert_eq!(given(&[]).unwrap(), PartitionEnds::from([(0, 5), (1, 0)]));
        assert_eq!(given(&[(0, LATEST), (1, 3)]).unwrap(), PartitionEnds::from([(0, 20), (1, 3)]));
        assert_eq!(given(&[(0, EARLIEST)]).unwrap(), PartitionEnds::from([(0, 5), (1, 0)]));
        assert!(given(&[(0, 4)]).unwrap_err().to_string().contains("5 to 20"));
        assert!(given(&[(2, 0)]).unwrap_err().to_string().contains("no partition 2"));
    }
}
