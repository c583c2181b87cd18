//! Changes of a table's layout: partition evolution and sort order. Old files keep the spec they were written with.
//! Source: Iceberg spec, "Partition Evolution", "Sorting".

use chainalytics_common::{Error, ErrorCode, Result};
use iceberg::spec::{
    FormatVersion, NullOrder, Schema, SortDirection, SortField, SortOrder, TableMetadata, Transform, UnboundPartitionField, UnboundPartitionSpec,
};

use super::schema_change::{ColumnPath, find_column};
use crate::catalog::parse_transform;
use crate::err;

/// A transform of a column, `identity` for the column itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    pub column: ColumnPath,
    /// `identity`, `year`, `month`, `day`, `hour`, `bucket[n]`, `truncate[w]`; Spark's plurals too.
    pub transform: String,
}

/// Which partition field is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionTarget {
    /// A bare word: the identity field of that column, else the partition field of that name.
    Word(String),
    /// The field with this source and transform.
    Term(Term),
}

/// One change of the default partition spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionEdit {
    Add { term: Term, name: Option<String> },
    Drop(PartitionTarget),
    Replace { from: PartitionTarget, to: Term, name: Option<String> },
}

/// One key of the sort order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortTerm {
    pub term: Term,
    pub descending: bool,
    pub nulls_first: bool,
}

/// The default spec of `metadata` after `edits`, over `schema`.
///
/// # Errors
/// `ColumnNotFound`, `ColumnExists` for a field that is there, `NotFound` for one that is not, `InvalidArgument` for a
/// transform that the column's type does not have.
pub(super) fn edited_spec<'a>(
    metadata: &TableMetadata,
    schema: &Schema,
    edits: impl Iterator<Item = &'a PartitionEdit>,
) -> Result<UnboundPartitionSpec> {
    let is_v1 = metadata.format_version() == FormatVersion::V1;
    let spec = metadata.default_partition_spec();
    let mut fields: Vec<UnboundPartitionField> = spec.fields().iter().map(|field| field.clone().into_unbound()).collect();
    for edit in edits {
        match edit {
            PartitionEdit::Add { term, name } => add(&mut fields, schema, term, name.as_deref(), None)?,
            PartitionEdit::Drop(target) => {
                let at = find(&fields, schema, target)?;
                remove(&mut fields, at, is_v1);
            }
            PartitionEdit::Replace { from, to, name } => {
                let at = find(&fields, schema, from)?;
                remove(&mut fields, at, is_v1);
                add(&mut fields, schema, to, name.as_deref(), (!is_v1).then_some(at))?;
            }
        }
    }
    let builder = UnboundPartitionSpec::builder().add_partition_fields(fields).map_err(err::iceberg_input)?;
    Ok(builder.build())
}

/// In v1 a partition value's place is its identity, so that a dropped field stays as one that is always null.
fn remove(fields: &mut Vec<UnboundPartitionField>, at: usize, is_v1: bool) {
    if !is_v1 {
        fields.remove(at);
        return;
    }
    let field = &mut fields[at];
    field.transform = Transform::Void;
    let id = field.field_id.unwrap_or_default();
    field.name = format!("{}_{id}", field.name);
}

fn add(fields: &mut Vec<UnboundPartitionField>, schema: &Schema, term: &Term, name: Option<&str>, at: Option<usize>) -> Result<()> {
    let (source_id, transform) = resolve(schema, term)?;
    if fields.iter().any(|field| field.source_id == source_id && field.transform == transform) {
        return Err(exists(format!("the table is partitioned by {transform} of '{}' already", term.column.join("."))));
    }
    let name = match name {
        Some(name) => name.to_owned(),
        None => usual_name(schema.name_by_field_id(source_id).unwrap_or_default(), transform),
    };
    if fields.iter().any(|field| field.name == name) {
        return Err(exists(format!("there is a partition field '{name}' already; name the new one with AS")));
    }
    // The id stays open: an equal field of an older spec lends its own.
    let field = UnboundPartitionField { source_id, field_id: None, name, transform };
    fields.insert(at.unwrap_or(fields.len()).min(fields.len()), field);
    Ok(())
}

fn find(fields: &[UnboundPartitionField], schema: &Schema, target: &PartitionTarget) -> Result<usize> {
    let of_term = |term: &Term| {
        let (source_id, transform) = resolve(schema, term)?;
        Ok(fields.iter().position(|field| field.source_id == source_id && field.transform == transform))
    };
    let (at, text) = match target {
        PartitionTarget::Term(term) => (of_term(term)?, format!("{} of '{}'", term.transform, term.column.join("."))),
        PartitionTarget::Word(word) => {
            let term = Term { column: vec![word.clone()], transform: "identity".to_owned() };
            let by_term = of_term(&term).unwrap_or_default();
            let by_name = || fields.iter().position(|field| field.name.eq_ignore_ascii_case(word));
            (by_term.or_else(by_name), format!("'{word}'"))
        }
    };
    let known: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    at.ok_or_else(|| {
        Error::new(ErrorCode::NotFound, format!("the table has no partition field {text}; its partition fields are [{}]", known.join(", ")))
    })
}

fn resolve(schema: &Schema, term: &Term) -> Result<(i32, Transform)> {
    let field = find_column(schema, &term.column)?;
    let transform = parse_transform(&term.transform)?;
    transform
        .result_type(&field.field_type)
        .map_err(|_| err::invalid(format!("column '{}' of type {} cannot be transformed by {transform}", term.column.join("."), field.field_type)))?;
    Ok((field.id, transform))
}

/// The sort order of `terms`. Its id is that of an equal order, else the next one: the library's builder takes the id
/// from here.
pub(super) fn sort_order(metadata: &TableMetadata, schema: &Schema, terms: &[SortTerm]) -> Result<SortOrder> {
    if terms.is_empty() {
        return Ok(SortOrder::unsorted_order());
    }
    let fields = terms
        .iter()
        .map(|sort| {
            let (source_id, transform) = resolve(schema, &sort.term)?;
            let direction = if sort.descending { SortDirection::Descending } else { SortDirection::Ascending };
            let null_order = if sort.nulls_first { NullOrder::First } else { NullOrder::Last };
            Ok(SortField { source_id, transform, direction, null_order })
        })
        .collect::<Result<Vec<_>>>()?;
    let equal = metadata.sort_orders_iter().find(|order| order.fields == fields).map(|order| order.order_id);
    let next = metadata.sort_orders_iter().map(|order| order.order_id).max().unwrap_or(0) + 1;
    Ok(SortOrder { order_id: equal.unwrap_or(next), fields })
}

/// The name that Iceberg gives a field that is added to a spec (it differs from that at creation for widths).
fn usual_name(column: &str, transform: Transform) -> String {
    match transform {
        Transform::Bucket(n) => format!("{column}_bucket_{n}"),
        Transform::Truncate(width) => format!("{column}_trunc_{width}"),
        Transform::Year => format!("{column}_year"),
        Transform::Month => format!("{column}_month"),
        Transform::Day => format!("{column}_day"),
        Transform::Hour => format!("{column}_hour"),
        Transform::Void => format!("{column}_null"),
        Transform::Identity | Transform::Unknown => column.to_owned(),
    }
}

fn exists(message: String) -> Error {
    Error::new(ErrorCode::ColumnExists, message)
}
