//! Requests to servers of this machine.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Longest silence of a server.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A JSON body, whatever the status; `None` if there is none.
#[must_use]
pub fn http_get(port: u16, path: &str) -> Option<Value> {
    http("GET", port, path, None).map(|(_, body)| body)
}

/// Status and JSON body of an answer; `None` if none came, or one that is not JSON.
#[must_use]
pub fn http(method: &str, port: u16, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(SILENCE_MAX)).ok()?;
    // By 1.0 servers end the connection, and send nothing in chunks.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}
