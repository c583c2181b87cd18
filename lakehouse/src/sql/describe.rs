//! DESCRIBE, SHOW CREATE TABLE, SHOW TBLPROPERTIES, as Spark shows Iceberg tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::ObjectName;
use iceberg::spec::{NestedFieldRef, PrimitiveType, SortDirection, Transform, Type};

use chainalytics_common::Result;

use super::catalog::{find_table, load_table, table_not_found};
use super::ddl::text_batch;
use super::names::{ident_of, part_value};
use super::views::find_view;
use super::{Runner, StatementResult, rows, type_name};
use crate::catalog::ViewDefinition;
use crate::table::Table;
use crate::table::arrow_schema::DOC_KEY;

/// Name, type and comment of one line.
type Line = (String, String, String);

impl Runner<'_> {
    pub(super) async fn describe(&self, name: &ObjectName, extended: bool) -> Result<StatementResult> {
        let parts: Vec<String> = name.0.iter().map(part_value).collect();
        let lower = parts.last().map(|p| p.to_lowercase()).unwrap_or_default();
        let temporary = match parts.len() {
            1 if !lower.is_empty() => {
                let provider = self.ctx.table_provider(TableReference::bare(lower)).await.ok();
                provider.filter(|p| !p.is::<crate::scan::IcebergTableProvider>())
            }
            _ => None,
        };
        let lines = match temporary {
            Some(provider) => {
                let line = |f: &datafusion::arrow::datatypes::FieldRef| (f.name().clone(), type_name(f.data_type()), String::new());
                provider.schema().fields().iter().map(line).collect()
            }
            None => {
                let ident = ident_of(self.ctx, name)?;
                match find_table(self.lakehouse, &ident).await? {
                    Some(table) => table_lines(&table, extended),
                    None => match find_view(self.lakehouse, &ident).await? {
                        Some(view) => view_lines(&view, &ident.to_string(), extended),
                        None => return Err(table_not_found(self.lakehouse, &ident).await),
                    },
                }
            }
        };
        let column = |pick: fn(&Line) -> &String| lines.iter().map(|line| pick(line).clone()).collect();
        rows(text_batch(&[("col_name", column(|l| &l.0)), ("data_type", column(|l| &l.1)), ("comment", column(|l| &l.2))])?)
    }

    pub(super) async fn show_create_table(&self, name: &ObjectName) -> Result<StatementResult> {
        let ident = ident_of(self.ctx, name)?;
        if let Some(view) = find_view(self.lakehouse, &ident).await? {
            let columns: Vec<String> = view.schema.fields().iter().map(|field| quoted(field.name())).collect();
            let text = format!("CREATE VIEW {ident} ({})\nAS {}", columns.join(", "), view.sql);
            return rows(text_batch(&[("createtab_stmt", vec![text])])?);
        }
        let table = load_table(self.lakehouse, &ident).await?;
        rows(text_batch(&[("createtab_stmt", vec![create_statement(&table)])])?)
    }

    pub(super) async fn show_properties(&self, name: &ObjectName, key: Option<&str>) -> Result<StatementResult> {
        let table = load_table(self.lakehouse, &ident_of(self.ctx, name)?).await?;
        let properties = reported_properties(&table);
        let shown: Vec<(String, String)> = match key {
            None => properties.into_iter().collect(),
            Some(key) => {
                let value = properties.get(key).cloned();
                let absent = || format!("Table {} does not have property: {key}", table.ident());
                vec![(key.to_owned(), value.unwrap_or_else(absent))]
            }
        };
        let (keys, values) = shown.into_iter().unzip();
        rows(text_batch(&[("key", keys), ("value", values)])?)
    }
}

