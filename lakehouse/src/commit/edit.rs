//! Changes of a table's metadata beside its files. They are applied anew to every freshly loaded version, so that a
//! change that lost a race is checked against what the winner left.

use std::collections::{BTreeMap, HashMap};

use arrow::datatypes::SchemaRef;
use chainalytics_common::Result;
use iceberg::spec::{FormatVersion, NestedField, NestedFieldRef, Schema, SortOrder, StructType, TableMetadata, TableMetadataBuilder, Type};

use super::change::TableChange;
use super::layout_change::{self, PartitionEdit, SortTerm};
use super::name_mapping::{NAME_MAPPING, updated};
use super::ref_change::{self, RefEdit};
use super::schema_change::{self, SchemaEdit};
use crate::catalog::{PartitionFieldDef, partition_spec};
use crate::err;
use crate::store::normalize_location;
use crate::table::{MAIN_BRANCH, Refs, arrow_schema};

/// One change of metadata.
#[derive(Debug, Clone)]
pub enum TableEdit {
    Schema(SchemaEdit),
    Partition(PartitionEdit),
    /// Replaces the sort order; no terms make the table unsorted.
    SortOrder(Vec<SortTerm>),
    /// Where new files go; old ones stay where they are.
    Location(String),
    /// 1, 2 or 3; never back.
    FormatVersion(u8),
    Ref(RefEdit),
    /// A new definition in the place of the old; snapshots stay, the main branch starts empty.
    Replace(ReplaceTable),
}

/// A table's new definition. Columns of a name that the table has keep their field ids.
#[derive(Debug, Clone)]
pub struct ReplaceTable {
    pub schema: SchemaRef,
    pub partition: Vec<PartitionFieldDef>,
    /// Added to the table's properties.
    pub properties: BTreeMap<String, String>,
    pub location: Option<String>,
}

impl TableChange {
    /// Changes the table's definition: before the files, if this change has any, so that they fit the new one.
    #[must_use]
    pub fn edit(mut self, edits: Vec<TableEdit>) -> Self {
        if self.files.is_none() {
            return self.edit_builder(move |table, builder| apply(builder, table.metadata(), table.references()?.as_ref(), &edits));
        }
        self.definition.extend(edits);
        self
    }

    /// Commits to a branch instead of the main one. A branch that does not exist yet starts at the main branch's head.
    #[must_use]
    pub fn to_branch(mut self, branch: Option<&str>) -> Self {
        self.branch = branch.map(str::to_owned);
        self
    }
}

/// Adds the changes to the builder; `metadata`, with its `refs`, is what it was made from.
pub(super) fn apply(
    mut builder: TableMetadataBuilder,
    metadata: &TableMetadata,
    refs: &Refs,
    edits: &[TableEdit],
) -> Result<TableMetadataBuilder> {
    let mut schema = metadata.current_schema().as_ref().clone();
    for edit in edits {
        match edit {
            TableEdit::FormatVersion(version) => {
                builder = builder.upgrade_format_version(format_version(*version)?).map_err(err::iceberg_input)?;
            }
            TableEdit::Location(location) => builder = builder.set_location(normalize_location(location)?),
            TableEdit::Ref(edit) => builder = ref_change::apply(builder, metadata, refs, edit)?,
            TableEdit::Replace(new) => builder = replace(builder, metadata, new)?,
            TableEdit::Schema(_) | TableEdit::Partition(_) | TableEdit::SortOrder(_) => {}
        }
    }
    let schema_edits: Vec<&SchemaEdit> = edits.iter().filter_map(|edit| if let TableEdit::Schema(edit) = edit { Some(edit) } else { None }).collect();
    if !schema_edits.is_empty() {
        schema = schema_change::edited(metadata, schema_edits.into_iter())?;
        builder = builder.add_current_schema(schema.clone()).map_err(err::iceberg_input)?;
        if let Some(mapping) = metadata.properties().get(NAME_MAPPING) {
            let property = HashMap::from([(NAME_MAPPING.to_owned(), updated(mapping, &schema)?)]);
            builder = builder.set_properties(property).map_err(err::iceberg_input)?;
        }
    }
    let partition: Vec<&PartitionEdit> =
        edits.iter().filter_map(|edit| if let TableEdit::Partition(edit) = edit { Some(edit) } else { None }).collect();
    if !partition.is_empty() {
        let spec = layout_change::edited_spec(metadata, &schema, partition.into_iter())?;
        builder = builder.add_default_partition_spec(spec).map_err(err::iceberg_input)?;
    }
    for edit in edits {
        if let TableEdit::SortOrder(terms) = edit {
            let order = layout_change::sort_order(metadata, &schema, terms)?;
            builder = set_sort_order(builder, order)?;
        }
    }
    Ok(builder)
}

