//! The lakehouse as a DataFusion catalog: namespaces are schemas, tables are looked up when a statement names
//! them (so always at their newest commit), and `t@version:…`, `t$snapshots` are resolved by name alone.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result as DfResult, plan_err};
use datafusion::prelude::SessionContext;
use parking_lot::RwLock;

use chainalytics_common::{Error, ErrorCode, Result};

use super::incremental::parse_mark;
use super::metadata_tables::{MetadataKind, metadata_table};
use super::metadata_columns::marked_columns;
use super::time_travel::VERSION_MARK;
use crate::ident::TableIdent;
use crate::lakehouse::Lakehouse;
use crate::scan::{IcebergTableProvider, SnapshotSelector};
use crate::settings::{SessionSettings, WAP_BRANCH, for_reads};
use crate::table::Table;

/// Separates a table's name from the kind of metadata table: `t$snapshots`.
pub const METADATA_MARK: char = '$';
/// Names suggested when one is not found.
const SUGGESTIONS: usize = 3;

/// The catalog of a session. Temporary tables and views of the session live in it too, by namespace; they hide
/// tables of the lakehouse with the same name.
pub struct LakehouseCatalogProvider {
    shared: Arc<Shared>,
}

struct Shared {
    lakehouse: Lakehouse,
    /// Names for listings (`information_schema`), as of the last refresh.
    listing: RwLock<BTreeMap<String, Vec<String>>>,
    temporary: RwLock<BTreeMap<(String, String), Arc<dyn TableProvider>>>,
    /// Branch that the session reads, in tables that take part in write-audit-publish.
    read_branch: RwLock<Option<String>>,
    /// Namespace of bare names.
    namespace: RwLock<String>,
}

impl LakehouseCatalogProvider {
    pub fn new(lakehouse: Lakehouse) -> Self {
        let namespace = RwLock::new(lakehouse.default_namespace().to_owned());
        let shared = Shared { lakehouse, listing: RwLock::default(), temporary: RwLock::default(), read_branch: RwLock::default(), namespace };
        Self { shared: Arc::new(shared) }
    }

    /// Registers the lakehouse in `ctx` under `catalog` (config key `catalog.name`). The session's default catalog
    /// and schema must name it (`SessionConfig::with_default_catalog_and_schema`).
    pub fn register(lakehouse: Lakehouse, ctx: &SessionContext, catalog: &str) -> Arc<Self> {
        SessionSettings::register(ctx);
        let provider = Arc::new(Self::new(lakehouse));
        ctx.register_catalog(catalog, Arc::clone(&provider) as Arc<dyn CatalogProvider>);
        provider
    }

    /// Namespace of bare names in a new session.
    pub(super) fn default_namespace(&self) -> &str {
        self.shared.lakehouse.default_namespace()
    }

    /// Reads by the session's settings from now on.
    pub(super) fn follow(&self, settings: &SessionSettings, namespace: &str) {
        *self.shared.read_branch.write() = settings.get(WAP_BRANCH).map(str::to_owned);
        namespace.clone_into(&mut self.shared.namespace.write());
    }

    /// Reads the names of namespaces and tables anew; look-ups of tables by name need no refresh.
    pub async fn refresh(&self) -> Result<()> {
        let catalog = self.shared.lakehouse.catalog();
        let mut listing = BTreeMap::new();
        for namespace in catalog.list_namespaces().await? {
            let mut names: Vec<String> = catalog.list_tables(&namespace).await?.iter().map(|t| t.name().to_string()).collect();
            names.sort_unstable();
            listing.insert(namespace, names);
        }
        *self.shared.listing.write() = listing;
        Ok(())
    }
}

impl Shared {
    fn namespace(&self) -> String {
        self.namespace.read().clone()
    }

    fn temporary(&self, namespace: &str, name: &str) -> Option<Arc<dyn TableProvider>> {
        let tables = self.temporary.read();
        let exact = tables.get(&(namespace.to_string(), name.to_string()));
        exact.or_else(|| tables.get(&(namespace.to_string(), name.to_lowercase()))).cloned()
    }

