use chainalytics_common::Result;

use super::{SqlCatalog, with_pool};
use crate::catalog::{Swap, TableCommit};
use crate::err;

impl SqlCatalog {
    /// Compare-and-swap of one or several rows in one SQL transaction.
    pub(crate) async fn swap(&self, commits: &[TableCommit]) -> Result<Swap> {
        // Two transactions that lock the same rows must do so in the same order.
        let mut ordered: Vec<&TableCommit> = commits.iter().collect();
        ordered.sort_by(|a, b| a.ident.cmp(&b.ident));
        let sql = "UPDATE iceberg_tables SET metadata_location = $1, previous_metadata_location = $2 \
                   WHERE catalog_name = $3 AND table_namespace = $4 AND table_name = $5 AND metadata_location = $2";
        with_pool!(&self.pool, pool => {
            let mut transaction = pool.begin().await.map_err(|e| self.pool.error(e))?;
            for commit in ordered {
                let query = sqlx::query(sql)
                    .bind(&commit.new_location)
                    .bind(&commit.old_location)
                    .bind(&self.name)
                    .bind(commit.ident.namespace_key())
                    .bind(commit.ident.name());
                let rows = query.execute(&mut *transaction).await.map_err(|e| self.pool.error(e))?.rows_affected();
                if rows != 1 {
                    // A rollback that fails leaves the transaction to the server, which drops it as well.
                    if let Err(error) = transaction.rollback().await {
                        tracing::debug!(%error, "rollback of a lost compare-and-swap");
                    }
                    return Ok(Swap::Conflict(commit.ident.clone()));
                }
            }
            match transaction.commit().await {
                Ok(()) => Ok(Swap::Done),
                // The database answered and refused: nothing was applied.
                Err(error) if error.as_database_error().is_some_and(|e| !err::is_going_away(e)) => Err(self.pool.error(error)),
                Err(error) => Ok(Swap::Unknown(err::commit_unknown(error))),
            }
        })
    }
}
