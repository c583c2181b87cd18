//! A REST catalog in this process that can act and not answer, answer and not act, or act late.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use iceberg::spec::{FormatVersion, Schema, SortOrder, TableMetadata, TableMetadataBuilder, UnboundPartitionSpec};
use iceberg::{TableRequirement, TableUpdate};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

/// What happens to one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitFault {
    pub applies: Applies,
    pub answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    Never,
    Now,
    /// After the answer, while the client may be looking or trying again.
    Late(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A gateway's page with this status.
    Status(u16),
    /// The connection ends.
    Cut,
    /// Nothing comes, until the client gives up.
    Silence,
}

#[derive(Debug, Default)]
struct State {
    folder: String,
    tables: BTreeMap<String, (String, TableMetadata)>,
    faults: VecDeque<CommitFault>,
    commits: u64,
}

pub struct RestServer {
    pub uri: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for RestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RestServer {
    /// Serves tables whose files lie under `folder`.
    pub async fn start(folder: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { folder: folder.to_owned(), ..State::default() }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { uri, state, task }
    }

    /// The next commits meet these.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = CommitFault>) {
        self.state.lock().faults.extend(faults);
    }

    /// Commits that were asked for.
    pub fn commits(&self) -> u64 {
        self.state.lock().commits
    }
}

struct Request {
    method: String,
    path: Vec<String>,
    body: Value,
}

async fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let length: usize = text
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|length| length.trim().parse().unwrap()))
        .unwrap_or(0);
    while bytes.len() < head + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let mut first = text.lines().next()?.split(' ');
    let method = first.next()?.to_owned();
    let path = first.next()?.split('?').next()?.trim_start_matches("/v1/").split('/').map(str::to_owned).collect();
    let body = if length == 0 { Value::Null } else { serde_json::from_slice(&bytes[head + 4..]).ok()? };
    Some(Request { method, path, body })
}

