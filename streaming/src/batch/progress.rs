use std::collections::BTreeMap;

use super::offsets::{BatchOffsets, EndOffsets, PartitionEnds};

/// Summary key of a snapshot that a stream committed (architecture, section 3).
pub const OFFSETS_KEY: &str = "chainalytics.kafka.offsets";
/// Table property with the end offsets, for when compaction and expiry by others left no keyed ancestor.
pub const OFFSETS_PROPERTY: &str = "chainalytics.kafka.end-offsets";

/// Table property with the id of each topic that was read, JSON `{"topic":"id"}`: a topic that was deleted and made anew has
/// the same name and another id, and its offsets mean other records.
pub const TOPIC_IDS_PROPERTY: &str = "chainalytics.kafka.topic-ids";

/// Where a table stands with one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// How far it has come.
    pub progress: Progress,
    /// Id of the topic that it has read of; `None` where no broker ever told it.
    pub topic_id: Option<String>,
}

/// How far a table has come with one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The table has never held a record of the topic.
    Fresh,
    /// Next offset to read by partition. A partition that is missing was created later: it is read from its beginning.
    At(PartitionEnds),
}

impl Progress {
    /// Next offset of a partition; `None` for one that was never read.
    pub fn end(&self, partition: i32) -> Option<i64> {
        match self {
            Progress::Fresh => None,
            Progress::At(ends) => ends.get(&partition).copied(),
        }
    }
}

/// Why a table's progress cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgressError {
    /// Rows are there, but no ancestor and no property says where they came from.
    #[error(
        "the table has rows, but neither a snapshot in its ancestry ({OFFSETS_KEY}) nor the property {OFFSETS_PROPERTY} \
         tells the offsets of topic '{0}'; starting over would double them"
    )]
    Lost(String),
    /// A value that cannot be read.
    #[error("cannot read the offsets in {place}: {reason}")]
    Malformed {
        /// Key or property.
        place: &'static str,
        /// Parser's text.
        reason: String,
    },
}

/// Progress of `topic` by a table's own word.
///
/// `summaries`: the values of [`OFFSETS_KEY`] of the table's ancestry, newest first. `property`: the value of
/// [`OFFSETS_PROPERTY`], asked only if no ancestor answers. `may_have_rows`: whether the table could hold rows.
///
/// # Errors
/// A table with rows and no answer fails loudly; starting over would double every row.
pub fn progress_of(
    topic: &str,
    summaries: impl IntoIterator<Item = String>,
    property: Option<&str>,
    may_have_rows: bool,
) -> Result<Progress, ProgressError> {
    for summary in summaries {
        let offsets = BatchOffsets::from_json(&summary).map_err(|e| ProgressError::Malformed { place: OFFSETS_KEY, reason: e.to_string() })?;
        if let Some(ranges) = offsets.0.get(topic) {
            return Ok(Progress::At(ranges.iter().map(|(partition, range)| (*partition, range.end)).collect()));
        }
    }
    if let Some(property) = property {
        let mut ends = EndOffsets::from_json(property).map_err(|e| ProgressError::Malformed { place: OFFSETS_PROPERTY, reason: e.to_string() })?;
        if let Some(ends) = ends.0.remove(topic) {
            return Ok(Progress::At(ends));
        }
    }
    if may_have_rows { Err(ProgressError::Lost(topic.to_owned())) } else { Ok(Progress::Fresh) }
}

/// The property's next value: the ends of `topic` replaced, those of other topics kept.
pub fn merge_property(current: Option<&str>, topic: &str, ends: PartitionEnds) -> Result<String, ProgressError> {
    let mut all = match current {
        None => EndOffsets::default(),
        Some(text) => EndOffsets::from_json(text).map_err(|e| ProgressError::Malformed { place: OFFSETS_PROPERTY, reason: e.to_string() })?,
    };
    all.0.insert(topic.to_owned(), ends);
    Ok(all.to_json())
}

/// The id of `topic` by the property's value.
pub fn topic_id_of(property: Option<&str>, topic: &str) -> Result<Option<String>, ProgressError> {
    Ok(topic_ids(property)?.remove(topic))
}

/// The property's next value: the id of `topic` replaced, those of other topics kept.
pub fn merge_topic_id(current: Option<&str>, topic: &str, id: &str) -> Result<String, ProgressError> {
    let mut all = topic_ids(current)?;
    all.insert(topic.to_owned(), id.to_owned());
    // A map of texts: serialising cannot fail.
    Ok(serde_json::to_string(&all).unwrap_or_default())
}

fn topic_ids(property: Option<&str>) -> Result<BTreeMap<String, String>, ProgressError> {
    match property {
        None => Ok(BTreeMap::new()),
        Some(text) => serde_json::from_str(text).map_err(|e| ProgressError::Malformed { place: TOPIC_IDS_PROPERTY, reason: e.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn summaries(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn the_newest_ancestor_that_names_the_topic_counts() {
        let found = progress_of(
            "a",
            summaries(&[r#"{"b":{"0":[0,9]}}"#, r#"{"a":{"0":[5,7],"1":[3,3]}}"#, r#"{"a":{"0":[0,5]}}"#]),
            Some(r#"{"a":{"0":99}}"#),
            true,
        );
        assert_eq!(found.unwrap(), Progress::At(PartitionEnds::from([(0, 7), (1, 3)])));
    }

    #[test]
    fn the_property_answers_when_ancestry_does_not() {
        let found = progress_of("a", summaries(&[]), Some(r#"{"a":{"0":99}}"#), true);
        assert_eq!(found.unwrap(), Progress::At(PartitionEnds::from([(0, 99)])));
    }

    #[test]
    fn rows_without_an_answer_fail_loudly() {
        assert_eq!(progress_of("a", summaries(&[]), None, true), Err(ProgressError::Lost("a".into())));
        assert_eq!(progress_of("a", summaries(&[]), Some(r#"{"b":{"0":1}}"#), true), Err(ProgressError::Lost("a".into())));
        assert_eq!(progress_of("a", summaries(&[]), None, false), Ok(Progress::Fresh));
    }

    #[test]
    fn a_value_that_does_not_parse_is_never_taken_for_none() {
        assert!(matches!(progress_of("a", summaries(&["{"]), None, false), Err(ProgressError::Malformed { .. })));
        assert!(matches!(progress_of("a", summaries(&[]), Some("[]"), false), Err(ProgressError::Malformed { .. })));
    }

    #[test]
    fn merging_keeps_other_topics() {
        let merged = merge_property(Some(r#"{"b":{"0":4},"a":{"0":1}}"#), "a", PartitionEnds::from([(0, 8)])).unwrap();
        assert_eq!(EndOffsets::from_json(&merged).unwrap().0["a"][&0], 8);
        assert_eq!(EndOffsets::from_json(&merged).unwrap().0["b"][&0], 4);
    }

    #[test]
    fn topic_ids_are_kept_by_topic() {
        let first = merge_topic_id(None, "a", "id-1").unwrap();
        let both = merge_topic_id(Some(&first), "b", "id-2").unwrap();
        assert_eq!(topic_id_of(Some(&both), "a").unwrap().as_deref(), Some("id-1"));
        let anew = merge_topic_id(Some(&both), "a", "id-3").unwrap();
        assert_eq!(topic_id_of(Some(&anew), "a").unwrap().as_deref(), Some("id-3"));
        assert_eq!(topic_id_of(Some(&anew), "c").unwrap(), None);
        assert!(topic_id_of(Some("["), "a").is_err());
    }
}
