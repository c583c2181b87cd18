//! Bodies of the REST catalog's protocol (Iceberg's `rest-catalog-open-api.yaml`).

use std::collections::{BTreeMap, HashMap};

use iceberg::spec::{Schema, SortOrder, TableMetadata, UnboundPartitionSpec};
use iceberg::{TableRequirement, TableUpdate};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Deserialize)]
pub(super) struct ConfigBody {
    #[serde(default)]
    pub defaults: BTreeMap<String, Option<String>>,
    #[serde(default)]
    pub overrides: BTreeMap<String, Option<String>>,
    /// `GET /v1/{prefix}/namespaces`...; a server that gives none has the protocol's first set.
    pub endpoints: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Debug, Deserialize)]
pub(super) struct ErrorDetail {
    pub message: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct TokenBody {
    pub access_token: String,
    /// Seconds.
    pub expires_in: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct IdentBody {
    pub namespace: Vec<String>,
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TablesBody {
    pub identifiers: Vec<IdentBody>,
    pub next_page_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct NamespacesBody {
    pub namespaces: Vec<Vec<String>>,
    pub next_page_token: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct NamespaceBody {
    #[serde(default)]
    pub properties: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Serialize)]
pub(super) struct CreateNamespaceBody {
    pub namespace: Vec<String>,
    pub properties: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
pub(super) struct NamespaceUpdateBody {
    pub removals: Vec<String>,
    pub updates: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TableBody {
    pub metadata_location: Option<String>,
    pub metadata: TableMetadata,
    #[serde(default)]
    pub config: Option<HashMap<String, String>>,
    #[serde(default)]
    pub storage_credentials: Option<Vec<CredentialBody>>,
}

/// Credentials for the files below a prefix.
#[derive(Debug, Deserialize)]
pub(super) struct CredentialBody {
    pub prefix: String,
    pub config: HashMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CreateTableBody<'a> {
    pub name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    pub schema: &'a Schema,
    pub partition_spec: UnboundPartitionSpec,
    pub write_order: &'a SortOrder,
    pub stage_create: bool,
    pub properties: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
pub(super) struct RenameBody {
    pub source: IdentBody,
    pub destination: IdentBody,
}

#[derive(Debug, Serialize)]
pub(super) struct CommitBody {
    pub identifier: IdentBody,
    pub requirements: Vec<TableRequirement>,
    pub updates: Vec<TableUpdate>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TransactionBody<'a> {
    pub table_changes: &'a [&'a CommitBody],
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CommittedBody {
    pub metadata_location: Option<String>,
    pub metadata: TableMetadata,
}