fn table_lines(table: &Table, extended: bool) -> Vec<Line> {
    let metadata = table.metadata();
    let mut lines: Vec<Line> = metadata
        .current_schema()
        .as_struct()
        .fields()
        .iter()
        .map(|field| (field.name.clone(), short_type(&field.field_type), field.doc.clone().unwrap_or_default()))
        .collect();
    let heading = |text: &str| (text.to_owned(), String::new(), String::new());
    let terms = partition_terms(table);
    if !terms.is_empty() {
        lines.push(heading("# Partitioning"));
        lines.extend(terms.into_iter().enumerate().map(|(i, term)| (format!("Part {i}"), term, String::new())));
    }
    if extended {
        let detail = |name: &str, value: String| (name.to_owned(), value, String::new());
        let properties: Vec<String> = reported_properties(table).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        lines.push(heading(""));
        lines.push(heading("# Detailed Table Information"));
        lines.push(detail("Name", table.ident().to_string()));
        lines.push(detail("Type", "MANAGED".to_owned()));
        if let Some(comment) = table.property("comment") {
            lines.push(detail("Comment", comment.to_owned()));
        }
        lines.push(detail("Location", table.location().to_owned()));
        lines.push(detail("Provider", "iceberg".to_owned()));
        lines.push(detail("Table Properties", format!("[{}]", properties.join(","))));
    }
    lines
}

fn view_lines(view: &ViewDefinition, name: &str, extended: bool) -> Vec<Line> {
    let comment = |field: &datafusion::arrow::datatypes::FieldRef| field.metadata().get(DOC_KEY).cloned().unwrap_or_default();
    let mut lines: Vec<Line> = view.schema.fields().iter().map(|f| (f.name().clone(), type_name(f.data_type()), comment(f))).collect();
    if extended {
        let detail = |name: &str, value: String| (name.to_owned(), value, String::new());
        lines.push(detail("", String::new()));
        lines.push(detail("# Detailed View Information", String::new()));
        lines.push(detail("Name", name.to_owned()));
        lines.push(detail("Type", "VIEW".to_owned()));
        lines.push(detail("View Text", view.sql.clone()));
        let pairs: Vec<String> = view.properties.iter().map(|(key, value)| format!("{key}={value}")).collect();
        lines.push(detail("View Properties", format!("[{}]", pairs.join(","))));
    }
    lines
}

/// The table's properties and what Iceberg reports beside them.
fn reported_properties(table: &Table) -> BTreeMap<String, String> {
    let metadata = table.metadata();
    let schema = metadata.current_schema();
    let mut all: BTreeMap<String, String> = table.properties().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let format = table.property("write.format.default").unwrap_or("parquet");
    all.insert("format".to_owned(), format!("iceberg/{format}"));
    all.insert("format-version".to_owned(), table.format_version().to_string());
    let snapshot = table.current_snapshot_id().map_or_else(|| "none".to_owned(), |id| id.to_string());
    all.insert("current-snapshot-id".to_owned(), snapshot);
    let mut identifiers: Vec<&str> = schema.identifier_field_ids().filter_map(|id| schema.name_by_field_id(id)).collect();
    if !identifiers.is_empty() {
        identifiers.sort_unstable();
        all.insert("identifier-fields".to_owned(), format!("[{}]", identifiers.join(",")));
    }
    let order: Vec<String> = metadata
        .default_sort_order()
        .fields
        .iter()
        .map(|field| {
            let term = term_text(field.transform, schema.name_by_field_id(field.source_id).unwrap_or_default());
            let direction = if field.direction == SortDirection::Descending { "DESC" } else { "ASC" };
            format!("{term} {direction} NULLS {}", field.null_order.to_string().to_uppercase())
        })
        .collect();
    if !order.is_empty() {
        all.insert("sort-order".to_owned(), order.join(", "));
    }
    all
}

fn create_statement(table: &Table) -> String {
    let columns: Vec<String> = table
        .metadata()
        .current_schema()
        .as_struct()
        .fields()
        .iter()
        .map(|field| format!("  {} {}{}", quoted(&field.name), spark_type(&field.field_type), options(field)))
        .collect();
    let mut text = format!("CREATE TABLE {} (\n{})\nUSING iceberg\n", table.ident(), columns.join(",\n"));
    let terms = partition_terms(table);
    if !terms.is_empty() {
        let _infallible = writeln!(text, "PARTITIONED BY ({})", terms.join(", "));
    }
    if let Some(comment) = table.property("comment") {
        let _infallible = writeln!(text, "COMMENT {}", literal(comment));
    }
    let _infallible = writeln!(text, "LOCATION {}", literal(table.location()));
    let mut properties: BTreeMap<&str, &str> = table.properties().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    properties.remove("comment");
    let version = table.format_version().to_string();
    properties.insert("format-version", &version);
    let pairs: Vec<String> = properties.iter().map(|(key, value)| format!("  {} = {}", literal(key), literal(value))).collect();
    let _infallible = write!(text, "TBLPROPERTIES (\n{})", pairs.join(",\n"));
    text
}