    async fn lookup(&self, namespace: &str, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some((base, mark)) = name.rsplit_once(VERSION_MARK)
            && let Some(columns) = marked_columns(mark)
        {
            let table = Box::pin(self.lookup(namespace, base)).await?;
            let plain = table.as_ref().and_then(|table| (table.as_ref() as &dyn Any).downcast_ref::<IcebergTableProvider>());
            return Ok(match plain {
                Some(plain) => Some(Arc::new(plain.with_metadata_columns(columns)?)),
                None => table,
            });
        }
        if let Some((base, mark)) = name.rsplit_once(VERSION_MARK)
            && let Some(at) = SnapshotSelector::parse_marker(mark)
        {
            let table = load_table(&self.lakehouse, &TableIdent::new(namespace, base)).await?;
            return Ok(Some(at_ref(&table, at)?));
        }
        if let Some((base, kind)) = name.rsplit_once(METADATA_MARK)
            && let Some(kind) = MetadataKind::parse(kind)
        {
            let table = load_table(&self.lakehouse, &TableIdent::new(namespace, base)).await?;
            return Ok(Some(metadata_table(&table, kind).await?));
        }
        if let Some((base, mark)) = name.rsplit_once(VERSION_MARK)
            && let Some(table) = find_table(&self.lakehouse, &TableIdent::new(namespace, base)).await?
            && let Some(incremental) = parse_mark(&table, mark)
        {
            return Ok(Some(Arc::new(IcebergTableProvider::incremental(&table, incremental?)?)));
        }
        if let Some((base, mark)) = name.rsplit_once(VERSION_MARK)
            && let Some(name) = mark.strip_prefix("ref:")
        {
            let table = load_table(&self.lakehouse, &TableIdent::new(namespace, base)).await?;
            return Ok(Some(at_ref(&table, SnapshotSelector::Ref(name.to_string()))?));
        }
        if let Some(table) = find_own(&self.lakehouse, &TableIdent::new(namespace, name)).await? {
            let branch = self.read_branch.read().clone();
            let table = match branch {
                Some(branch) => for_reads(table, &branch)?,
                None => table,
            };
            return Ok(Some(Arc::new(IcebergTableProvider::try_new(&table, &SnapshotSelector::Current)?)));
        }
        // `t.branch_x`, `t.tag_x` and `t.snapshots`: the planner takes `t` for a namespace.
        if let Some(name) = ref_name(name)
            && let Some(table) = find_table(&self.lakehouse, &TableIdent::new(&self.namespace(), namespace)).await?
        {
            return Ok(Some(at_ref(&table, SnapshotSelector::Ref(name.to_string()))?));
        }
        if let Some(kind) = MetadataKind::parse(name) {
            if let Some(table) = find_table(&self.lakehouse, &TableIdent::new(&self.namespace(), namespace)).await? {
                return Ok(Some(metadata_table(&table, kind).await?));
            }
        }
        Ok(None)
    }
}

/// The table at a snapshot. A branch is read with the table's schema, a tag with its snapshot's.
fn at_ref(table: &Table, at: SnapshotSelector) -> Result<Arc<dyn TableProvider>> {
    if let SnapshotSelector::Ref(name) = &at {
        match table.find_ref(name)? {
            Some(found) if found.is_branch => {
                let table = table.on_branch(&found.name)?;
                return Ok(Arc::new(IcebergTableProvider::try_new(&table, &SnapshotSelector::Current)?));
            }
            Some(found) => return Ok(Arc::new(IcebergTableProvider::try_new(table, &SnapshotSelector::Ref(found.name))?)),
            None => {}
        }
    }
    Ok(Arc::new(IcebergTableProvider::try_new(table, &at)?))
}

/// The ref that `branch_x` or `tag_x` names.
pub fn ref_name(name: &str) -> Option<&str> {
    let prefix = ["branch_", "tag_"]
        .into_iter()
        .find(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) && name.len() > prefix.len())?;
    Some(&name[prefix.len()..])
}

/// Loads a table by its name, letter case ignored if no table has exactly that name; `t.branch_x` is table `t` on that
/// branch.
pub async fn find_table(lakehouse: &Lakehouse, ident: &TableIdent) -> Result<Option<Table>> {
    match find_owner(lakehouse, ident).await? {
        Some((table, Some(branch))) => table.on_branch(branch).map(Some),
        Some((table, None)) => Ok(Some(table)),
        None => Ok(None),
    }
}

/// The table that a name means, and the branch or tag of it that the name may end in.
pub async fn find_owner<'a>(lakehouse: &Lakehouse, ident: &'a TableIdent) -> Result<Option<(Table, Option<&'a str>)>> {
    if let Some(table) = find_own(lakehouse, ident).await? {
        return Ok(Some((table, None)));
    }
    let Some(name) = ref_name(ident.name()) else {
        return Ok(None);
    };
    let owner = match ident.namespace() {
        [table] => TableIdent::new(lakehouse.default_namespace(), table),
        [namespace @ .., table] => TableIdent::new(&namespace.join("."), table),
        [] => return Ok(None),
    };
    Ok(find_own(lakehouse, &owner).await?.map(|table| (table, Some(name))))
}

async fn find_own(lakehouse: &Lakehouse, ident: &TableIdent) -> Result<Option<Table>> {
    let catalog = lakehouse.catalog();
    if let Some(table) = catalog.find_table(ident).await? {
        return Ok(Some(table));
    }
    let namespace = ident.namespace_key();
    let Some(namespace) = catalog.list_namespaces().await?.into_iter().find(|n| n.eq_ignore_ascii_case(&namespace)) else {
        return Ok(None);
    };
    let names = catalog.list_tables(&namespace).await?;
    match names.iter().find(|t| t.name().eq_ignore_ascii_case(ident.name())) {
        Some(found) if found != ident => catalog.load_table(found).await.map(Some),
        _ => Ok(None),
    }
}

