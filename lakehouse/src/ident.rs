use std::fmt;

use chainalytics_common::Result;
use serde::{Deserialize, Serialize};

use crate::err;

/// Name of a table: a namespace of one or more levels and the table's own name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableIdent {
    namespace: Vec<String>,
    name: String,
}

impl TableIdent {
    /// A table in `namespace`, whose levels are separated by dots.
    pub fn new(namespace: &str, name: impl Into<String>) -> Self {
        Self { namespace: split_namespace(namespace), name: name.into() }
    }

    /// Reads `table`, `namespace.table` or `a.b.table`; a bare name falls into `default_namespace`.
    pub fn parse(text: &str, default_namespace: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('.').map(|part| part.trim_matches(['"', '`'])).collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(err::invalid(format!("'{text}' is not a table name")));
        }
        match parts.as_slice() {
            [name] => Ok(Self::new(default_namespace, *name)),
            [namespace @ .., name] => Ok(Self { namespace: namespace.iter().map(|s| (*s).to_owned()).collect(), name: (*name).to_owned() }),
            [] => Err(err::invalid("an empty table name")),
        }
    }

    /// Levels of the namespace, outermost first.
    pub fn namespace(&self) -> &[String] {
        &self.namespace
    }

    /// The table's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace as catalogs store it: its levels joined with dots.
    pub fn namespace_key(&self) -> String {
        self.namespace.join(".")
    }
}

impl fmt::Display for TableIdent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for level in &self.namespace {
            write!(f, "{level}.")?;
        }
        f.write_str(&self.name)
    }
}

pub(crate) fn split_namespace(namespace: &str) -> Vec<String> {
    namespace.split('.').filter(|level| !level.is_empty()).map(str::to_owned).collect()
}
