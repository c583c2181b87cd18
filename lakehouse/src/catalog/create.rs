use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chainalytics_common::Result;
use iceberg::spec::{
    FormatVersion, NullOrder, Schema, SortDirection, SortField, SortOrder, TableMetadata, TableMetadataBuilder, Transform, UnboundPartitionSpec,
};
use uuid::Uuid;

use super::{Backend, Catalog, SqlCatalog};
use crate::err;
use crate::ident::TableIdent;
use crate::store::normalize_location;
use crate::table::{Table, arrow_schema};

/// Properties that every new table gets unless its creator sets them: metadata files must not pile up under a
/// stream that commits every few seconds.
const DEFAULT_PROPERTIES: [(&str, &str); 2] =
    [("write.metadata.delete-after-commit.enabled", "true"), ("write.metadata.previous-versions-max", "50")];

/// Property of a namespace: base URI of its tables that name no location.
pub const NAMESPACE_LOCATION: &str = "location";

/// A field of a new table's partition spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionFieldDef {
    /// Source column.
    pub column: String,
    /// `identity`, `year(s)`, `month(s)`, `day(s)`, `hour(s)`, `bucket[n]`, `truncate[w]`.
    pub transform: String,
    /// Name of the field; Iceberg's usual one (`ts_day`, `id_bucket`) if none is given.
    pub name: Option<String>,
}

impl PartitionFieldDef {
    /// A field with its usual name.
    pub fn new(column: impl Into<String>, transform: impl Into<String>) -> Self {
        Self { column: column.into(), transform: transform.into(), name: None }
    }
}

/// A table to create.
#[derive(Debug, Clone)]
pub struct CreateTable {
    /// Its name.
    pub ident: TableIdent,
    /// Its columns. Field ids are assigned here, whatever the fields carry.
    pub schema: SchemaRef,
    /// Partition spec; empty for none.
    pub partition: Vec<PartitionFieldDef>,
    /// Columns of the sort order, ascending, nulls first; empty for none.
    pub sort: Vec<String>,
    /// Table properties; `format-version` chooses the format (default 2).
    pub properties: BTreeMap<String, String>,
    /// Base URI; by default `<warehouse>/<namespace>/<name>`.
    pub location: Option<String>,
}

impl CreateTable {
    /// An unpartitioned table.
    pub fn new(ident: TableIdent, schema: SchemaRef) -> Self {
        Self { ident, schema, partition: Vec::new(), sort: Vec::new(), properties: BTreeMap::new(), location: None }
    }

    /// Adds a partition field.
    #[must_use]
    pub fn partitioned_by(mut self, column: impl Into<String>, transform: impl Into<String>) -> Self {
        self.partition.push(PartitionFieldDef::new(column, transform));
        self
    }

    /// Sets a table property.
    #[must_use]
    pub fn with_property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(key.into(), value.into());
        self
    }
}

impl Catalog {
    /// Creates a table, and its namespace where missing. With `if_not_exists` a table that is there is returned as
    /// it is.
    ///
    /// # Errors
    /// `TableExists`; `InvalidArgument` for a schema or spec that Iceberg does not allow.
    pub async fn create_table(&self, create: CreateTable, if_not_exists: bool) -> Result<Table> {
        if let Some(table) = self.find_table(&create.ident).await? {
            return if if_not_exists { Ok(table) } else { Err(err::table_exists(&create.ident)) };
        }
        let created = match &self.backend {
            Backend::Sql(sql) => self.create_with_row(sql, &create).await?,
            Backend::Rest(rest) => {
                self.create_namespace(&create.ident.namespace_key()).await?;
                rest.create_table(&create, &self.store).await?
            }
        };
        match created {
            Some(table) => Ok(table),
            None if if_not_exists => self.load_table(&create.ident).await,
            None => Err(err::table_exists(&create.ident)),
        }
    }

    /// `None` if another process created a table of that name meanwhile.
    async fn create_with_row(&self, sql: &SqlCatalog, create: &CreateTable) -> Result<Option<Table>> {
        let (metadata, location) = self.write_first_metadata(create).await?;
        self.create_namespace(&create.ident.namespace_key()).await?;
        // If this fails the row may have reached the database all the same, so the metadata file stays.
        if sql.insert_table(&create.ident, &location).await? {
            return Table::new(create.ident.clone(), location, metadata, Arc::clone(&self.store)).map(Some);
        }
        self.store.delete_best_effort(vec![location]).await;
        Ok(None)
    }

    async fn write_first_metadata(&self, create: &CreateTable) -> Result<(Arc<TableMetadata>, String)> {
        let base = match &create.location {
            Some(location) => normalize_location(location)?,
            None => self.free_location(&create.ident).await?,
        };
        let metadata = Arc::new(Definition::of(create)?.first_metadata(base)?);
        let location = format!("{}/metadata/{:05}-{}.metadata.json", metadata.location(), 0, Uuid::new_v4());
        let json = serde_json::to_vec(metadata.as_ref()).map_err(|e| err::internal(format!("table metadata: {e}")))?;
        self.store.write(&location, json.into()).await?;
        self.store.metadata_cache().put_metadata(&location, Arc::clone(&metadata));
        Ok((metadata, location))
    }