async fn answer(stream: &mut TcpStream, status: u16, body: &str) {
    let text = format!("HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let _sent = stream.write_all(text.as_bytes()).await;
    let _closed = stream.shutdown().await;
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let Some(request) = read_request(&mut stream).await else { return };
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    let is_commit = request.method == "POST" && matches!(path.as_slice(), ["namespaces", _, "tables", _] | ["transactions", "commit"]);
    let fault = if is_commit { state.lock().next_fault() } else { None };
    let Some(fault) = fault else {
        let (status, body) = handle(&state, &request);
        return answer(&mut stream, status, &body.to_string()).await;
    };
    if fault.applies == Applies::Now {
        let (status, body) = handle(&state, &request);
        // What it would have refused anyway tells nothing.
        if status >= 300 {
            return answer(&mut stream, status, &body.to_string()).await;
        }
    }
    match fault.answer {
        Answer::Status(status) => answer(&mut stream, status, "<html><title>gateway</title></html>").await,
        Answer::Cut => drop(stream),
        // It has sent all it has to say: what ends this is its end of the connection, or the test's.
        Answer::Silence => while stream.read_u8().await.is_ok() {},
    }
    if let Applies::Late(wait) = fault.applies {
        tokio::time::sleep(wait).await;
        handle(&state, &request);
    }
}

fn failure(status: u16, kind: &str, message: &str) -> (u16, Value) {
    (status, json!({"error": {"message": message, "type": kind, "code": status}}))
}

fn handle(state: &Mutex<State>, request: &Request) -> (u16, Value) {
    let mut state = state.lock();
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    match (request.method.as_str(), path.as_slice()) {
        ("GET", ["config"]) => (200, json!({"defaults": {}, "overrides": {}})),
        ("POST", ["namespaces"]) => (200, json!({"namespace": request.body["namespace"], "properties": {}})),
        ("GET", ["namespaces"]) => (200, json!({"namespaces": [["proof"]]})),
        ("GET", ["namespaces", _]) => (200, json!({"namespace": ["proof"], "properties": {}})),
        ("GET", ["namespaces", namespace, "tables"]) => {
            let all: Vec<Value> = state.tables.keys().map(|name| json!({"namespace": [namespace], "name": name})).collect();
            (200, json!({"identifiers": all}))
        }
        ("POST", ["namespaces", _, "tables"]) => state.create(&request.body),
        ("GET", ["namespaces", _, "tables", name]) => match state.tables.get(*name) {
            Some((location, metadata)) => (200, json!({"metadata-location": location, "metadata": metadata})),
            None => failure(404, "NoSuchTableException", name),
        },
        ("POST", ["namespaces", _, "tables", name]) => state.commit(&[(name, &request.body)]),
        ("POST", ["transactions", "commit"]) => {
            let changes = request.body["table-changes"].as_array().unwrap();
            let changes: Vec<(&str, &Value)> = changes.iter().map(|one| (one["identifier"]["name"].as_str().unwrap(), one)).collect();
            state.commit(&changes)
        }
        _ => failure(404, "NoSuchEndpoint", &request.path.join("/")),
    }
}

impl State {
    fn next_fault(&mut self) -> Option<CommitFault> {
        self.commits += 1;
        self.faults.pop_front()
    }

    fn create(&mut self, body: &Value) -> (u16, Value) {
        let name = body["name"].as_str().unwrap().to_owned();
        let schema: Schema = serde_json::from_value(body["schema"].clone()).unwrap();
        let spec: UnboundPartitionSpec = serde_json::from_value(body["partition-spec"].clone()).unwrap();
        let order: SortOrder = serde_json::from_value(body["write-order"].clone()).unwrap();
        let mut properties: HashMap<String, String> = serde_json::from_value(body["properties"].clone()).unwrap();
        let version = match properties.remove("format-version").as_deref() {
            Some("1") => FormatVersion::V1,
            Some("3") => FormatVersion::V3,
            _ => FormatVersion::V2,
        };
        let location = format!("file://{}/{name}", self.folder);
        let metadata = TableMetadataBuilder::new(schema, spec, order, location, version, properties).unwrap().build().unwrap().metadata;
        self.store(&name, metadata)
    }

    /// Moves all tables or none.
    fn commit(&mut self, changes: &[(&str, &Value)]) -> (u16, Value) {
        let mut built = Vec::new();
        for (name, body) in changes {
            let Some((location, metadata)) = self.tables.get(*name) else { return failure(404, "NoSuchTableException", name) };
            let requirements: Vec<TableRequirement> = serde_json::from_value(body["requirements"].clone()).unwrap();
            if let Some(error) = requirements.iter().find_map(|one| one.check(Some(metadata)).err()) {
                return failure(409, "CommitFailedException", &error.to_string());
            }
            let updates: Vec<TableUpdate> = serde_json::from_value(body["updates"].clone()).unwrap();
            let mut builder = metadata.clone().into_builder(Some(location.clone()));
            for update in updates {
                match update.apply(builder) {
                    Ok(next) => builder = next,
                    Err(error) => return failure(400, "BadRequestException", &error.to_string()),
                }
            }
            built.push(((*name).to_owned(), builder.build().unwrap().metadata));
        }
        let mut answer = (204, Value::Null);
        for (name, metadata) in built {
            answer = self.store(&name, metadata);
        }
        answer
    }

    fn store(&mut self, name: &str, metadata: TableMetadata) -> (u16, Value) {
        let folder = format!("{}/metadata", metadata.location().trim_start_matches("file://"));
        std::fs::create_dir_all(&folder).unwrap();
        let file = format!("{folder}/{:05}-{}.metadata.json", metadata.metadata_log().len(), Uuid::new_v4());
        std::fs::write(&file, serde_json::to_vec(&metadata).unwrap()).unwrap();
        let location = format!("file://{file}");
        let body = json!({"metadata-location": location, "metadata": metadata});
        self.tables.insert(name.to_owned(), (location, metadata));
        (200, body)
    }
}
