//! Client of a schema registry that speaks Confluent's REST API (Confluent, Apicurio's ccompat/v7, Karapace).
//!
//! Only this module talks HTTP to a registry. Schemas are immutable by id, so they are cached (bounded); that an id is
//! unknown is remembered for a short while only, as it may be registered the next moment.

use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};

use lru::LruCache;
use parking_lot::Mutex;

use chainalytics_common::Result;

mod body;
mod client;
mod http;
mod options;
mod references;

#[cfg(test)]
mod tests;

pub use client::{Lookup, RegisteredSchema, SchemaRegistry, SchemaType, SubjectVersion};
pub use options::RegistryOptions;

/// Registries of one process whose clients are kept.
const CLIENTS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);

/// The process's client of a registry: tasks are short, the schemas that they looked up should outlive them.
pub(crate) fn shared(options: &RegistryOptions) -> Result<Arc<SchemaRegistry>> {
    static CLIENTS: LazyLock<Mutex<LruCache<RegistryOptions, Arc<SchemaRegistry>>>> = LazyLock::new(|| Mutex::new(LruCache::new(CLIENTS_MAX)));
    let mut clients = CLIENTS.lock();
    if let Some(client) = clients.get(options) {
        return Ok(Arc::clone(client));
    }
    let client = Arc::new(SchemaRegistry::new(options.clone())?);
    clients.put(options.clone(), Arc::clone(&client));
    Ok(client)
}