fn options(field: &NestedFieldRef) -> String {
    let required = if field.required { " NOT NULL" } else { "" };
    let comment = field.doc.as_ref().map(|doc| format!(" COMMENT {}", literal(doc))).unwrap_or_default();
    format!("{required}{comment}")
}

/// The default spec's fields as terms of `PARTITIONED BY`.
fn partition_terms(table: &Table) -> Vec<String> {
    let metadata = table.metadata();
    let schema = metadata.current_schema();
    metadata
        .default_partition_spec()
        .fields()
        .iter()
        .filter(|field| field.transform != Transform::Void)
        .map(|field| term_text(field.transform, schema.name_by_field_id(field.source_id).unwrap_or_default()))
        .collect()
}

fn term_text(transform: Transform, column: &str) -> String {
    match transform {
        Transform::Identity => column.to_owned(),
        Transform::Bucket(n) => format!("bucket({n}, {column})"),
        Transform::Truncate(width) => format!("truncate({width}, {column})"),
        Transform::Year | Transform::Month | Transform::Day | Transform::Hour => format!("{transform}s({column})"),
        other => format!("{other}({column})"),
    }
}

/// A type in the spelling that CREATE TABLE reads.
fn spark_type(field_type: &Type) -> String {
    match field_type {
        Type::Primitive(primitive) => match primitive {
            PrimitiveType::Boolean => "BOOLEAN".to_owned(),
            PrimitiveType::Int => "INT".to_owned(),
            PrimitiveType::Long => "BIGINT".to_owned(),
            PrimitiveType::Float => "FLOAT".to_owned(),
            PrimitiveType::Double => "DOUBLE".to_owned(),
            PrimitiveType::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
            PrimitiveType::Date => "DATE".to_owned(),
            PrimitiveType::Time => "TIME".to_owned(),
            PrimitiveType::Timestamp => "TIMESTAMP_NTZ".to_owned(),
            PrimitiveType::Timestamptz => "TIMESTAMP_LTZ".to_owned(),
            PrimitiveType::TimestampNs => "TIMESTAMP_NS".to_owned(),
            PrimitiveType::TimestamptzNs => "TIMESTAMPTZ_NS".to_owned(),
            PrimitiveType::String => "STRING".to_owned(),
            PrimitiveType::Uuid => "UUID".to_owned(),
            PrimitiveType::Fixed(length) => format!("FIXED({length})"),
            PrimitiveType::Binary => "BINARY".to_owned(),
        },
        Type::Struct(fields) => {
            let fields: Vec<String> =
                fields.fields().iter().map(|field| format!("{}: {}{}", quoted(&field.name), spark_type(&field.field_type), options(field))).collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        Type::List(list) => format!("ARRAY<{}>", spark_type(&list.element_field.field_type)),
        Type::Map(map) => {
            format!("MAP<{}, {}>", spark_type(&map.key_field.field_type), spark_type(&map.value_field.field_type))
        }
    }
}

/// A type as DESCRIBE shows it.
fn short_type(field_type: &Type) -> String {
    match field_type {
        Type::Primitive(_) => spark_type(field_type).to_lowercase(),
        Type::Struct(fields) => {
            let fields: Vec<String> = fields.fields().iter().map(|field| format!("{}:{}", field.name, short_type(&field.field_type))).collect();
            format!("struct<{}>", fields.join(","))
        }
        Type::List(list) => format!("array<{}>", short_type(&list.element_field.field_type)),
        Type::Map(map) => {
            format!("map<{},{}>", short_type(&map.key_field.field_type), short_type(&map.value_field.field_type))
        }
    }
}

/// A name, in quotes if it needs them.
fn quoted(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
