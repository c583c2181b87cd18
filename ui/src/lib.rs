//! The one web page, embedded into both servers: plain ES modules and CSS under `web/`, no build step, nothing from elsewhere.
//!
//! It reads `/api/v1/*` of the server that served it and learns from `ClusterInfo::mode` whether that is the scheduler or the history server.
//! Routing is by hash (`/#/runs/<id>`), so that a server needs no rewrite rules and [`router`] has no fallback: merge it into any router.
//! [`rest`] is what both servers put around their routes.

pub mod rest;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Only our own files, our own API, no inline script or style, no frame around us.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

#[derive(rust_embed::RustEmbed)]
#[folder = "web/"]
struct Web;

/// Serves `/`, `/index.html`, `/favicon.ico` and `/assets/*`. Holds no state and no fallback.
pub fn router() -> Router {
    Router::new()
        .route("/", get(|headers: HeaderMap| async move { file("index.html", &headers) }))
        .route("/index.html", get(|headers: HeaderMap| async move { file("index.html", &headers) }))
        .route("/favicon.ico", get(|headers: HeaderMap| async move { file("assets/logo.svg", &headers) }))
        .route("/assets/{*path}", get(asset))
}

async fn asset(Path(path): Path<String>, headers: HeaderMap) -> Response {
    file(&format!("assets/{path}"), &headers)
}

/// Answers with an entity tag made of the content's hash; a browser asks every time and gets 304 unless the server was upgraded.
fn file(path: &str, request: &HeaderMap) -> Response {
    let Some(found) = Web::get(path) else {
        return (StatusCode::NOT_FOUND, "not found").into_response();
    };
    let tag = tag_of(&found.metadata.sha256_hash());
    let known = request
        .get(IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|known| known.trim().trim_start_matches("W/") == tag));
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Response::new(Body::from(found.data.into_owned()));
        if let Ok(kind) = HeaderValue::from_str(content_type(path, found.metadata.mimetype())) {
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        response
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Modules are refused by browsers unless their type is right, whatever the platform's table of types says.
fn content_type<'a>(path: &str, guessed: &'a str) -> &'a str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("html") => "text/html; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => guessed,
    }
}

fn tag_of(hash: &[u8; 32]) -> String {
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn get(path: &str, tag: Option<&str>) -> Response {
        let mut request = Request::get(path);
        if let Some(tag) = tag {
            request = request.header(IF_NONE_MATCH, tag);
        }
        router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn the_page_is_served_with_its_policy_and_revalidates() {
        let page = get("/", None).await;
        assert_eq!(page.status(), StatusCode::OK);
        assert!(page.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("script-src 'self'"));
        let tag = page.headers()[ETAG].to_str().unwrap().to_owned();
        assert_eq!(get("/", Some(&tag)).await.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(get("/", Some("\"old\"")).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn every_local_reference_exists() {
        for path in Web::iter() {
            let text = String::from_utf8(Web::get(&path).unwrap().data.into_owned()).unwrap_or_default();
            let base = path.rsplit_once('/').map_or("", |(base, _)| base);
            for (mark, end) in [("from \"", '"'), ("src=\"", '"'), ("href=\"", '"')] {
                for reference in text.split(mark).skip(1).filter_map(|rest| rest.split(end).next()) {
                    if reference.is_empty() || reference.starts_with('#') || reference.contains("${") || reference.starts_with("http") {
                        continue;
                    }
                    let mut parts: Vec<&str> = if reference.starts_with('/') { vec![] } else { base.split('/').collect() };
                    for part in reference.split('/').filter(|part| !matches!(*part, "" | ".")) {
                        if part == ".." {
                            parts.pop();
                        } else {
                            parts.push(part)
                        }
                    }
                    let target = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
                    assert!(Web::get(&target).is_some(), "{path} refers to {reference} ({target})");
                }
            }
            assert!(!text.contains("innerHTML"), "{path} must build nodes, never markup");
        }
    }

    #[tokio::test]
    async fn modules_have_the_type_that_browsers_demand() {
        let module = get("/assets/app.js", None).await;
        assert_eq!(module.headers()[CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert_eq!(get("/assets/../Cargo.toml", None).await.status(), StatusCode::NOT_FOUND);
        assert_eq!(get("/assets/missing.js", None).await.status(), StatusCode::NOT_FOUND);
    }
}
