//! Spelling of file URIs. Paths are taken as they are written, never percent-decoded: so do Hadoop, PyArrow and Java's
//! Iceberg with the paths in metadata.

use chainalytics_common::Result;
use url::Url;

use crate::err;

pub(super) struct Parts {
    /// `file://` or `s3://bucket`; key of the store.
    pub authority: String,
    pub scheme: String,
    pub bucket: String,
    /// Path within the store.
    pub path: String,
}

/// The one spelling that we write: `file:///abs/path` for local files, anything with a scheme unchanged; no trailing
/// slash. Relative paths are taken from the working directory.
pub fn normalize_location(location: &str) -> Result<String> {
    let location = location.trim_end_matches('/');
    if let Some(path) = local_path(location) {
        let path = std::path::absolute(if path.is_empty() { "/" } else { path }).map_err(|e| err::invalid(format!("location '{location}': {e}")))?;
        let path = path.to_str().ok_or_else(|| err::invalid(format!("location '{location}' is not UTF-8")))?;
        return Ok(format!("file://{path}"));
    }
    Ok(location.to_owned())
}

/// Path of a local location in any of its spellings; `None` for a remote one.
fn local_path(location: &str) -> Option<&str> {
    if let Some(rest) = location.strip_prefix("file:") {
        let Some(after) = rest.strip_prefix("//") else { return Some(rest) };
        // `file://localhost/x` names the same file as `file:///x`.
        return Some(after.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(after));
    }
    (!location.contains("://")).then_some(location)
}

pub(super) fn split(location: &str) -> Result<Parts> {
    if let Some(path) = local_path(location) {
        if !path.starts_with('/') {
            return Err(err::invalid(format!("location '{location}' is not absolute")));
        }
        return Ok(Parts { authority: "file://".into(), scheme: "file".into(), bucket: String::new(), path: path.replace("//", "/") });
    }
    let (scheme, rest) = location.split_once("://").ok_or_else(|| err::invalid(format!("location '{location}' has no scheme")))?;
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(err::invalid(format!("location '{location}' names no bucket")));
    }
    Ok(Parts { authority: format!("{scheme}://{bucket}"), scheme: scheme.to_owned(), bucket: bucket.to_owned(), path: path.to_owned() })
}

/// Key of the store that a URL names, as in [`Parts::authority`].
pub(super) fn authority_of(url: &Url) -> String {
    match url.scheme() {
        "file" => "file://".to_owned(),
        scheme => match url.port() {
            Some(port) => format!("{scheme}://{}:{port}", url.host_str().unwrap_or_default()),
            None => format!("{scheme}://{}", url.host_str().unwrap_or_default()),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_spelling_of_a_local_path_is_one_file() {
        for spelling in ["/a/b", "file:/a/b", "file:///a/b", "file://localhost/a/b", "/a/b/"] {
            assert_eq!(normalize_location(spelling).unwrap(), "file:///a/b", "{spelling}");
            assert_eq!(split(spelling).unwrap().path.trim_end_matches('/'), "/a/b");
        }
        assert_eq!(normalize_location("s3://bucket/x/").unwrap(), "s3://bucket/x");
        assert_eq!(split("s3a://bucket/x").unwrap().authority, "s3a://bucket");
        assert!(split("relative/path").is_err());
    }
}
