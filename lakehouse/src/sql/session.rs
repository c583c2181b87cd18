//! Statements of a session and short forms of others: USE, SHOW CURRENT NAMESPACE, REFRESH TABLE, TRUNCATE TABLE,
//! COMMENT ON.

use datafusion::sql::sqlparser::ast::ObjectName;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use chainalytics_common::Result;

use super::catalog::load_table;
use super::ddl::text_batch;
use super::names::ident_of;
use super::statement::{expect_end, parse_error};
use super::words::{accept, expect, text};
use super::{Runner, StatementResult, rows};
use crate::commit::{TableChange, Transaction};
use crate::dml::{RowEdit, committed_step, rewrite_rows};
use crate::err::namespace_not_found;

/// A parsed statement.
#[derive(Debug)]
pub enum SessionStatement {
    /// `USE [NAMESPACE | SCHEMA | DATABASE] name`
    Use(ObjectName),
    /// `SHOW CURRENT NAMESPACE`
    ShowCurrent,
    /// `REFRESH TABLE name`: there is nothing to do, every statement sees the newest commit.
    Refresh(ObjectName),
    /// `TRUNCATE TABLE name`
    Truncate(ObjectName),
    /// `COMMENT ON {TABLE | NAMESPACE | SCHEMA | DATABASE} name IS 'text' | NULL`
    Comment { on_table: bool, name: ObjectName, comment: Option<String> },
}

/// Parses a whole statement; `None` if it is something else.
pub fn parse_session(parser: &mut Parser<'_>) -> Result<Option<SessionStatement>> {
    let name = |parser: &mut Parser<'_>| parser.parse_object_name(false).map_err(parse_error);
    let namespace_word = |parser: &mut Parser<'_>| ["NAMESPACE", "SCHEMA", "DATABASE"].into_iter().any(|word| accept(parser, word));
    let statement = if accept(parser, "SHOW CURRENT NAMESPACE") || accept(parser, "SHOW CURRENT SCHEMA") {
        SessionStatement::ShowCurrent
    } else if accept(parser, "USE") {
        let _word = namespace_word(parser);
        SessionStatement::Use(name(parser)?)
    } else if accept(parser, "REFRESH TABLE") {
        SessionStatement::Refresh(name(parser)?)
    } else if accept(parser, "TRUNCATE TABLE") {
        SessionStatement::Truncate(name(parser)?)
    } else if accept(parser, "COMMENT ON") {
        let on_table = !namespace_word(parser);
        if on_table {
            expect(parser, "TABLE")?;
        }
        let name = name(parser)?;
        expect(parser, "IS")?;
        let comment = if accept(parser, "NULL") { None } else { Some(text(parser)?) };
        SessionStatement::Comment { on_table, name, comment }
    } else {
        return Ok(None);
    };
    let _semicolon = parser.consume_token(&Token::SemiColon);
    expect_end(parser)?;
    Ok(Some(statement))
}

impl Runner<'_> {
    pub(super) async fn session(&self, statement: SessionStatement) -> Result<StatementResult> {
        match statement {
            SessionStatement::Use(name) => {
                let namespace = self.namespace(&name);
                if !self.lakehouse.catalog().namespace_exists(&namespace).await? {
                    return Err(namespace_not_found(&namespace));
                }
                self.ctx.state_ref().write().config_mut().options_mut().catalog.default_schema = namespace;
                Ok(StatementResult::Ok)
            }
            SessionStatement::ShowCurrent => {
                let catalog = self.ctx.state().config_options().catalog.clone();
                rows(text_batch(&[("catalog", vec![catalog.default_catalog]), ("namespace", vec![catalog.default_schema])])?)
            }
            SessionStatement::Refresh(name) => {
                load_table(self.lakehouse, &ident_of(self.ctx, &name)?).await?;
                Ok(StatementResult::Ok)
            }
            SessionStatement::Truncate(name) => self.truncate(&name).await,
            SessionStatement::Comment { on_table: true, name, comment } => {
                let table = load_table(self.lakehouse, &ident_of(self.ctx, &name)?).await?;
                let change = TableChange::metadata(table.ident().clone());
                let change = match comment {
                    Some(comment) => change.set_property(COMMENT, comment),
                    None => change.remove_property(COMMENT),
                };
                Transaction::new(self.lakehouse).add(change).commit(self.options.clone()).await?;
                Ok(StatementResult::Ok)
            }
            SessionStatement::Comment { name, comment, .. } => {
                let removed = if comment.is_none() { vec![COMMENT.to_owned()] } else { Vec::new() };
                let set = comment.map(|comment| (COMMENT.to_owned(), comment)).into_iter().collect();
                self.lakehouse.catalog().change_namespace(&self.namespace(&name), &set, &removed).await?;
                Ok(StatementResult::Ok)
            }
        }
    }

    async fn truncate(&self, name: &ObjectName) -> Result<StatementResult> {
        let table = self.table_to_change(name).await?;
        if let Some(done) = committed_step(&table, &self.options) {
            return Ok(StatementResult::Affected { rows: done.removed_rows, snapshot_id: done.snapshot_id });
        }
        let state = self.ctx.state();
        let write = self.write(&state);
        let change = rewrite_rows(&write, &table, None, datafusion::logical_expr::lit(true), RowEdit::Delete).await?;
        let rows = change.rows;
        if change.is_empty() && self.options.step.is_none() {
            return Ok(StatementResult::Affected { rows: 0, snapshot_id: table.current_snapshot_id() });
        }
        let done = write.commit_rows(&table, change).await?;
        Ok(StatementResult::Affected { rows, snapshot_id: done.snapshot_id })
    }
}

/// Property of tables and namespaces.
const COMMENT: &str = "comment";
