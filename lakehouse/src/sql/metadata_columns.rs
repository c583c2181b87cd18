//! Metadata columns in queries: `SELECT _file, _pos, _row_id, * FROM t`. A table has them where a query names them, and
//! `*` leaves them out, as Spark does.
//!
//! The planner knows no hidden columns. A table of a query that names some is given another name, `t@columns:_file,_pos`,
//! which the schema provider resolves to a scan that has them; each `*` of that query becomes one per table without them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    Statement as SqlStatement, TableAlias, TableFactor, Visit, VisitMut, Visitor, VisitorMut, WildcardAdditionalOptions,
};

use super::names::part_value;
use super::time_travel::VERSION_MARK;
use crate::scan::{IcebergTableProvider, MetadataColumn};

/// What stands between a table's name and the metadata columns that a query wants of it.
const MARK: &str = "columns:";

/// The metadata columns that a name's mark asks for.
pub fn marked_columns(mark: &str) -> Option<Vec<MetadataColumn>> {
    let names = mark.strip_prefix(MARK)?;
    names.split(',').map(MetadataColumn::parse).collect()
}

/// Gives the tables of a statement the metadata columns that it names.
pub async fn add_metadata_columns(ctx: &SessionContext, statement: &mut DfStatement) {
    let statement = match statement {
        DfStatement::Statement(statement) => statement.as_mut(),
        DfStatement::Explain(explain) => {
            return Box::pin(add_metadata_columns(ctx, &mut explain.statement)).await;
        }
        _ => return,
    };
    let mut wanted = Wanted::default();
    let _done = Visit::visit(statement as &SqlStatement, &mut wanted);
    let mut has = BTreeMap::new();
    for name in wanted.tables {
        let parts: Vec<String> = name.0.iter().map(part_value).collect();
        let reference = match parts.as_slice() {
            [table] => TableReference::bare(table.clone()),
            [schema, table] => TableReference::partial(schema.clone(), table.clone()),
            [catalog, schema, table] => TableReference::full(catalog.clone(), schema.clone(), table.clone()),
            _ => continue,
        };
        if let Ok(provider) = ctx.table_provider(reference).await
            && let Some(table) = (provider.as_ref() as &dyn std::any::Any).downcast_ref::<IcebergTableProvider>()
        {
            has.insert(name.to_string(), table.metadata_columns());
        }
    }
    if !has.is_empty() {
        let _done = VisitMut::visit(statement as &mut SqlStatement, &mut Marking { has });
    }
}

/// The tables of queries that name metadata columns.
#[derive(Default)]
struct Wanted {
    tables: Vec<ObjectName>,
    common: BTreeSet<String>,
}

