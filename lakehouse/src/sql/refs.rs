//! Branches and tags in SQL: `CREATE [OR REPLACE] BRANCH | TAG`, `REPLACE`, `DROP`, in the spelling of Iceberg's Spark
//! extensions.

use datafusion::sql::sqlparser::parser::Parser;

use chainalytics_common::{Error, ErrorCode, Result};

use super::statement::syntax_error;
use super::words::{accept, expect, expected, name, number};
use super::{Runner, StatementResult};
use crate::commit::{RefEdit, RefMode, RefRetention, TableChange, TableEdit, Transaction};
use crate::table::Table;

/// A parsed change of a branch or tag.
#[derive(Debug, Clone)]
pub struct RefStatement {
    pub edit: RefEdit,
}

/// Parses `CREATE [OR REPLACE] | REPLACE BRANCH | TAG [IF NOT EXISTS] name [AS OF VERSION n] [RETAIN …] [WITH SNAPSHOT
/// RETENTION …]`; `None` if it is something else.
pub fn parse_ref_set(parser: &mut Parser<'_>) -> Result<Option<RefStatement>> {
    let mut mode = if accept(parser, "CREATE OR REPLACE") {
        RefMode::CreateOrReplace
    } else if accept(parser, "CREATE") {
        RefMode::Create
    } else if accept(parser, "REPLACE") {
        RefMode::Replace
    } else {
        return Ok(None);
    };
    let is_branch = branch_or_tag(parser)?;
    if accept(parser, "IF NOT EXISTS") {
        if mode != RefMode::Create {
            return Err(syntax_error("IF NOT EXISTS goes with CREATE only"));
        }
        mode = RefMode::CreateIfNotExists;
    }
    let name = name(parser)?;
    let snapshot_id = if accept(parser, "AS OF VERSION") { Some(number(parser, "a snapshot id")?) } else { None };
    let mut retention = RefRetention::default();
    if accept(parser, "RETAIN") {
        retention.max_ref_age_ms = Some(duration_ms(parser)?);
    }
    if accept(parser, "WITH SNAPSHOT RETENTION") {
        if !is_branch {
            return Err(syntax_error("WITH SNAPSHOT RETENTION goes with branches only: a tag has one snapshot"));
        }
        let count = number(parser, "a number")?;
        if accept(parser, "SNAPSHOTS") {
            retention.min_snapshots_to_keep =
                Some(i32::try_from(count).ok().filter(|n| *n > 0).ok_or_else(|| syntax_error("SNAPSHOTS must be positive"))?);
            if !matches!(parser.peek_token_ref().token, datafusion::sql::sqlparser::tokenizer::Token::EOF) {
                retention.max_snapshot_age_ms = Some(duration_ms(parser)?);
            }
        } else {
            retention.max_snapshot_age_ms = Some(unit_ms(parser, count)?);
        }
    }
    Ok(Some(RefStatement { edit: RefEdit::Set { name, is_branch, snapshot_id, mode, retention } }))
}

/// Parses `DROP BRANCH | TAG [IF EXISTS] name`; `None` if it is something else.
pub fn parse_ref_drop(parser: &mut Parser<'_>) -> Result<Option<RefStatement>> {
    if !accept(parser, "DROP") {
        return Ok(None);
    }
    let is_branch = branch_or_tag(parser)?;
    let if_exists = accept(parser, "IF EXISTS");
    Ok(Some(RefStatement { edit: RefEdit::Drop { name: name(parser)?, is_branch, if_exists } }))
}

fn branch_or_tag(parser: &mut Parser<'_>) -> Result<bool> {
    if accept(parser, "BRANCH") {
        return Ok(true);
    }
    expect(parser, "TAG").map(|()| false).map_err(|_| expected(parser, "BRANCH, TAG, COLUMN or PARTITION FIELD"))
}

fn duration_ms(parser: &mut Parser<'_>) -> Result<i64> {
    let count = number(parser, "a number")?;
    unit_ms(parser, count)
}

fn unit_ms(parser: &mut Parser<'_>, count: i64) -> Result<i64> {
    let unit_ms: i64 = if accept(parser, "DAYS") || accept(parser, "DAY") {
        86_400_000
    } else if accept(parser, "HOURS") || accept(parser, "HOUR") {
        3_600_000
    } else if accept(parser, "MINUTES") || accept(parser, "MINUTE") {
        60_000
    } else {
        return Err(expected(parser, "DAYS, HOURS or MINUTES"));
    };
    if count <= 0 {
        return Err(syntax_error("a retention must be positive"));
    }
    count.checked_mul(unit_ms).ok_or_else(|| syntax_error("the retention is too long"))
}

impl Runner<'_> {
    pub(super) async fn change_ref(&self, table: &Table, statement: RefStatement) -> Result<StatementResult> {
        let mut edit = statement.edit;
        // A name that exists is found whatever its letter case.
        let (RefEdit::Set { name, .. } | RefEdit::Drop { name, .. }) = &mut edit;
        if let Some(known) = table.find_ref(name)? {
            name.clone_from(&known.name);
            if matches!(&edit, RefEdit::Set { mode: RefMode::CreateIfNotExists, .. }) {
                return Ok(StatementResult::Ok);
            }
        } else if matches!(&edit, RefEdit::Drop { if_exists: true, .. }) {
            return Ok(StatementResult::Ok);
        }
        let ident = table.ident().clone();
        if let RefEdit::Set { name, is_branch: true, snapshot_id: None, mode, retention } = &edit
            && table.current_snapshot_id().is_none()
            && *mode != RefMode::Replace
        {
            // A branch needs a snapshot to point at: an empty one, on the branch alone.
            let first = TableChange::append(ident.clone(), Vec::new()).to_branch(Some(name));
            let first = first.validate(|table| {
                Ok(match table.metadata().current_snapshot_id() {
                    None => crate::commit::Decision::Commit,
                    Some(_) => crate::commit::Decision::Conflict("the table got its first rows meanwhile".to_owned()),
                })
            });
            Transaction::new(self.lakehouse).add(first).commit(self.options.clone()).await?;
            if *retention == RefRetention::default() {
                return Ok(StatementResult::Ok);
            }
            let head = self.lakehouse.catalog().load_table(&ident).await?.snapshot_id_of_ref(name);
            let Some(head) = head else {
                return Err(Error::new(ErrorCode::CommitConflict, format!("branch '{name}' was dropped meanwhile")));
            };
            edit = RefEdit::Set { name: name.clone(), is_branch: true, snapshot_id: Some(head), mode: RefMode::Replace, retention: *retention };
        }
        let change = TableChange::metadata(ident).edit(vec![TableEdit::Ref(edit)]);
        Transaction::new(self.lakehouse).add(change).commit(self.options.clone()).await?;
        Ok(StatementResult::Ok)
    }
}
