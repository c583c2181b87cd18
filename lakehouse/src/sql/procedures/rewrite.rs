//! Procedures that write files anew.

use chainalytics_common::{Error, Result};
use datafusion::arrow::array::RecordBatch;
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, OrderByExpr};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::result::{batch, count, long_count};
use super::{Arguments, Kind, Procedure, bad_argument, optional, required};
use crate::maintenance::{self, RewriteDeletesOptions, RewriteOptions, SortBy, Strategy};
use crate::sql::{Runner, dialect_of, plan_query, unsupported};
use crate::table::Table;

pub const PROCEDURES: &[Procedure] = &[
    Procedure {
        name: "rewrite_data_files",
        parameters: &[
            required("table", Kind::Text),
            optional("strategy", Kind::Text),
            optional("sort_order", Kind::Text),
            optional("options", Kind::Map),
            optional("where", Kind::Text),
        ],
        run: |runner, arguments| Box::pin(rewrite_data_files(runner, arguments)),
    },
    Procedure {
        name: "rewrite_position_delete_files",
        parameters: &[required("table", Kind::Text), optional("options", Kind::Map), optional("where", Kind::Text)],
        run: |runner, arguments| Box::pin(rewrite_position_delete_files(runner, arguments)),
    },
    Procedure { name: "maintain", parameters: &[required("table", Kind::Text)], run: |runner, arguments| Box::pin(maintain(runner, arguments)) },
    Procedure {
        name: "rewrite_manifests",
        parameters: &[
            required("table", Kind::Text),
            // Spark's cache; ours needs none.
            optional("use_caching", Kind::Bool),
            optional("spec_id", Kind::Long),
        ],
        run: |runner, arguments| Box::pin(rewrite_manifests(runner, arguments)),
    },
];

async fn rewrite_data_files(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let order = arguments.text("sort_order");
    let strategy = match (arguments.text("strategy").map(str::to_ascii_lowercase).as_deref(), order) {
        (None | Some("binpack"), None) => Strategy::BinPack,
        (Some("binpack"), Some(_)) => {
            return Err(bad_argument("rewrite_data_files: strategy 'binpack' takes no sort_order; use strategy => 'sort'"));
        }
        (None | Some("sort"), Some(order)) => match zorder_terms(order) {
            Some(columns) => Strategy::ZOrder(columns?),
            None => Strategy::Sort(runner.sort_terms(order)?),
        },
        (Some("sort"), None) => Strategy::Sort(Vec::new()),
        (Some(other), _) => {
            return Err(bad_argument(format!("rewrite_data_files: strategy '{other}'; it must be binpack or sort")));
        }
    };
    let filters = match arguments.text("where") {
        Some(condition) => runner.conditions(&table, condition).await?,
        None => Vec::new(),
    };
    let options = RewriteOptions { strategy, filters, settings: arguments.map("options"), ..RewriteOptions::default() };
    let state = runner.ctx.state();
    let done = maintenance::rewrite_data_files(&runner.write(&state), table.ident(), &options).await?;
    batch([
        ("rewritten_data_files_count", count(done.rewritten_files)),
        ("added_data_files_count", count(done.added_files)),
        ("rewritten_bytes_count", long_count(done.rewritten_bytes)),
        ("failed_data_files_count", count(done.failed_files)),
        ("removed_delete_files_count", count(done.removed_delete_files)),
    ])
}

async fn rewrite_manifests(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let spec_id = arguments.count("spec_id", 0)?;
    let done = maintenance::rewrite_manifests(runner.lakehouse, table.ident(), spec_id).await?;
    batch([("rewritten_manifests_count", count(done.rewritten)), ("added_manifests_count", count(done.added))])
}

async fn rewrite_position_delete_files(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let mut options = RewriteDeletesOptions::default();
    for (key, value) in arguments.map("options") {
        let bad = || bad_argument(format!("rewrite_position_delete_files: option {key} is '{value}'"));
        match key.as_str() {
            "min-input-files" => options.min_input_files = Some(value.parse().map_err(|_| bad())?),
            "rewrite-all" => options.rewrite_all = value.to_ascii_lowercase().parse().map_err(|_| bad())?,
            _ => {
                return Err(bad_argument(format!(
                    "rewrite_position_delete_files: option '{key}' is not known; there are min-input-files, rewrite-all"
                )));
            }
        }
    }
    if let Some(condition) = arguments.text("where") {
        options.filters = runner.conditions(&table, condition).await?;
    }
    let state = runner.ctx.state();
    let done = maintenance::rewrite_position_delete_files(&runner.write(&state), table.ident(), &options).await?;
    batch([
        ("rewritten_delete_files_count", count(done.rewritten_files)),
        ("added_delete_files_count", count(done.added_files)),
        ("rewritten_bytes_count", long_count(done.rewritten_bytes)),
        ("added_bytes_count", long_count(done.added_bytes)),
    ])
}

