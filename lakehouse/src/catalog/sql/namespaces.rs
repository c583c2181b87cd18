use std::collections::BTreeMap;

use chainalytics_common::Result;

use super::{SqlCatalog, with_pool};

/// Marks a namespace that has no other property; Java's and Python's catalogs write the same row.
const EXISTS_KEY: &str = "exists";

impl SqlCatalog {
    /// Creates a namespace; one that exists stays as it is.
    pub(crate) async fn create_namespace(&self, namespace: &str, properties: &BTreeMap<String, String>) -> Result<()> {
        let mut all = properties.clone();
        all.insert(EXISTS_KEY.to_owned(), "true".to_owned());
        self.change_namespace(namespace, &all, &[]).await
    }

    /// Sets and removes properties, all or none.
    pub(crate) async fn change_namespace(&self, namespace: &str, set: &BTreeMap<String, String>, remove: &[String]) -> Result<()> {
        let put = "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value) \
                   VALUES ($1, $2, $3, $4) ON CONFLICT (catalog_name, namespace, property_key) DO UPDATE SET property_value = excluded.property_value";
        let delete = "DELETE FROM iceberg_namespace_properties WHERE catalog_name = $1 AND namespace = $2 AND property_key = $3";
        with_pool!(&self.pool, pool => {
            let mut transaction = pool.begin().await.map_err(|e| self.pool.error(e))?;
            for key in remove.iter().filter(|key| *key != EXISTS_KEY) {
                let query = sqlx::query(delete).bind(&self.name).bind(namespace).bind(key);
                query.execute(&mut *transaction).await.map_err(|e| self.pool.error(e))?;
            }
            for (key, value) in set {
                let query = sqlx::query(put).bind(&self.name).bind(namespace).bind(key).bind(value);
                query.execute(&mut *transaction).await.map_err(|e| self.pool.error(e))?;
            }
            transaction.commit().await.map_err(|e| self.pool.error(e))?;
        });
        Ok(())
    }

    /// Namespaces that were created or hold a table, sorted.
    pub(crate) async fn list_namespaces(&self) -> Result<Vec<String>> {
        let sql = "SELECT namespace FROM iceberg_namespace_properties WHERE catalog_name = $1 \
                   UNION SELECT table_namespace FROM iceberg_tables WHERE catalog_name = $1 ORDER BY 1";
        with_pool!(&self.pool, pool => {
            sqlx::query_scalar(sql).bind(&self.name).fetch_all(pool).await.map_err(|e| self.pool.error(e))
        })
    }

    /// Removes a namespace that is known to be empty. `false` if there was none.
    pub(crate) async fn drop_namespace(&self, namespace: &str) -> Result<bool> {
        let sql = "DELETE FROM iceberg_namespace_properties WHERE catalog_name = $1 AND namespace = $2";
        let rows = with_pool!(&self.pool, pool => {
            let query = sqlx::query(sql).bind(&self.name).bind(namespace);
            query.execute(pool).await.map_err(|e| self.pool.error(e))?.rows_affected()
        });
        Ok(rows > 0)
    }

    /// Properties of a namespace.
    pub(crate) async fn namespace_properties(&self, namespace: &str) -> Result<BTreeMap<String, String>> {
        let sql = "SELECT property_key, property_value FROM iceberg_namespace_properties \
                   WHERE catalog_name = $1 AND namespace = $2";
        let rows: Vec<(String, Option<String>)> = with_pool!(&self.pool, pool => {
            sqlx::query_as(sql).bind(&self.name).bind(namespace).fetch_all(pool).await.map_err(|e| self.pool.error(e))?
        });
        Ok(rows.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
    }
}
