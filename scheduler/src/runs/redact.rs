//! Keeps secrets out of everything that leaves the scheduler: answers, pages, logs.

use chainalytics_api_types::redact::{REDACTED, is_secret_key};
use std::collections::BTreeMap;

/// A value without its secrets: all of it for a secret key, the password of a URL otherwise.
#[must_use]
pub fn value(key: &str, value: &str) -> String {
    if value.is_empty() {
        return String::new();
    }
    if is_secret_key(key) {
        return REDACTED.to_owned();
    }
    match url::Url::parse(value) {
        // A word without brackets, which a URL would escape.
        Ok(mut url) if url.password().is_some() => match url.set_password(Some("redacted")) {
            Ok(()) => url.to_string(),
            Err(()) => REDACTED.to_owned(),
        },
        _ => value.to_owned(),
    }
}

/// A configuration without its secrets.
#[must_use]
pub fn conf(conf: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    conf.iter().map(|(key, v)| (key.clone(), value(key, v))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_is_not() {
        assert_eq!(value("s3.secret-access-key", "abc"), REDACTED);
        assert_eq!(value("security.token", "abc"), REDACTED);
        assert_eq!(value("catalog.warehouse", "s3://bucket/x"), "s3://bucket/x");
        assert_eq!(value("catalog.uri", "postgresql://u:pw@h:5432/d"), "postgresql://u:redacted@h:5432/d");
        assert_eq!(value("streaming.max-rows-per-batch", "5000"), "5000");
    }
}
