//! The commit itself: compare-and-swap of one or several rows in one SQL transaction.

use chainalytics_common::{Error, Result};

use super::{SqlCatalog, with_pool};
use crate::err;
use crate::ident::TableIdent;

/// One table's step from one metadata file to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableCommit {
    /// The table.
    pub ident: TableIdent,
    /// Metadata file that the new one was built on.
    pub old_location: String,
    /// Metadata file that becomes current.
    pub new_location: String,
}

/// What a compare-and-swap came to.
#[derive(Debug)]
pub(crate) enum Swap {
    /// Every table moved.
    Done,
    /// No table moved; this one has left `old_location`.
    Conflict(TableIdent),
    /// The connection broke while committing: all tables moved, or none did.
    Unknown(Error),
}

impl SqlCatalog {
    /// Moves all tables to their new metadata, or none.
    ///
    /// # Errors
    /// `CommitConflict` when a table is no longer at `old_location`; `CommitUnknown` when the connection broke during
    /// COMMIT: load the tables to see; `CatalogBusy` when the lock was not free in time (nothing happened).
    pub async fn commit(&self, commits: Vec<TableCommit>) -> Result<()> {
        match self.swap(&commits).await? {
            Swap::Done => Ok(()),
            Swap::Conflict(ident) => Err(err::conflict(format!("table {ident} was changed by another commit"))),
            Swap::Unknown(error) => Err(error),
        }
    }

    /// As [`Self::commit`], the three outcomes apart. An `Err` means that nothing happened.
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
