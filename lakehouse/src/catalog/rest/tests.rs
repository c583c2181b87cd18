#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! What a server can do that the reference server of the integration tests does not: a small one in this process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::catalog::ViewDefinition;

/// A request as the server saw it.
#[derive(Debug, Clone)]
struct Request {
    line: String,
    headers: HashMap<String, String>,
    body: String,
}

/// Status, more headers, body.
type Reply = (u16, String, Value);

struct Server {
    uri: String,
    seen: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (log, reply) = (Arc::clone(&seen), Arc::new(reply));
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (log, reply) = (Arc::clone(&log), Arc::clone(&reply));
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let request = loop {
                        let mut chunk = [0; 4096];
                        let n = socket.read(&mut chunk).await.unwrap_or(0);
                        bytes.extend_from_slice(&chunk[..n]);
                        if n == 0 {
                            return;
                        }
                        if let Some(request) = whole(&bytes) {
                            break request;
                        }
                    };
                    log.lock().push(request.clone());
                    let (status, headers, body) = reply(&request);
                    let body = if body.is_null() { String::new() } else { body.to_string() };
                    let head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
                    let _sent = socket.write_all(format!("{head}{body}").as_bytes()).await;
                });
            }
        });
        Self { uri, seen, task }
    }

    fn requests(&self, start: &str) -> Vec<Request> {
        self.seen.lock().iter().filter(|request| request.line.starts_with(start)).cloned().collect()
    }

    async fn open(&self, credential: &str) -> Result<RestCatalog> {
        RestCatalog::open(&RestOptions {
            uri: self.uri.clone(),
            credential: credential.to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            ..RestOptions::default()
        })
        .await
    }
}

/// The request, once all of it is there.
fn whole(bytes: &[u8]) -> Option<Request> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let line = lines.next()?.to_owned();
    let headers: HashMap<String, String> =
        lines.filter_map(|line| line.split_once(':')).map(|(key, value)| (key.to_lowercase(), value.trim().to_owned())).collect();
    let length: usize = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    (body.len() >= length).then(|| Request { line, headers, body: body.to_owned() })
}

fn metadata() -> Value {
    json!({
        "format-version": 2, "table-uuid": "9c12d441-03fe-4693-9a96-a0705ddf69c1", "location": "file:///nowhere/t",
        "last-sequence-number": 0, "last-updated-ms": 1, "last-column-id": 1, "current-schema-id": 0,
        "schemas": [{"type": "struct", "schema-id": 0, "fields": [{"id": 1, "name": "id", "required": false, "type": "long"}]}],
        "default-spec-id": 0, "partition-specs": [{"spec-id": 0, "fields": []}], "last-partition-id": 999,
        "default-sort-order-id": 0, "sort-orders": [{"order-id": 0, "fields": []}], "properties": {}, "snapshots": [], "refs": {}
    })
}

fn error(status: u16, kind: &str) -> Reply {
    (status, String::new(), json!({"error": {"message": "so it is", "type": kind, "code": status}}))
}

#[tokio::test]
async fn an_unchanged_table_is_not_sent_again() {
    let server = Server::start(|request| match request.line.split(' ').nth(1).unwrap() {
        "/v1/config" => (200, String::new(), json!({"defaults": {}, "overrides": {}})),
        _ if request.headers.get("if-none-match").is_some_and(|tag| tag == "\"v1\"") => (304, String::new(), Value::Null),
        _ => (200, "etag: \"v1\"\r\n".to_owned(), json!({"metadata-location": "file:///nowhere/t/metadata/1.json", "metadata": metadata()})),
    })
    .await;
    let catalog = server.open("").await.unwrap();
    let store = StoreRegistry::local();
    let ident = TableIdent::new("ns", "t");
    for _ in 0..3 {
        let table = catalog.find_table(&ident, &store).await.unwrap().unwrap();
        assert_eq!(table.metadata_location(), "file:///nowhere/t/metadata/1.json");
    }
    let asked = server.requests("GET /v1/namespaces/ns/tables/t");
    let tags: Vec<Option<&str>> = asked.iter().map(|request| request.headers.get("if-none-match").map(String::as_str)).collect();
    assert_eq!(tags, [None, Some("\"v1\""), Some("\"v1\"")]);
}

