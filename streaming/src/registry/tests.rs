#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A server that answers each connection's one request with the next of `answers` (status and body), the last for ever.
async fn serve(answers: Vec<(u16, &'static str)>) -> (RegistryOptions, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 8192];
            let _ = socket.read(&mut buffer).await;
            let at = seen.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            let (status, body) = answers[at];
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = socket.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    (RegistryOptions { attempts_max: 3, request_timeout_ms: 2000, ..RegistryOptions::new(url) }, requests)
}

#[tokio::test]
async fn a_schema_is_asked_for_once() {
    let (options, requests) = serve(vec![(200, r#"{"schema":"\"string\""}"#)]).await;
    let registry = SchemaRegistry::new(options).unwrap();
    for _ in 0..3 {
        let Lookup::Found(schema) = registry.schema_by_id(7).await.unwrap() else { unreachable!() };
        assert_eq!((schema.id, schema.schema_type, schema.text.as_str()), (7, SchemaType::Avro, "\"string\""));
    }
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let (options, requests) = serve(vec![(503, ""), (500, "{}"), (200, r#"{"schema":"{}","schemaType":"JSON"}"#)]).await;
    let registry = SchemaRegistry::new(options).unwrap();
    assert!(matches!(registry.schema_by_id(1).await.unwrap(), Lookup::Found(_)));
    assert_eq!(requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let (options, requests) = serve(vec![(401, r#"{"error_code":401,"message":"who are you"}"#)]).await;
    let registry = SchemaRegistry::new(options).unwrap();
    let error = registry.schema_by_id(1).await.unwrap_err();
    assert!(error.to_string().contains("who are you"), "{error}");
    assert_eq!(requests.load(Ordering::SeqCst), 1);

    let (options, requests) = serve(vec![(409, r#"{"error_code":409,"message":"incompatible"}"#)]).await;
    let registry = SchemaRegistry::new(options).unwrap();
    assert!(registry.register("a-value", SchemaType::Avro, "{}").await.is_err());
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_unknown_id_is_no_error_and_remembered() {
    let (options, requests) = serve(vec![(404, r#"{"error_code":40403,"message":"Schema not found"}"#)]).await;
    let registry = SchemaRegistry::new(options).unwrap();
    assert_eq!(registry.schema_by_id(9).await.unwrap(), Lookup::NotFound);
    assert_eq!(registry.schema_by_id(9).await.unwrap(), Lookup::NotFound);
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_unreachable_registry_ends_after_its_attempts() {
    let options = RegistryOptions { attempts_max: 2, request_timeout_ms: 500, ..RegistryOptions::new("http://127.0.0.1:1") };
    let registry = SchemaRegistry::new(options).unwrap();
    let error = registry.schema_by_id(9).await.unwrap_err();
    assert!(error.to_string().contains("after 2 attempts"), "{error}");
}
