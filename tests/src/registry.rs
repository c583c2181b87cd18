//! A real schema registry as its administrators and producers use it.

use serde_json::{Value, json};

use crate::http;
use crate::third_party::Parts;

pub struct Registry {
    port: u16,
    path: String,
}

impl Registry {
    pub fn of(parts: &Parts) -> Self {
        let url = parts.get("SCHEMA_REGISTRY_URL").strip_prefix("http://127.0.0.1:").unwrap().to_owned();
        let (port, path) = url.split_once('/').unwrap();
        Self { port: port.parse().unwrap(), path: format!("/{path}") }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        http(method, self.port, &format!("{}/{path}", self.path), Some(body)).unwrap_or_else(|| panic!("no answer of the registry to {method} {path}"))
    }

    /// Id of a schema that is now the subject's latest, or the registry's refusal.
    pub fn register(&self, subject: &str, kind: &str, schema: &Value) -> Result<i32, Value> {
        let body = json!({"schema": schema.to_string(), "schemaType": kind});
        match self.call("POST", &format!("subjects/{subject}/versions"), &body) {
            (200, answer) => Ok(answer["id"].as_i64().unwrap() as i32),
            (_, refusal) => Err(refusal),
        }
    }

    /// What new versions of a subject must be to its others: `BACKWARD`, `NONE`... The registry takes `NONE` for one subject as the rule of all, so this is for all.
    pub fn require(&self, subject: &str, compatibility: &str) {
        for path in ["config".to_owned(), format!("config/{subject}")] {
            let (status, answer) = self.call("PUT", &path, &json!({"compatibility": compatibility}));
            assert!(status == 200 || (status == 404 && path != "config"), "{answer}");
        }
    }
}