#[tokio::test]
async fn tokens_are_fetched_and_renewed_when_they_are_refused() {
    let issued = Arc::new(Mutex::new(0));
    let count = Arc::clone(&issued);
    let server = Server::start(move |request| {
        let bearer = request.headers.get("authorization").cloned().unwrap_or_default();
        match request.line.split(' ').nth(1).unwrap() {
            "/v1/oauth/tokens" => {
                let mut issued = count.lock();
                *issued += 1;
                (200, String::new(), json!({"access_token": format!("token-{issued}"), "token_type": "bearer", "expires_in": 3600}))
            }
            "/v1/config" => (200, String::new(), json!({"defaults": {}, "overrides": {}})),
            // The first token was withdrawn before its time.
            _ if bearer == "Bearer token-1" => error(401, "NotAuthorizedException"),
            _ => error(404, "NoSuchTableException"),
        }
    })
    .await;
    let catalog = server.open("me:secret").await.unwrap();
    let found = catalog.find_table(&TableIdent::new("ns", "t"), &StoreRegistry::local()).await.unwrap();
    assert!(found.is_none());
    assert_eq!(*issued.lock(), 2);
    let form = &server.requests("POST /v1/oauth/tokens")[0].body;
    assert!(form.contains("client_id=me") && form.contains("client_secret=secret"), "{form}");
}

#[tokio::test]
async fn refusals_have_codes() {
    for (status, kind, code) in [
        (403, "ForbiddenException", ErrorCode::CatalogDenied),
        (401, "NotAuthorizedException", ErrorCode::CatalogDenied),
        (422, "UnprocessableEntityException", ErrorCode::Catalog),
        (404, "", ErrorCode::Catalog),
    ] {
        let server = Server::start(move |request| match request.line.contains("/v1/config") {
            true => (200, String::new(), json!({"defaults": {}, "overrides": {}})),
            false => error(status, kind),
        })
        .await;
        let catalog = server.open("").await.unwrap();
        let failed = catalog.find_table(&TableIdent::new("ns", "t"), &StoreRegistry::local()).await.unwrap_err();
        assert_eq!(failed.code(), code, "{status}: {failed}");
    }
    // A change that a gateway answers may have happened.
    let server = Server::start(|request| match request.line.contains("/v1/config") {
        true => (200, String::new(), json!({"defaults": {}, "overrides": {}})),
        false => error(504, "GatewayTimeout"),
    })
    .await;
    let catalog = server.open("").await.unwrap();
    let failed = catalog.drop_table(&TableIdent::new("ns", "t"), false).await.unwrap_err();
    assert_eq!(failed.code(), ErrorCode::CommitUnknown);
}

