//! Views stand in the same SQL table as tables, their `iceberg_type` is `VIEW` (schema V1 of the JDBC catalog).

use chainalytics_common::Result;

use super::SqlCatalog;
use super::pool::with_pool;
use crate::err;
use crate::ident::TableIdent;

impl SqlCatalog {
    /// Whether the catalog's table can tell views from tables.
    pub(in crate::catalog) fn has_views(&self) -> bool {
        self.has_type_column
    }

    /// The view's current metadata file, if the catalog has the view.
    pub(in crate::catalog) async fn view_location(&self, ident: &TableIdent) -> Result<Option<String>> {
        if !self.has_type_column {
            return Ok(None);
        }
        let sql = "SELECT metadata_location FROM iceberg_tables \
                   WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3 AND iceberg_type = 'VIEW'";
        let row: Option<Option<String>> = with_pool!(&self.pool, pool => {
            sqlx::query_scalar(sql)
                .bind(&self.name)
                .bind(ident.namespace_key())
                .bind(ident.name())
                .fetch_optional(pool)
                .await
                .map_err(|e| self.pool.error(e))?
        });
        Ok(row.flatten())
    }

    /// Names of the views in a namespace, sorted.
    pub(in crate::catalog) async fn list_views(&self, namespace: &str) -> Result<Vec<TableIdent>> {
        if !self.has_type_column {
            return Ok(Vec::new());
        }
        let sql = "SELECT table_name FROM iceberg_tables \
                   WHERE catalog_name = $1 AND table_namespace = $2 AND iceberg_type = 'VIEW' ORDER BY table_name";
        let names: Vec<String> = with_pool!(&self.pool, pool => {
            sqlx::query_scalar(sql).bind(&self.name).bind(namespace).fetch_all(pool).await.map_err(|e| self.pool.error(e))?
        });
        Ok(names.into_iter().map(|name| TableIdent::new(namespace, name)).collect())
    }

    /// `false` if there is a table or view of that name.
    pub(in crate::catalog) async fn insert_view(&self, ident: &TableIdent, location: &str) -> Result<bool> {
        let sql = "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) \
                   VALUES ($1, $2, $3, $4, 'VIEW')";
        with_pool!(&self.pool, pool => {
            let query =
                sqlx::query(sql).bind(&self.name).bind(ident.namespace_key()).bind(ident.name()).bind(location);
            match query.execute(pool).await {
                Ok(_) => Ok(true),
                Err(e) if err::is_unique_violation(&e) => Ok(false),
                Err(e) => Err(self.pool.error(e)),
            }
        })
    }

    /// Moves a view from one metadata file to the next; `false` if it has left the old one.
    pub(in crate::catalog) async fn swap_view(&self, ident: &TableIdent, old: &str, new: &str) -> Result<bool> {
        let sql = "UPDATE iceberg_tables SET metadata_location = $1, previous_metadata_location = $2 \
                   WHERE catalog_name = $3 AND table_namespace = $4 AND table_name = $5 AND metadata_location = $2 \
                   AND iceberg_type = 'VIEW'";
        let rows = with_pool!(&self.pool, pool => {
            let query =
                sqlx::query(sql).bind(new).bind(old).bind(&self.name).bind(ident.namespace_key()).bind(ident.name());
            query.execute(pool).await.map_err(|e| self.pool.error(e))?.rows_affected()
        });
        Ok(rows == 1)
    }

    /// `false` if there was no such view.
    pub(in crate::catalog) async fn drop_view(&self, ident: &TableIdent) -> Result<bool> {
        if !self.has_type_column {
            return Ok(false);
        }
        let sql = "DELETE FROM iceberg_tables \
                   WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3 AND iceberg_type = 'VIEW'";
        let rows = with_pool!(&self.pool, pool => {
            let query = sqlx::query(sql).bind(&self.name).bind(ident.namespace_key()).bind(ident.name());
            query.execute(pool).await.map_err(|e| self.pool.error(e))?.rows_affected()
        });
        Ok(rows > 0)
    }
}