impl Visitor for Wanted {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(with) = &query.with {
            self.common.extend(with.cte_tables.iter().map(|cte| cte.alias.name.value.to_lowercase()));
        }
        let mentions = Mentions::of(query);
        if mentions.is_empty() {
            return ControlFlow::Continue(());
        }
        for select in selects(&query.body) {
            for factor in factors(select) {
                if let TableFactor::Table { name, args: None, .. } = factor
                    && !(name.0.len() == 1 && self.common.contains(&last(name).to_lowercase()))
                {
                    self.tables.push(name.clone());
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Metadata columns that a query names.
#[derive(Default)]
struct Mentions {
    /// Without a table, outside of subqueries.
    bare: BTreeSet<MetadataColumn>,
    /// With the table's name or alias in lower case.
    qualified: BTreeSet<(String, MetadataColumn)>,
    depth: usize,
}

impl Mentions {
    fn of(query: &Query) -> Self {
        let mut mentions = Self::default();
        let _done = Visit::visit(query, &mut mentions);
        mentions
    }

    fn is_empty(&self) -> bool {
        self.bare.is_empty() && self.qualified.is_empty()
    }

    /// Those that a table is asked for. `alone`: the query reads from tables only, so that a bare name is theirs.
    fn for_table(&self, alias: &str, alone: bool) -> Vec<MetadataColumn> {
        let asked = |column: &MetadataColumn| (alone && self.bare.contains(column)) || self.qualified.contains(&(alias.to_lowercase(), *column));
        MetadataColumn::ALL.into_iter().filter(asked).collect()
    }
}

impl Visitor for Mentions {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) if self.depth == 1 => self.bare.extend(MetadataColumn::parse(&name.value)),
            Expr::CompoundIdentifier(names) => {
                // `_partition.day`, `t._partition.day`: a field of the column.
                let names = match names.iter().position(|name| MetadataColumn::parse(&name.value) == Some(MetadataColumn::Partition)) {
                    Some(at) => &names[..=at],
                    None => names.as_slice(),
                };
                match names {
                    [name] if self.depth == 1 => self.bare.extend(MetadataColumn::parse(&name.value)),
                    [.., table, name] => {
                        if let Some(column) = MetadataColumn::parse(&name.value) {
                            self.qualified.insert((table.value.to_lowercase(), column));
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Renames tables and takes their metadata columns out of `*`.
struct Marking {
    /// By name as written: what a table can give.
    has: BTreeMap<String, Vec<MetadataColumn>>,
}

impl VisitorMut for Marking {
    type Break = ();

    // After what is within it: a renamed table is not looked at again.
    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let mentions = Mentions::of(query);
        if !mentions.is_empty() {
            self.mark(&mut query.body, &mentions);
        }
        ControlFlow::Continue(())
    }
}

impl Marking {
    fn mark(&self, body: &mut SetExpr, mentions: &Mentions) {
        match body {
            SetExpr::Select(select) => self.mark_select(select, mentions),
            SetExpr::SetOperation { left, right, .. } => {
                self.mark(left, mentions);
                self.mark(right, mentions);
            }
            _ => {}
        }
    }

    fn mark_select(&self, select: &mut Select, mentions: &Mentions) {
        let known = |factor: &TableFactor| matches!(factor, TableFactor::Table { name, args: None, .. } if self.has.contains_key(&name.to_string()));
        let alone = factors(select).all(known);
        let mut hidden: Vec<(Ident, Vec<MetadataColumn>)> = Vec::new();
        let relations = select.from.iter_mut().flat_map(|from| std::iter::once(&mut from.relation).chain(from.joins.iter_mut().map(|j| &mut j.relation)));
        for factor in relations {
            let alias = match factor {
                TableFactor::Table { name, alias, args: None, .. } => {
                    let own = name.0.last().and_then(ObjectNamePart::as_ident).cloned();
                    let Some(visible) = alias.as_ref().map(|alias| alias.name.clone()).or(own) else { return };
                    let mut columns = mentions.for_table(&visible.value, alone);
                    columns.retain(|column| self.has.get(&name.to_string()).is_some_and(|has| has.contains(column)));
                    if !columns.is_empty() {
                        let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
                        let marked = format!("{}{VERSION_MARK}{MARK}{}", last(name), names.join(","));
                        name.0.pop();
                        name.0.push(ObjectNamePart::Identifier(Ident::with_quote('"', marked)));
                        alias.get_or_insert_with(|| TableAlias { explicit: true, name: visible.clone(), columns: Vec::new(), at: None });
                    }
                    hidden.push((visible, columns));
                    continue;
                }
                TableFactor::Table { alias, .. } | TableFactor::Derived { alias, .. } => alias.as_ref(),
                _ => None,
            };
            if let Some(alias) = alias {
                hidden.push((alias.name.clone(), Vec::new()));
            }
        }
        if hidden.iter().any(|(_, columns)| !columns.is_empty()) {
            let items = std::mem::take(&mut select.projection);
            select.projection = items.into_iter().flat_map(|item| without(item, &hidden)).collect();
        }
    }
}

/// A `*` as those of the tables, each without its hidden columns.
fn without(item: SelectItem, hidden: &[(Ident, Vec<MetadataColumn>)]) -> Vec<SelectItem> {
    let of_table = |table: &Ident, columns: &[MetadataColumn], mut options: WildcardAdditionalOptions| {
        if !columns.is_empty() {
            let mut names = match options.opt_exclude.take() {
                Some(ExcludeSelectItem::Single(name)) => vec![name],
                Some(ExcludeSelectItem::Multiple(names)) => names,
                None => Vec::new(),
            };
            names.extend(columns.iter().map(|column| ObjectName::from(vec![Ident::new(column.name())])));
            options.opt_exclude = Some(ExcludeSelectItem::Multiple(names));
        }
        let table = SelectItemQualifiedWildcardKind::ObjectName(ObjectName::from(vec![table.clone()]));
        SelectItem::QualifiedWildcard(table, options)
    };
    match item {
        SelectItem::Wildcard(options) => hidden.iter().map(|(table, columns)| of_table(table, columns, options.clone())).collect(),
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
            match hidden.iter().find(|(table, _)| table.value.eq_ignore_ascii_case(&last(&name))) {
                Some((table, columns)) => vec![of_table(table, columns, options)],
                None => vec![SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options)],
            }
        }
        item => vec![item],
    }
}

fn selects(body: &SetExpr) -> Vec<&Select> {
    match body {
        SetExpr::Select(select) => vec![select],
        SetExpr::SetOperation { left, right, .. } => [selects(left), selects(right)].concat(),
        _ => Vec::new(),
    }
}

fn factors(select: &Select) -> impl Iterator<Item = &TableFactor> {
    select.from.iter().flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)))
}

fn last(name: &ObjectName) -> String {
    name.0.last().map(part_value).unwrap_or_default()
}
