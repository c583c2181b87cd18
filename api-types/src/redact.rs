//! Secrets never leave a server in a body or a log.

use std::collections::BTreeMap;

/// Shown instead of a secret.
pub const REDACTED: &str = "[redacted]";

/// Hides the values of keys that look like secrets.
pub fn redact(config: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    config
        .iter()
        .map(|(key, value)| {
            let shown = if is_secret_key(key) && !value.is_empty() { REDACTED } else { value };
            (key.clone(), shown.to_owned())
        })
        .collect()
}

/// Whether a configuration key names a secret.
pub fn is_secret_key(key: &str) -> bool {
    let key = key.to_lowercase().replace(['-', '_'], ".");
    ["password", "passwd", "secret", "credential", "access.key", "private.key", "api.key", "sasl.jaas", "auth.token", "session.token"]
        .iter()
        .any(|needle| key.contains(needle))
        || key.ends_with(".token")
        || key == "token"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_from_ordinary_keys() {
        for secret in ["catalog.s3.secret-access-key", "s3.access-key-id", "kafka.sasl.password", "auth.token", "schema.registry.api_key"] {
            assert!(is_secret_key(secret), "{secret}");
        }
        for plain in ["scheduler.url", "datafusion.sql_parser.dialect", "query.max-attempts", "kafka.bootstrap.servers", "sort.key"] {
            assert!(!is_secret_key(plain), "{plain}");
        }
    }
}
