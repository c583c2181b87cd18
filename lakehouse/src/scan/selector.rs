//! Which snapshot of a table to read.

use chrono::DateTime;
use iceberg::spec::TableMetadata;

use chainalytics_common::{Error, ErrorCode, Result};

/// A point in a table's history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SnapshotSelector {
    /// The newest snapshot of the main branch.
    #[default]
    Current,
    /// A snapshot by its id.
    Id(i64),
    /// A branch or a tag.
    Ref(String),
    /// The snapshot that was current at this time, milliseconds since 1970 UTC.
    TimestampMs(i64),
}

impl SnapshotSelector {
    /// The id of the selected snapshot; `None` if the table has none yet.
    pub fn resolve(&self, table: &str, metadata: &TableMetadata) -> Result<Option<i64>> {
        match self {
            Self::Current => Ok(metadata.current_snapshot_id()),
            Self::Id(id) => match metadata.snapshot_by_id(*id) {
                Some(_) => Ok(Some(*id)),
                None => Err(missing(format!(
                    "table {table} has no snapshot {id}; it may have expired. SELECT * FROM {table}.snapshots lists those that exist"
                ))),
            },
            Self::Ref(name) => match metadata.snapshot_for_ref(name) {
                Some(snapshot) => Ok(Some(snapshot.snapshot_id())),
                // An empty table has no main branch yet.
                None if name == "main" && metadata.current_snapshot_id().is_none() => Ok(None),
                None => Err(missing(format!("table {table} has no branch or tag '{name}'; SELECT * FROM {table}.refs lists those that exist"))),
            },
            Self::TimestampMs(at) => metadata
                .history()
                .iter()
                .rfind(|log| log.timestamp_ms() <= *at)
                .map(|log| Some(log.snapshot_id))
                .ok_or_else(|| missing(format!("table {table} had no snapshot at {}", time_text(*at))))
                .and_then(|id| match id {
                    Some(id) if metadata.snapshot_by_id(id).is_none() => {
                        Err(missing(format!("the snapshot that table {table} had at {} has expired", time_text(*at))))
                    }
                    id => Ok(id),
                }),
        }
    }

    /// Whether the schema of the snapshot applies rather than the table's current one (Iceberg's rule: current
    /// data and branches are read with the current schema, ids, times and tags with the snapshot's).
    pub fn uses_snapshot_schema(&self) -> bool {
        !matches!(self, Self::Current) && !matches!(self, Self::Ref(name) if name == "main")
    }

    /// Parses the text behind `t@`: `version:<id or ref>`, `timestamp:<milliseconds>`.
    pub fn parse_marker(text: &str) -> Option<Self> {
        let (kind, value) = text.split_once(':')?;
        match kind {
            "version" => Some(value.parse().map_or_else(|_| Self::Ref(value.to_string()), Self::Id)),
            "timestamp" => value.parse().ok().map(Self::TimestampMs),
            _ => None,
        }
    }
}

fn time_text(timestamp_ms: i64) -> String {
    DateTime::from_timestamp_millis(timestamp_ms).map_or_else(|| format!("{timestamp_ms} ms"), |t| t.format("%Y-%m-%d %H:%M:%S%.3f UTC").to_string())
}

fn missing(message: String) -> Error {
    Error::new(ErrorCode::SnapshotNotFound, message)
}