#[tokio::test]
async fn views_are_created_replaced_and_found() {
    let current: Arc<Mutex<Option<Value>>> = Arc::default();
    let kept = Arc::clone(&current);
    let server = Server::start(move |request| {
        let mut words = request.line.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let body: Value = serde_json::from_str(&request.body).unwrap_or(Value::Null);
        let mut view = kept.lock();
        match (method, path) {
            (_, "/v1/config") => (200, String::new(), json!({"defaults": {}, "overrides": {}})),
            ("POST", "/v1/namespaces/ns/views") if view.is_some() => error(409, "AlreadyExistsException"),
            ("POST", "/v1/namespaces/ns/views") => {
                let version = &body["view-version"];
                *view = Some(json!({
                    "view-uuid": "fa6506c3-7681-40c8-86dc-e36561f83385", "format-version": 1, "location": "s3://b/v",
                    "schemas": [body["schema"]], "current-version-id": version["version-id"], "versions": [version],
                    "version-log": [{"timestamp-ms": version["timestamp-ms"], "version-id": version["version-id"]}],
                    "properties": body["properties"],
                }));
                (200, String::new(), json!({"metadata-location": "s3://b/v/1.json", "metadata": *view}))
            }
            ("POST", "/v1/namespaces/ns/views/v") => {
                assert_eq!(body["requirements"][0], json!({"type": "assert-view-uuid", "uuid": "fa6506c3-7681-40c8-86dc-e36561f83385"}));
                let update = |action: &str| body["updates"].as_array().unwrap().iter().find(|u| u["action"] == action).cloned().unwrap();
                let mut version = update("add-view-version")["view-version"].clone();
                assert_eq!(version["schema-id"], json!(-1));
                version["schema-id"] = update("add-schema")["schema"]["schema-id"].clone();
                let view = view.as_mut().unwrap();
                view["schemas"].as_array_mut().unwrap().push(update("add-schema")["schema"].clone());
                view["current-version-id"] = version["version-id"].clone();
                view["versions"].as_array_mut().unwrap().push(version);
                (200, String::new(), json!({"metadata-location": "s3://b/v/2.json", "metadata": view}))
            }
            ("GET", "/v1/namespaces/ns/views/v") => match view.as_ref() {
                Some(view) => (200, String::new(), json!({"metadata-location": "s3://b/v/1.json", "metadata": view})),
                None => error(404, "NoSuchViewException"),
            },
            ("GET", "/v1/namespaces/ns/views") => (200, String::new(), json!({"identifiers": [{"namespace": ["ns"], "name": "v"}]})),
            ("DELETE", "/v1/namespaces/ns/views/v") => {
                *view = None;
                (204, String::new(), Value::Null)
            }
            ("GET", "/v1/namespaces/ns") => (200, String::new(), json!({"namespace": ["ns"], "properties": {}})),
            _ => error(404, "NoSuchNamespaceException"),
        }
    })
    .await;
    let options = RestOptions {
        uri: server.uri.clone(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
        ..RestOptions::default()
    };
    let catalog = crate::Catalog::open_rest("rest", &options, StoreRegistry::local()).await.unwrap();
    let ident = TableIdent::new("ns", "v");
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new("n", arrow::datatypes::DataType::Int64, true)]));
    let view = |sql: &str| ViewDefinition {
        sql: sql.to_owned(),
        default_namespace: vec!["ns".to_owned()],
        schema: Arc::clone(&schema),
        properties: BTreeMap::new(),
    };
    assert!(catalog.find_view(&ident).await.unwrap().is_none());
    catalog.create_view(&ident, &view("SELECT 1 AS n"), false).await.unwrap();
    assert_eq!(catalog.create_view(&ident, &view("SELECT 2 AS n"), false).await.unwrap_err().code(), ErrorCode::TableExists);
    catalog.create_view(&ident, &view("SELECT 3 AS n"), true).await.unwrap();
    assert_eq!(catalog.find_view(&ident).await.unwrap().unwrap().sql, "SELECT 3 AS n");
    assert_eq!(catalog.list_views("ns").await.unwrap(), std::slice::from_ref(&ident));
    assert!(catalog.drop_view(&ident).await.unwrap());
    assert!(catalog.find_view(&ident).await.unwrap().is_none());
}

/// A table on S3 whose server lends `secret`, as `config` of the table or by prefix.
async fn lending_server(by_prefix: bool) -> Server {
    Server::start(move |request| match request.line.split(' ').nth(1).unwrap() {
        "/v1/config" => (200, String::new(), json!({"defaults": {}, "overrides": {}})),
        _ => {
            let mut metadata = metadata();
            metadata["location"] = json!("s3://bucket/ns/t");
            metadata["properties"] = json!({"write.data.path": "s3://elsewhere/t"});
            let lent = json!({"s3.access-key-id": "lent-key", "s3.secret-access-key": "lent-secret", "s3.session-token": "lent-token", "token": "of-catalog"});
            let mut body = json!({"metadata-location": "s3://bucket/ns/t/metadata/1.json", "metadata": metadata});
            match by_prefix {
                true => body["storage-credentials"] = json!([{"prefix": "s3://bucket/ns", "config": lent}, {"prefix": "s3://elsewhere", "config": lent}]),
                false => body["config"] = lent,
            }
            (200, String::new(), body)
        }
    })
    .await
}