/// As [`find_table`]; a table that does not exist is an error that names similar ones.
pub async fn load_table(lakehouse: &Lakehouse, ident: &TableIdent) -> Result<Table> {
    match find_table(lakehouse, ident).await? {
        Some(table) => Ok(table),
        None => Err(table_not_found(lakehouse, ident).await),
    }
}

/// The error for a missing table: says which namespace was searched and what is there under similar names.
pub async fn table_not_found(lakehouse: &Lakehouse, ident: &TableIdent) -> Error {
    let catalog = lakehouse.catalog();
    let namespace = ident.namespace_key();
    let names = match catalog.list_namespaces().await {
        Ok(all) if !all.iter().any(|n| n.eq_ignore_ascii_case(&namespace)) => {
            let near = near_names(&namespace, all.iter().map(String::as_str));
            return Error::new(
                ErrorCode::TableNotFound,
                format!("table {ident} not found: there is no namespace '{namespace}'{}", did_you_mean(&near)),
            );
        }
        Ok(_) => catalog.list_tables(&namespace).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let near = near_names(ident.name(), names.iter().map(TableIdent::name));
    Error::new(ErrorCode::TableNotFound, format!("table {ident} not found{}", did_you_mean(&near)))
}

fn near_names<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut scored: Vec<(f64, &str)> =
        names.map(|name| (strsim::jaro_winkler(&wanted, &name.to_lowercase()), name)).filter(|(score, _)| *score > 0.8).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(SUGGESTIONS).map(|(_, name)| name.to_string()).collect()
}

fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() { "; SHOW TABLES lists what exists".to_string() } else { format!("; did you mean {}?", near.join(", ")) }
}

impl CatalogProvider for LakehouseCatalogProvider {
    fn schema_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.shared.listing.read().keys().cloned().collect();
        names.extend(self.shared.temporary.read().keys().map(|(namespace, _)| namespace.clone()));
        names.sort_unstable();
        names.dedup();
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        // Whether it exists is only known asynchronously; tables of a namespace that does not exist are not found.
        Some(Arc::new(LakehouseSchemaProvider { namespace: name.to_string(), shared: Arc::clone(&self.shared) }))
    }
}

/// One namespace of the catalog.
pub struct LakehouseSchemaProvider {
    namespace: String,
    shared: Arc<Shared>,
}

#[async_trait]
impl SchemaProvider for LakehouseSchemaProvider {
    fn table_names(&self) -> Vec<String> {
        let mut names = self.shared.listing.read().get(&self.namespace).cloned().unwrap_or_default();
        let temporary = self.shared.temporary.read();
        names.extend(temporary.keys().filter(|(n, _)| *n == self.namespace).map(|(_, name)| name.clone()));
        names
    }

    async fn table(&self, name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self.shared.temporary(&self.namespace, name) {
            return Ok(Some(table));
        }
        self.shared.lookup(&self.namespace, name).await.map_err(|e| DataFusionError::External(Box::new(e)))
    }

    fn register_table(&self, name: String, table: Arc<dyn TableProvider>) -> DfResult<Option<Arc<dyn TableProvider>>> {
        if (table.as_ref() as &dyn Any).is::<IcebergTableProvider>() || !self.listed(&name) {
            let key = (self.namespace.clone(), name);
            return Ok(self.shared.temporary.write().insert(key, table));
        }
        plan_err!("'{name}' is a table of the lakehouse; a temporary table or view cannot have its name")
    }

    fn deregister_table(&self, name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
        Ok(self.shared.temporary.write().remove(&(self.namespace.clone(), name.to_string())))
    }

    fn table_exist(&self, name: &str) -> bool {
        // Only the session's own tables: DataFusion asks this for `CREATE EXTERNAL TABLE` and views, never to read.
        self.shared.temporary(&self.namespace, name).is_some() || self.listed(name)
    }
}

impl LakehouseSchemaProvider {
    /// Tables and views of the session alone.
    pub(super) fn temporary_names(&self) -> Vec<String> {
        self.shared.temporary.read().keys().filter(|(namespace, _)| *namespace == self.namespace).map(|(_, name)| name.clone()).collect()
    }

    fn listed(&self, name: &str) -> bool {
        self.shared.listing.read().get(&self.namespace).is_some_and(|names| names.iter().any(|n| n == name))
    }
}

impl fmt::Debug for LakehouseCatalogProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakehouseCatalogProvider").finish_non_exhaustive()
    }
}

impl fmt::Debug for LakehouseSchemaProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakehouseSchemaProvider").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
