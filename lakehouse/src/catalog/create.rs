use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chainalytics_common::Result;
use iceberg::spec::{
    FormatVersion, NullOrder, Schema, SortDirection, SortField, SortOrder, TableMetadata, TableMetadataBuilder,
    Transform, UnboundPartitionSpec,
};
use uuid::Uuid;

use super::{SqlCatalog, Swap, TableCommit, with_pool};
use crate::err;
use crate::ident::TableIdent;
use crate::store::normalize_location;
use crate::table::{Table, arrow_schema};

/// Properties that every new table gets unless its creator sets them: metadata files must not pile up under a
/// stream that commits every few seconds.
const DEFAULT_PROPERTIES: [(&str, &str); 2] =
    [("write.metadata.delete-after-commit.enabled", "true"), ("write.metadata.previous-versions-max", "50")];

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

impl SqlCatalog {
    /// Creates a table, and its namespace where missing. With `if_not_exists` a table that is there is returned as
    /// it is.
    ///
    /// # Errors
    /// `TableExists`; `InvalidArgument` for a schema or spec that Iceberg does not allow.
    pub async fn create_table(&self, create: CreateTable, if_not_exists: bool) -> Result<Table> {
        if let Some(table) = self.find_table(&create.ident).await? {
            return if if_not_exists { Ok(table) } else { Err(err::table_exists(&create.ident)) };
        }
        let (metadata, location) = self.write_first_metadata(&create).await?;
        self.create_namespace(&create.ident.namespace_key()).await?;
        match self.insert_table(&create.ident, &location).await {
            Ok(true) => Table::new(create.ident, location, metadata, Arc::clone(self.store())),
            Ok(false) => {
                self.store().delete_best_effort(vec![location]).await;
                if if_not_exists { self.load_table(&create.ident).await } else { Err(err::table_exists(&create.ident)) }
            }
            // The insert may have reached the database, so the metadata file stays.
            Err(error) => Err(error),
        }
    }

    /// Creates a table or puts a new, empty one in the place of the old, in one step. The old table's files stay.
    pub async fn create_or_replace_table(&self, create: CreateTable) -> Result<Table> {
        let Some(old_location) = self.metadata_location(&create.ident).await? else {
            return self.create_table(create, false).await;
        };
        let (metadata, new_location) = self.write_first_metadata(&create).await?;
        let commit =
            TableCommit { ident: create.ident.clone(), old_location, new_location: new_location.clone() };
        match self.swap(&[commit]).await? {
            Swap::Done => Table::new(create.ident, new_location, metadata, Arc::clone(self.store())),
            Swap::Conflict(ident) => {
                self.store().delete_best_effort(vec![new_location]).await;
                Err(err::conflict(format!("table {ident} was changed while it was being replaced")))
            }
            Swap::Unknown(error) => Err(error),
        }
    }

    async fn write_first_metadata(&self, create: &CreateTable) -> Result<(Arc<TableMetadata>, String)> {
        let base = match &create.location {
            Some(location) => normalize_location(location)?,
            None => self.free_location(&create.ident).await?,
        };
        let metadata = Arc::new(first_metadata(create, base)?);
        let location =
            format!("{}/metadata/{:05}-{}.metadata.json", metadata.location(), 0, Uuid::new_v4());
        let json = serde_json::to_vec(metadata.as_ref()).map_err(|e| err::internal(format!("table metadata: {e}")))?;
        self.store().write(&location, json.into()).await?;
        self.store().metadata_cache().put_metadata(&location, Arc::clone(&metadata));
        Ok((metadata, location))
    }

    /// `<warehouse>/<namespace>/<name>`, with a suffix if a dropped table left files there.
    async fn free_location(&self, ident: &TableIdent) -> Result<String> {
        let base = format!("{}/{}/{}", self.warehouse(), ident.namespace().join("/"), ident.name());
        if self.store().list(&format!("{base}/metadata")).await?.is_empty() {
            return Ok(base);
        }
        let suffix = Uuid::new_v4().simple().to_string();
        Ok(format!("{base}-{}", &suffix[..8]))
    }

    /// `false` if another process created a table of that name meanwhile.
    async fn insert_table(&self, ident: &TableIdent, location: &str) -> Result<bool> {
        let sql = if self.has_type_column {
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) \
             VALUES ($1, $2, $3, $4, 'TABLE')"
        } else {
            "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location) \
             VALUES ($1, $2, $3, $4)"
        };
        with_pool!(&self.pool, pool => {
            let query =
                sqlx::query(sql).bind(&self.name).bind(ident.namespace_key()).bind(ident.name()).bind(location);
            match query.execute(pool).await {
                Ok(_) => Ok(true),
                Err(e) if err::is_unique_violation(&e) => Ok(false),
                Err(e) => Err(self.pool.error(e)),
            }
        })
    }
}

fn first_metadata(create: &CreateTable, location: String) -> Result<TableMetadata> {
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
    let builder = TableMetadataBuilder::new(schema, spec, sort_order, location, format_version, properties)
        .map_err(err::iceberg_input)?;
    Ok(builder.build().map_err(err::iceberg_input)?.metadata)
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
        let source_id = schema
            .field_id_by_name(column)
            .ok_or_else(|| err::invalid(format!("sort column '{column}' is not in the schema")))?;
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
    match transform {
        Transform::Bucket(_) => format!("{column}_bucket"),
        Transform::Truncate(_) => format!("{column}_trunc"),
        Transform::Year => format!("{column}_year"),
        Transform::Month => format!("{column}_month"),
        Transform::Day => format!("{column}_day"),
        Transform::Hour => format!("{column}_hour"),
        Transform::Void => format!("{column}_null"),
        Transform::Identity | Transform::Unknown => column.to_owned(),
    }
}
