//! How much of a column's statistics goes into manifests: `write.metadata.metrics.default` and
//! `write.metadata.metrics.column.<name>`, each `none`, `counts`, `truncate(n)` or `full`.

use std::collections::BTreeMap;

use chainalytics_common::Result;
use iceberg::spec::{PrimitiveType, Schema, Type};

use super::data_file::{DataFileInfo, from_hex, to_hex};
use super::footer::{shorten_lower, shorten_upper};
use crate::err;

const DEFAULT: &str = "write.metadata.metrics.default";
const COLUMN: &str = "write.metadata.metrics.column.";
/// Columns that get statistics in a table which says nothing about them; each one costs space in every manifest.
const MAX_INFERRED: &str = "write.metadata.metrics.max-inferred-column-defaults";
const MAX_INFERRED_DEFAULT: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    None,
    Counts,
    /// Bounds of text keep this many characters, of binary this many bytes.
    Truncate(usize),
    Full,
}

/// Modes of a table's columns.
pub(super) struct MetricsConfig {
    by_id: BTreeMap<i32, (Mode, PrimitiveType)>,
}

impl MetricsConfig {
    /// From table properties.
    ///
    /// # Errors
    /// `InvalidArgument` for a mode that does not exist.
    pub fn new(schema: &Schema, properties: &BTreeMap<String, String>) -> Result<Self> {
        let default = properties.get(DEFAULT).map(|mode| parse(DEFAULT, mode)).transpose()?;
        let inferred = properties.get(MAX_INFERRED).and_then(|n| n.parse().ok()).unwrap_or(MAX_INFERRED_DEFAULT);
        let mut ids: Vec<i32> = schema.field_id_to_name_map().keys().copied().collect();
        ids.sort_unstable();
        let mut by_id = BTreeMap::new();
        for id in ids {
            let Some(Type::Primitive(primitive)) = schema.field_by_id(id).map(|f| f.field_type.as_ref()) else { continue };
            let key = format!("{COLUMN}{}", schema.name_by_field_id(id).unwrap_or_default());
            let mode = match (properties.get(&key), default) {
                (Some(mode), _) => parse(&key, mode)?,
                (None, Some(mode)) => mode,
                (None, None) if by_id.len() >= inferred => Mode::None,
                (None, None) => Mode::Truncate(16),
            };
            by_id.insert(id, (mode, primitive.clone()));
        }
        Ok(Self { by_id })
    }

    /// Leaves of full statistics what the modes ask for.
    pub fn apply(&self, file: &mut DataFileInfo) {
        for (id, (mode, primitive)) in &self.by_id {
            if *mode == Mode::None {
                file.value_counts.remove(id);
                file.null_value_counts.remove(id);
                file.nan_value_counts.remove(id);
            }
            match mode {
                Mode::None | Mode::Counts => {
                    file.lower_bounds.remove(id);
                    file.upper_bounds.remove(id);
                }
                Mode::Truncate(length) => {
                    shorten(&mut file.lower_bounds, *id, |bytes| shorten_lower(bytes, primitive, *length));
                    shorten(&mut file.upper_bounds, *id, |bytes| shorten_upper(bytes, primitive, *length));
                }
                Mode::Full => {}
            }
        }
    }
}

fn shorten(bounds: &mut BTreeMap<i32, String>, id: i32, shorter: impl Fn(Vec<u8>) -> Option<Vec<u8>>) {
    if let Some(hex) = bounds.remove(&id)
        && let Some(bytes) = from_hex(&hex).ok().and_then(shorter)
    {
        bounds.insert(id, to_hex(&bytes));
    }
}

fn parse(key: &str, text: &str) -> Result<Mode> {
    let lower = text.trim().to_ascii_lowercase();
    let length = lower.strip_prefix("truncate(").and_then(|rest| rest.strip_suffix(')')).and_then(|n| n.trim().parse().ok());
    match (lower.as_str(), length) {
        ("none", _) => Ok(Mode::None),
        ("counts", _) => Ok(Mode::Counts),
        ("full", _) => Ok(Mode::Full),
        (_, Some(length)) if length > 0 => Ok(Mode::Truncate(length)),
        _ => Err(err::invalid(format!("property {key} is '{text}', it must be none, counts, truncate(n) or full"))),
    }
}
