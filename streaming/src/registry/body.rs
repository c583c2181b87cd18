//! Bodies of the REST API.

use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize)]
pub(super) struct SchemaBody {
    pub(super) schema: String,
    #[serde(rename = "schemaType", default)]
    pub(super) schema_type: Option<String>,
    #[serde(default)]
    pub(super) references: Vec<ReferenceBody>,
}

#[derive(Debug, Deserialize)]
pub(super) struct SubjectVersionBody {
    pub(super) id: i32,
    pub(super) version: i32,
    pub(super) schema: String,
    #[serde(rename = "schemaType", default)]
    pub(super) schema_type: Option<String>,
    #[serde(default)]
    pub(super) references: Vec<ReferenceBody>,
}

/// A schema that another one uses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ReferenceBody {
    /// What the schema that refers to it calls it.
    #[serde(default)]
    pub(super) name: String,
    pub(super) subject: String,
    pub(super) version: i32,
}

#[derive(Debug, Serialize)]
pub(super) struct RegisterBody<'a> {
    pub(super) schema: &'a str,
    #[serde(rename = "schemaType")]
    pub(super) schema_type: &'a str,
}

#[derive(Debug, Deserialize)]
pub(super) struct RegisteredBody {
    pub(super) id: i32,
}

#[derive(Debug, Deserialize)]
pub(super) struct CompatibilityBody {
    pub(super) is_compatible: bool,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ErrorBody {
    #[serde(default)]
    pub(super) error_code: i64,
    #[serde(default)]
    pub(super) message: String,
}
