use chainalytics_common::Result;

use crate::commit::{CommitOptions, TableChange, Transaction, rearrange, target_bytes};
use crate::err;
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;

/// What a rewriting of manifests did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RewrittenManifests {
    pub rewritten: u64,
    pub added: u64,
}

/// Joins small manifests to ones of the size that `commit.manifest.target-size-bytes` asks for, their entries sorted by
/// partition. `spec_id`: only those of this partition spec.
///
/// # Errors
/// `InvalidArgument` for an unknown spec; those of commits and storage.
pub async fn rewrite_manifests(lakehouse: &Lakehouse, ident: &TableIdent, spec_id: Option<i32>) -> Result<RewrittenManifests> {
    let table = lakehouse.catalog().load_table(ident).await?;
    let metadata = table.metadata();
    if let Some(id) = spec_id.filter(|id| metadata.partition_spec_by_id(*id).is_none()) {
        let known: Vec<String> = metadata.partition_specs_iter().map(|spec| spec.spec_id().to_string()).collect();
        return Err(err::invalid(format!("table {ident} has no partition spec {id}; it has {}", known.join(", "))));
    }
    let Some(current) = table.current_snapshot_id() else { return Ok(RewrittenManifests::default()) };
    let manifests = table.manifests(current).await?;
    let target = target_bytes(metadata.properties());
    if rearrange::plan(&manifests, spec_id, target).is_empty() {
        return Ok(RewrittenManifests::default());
    }
    let change = TableChange::rewrite_manifests(ident.clone(), spec_id);
    let outcome = Transaction::new(lakehouse).add(change).commit(CommitOptions::default()).await?;
    let made_id = outcome.tables.first().and_then(|table| table.snapshot_id);
    let after = lakehouse.catalog().load_table(ident).await?;
    let made = after.snapshots().into_iter().find(|snapshot| Some(snapshot.snapshot_id) == made_id);
    let count = |key: &str| made.as_ref().map_or(0, |snapshot| snapshot.count(key));
    Ok(RewrittenManifests { rewritten: count("manifests-replaced"), added: count("manifests-created") })
}
