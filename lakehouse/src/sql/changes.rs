//! DELETE and UPDATE. Their conditions and values are planned as parts of queries, so that everything a query
//! can say is allowed in them; the rows are found and written by the executor, the commit is made here.

use datafusion::common::TableReference;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::ast::{AssignmentTarget, Delete, FromTable, ObjectName, TableFactor, TableWithJoins, Update};

use chainalytics_common::{Error, ErrorCode, Result};

use super::catalog::load_table;
use super::names::{ident_of, part_value, plan};
use super::statement::{ParsedStatement, parse_statement, split_statements};
use super::{Runner, StatementResult, dialect_of, unsupported};
use crate::commit::TableOutcome;
use crate::dml::{Assignment, RowEdit, committed_step, rewrite_rows};
use crate::settings::SessionSettings;
use crate::table::Table;

impl Runner<'_> {
    pub(super) async fn delete(&self, delete: Delete) -> Result<StatementResult> {
        refuse(delete.using.is_some(), "DELETE … USING (use a subquery in WHERE)")?;
        refuse(delete.returning.is_some(), "DELETE … RETURNING")?;
        refuse(delete.limit.is_some() || !delete.order_by.is_empty(), "DELETE … ORDER BY or LIMIT")?;
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        let target = self.target(from).await?;
        if let Some(done) = committed_step(&target.table, &self.options) {
            return Ok(affected(done.removed_rows, &done));
        }
        self.change(&target, delete.selection.as_ref(), RowEdit::Delete).await
    }

    pub(super) async fn update(&self, update: Update) -> Result<StatementResult> {
        refuse(update.from.is_some(), "UPDATE … FROM (use MERGE INTO or a subquery)")?;
        refuse(update.returning.is_some(), "UPDATE … RETURNING")?;
        refuse(update.limit.is_some() || !update.order_by.is_empty(), "UPDATE … ORDER BY or LIMIT")?;
        let target = self.target(std::slice::from_ref(&update.table)).await?;
        if let Some(done) = committed_step(&target.table, &self.options) {
            return Ok(affected(done.removed_rows, &done));
        }
        let mut names = Vec::new();
        let mut values = Vec::new();
        for assignment in &update.assignments {
            let AssignmentTarget::ColumnName(name) = &assignment.target else {
                return Err(unsupported("assignment to a tuple of columns"));
            };
            let column = last_part(name);
            let known = target.table.schema().fields().iter().find(|f| f.name().eq_ignore_ascii_case(&column));
            let Some(known) = known else {
                return Err(Error::new(ErrorCode::SchemaMismatch, format!("table {} has no column '{column}'", target.table.ident())));
            };
            if names.contains(known.name()) {
                return Err(Error::new(ErrorCode::SchemaMismatch, format!("column '{column}' is assigned twice")));
            }
            names.push(known.name().clone());
            values.push(assignment.value.to_string());
        }
        let values: Vec<String> = values.iter().enumerate().map(|(i, v)| format!("{v} AS \"#{i}\"")).collect();
        let planned = self.plan_text(&format!("SELECT {} FROM {}", values.join(", "), target.text)).await?;
        let LogicalPlan::Projection(projection) = planned else {
            return Err(unsupported("aggregates and windows in UPDATE … SET"));
        };
        let assignments = names.into_iter().zip(projection.expr).map(|(column, value)| Assignment { column, value: value.unalias() }).collect();
        self.change(&target, update.selection.as_ref(), RowEdit::Update(assignments)).await
    }

    async fn change(&self, target: &Target, selection: Option<&ast::Expr>, edit: RowEdit) -> Result<StatementResult> {
        let state = self.ctx.state();
        let write = self.write(&state);
        let condition = match selection {
            Some(selection) => self.condition(target, selection).await?,
            None => datafusion::logical_expr::lit(true),
        };
        let change = rewrite_rows(&write, &target.table, Some(target.qualifier.clone()), condition, edit).await?;
        let rows = change.rows;
        if change.is_empty() && self.options.step.is_none() {
            return Ok(StatementResult::Affected { rows: 0, snapshot_id: target.table.current_snapshot_id() });
        }
        let done = write.commit_rows(&target.table, change).await?;
        Ok(affected(rows, &done))
    }

    /// Plans a WHERE clause on the target and takes the expression out of the plan.
    async fn condition(&self, target: &Target, selection: &ast::Expr) -> Result<Expr> {
        let planned = self.plan_text(&format!("SELECT 1 FROM {} WHERE {selection}", target.text)).await?;
        let mut node = &planned;
        loop {
            match node {
                LogicalPlan::Filter(filter) => return Ok(filter.predicate.clone()),
                LogicalPlan::Projection(projection) => node = &projection.input,
                _ => return Err(unsupported(&format!("the condition {selection}"))),
            }
        }
    }

    pub(super) async fn plan_text(&self, sql: &str) -> Result<LogicalPlan> {
        // The dialect is not Send: it ends before the await.
        let statement = {
            let dialect = dialect_of(&self.ctx.state())?;
            let tokens = split_statements(sql, dialect.as_ref())?.into_iter().next().unwrap_or_default();
            parse_statement(tokens, dialect.as_ref())?
        };
        match statement {
            ParsedStatement::DataFusion(statement) => plan(self.ctx, self.lakehouse, *statement).await,
            _ => Err(Error::new(ErrorCode::Internal, format!("a query was expected: {sql}"))),
        }
    }

    /// The table that a statement changes, on the branch that the session writes to.
    pub(super) async fn table_to_change(&self, name: &ObjectName) -> Result<Table> {
        let table = load_table(self.lakehouse, &ident_of(self.ctx, name)?).await?;
        SessionSettings::of(&self.ctx.state()).for_writes(table)
    }

    pub(super) async fn target(&self, from: &[TableWithJoins]) -> Result<Target> {
        let [TableWithJoins { relation: TableFactor::Table { name, alias, sample, .. }, joins }] = from else {
            return Err(unsupported("changing several tables in one statement"));
        };
        refuse(sample.is_some(), "TABLESAMPLE of the target of a change")?;
        refuse(!joins.is_empty(), "joins in the target of a change (use a subquery)")?;
        let table = self.table_to_change(name).await?;
        let (text, qualifier) = match alias {
            Some(alias) => {
                let lower = if alias.name.quote_style.is_some() { alias.name.value.clone() } else { alias.name.value.to_lowercase() };
                (format!("{name} AS {}", alias.name), TableReference::bare(lower))
            }
            None => {
                // An alias of its own name keeps the qualifier simple: `t.col` resolves as written.
                let own = last_part(name).to_lowercase();
                (format!("{name} AS \"{own}\""), TableReference::bare(own))
            }
        };
        Ok(Target { table, text, qualifier })
    }
}

/// The table that a DELETE or UPDATE changes.
pub(super) struct Target {
    pub table: Table,
    /// As it stands in a FROM clause.
    pub text: String,
    /// What qualifies its columns in planned expressions.
    pub qualifier: TableReference,
}

pub(super) fn affected(rows: u64, done: &TableOutcome) -> StatementResult {
    StatementResult::Affected { rows, snapshot_id: done.snapshot_id }
}

pub(super) fn last_part(name: &ObjectName) -> String {
    name.0.last().map(part_value).unwrap_or_default()
}

pub(super) fn refuse(present: bool, what: &str) -> Result<()> {
    if present { Err(unsupported(what)) } else { Ok(()) }
}