    /// `<warehouse>/<namespace>/<name>`, or below the namespace's own location, with a suffix if a dropped table left files there.
    async fn free_location(&self, ident: &TableIdent) -> Result<String> {
        let namespace = self.namespace_properties(&ident.namespace_key()).await?;
        let folder = match namespace.get(NAMESPACE_LOCATION) {
            Some(location) => normalize_location(location)?.trim_end_matches('/').to_owned(),
            None => format!("{}/{}", self.warehouse, ident.namespace().join("/")),
        };
        let base = format!("{folder}/{}", ident.name());
        if self.store.list(&format!("{base}/metadata")).await?.is_empty() {
            return Ok(base);
        }
        let suffix = Uuid::new_v4().simple().to_string();
        Ok(format!("{base}-{}", &suffix[..8]))
    }
}

/// A new table in Iceberg's own terms.
pub(super) struct Definition {
    schema: Schema,
    spec: UnboundPartitionSpec,
    sort_order: SortOrder,
    /// Those of its creator and our defaults; without `format-version`.
    properties: HashMap<String, String>,
    format_version: FormatVersion,
}

impl Definition {
    pub(super) fn of(create: &CreateTable) -> Result<Self> {
        let schema = arrow_schema::from_arrow(&create.schema)?;
        let spec = partition_spec(&schema, &create.partition)?;
        let sort_order = sort_order(&schema, &create.sort)?;
        let mut properties: HashMap<String, String> =
            DEFAULT_PROPERTIES.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        properties.extend(create.properties.clone());
        let format_version = match properties.remove("format-version").as_deref() {
            None | Some("2") => FormatVersion::V2,
            Some("1") => FormatVersion::V1,
            Some("3") => FormatVersion::V3,
            Some(other) => return Err(err::invalid(format!("format-version '{other}'"))),
        };
        Ok(Self { schema, spec, sort_order, properties, format_version })
    }

    pub(super) fn first_metadata(self, location: String) -> Result<TableMetadata> {
        let (spec, order) = (self.spec, self.sort_order);
        let builder =
            TableMetadataBuilder::new(self.schema, spec, order, location, self.format_version, self.properties).map_err(err::iceberg_input)?;
        Ok(builder.build().map_err(err::iceberg_input)?.metadata)
    }

    /// Properties as a server takes them: the format's version is one of them.
    pub(super) fn all_properties(&self) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = self.properties.clone().into_iter().collect();
        all.insert("format-version".to_owned(), (self.format_version as u8).to_string());
        all
    }
}

pub(crate) fn partition_spec(schema: &Schema, fields: &[PartitionFieldDef]) -> Result<UnboundPartitionSpec> {
    let mut builder = UnboundPartitionSpec::builder();
    for field in fields {
        let transform = parse_transform(&field.transform)?;
        let source = schema
            .field_id_by_name(&field.column)
            .ok_or_else(|| err::invalid(format!("partition column '{}' is not in the schema", field.column)))?;
        let name = field.name.clone().unwrap_or_else(|| usual_name(&field.column, transform));
        builder = builder.add_partition_field(source, name, transform).map_err(err::iceberg_input)?;
    }
    Ok(builder.build())
}

fn sort_order(schema: &Schema, columns: &[String]) -> Result<SortOrder> {
    if columns.is_empty() {
        return Ok(SortOrder::unsorted_order());
    }
    let mut builder = SortOrder::builder();
    for column in columns {
        let source_id = schema.field_id_by_name(column).ok_or_else(|| err::invalid(format!("sort column '{column}' is not in the schema")))?;
        builder.with_sort_field(SortField {
            source_id,
            transform: Transform::Identity,
            direction: SortDirection::Ascending,
            null_order: NullOrder::First,
        });
    }
    builder.build(schema).map_err(err::iceberg_input)
}

/// Reads Iceberg's spelling (`day`, `bucket[16]`) and Spark's (`days`).
pub(crate) fn parse_transform(text: &str) -> Result<Transform> {
    let lower = text.trim().to_ascii_lowercase();
    let singular = match lower.as_str() {
        "years" => "year",
        "months" => "month",
        "days" | "date" => "day",
        "hours" | "date_hour" => "hour",
        other => other,
    };
    match singular.parse::<Transform>() {
        Ok(Transform::Unknown) | Err(_) => Err(err::invalid(format!("'{text}' is not a partition transform"))),
        Ok(transform) => Ok(transform),
    }
}

fn usual_name(column: &str, transform: Transform) -> String {
    // Avro, in which manifests are written, knows no dots in names.
    let column = column.replace('.', "_");
    match transform {
        Transform::Bucket(_) => format!("{column}_bucket"),
        Transform::Truncate(_) => format!("{column}_trunc"),
        Transform::Year => format!("{column}_year"),
        Transform::Month => format!("{column}_month"),
        Transform::Day => format!("{column}_day"),
        Transform::Hour => format!("{column}_hour"),
        Transform::Void => format!("{column}_null"),
        Transform::Identity | Transform::Unknown => column,
    }
}