/// Not one of Iceberg's: what a table with `chainalytics.maintenance.enabled` gets by itself.
async fn maintain(runner: &Runner<'_>, arguments: &Arguments) -> Result<RecordBatch> {
    let table = runner.table_argument(arguments).await?;
    let state = runner.ctx.state();
    let done = maintenance::maintain(&runner.write(&state), table.ident()).await?;
    batch([
        ("rewritten_data_files_count", count(done.compacted.rewritten_files)),
        ("added_data_files_count", count(done.compacted.added_files)),
        ("rewritten_manifests_count", count(done.manifests.rewritten)),
        ("added_manifests_count", count(done.manifests.added)),
        ("expired_snapshots_count", long_count(done.expired.snapshots)),
        ("deleted_data_files_count", long_count(done.expired.data_files)),
    ])
}

/// The columns of `zorder(a, b)`; `None` if a sort order is another.
fn zorder_terms(order: &str) -> Option<Result<Vec<String>>> {
    let order = order.trim();
    let (name, rest) = order.split_at_checked("zorder".len())?;
    let rest = rest.trim_start();
    if !name.eq_ignore_ascii_case("zorder") || !rest.starts_with('(') {
        return None;
    }
    let bad = || bad_argument(format!("sort_order '{order}': a z-order is written zorder(a, b) and cannot be joined with other terms"));
    let Some(columns) = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) else { return Some(Err(bad())) };
    let unquoted = |name: &str| {
        let name = name.trim();
        let quoted = name.strip_prefix(['`', '"']).and_then(|name| name.strip_suffix(['`', '"']));
        let plain = quoted.unwrap_or(name).to_owned();
        if plain.is_empty() || plain.contains(['(', ')']) { Err(bad()) } else { Ok(plain) }
    };
    Some(columns.split(',').map(unquoted).collect())
}

impl Runner<'_> {
    /// `a DESC NULLS LAST, b`: Iceberg's default is ascending with nulls first, descending with nulls last.
    fn sort_terms(&self, text: &str) -> Result<Vec<SortBy>> {
        let dialect = dialect_of(&self.ctx.state())?;
        let terms: Vec<OrderByExpr> = Parser::new(dialect.as_ref())
            .try_with_sql(text)
            .and_then(|mut parser| {
                let terms = parser.parse_comma_separated(Parser::parse_order_by_expr)?;
                parser.expect_token(&Token::EOF)?;
                Ok(terms)
            })
            .map_err(|e| bad_argument(format!("sort_order '{text}': {e}")))?;
        terms
            .into_iter()
            .map(|term| {
                let SqlExpr::Identifier(column) = &term.expr else {
                    return Err(unsupported(&format!("sorting by {}; name columns", term.expr)));
                };
                let descending = term.options.asc == Some(false);
                let nulls_first = term.options.nulls_first.unwrap_or(!descending);
                Ok(SortBy { column: column.value.clone(), descending, nulls_first })
            })
            .collect()
    }

    /// The conjuncts of a condition over a table's columns.
    async fn conditions(&self, table: &Table, condition: &str) -> Result<Vec<Expr>> {
        let ident = table.ident();
        let name = format!("\"{}\".\"{}\"", ident.namespace_key(), ident.name());
        let planned = plan_query(self.ctx, self.lakehouse, &format!("SELECT 1 FROM {name} WHERE {condition}"))
            .await
            .map_err(|e| Error::new(e.code(), format!("where => '{condition}': {}", e.message())))?;
        let mut node = &planned;
        loop {
            match node {
                LogicalPlan::Filter(filter) => {
                    let terms = split_conjunction(&filter.predicate);
                    return Ok(terms.into_iter().map(|term| unnormalize_col(term.clone())).collect());
                }
                LogicalPlan::Projection(projection) => node = &projection.input,
                // A condition that is always true leaves no filter.
                LogicalPlan::TableScan(_) => return Ok(Vec::new()),
                _ => return Err(unsupported(&format!("the condition {condition}"))),
            }
        }
    }
}
