//! Settings of a session in the names that Iceberg's users of Spark know: `SET spark.wap.branch = 'audit'`. They are an
//! extension of the session's options, so that every clone of a session sees them; executors never do.

use std::any::Any;
use std::collections::BTreeMap;

use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::SessionState;
use datafusion::prelude::SessionContext;

use chainalytics_common::{Error, ErrorCode, Result};

use crate::table::{MAIN_BRANCH, Table};

/// Table property: `true` lets a session stage its writes (`spark.wap.id`) or send them to a branch (`spark.wap.branch`).
pub const WAP_ENABLED: &str = "write.wap.enabled";
/// Name of a staged change.
pub const WAP_ID: &str = "spark.wap.id";
/// Branch that the session writes and reads.
pub const WAP_BRANCH: &str = "spark.wap.branch";
/// What `INSERT OVERWRITE` replaces: `dynamic` or `static`.
pub const OVERWRITE_MODE: &str = "spark.sql.sources.partitionOverwriteMode";
/// As the table property `write.distribution-mode`, before it.
pub const DISTRIBUTION_MODE: &str = "spark.sql.iceberg.distribution-mode";
/// `true` lets writes by name add columns, as the table property `write.spark.accept-any-schema`.
pub const MERGE_SCHEMA: &str = "spark.sql.iceberg.merge-schema";
/// As the table property `write.parquet.compression-codec`, before it.
pub const COMPRESSION_CODEC: &str = "spark.sql.iceberg.compression-codec";
/// As the table property `write.parquet.compression-level`, before it.
pub const COMPRESSION_LEVEL: &str = "spark.sql.iceberg.compression-level";

const KEYS: [(&str, &str); 7] = [
    (WAP_ID, "name under which writes are staged, in tables with write.wap.enabled"),
    (WAP_BRANCH, "branch that is written and read, in tables with write.wap.enabled"),
    (OVERWRITE_MODE, "what INSERT OVERWRITE replaces: dynamic or static"),
    (DISTRIBUTION_MODE, "how rows are shuffled before writing: none, hash or range"),
    (MERGE_SCHEMA, "whether writes by name may add columns: true or false"),
    (COMPRESSION_CODEC, "codec of new data files"),
    (COMPRESSION_LEVEL, "level of the codec"),
];

/// The settings of one session.
#[derive(Debug, Clone, Default)]
pub struct SessionSettings {
    values: BTreeMap<&'static str, String>,
}

impl SessionSettings {
    /// Makes `ctx` know these settings, all unset.
    pub fn register(ctx: &SessionContext) {
        let state = ctx.state_ref();
        let mut state = state.write();
        let extensions = &mut state.config_mut().options_mut().extensions;
        if extensions.get::<Self>().is_none() {
            extensions.insert(Self::default());
        }
    }

    /// The session's settings; none where they were never registered.
    pub fn of(state: &SessionState) -> Self {
        state.config_options().extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// One value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Sets a value; an empty one unsets it.
    ///
    /// # Errors
    /// `InvalidArgument` for a key that means nothing here or a value that it does not take.
    pub fn put(&mut self, key: &str, value: &str) -> Result<()> {
        let Some((key, _)) = KEYS.iter().find(|(known, _)| known.eq_ignore_ascii_case(key)) else {
            let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
            return Err(invalid(format!("unknown setting '{key}'; there is {}", known.join(", "))));
        };
        let allowed: &[&str] = match *key {
            OVERWRITE_MODE => &["dynamic", "static"],
            DISTRIBUTION_MODE => &["none", "hash", "range"],
            MERGE_SCHEMA => &["true", "false"],
            _ => &[],
        };
        let value = value.trim();
        let lower = value.to_ascii_lowercase();
        if value.is_empty() {
            self.values.remove(key);
        } else if allowed.is_empty() {
            self.values.insert(key, value.to_owned());
        } else if allowed.contains(&lower.as_str()) {
            self.values.insert(key, lower);
        } else {
            return Err(invalid(format!("{key} is '{value}', it must be {}", allowed.join(" or "))));
        }
        Ok(())
    }

    /// The table as this session changes it: on the branch of [`WAP_BRANCH`], if the table takes part.
    ///
    /// # Errors
    /// `InvalidArgument` for another branch that the statement names, or for a tag.
    pub(crate) fn for_writes(&self, table: Table) -> Result<Table> {
        let Some(branch) = self.wap_branch(&table)? else { return Ok(table) };
        match table.branch() {
            Some(named) if named != branch => Err(invalid(format!(
                "table {}: the statement writes to branch '{named}', the session to '{branch}' ({WAP_BRANCH}); RESET {WAP_BRANCH} first",
                table.ident()
            ))),
            Some(_) => Ok(table),
            None => match table.find_ref(branch)? {
                Some(found) => table.on_branch(&found.name),
                None => Ok(table.for_writes_to(branch)),
            },
        }
    }

    /// The name under which a write of this table is staged rather than made current.
    ///
    /// # Errors
    /// `InvalidArgument` if the write goes to a branch.
    pub(crate) fn staged_as(&self, table: &Table) -> Result<Option<&str>> {
        let Some(id) = self.get(WAP_ID).filter(|_| takes_part(table)) else { return Ok(None) };
        let _both = self.wap_branch(table)?;
        match table.branch() {
            None => Ok(Some(id)),
            Some(branch) => {
                Err(invalid(format!("table {}: a write to branch '{branch}' cannot be staged; RESET {WAP_ID} first", table.ident())))
            }
        }
    }

    fn wap_branch(&self, table: &Table) -> Result<Option<&str>> {
        let Some(branch) = self.get(WAP_BRANCH).filter(|_| takes_part(table)) else { return Ok(None) };
        match self.get(WAP_ID) {
            Some(_) => Err(invalid(format!("{WAP_ID} and {WAP_BRANCH} are both set: RESET one of them"))),
            None => Ok(Some(branch)),
        }
    }
}

/// The table as a session with this [`WAP_BRANCH`] reads it: on the branch, once it is there.
pub(crate) fn for_reads(table: Table, branch: &str) -> Result<Table> {
    if branch == MAIN_BRANCH || !takes_part(&table) {
        return Ok(table);
    }
    match table.find_ref(branch)? {
        Some(found) if found.is_branch => table.on_branch(&found.name),
        _ => Ok(table),
    }
}

fn takes_part(table: &Table) -> bool {
    table.property(WAP_ENABLED).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}

impl ConfigExtension for SessionSettings {
    const PREFIX: &'static str = "spark";
}

impl ExtensionOptions for SessionSettings {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> DfResult<()> {
        let key = format!("{}.{key}", Self::PREFIX);
        self.put(&key, value).map_err(|error| DataFusionError::External(Box::new(error)))
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |(key, description): &(&'static str, &'static str)| ConfigEntry {
            key: (*key).to_owned(),
            value: self.values.get(key).cloned(),
            description,
        };
        KEYS.iter().map(entry).collect()
    }
}
