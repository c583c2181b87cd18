use std::sync::Arc;

use chainalytics_common::Result;

use super::{Backend, Catalog};
use crate::err;
use crate::ident::TableIdent;
use crate::table::Table;

impl Catalog {
    /// Takes up a table that exists as files, by its metadata file. Two catalogs that hold the same table do not see each
    /// other's commits.
    ///
    /// # Errors
    /// `TableExists`; `StorageRead` or `TableFormat` if the file cannot be read.
    pub async fn register_table(&self, ident: &TableIdent, metadata_location: &str) -> Result<Table> {
        let table = Table::from_metadata_location(ident.clone(), metadata_location, Arc::clone(&self.store)).await?;
        self.create_namespace(&ident.namespace_key()).await?;
        let registered = match &self.backend {
            Backend::Sql(sql) => sql.insert_table(ident, metadata_location).await?.then_some(table),
            Backend::Rest(rest) => rest.register_table(ident, metadata_location, &self.store).await?,
        };
        registered.ok_or_else(|| err::table_exists(ident))
    }
}
