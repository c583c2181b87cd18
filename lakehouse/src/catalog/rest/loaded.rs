//! Tables as the server last sent them, with the tag of that version: a server that supports it answers "not modified"
//! instead of sending metadata which may be megabytes long.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ident::TableIdent;
use crate::table::Table;

/// Tables remembered.
const TABLES_MAX: usize = 256;
/// After so long a table is asked for anew, because credentials come only with an answer that has a body.
const LIFE: Duration = Duration::from_secs(300);

/// One version of a table.
#[derive(Clone)]
pub(super) struct Known {
    pub tag: String,
    pub table: Table,
    since: Instant,
    life: Duration,
}

#[derive(Default)]
pub(super) struct Loaded {
    tables: Mutex<HashMap<TableIdent, Known>>,
}

impl Loaded {
    /// The version that may be asked about.
    pub fn known(&self, ident: &TableIdent) -> Option<Known> {
        self.tables.lock().get(ident).filter(|known| known.since.elapsed() < known.life).cloned()
    }

    /// Remembers a version, if the server gave it a tag.
    pub fn keep(&self, ident: &TableIdent, tag: Option<String>, table: &Table) {
        let mut tables = self.tables.lock();
        let Some(tag) = tag else {
            tables.remove(ident);
            return;
        };
        if tables.len() >= TABLES_MAX
            && let Some(oldest) = tables.iter().min_by_key(|(_, known)| known.since).map(|(ident, _)| ident.clone())
        {
            tables.remove(&oldest);
        }
        tables.insert(ident.clone(), Known { tag, table: table.clone(), since: Instant::now(), life: life(table) });
    }
}

/// Tasks take credentials along as they are when a query is planned: half of their time must be left then.
fn life(table: &Table) -> Duration {
    let left = table.lent_until_ms().map(|until| until - chrono::Utc::now().timestamp_millis());
    left.map_or(LIFE, |ms| LIFE.min(Duration::from_millis(u64::try_from(ms / 2).unwrap_or(0))))
}
