//! The commit itself: every table moves from one metadata file to the next, or none does.

use chainalytics_common::{Error, Result};

use super::{Backend, Catalog};
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
    /// The answer to the commit never came: with a SQL catalog all tables moved or none did, with a REST catalog each
    /// has to be looked at.
    Unknown(Error),
}

impl Catalog {
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
        #[cfg(test)]
        if let Some(faults) = self.faults.get() {
            return faults.swap(self.swap_now(commits)).await;
        }
        self.swap_now(commits).await
    }

    async fn swap_now(&self, commits: &[TableCommit]) -> Result<Swap> {
        match &self.backend {
            Backend::Sql(sql) => sql.swap(commits).await,
            Backend::Rest(rest) => rest.swap(commits, &self.store).await,
        }
    }
}
