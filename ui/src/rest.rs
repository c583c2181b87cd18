//! What the REST interfaces of both servers have in common: every answer below `/api/v1` that is no success has a typed body, whoever made it
//! (a handler, the router, a time-out), and nothing is changed on behalf of another site's page.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use chainalytics_api_types::ErrorBody;
use tower_http::compression::CompressionLayer;
use tower_http::timeout::TimeoutLayer;

/// Longest time that a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest text of somebody else's answer that is taken over as the message.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
const PREFIX: &str = "/api/v1";

/// Adds time-out, origin check, typed errors and compression to all routes of a server.
pub fn protect(router: Router) -> Router {
    router
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, REQUEST_TIMEOUT))
        .layer(from_fn(same_origin))
        .layer(from_fn(typed_errors))
        .layer(CompressionLayer::new())
}

/// An answer with an [`ErrorBody`].
pub fn error_response(status: StatusCode, body: &ErrorBody) -> Response {
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Requests that change something must not come from another site's page: a browser names the page's origin, programs name none.
async fn same_origin(request: Request, next: Next) -> Response {
    if !request.method().is_safe() && is_foreign(request.headers()) {
        let body = ErrorBody::new(
            "FOREIGN_ORIGIN",
            "a page of another site may not change anything here",
            "Use the page that this server serves, or the command line.",
        );
        return error_response(StatusCode::FORBIDDEN, &body);
    }
    next.run(request).await
}

fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if matches!(text(HeaderName::from_static("sec-fetch-site")), Some("cross-site" | "same-site")) {
        return true;
    }
    match (headers.contains_key(ORIGIN), text(ORIGIN).and_then(|origin| origin.split_once("://")), text(HOST)) {
        (false, ..) => false,
        (true, Some((_, origin)), Some(host)) => origin != host,
        // `null`: a sandboxed frame, a file, a redirect from elsewhere.
        (true, ..) => true,
    }
}

async fn typed_errors(request: Request, next: Next) -> Response {
    let is_api = request.uri().path().starts_with(PREFIX);
    let called = format!("{} {}", request.method(), request.uri().path());
    let mut response = next.run(request).await;
    if !is_api {
        return response;
    }
    let status = response.status();
    let is_json = |value: &HeaderValue| value.to_str().is_ok_and(|kind| kind.starts_with("application/json"));
    if (status.is_client_error() || status.is_server_error()) && !response.headers().get(CONTENT_TYPE).is_some_and(is_json) {
        let (mut parts, body) = response.into_parts();
        let text = to_bytes(body, MESSAGE_BYTES_MAX).await.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let typed = error_response(status, &body_of(status, &called, text.trim()));
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.remove(CONTENT_TYPE);
        response = typed;
        response.headers_mut().extend(parts.headers);
    }
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn body_of(status: StatusCode, called: &str, text: &str) -> ErrorBody {
    let said = |other: &str| if text.is_empty() { format!("{called}: {other}") } else { format!("{called}: {text}") };
    match status {
        StatusCode::NOT_FOUND => ErrorBody::new("NO_SUCH_PATH", said("is not served here"), ""),
        StatusCode::METHOD_NOT_ALLOWED => {
            ErrorBody::new("METHOD_NOT_ALLOWED", said("this path does not take that method"), "The header Allow names the methods that it takes.")
        }
        StatusCode::GATEWAY_TIMEOUT => {
            ErrorBody::new("TIMEOUT", said(&format!("not answered within {} s", REQUEST_TIMEOUT.as_secs())), "Try again; ask for less at a time.")
        }
        status if status.is_client_error() => {
            ErrorBody::new("INVALID_REQUEST", said(status.canonical_reason().unwrap_or("refused")), "Check the parameters of the request.")
        }
        _ => ErrorBody::new("INTERNAL", said("failed"), "See the server's log."),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::extract::Query;
    use axum::routing::{get, post};
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Params {
        #[allow(dead_code)]
        limit: Option<usize>,
    }

    fn server() -> Router {
        protect(
            Router::new()
                .route("/api/v1/list", get(|_: Query<Params>| async { "ok" }))
                .route("/api/v1/change", post(|| async { "changed" }))
                .route("/plain", get(|| async { (StatusCode::BAD_REQUEST, "plain") })),
        )
    }

    async fn ask(method: &str, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Value) {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = server().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn every_failure_below_the_prefix_is_typed() {
        for (method, path, status, code) in [
            ("GET", "/api/v1/list?limit=many", 400, "INVALID_REQUEST"),
            ("GET", "/api/v1/nothing", 404, "NO_SUCH_PATH"),
            ("POST", "/api/v1/list", 405, "METHOD_NOT_ALLOWED"),
            ("GET", "/api/v1/change", 405, "METHOD_NOT_ALLOWED"),
        ] {
            let (got, headers, body) = ask(method, path, &[]).await;
            assert_eq!((got.as_u16(), body["code"].as_str()), (status, Some(code)), "{method} {path}");
            assert!(body["message"].as_str().unwrap().contains(path.split('?').next().unwrap()), "{body}");
            assert_eq!(headers[CACHE_CONTROL], "no-store");
            assert_eq!(headers.contains_key("allow"), status == 405);
        }
        assert_eq!(ask("GET", "/plain", &[]).await.2, Value::Null, "other paths answer as they like");
        assert_eq!(ask("GET", "/api/v1/list?limit=3", &[]).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn other_sites_change_nothing() {
        let own = [("host", "127.0.0.1:9090"), ("origin", "http://127.0.0.1:9090"), ("sec-fetch-site", "same-origin")];
        assert_eq!(ask("POST", "/api/v1/change", &own).await.0, StatusCode::OK);
        assert_eq!(ask("POST", "/api/v1/change", &[("host", "127.0.0.1:9090")]).await.0, StatusCode::OK, "a program");
        for foreign in [
            &[("host", "127.0.0.1:9090"), ("origin", "https://evil.example")][..],
            &[("host", "127.0.0.1:9090"), ("origin", "null")],
            &[("host", "127.0.0.1:9090"), ("sec-fetch-site", "cross-site")],
            &[("origin", "http://127.0.0.1:9090")],
        ] {
            let (status, _, body) = ask("POST", "/api/v1/change", foreign).await;
            assert_eq!((status, body["code"].as_str()), (StatusCode::FORBIDDEN, Some("FOREIGN_ORIGIN")), "{foreign:?}");
        }
        assert_eq!(ask("GET", "/api/v1/list", &[("host", "a"), ("origin", "https://b")]).await.0, StatusCode::OK);
    }
}