fn set_sort_order(builder: TableMetadataBuilder, order: SortOrder) -> Result<TableMetadataBuilder> {
    let builder = builder.add_sort_order(order).map_err(err::iceberg_input)?;
    builder.set_default_sort_order(i64::from(TableMetadataBuilder::LAST_ADDED)).map_err(err::iceberg_input)
}

fn format_version(version: u8) -> Result<FormatVersion> {
    match version {
        1 => Ok(FormatVersion::V1),
        2 => Ok(FormatVersion::V2),
        3 => Ok(FormatVersion::V3),
        other => Err(err::invalid(format!("format-version {other}: it is 1, 2 or 3"))),
    }
}

fn replace(builder: TableMetadataBuilder, metadata: &TableMetadata, new: &ReplaceTable) -> Result<TableMetadataBuilder> {
    let fresh = arrow_schema::fields_from_arrow(new.schema.fields(), 0)?;
    let mut ids = Ids { base: metadata.current_schema(), last: metadata.last_column_id() };
    let fields = ids.reuse(&fresh, "");
    let schema = Schema::builder().with_fields(fields).build().map_err(err::iceberg_input)?;
    let spec = partition_spec(&schema, &new.partition)?;
    let mut properties = new.properties.clone();
    let mut builder = builder.remove_ref(MAIN_BRANCH);
    if let Some(version) = properties.remove("format-version") {
        let version: u8 = version.parse().map_err(|_| err::invalid(format!("format-version '{version}'")))?;
        builder = builder.upgrade_format_version(format_version(version)?).map_err(err::iceberg_input)?;
    }
    if let Some(location) = &new.location {
        builder = builder.set_location(normalize_location(location)?);
    }
    builder = builder.add_current_schema(schema).map_err(err::iceberg_input)?;
    builder = builder.add_default_partition_spec(spec).map_err(err::iceberg_input)?;
    builder = set_sort_order(builder, SortOrder::unsorted_order())?;
    builder.set_properties(properties.into_iter().collect()).map_err(err::iceberg_input)
}

/// Gives fields the ids that columns of the same full name have in `base`, the others new ones.
struct Ids<'a> {
    base: &'a Schema,
    last: i32,
}

impl Ids<'_> {
    fn reuse(&mut self, fields: &[NestedFieldRef], prefix: &str) -> Vec<NestedFieldRef> {
        // All ids of one level first, as everywhere.
        let named: Vec<(String, i32)> = fields
            .iter()
            .map(|field| {
                let name = if prefix.is_empty() { field.name.clone() } else { format!("{prefix}.{}", field.name) };
                let id = self.base.field_id_by_name(&name).unwrap_or_else(|| {
                    self.last += 1;
                    self.last
                });
                (name, id)
            })
            .collect();
        fields
            .iter()
            .zip(named)
            .map(|(field, (name, id))| {
                let field_type = Box::new(self.type_of(&field.field_type, &name));
                NestedField { id, field_type, ..field.as_ref().clone() }.into()
            })
            .collect()
    }

    fn type_of(&mut self, field_type: &Type, name: &str) -> Type {
        match field_type {
            Type::Primitive(_) => field_type.clone(),
            Type::Struct(fields) => Type::Struct(StructType::new(self.reuse(fields.fields(), name))),
            Type::List(list) => {
                let mut list = list.clone();
                if let Some(element) = self.reuse(std::slice::from_ref(&list.element_field), name).pop() {
                    list.element_field = element;
                }
                Type::List(list)
            }
            Type::Map(map) => {
                let mut map = map.clone();
                let fields = self.reuse(&[map.key_field.clone(), map.value_field.clone()], name);
                if let [key, value] = fields.as_slice() {
                    (map.key_field, map.value_field) = (key.clone(), value.clone());
                }
                Type::Map(map)
            }
        }
    }
}