#[tokio::test]
async fn what_is_lent_travels_with_plans_and_is_never_shown() {
    use datafusion::physical_plan::{ExecutionPlan, displayable};

    use crate::codec;
    use crate::scan::{IcebergTableProvider, LentCredentialsExec, SnapshotSelector, with_lent};
    use crate::write::{IcebergWriteExec, IcebergWriteNode, WriteSpec};

    for by_prefix in [false, true] {
        let server = lending_server(by_prefix).await;
        let here = StoreRegistry::local();
        let table = server.open("").await.unwrap().find_table(&TableIdent::new("ns", "t"), &here).await.unwrap().unwrap();
        let prefixes = if by_prefix { ["s3://bucket/ns", "s3://elsewhere"] } else { ["s3://bucket/ns/t", "s3://elsewhere/t"] };
        assert_eq!(**table.lent_prefixes(), prefixes.map(str::to_owned));
        let knows = |store: &Arc<StoreRegistry>| store.lent_at(table.lent_prefixes()).unwrap().len();
        let mut shown = vec![format!("{table:?}"), format!("{here:?}")];

        // Planned by another process: it can read the table, and so can who runs its plan.
        let provider = IcebergTableProvider::try_new(&table, &SnapshotSelector::Current).unwrap();
        let bytes = provider.to_bytes().unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains("lent-secret"));
        assert!(!String::from_utf8_lossy(&bytes).contains("of-catalog"));
        let there = StoreRegistry::local();
        let decoded = IcebergTableProvider::from_bytes(&bytes, Arc::clone(&there)).unwrap();
        assert_eq!(knows(&there), 2);
        assert_eq!(decoded.to_bytes().unwrap(), bytes);
        shown.push(format!("{provider:?}"));

        let source = crate::scan::read::unit_source(&[Vec::new()]).unwrap();
        let scan = with_lent(Arc::clone(&source), table.lent_prefixes(), &here).unwrap();
        assert!(scan.is::<LentCredentialsExec>());
        let spec = WriteSpec::from_table(&table).unwrap();
        let write: Arc<dyn ExecutionPlan> = Arc::new(IcebergWriteExec::new(Arc::clone(&scan), spec.clone(), Arc::clone(&here)));
        shown.extend([format!("{spec:?}"), format!("{write:?}"), displayable(write.as_ref()).indent(true).to_string()]);
        let node = IcebergWriteNode::try_new(datafusion::logical_expr::LogicalPlanBuilder::empty(false).build().unwrap(), spec.clone()).unwrap();
        let logical = node.into_plan();
        shown.extend([format!("{logical:?}"), logical.display_indent_schema().to_string()]);

        let there = StoreRegistry::local();
        let bytes = codec::try_encode_physical(&scan).unwrap().unwrap();
        let again = codec::try_decode_physical(&bytes, std::slice::from_ref(&source), &there).unwrap().unwrap();
        assert_eq!(codec::try_encode_physical(&again).unwrap().unwrap(), bytes);
        assert_eq!(knows(&there), 2);
        let there = StoreRegistry::local();
        let bytes = codec::try_encode_physical(&write).unwrap().unwrap();
        let again = codec::try_decode_physical(&bytes, std::slice::from_ref(&source), &there).unwrap().unwrap();
        let _rows = again.execute(0, Arc::default()).unwrap();
        assert_eq!(knows(&there), 2);
        for text in shown {
            assert!(!["lent-key", "lent-secret", "lent-token"].iter().any(|word| text.contains(word)), "{text}");
        }
    }
}
