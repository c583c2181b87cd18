//! Equal names in a result: `SELECT v, CAST(v AS STRING) FROM t`, `SELECT v, v`, `SELECT *, v`. Spark returns columns of
//! equal names; plans here know a column by its name, so that the later ones get names of their own.

use std::collections::HashSet;

use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Expr, Ident, SelectItem, SetExpr, Statement as SqlStatement};

use chainalytics_common::Error;

/// Whether planning failed only because two columns have one name.
pub fn is_about_names(error: &Error) -> bool {
    error.message().contains("require unique expression names")
}

/// Names the later ones of equal columns of a query's result: a cast as it is written, others `v:1`. False if there are
/// none, or the statement is no query.
pub fn tell_apart(statement: &mut DfStatement) -> bool {
    match statement {
        DfStatement::Statement(statement) => match statement.as_mut() {
            SqlStatement::Query(query) => tell_apart_in(&mut query.body),
            _ => false,
        },
        DfStatement::Explain(explain) => tell_apart(&mut explain.statement),
        _ => false,
    }
}

fn tell_apart_in(body: &mut SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => {
            let wildcard = select.projection.iter().any(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
            let mut taken: HashSet<String> = select
                .projection
                .iter()
                .filter_map(|item| match item {
                    SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.to_lowercase()),
                    _ => None,
                })
                .collect();
            let mut renamed = false;
            for item in &mut select.projection {
                let SelectItem::UnnamedExpr(expr) = item else { continue };
                let name = name_of(expr);
                // What `*` stands for is not known here; a column may be among it.
                if taken.insert(name.to_lowercase()) && !(wildcard && is_column(expr)) {
                    continue;
                }
                let mut alias = match expr {
                    Expr::Cast { .. } => expr.to_string(),
                    _ => format!("{name}:1"),
                };
                let mut number = 1;
                while !taken.insert(alias.to_lowercase()) {
                    number += 1;
                    alias = format!("{name}:{number}");
                }
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', alias) };
                renamed = true;
            }
            renamed
        }
        SetExpr::Query(query) => tell_apart_in(&mut query.body),
        // The first one names the columns; the others must only plan.
        SetExpr::SetOperation { left, right, .. } => {
            let left = tell_apart_in(left);
            tell_apart_in(right) || left
        }
        _ => false,
    }
}

/// The name that an expression gives its column: a cast does not change it.
fn name_of(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(name) => name.value.clone(),
        Expr::CompoundIdentifier(names) => names.last().map(|name| name.value.clone()).unwrap_or_default(),
        Expr::Cast { expr, .. } | Expr::Nested(expr) => name_of(expr),
        other => other.to_string(),
    }
}

fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => true,
        Expr::Cast { expr, .. } | Expr::Nested(expr) => is_column(expr),
        _ => false,
    }
}
