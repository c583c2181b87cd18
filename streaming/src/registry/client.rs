use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use reqwest::Method;

use chainalytics_common::Result;

use super::body::{CompatibilityBody, ReferenceBody, RegisterBody, RegisteredBody, SchemaBody, SubjectVersionBody};
use super::http::{Answer, Http};
use super::options::RegistryOptions;
use super::references::{inline, with_definitions};
use crate::err;

/// Schemas kept.
const SCHEMAS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);
/// Schemas that one schema may refer to, directly or not.
const REFERENCES_MAX: usize = 64;
/// How long an unknown id is taken for unknown without asking again.
const NOT_FOUND_TTL: Duration = Duration::from_secs(30);

/// Language of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaType {
    /// Avro; the API's default.
    Avro,
    /// JSON Schema.
    Json,
    /// Protocol Buffers; not read here.
    Protobuf,
}

impl SchemaType {
    /// The API's name.
    pub fn as_str(self) -> &'static str {
        match self {
            SchemaType::Avro => "AVRO",
            SchemaType::Json => "JSON",
            SchemaType::Protobuf => "PROTOBUF",
        }
    }

    fn parse(name: Option<&str>) -> Result<Self> {
        match name {
            None | Some("AVRO") => Ok(SchemaType::Avro),
            Some("JSON") => Ok(SchemaType::Json),
            Some("PROTOBUF") => Ok(SchemaType::Protobuf),
            Some(other) => Err(err::registry(format!("the schema registry has a schema of unknown type '{other}'"))),
        }
    }
}

/// A schema as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredSchema {
    /// The registry's id.
    pub id: i32,
    /// Language.
    pub schema_type: SchemaType,
    /// The schema itself; Avro with the schemas that it refers to put into it.
    pub text: String,
}

/// A version of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectVersion {
    /// Version within the subject, from 1.
    pub version: i32,
    /// Its schema.
    pub schema: RegisteredSchema,
}

/// Answer of a look-up: that something is not there is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// There.
    Found(T),
    /// Not there.
    NotFound,
}

enum Cached {
    Schema(Arc<RegisteredSchema>),
    NotFound(Instant),
}

/// A schema registry.
pub struct SchemaRegistry {
    http: Http,
    by_id: Mutex<LruCache<i32, Cached>>,
}

impl std::fmt::Debug for SchemaRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchemaRegistry").field("options", self.http.options()).finish_non_exhaustive()
    }
}

impl SchemaRegistry {
    /// Client of the registry at `options.url`; nothing is sent yet.
    pub fn new(options: RegistryOptions) -> Result<Self> {
        Ok(Self { http: Http::new(options)?, by_id: Mutex::new(LruCache::new(SCHEMAS_MAX)) })
    }

    /// Options that it was made with.
    pub fn options(&self) -> &RegistryOptions {
        self.http.options()
    }

    /// Schema with the id that a record carries.
    ///
    /// # Errors
    /// `SchemaRegistryUnreachable` (retryable) or the registry's refusal, such as a wrong password.
    pub async fn schema_by_id(&self, id: i32) -> Result<Lookup<Arc<RegisteredSchema>>> {
        if let Some(cached) = self.cached(id) {
            return Ok(cached);
        }
        let answer = self.http.send::<(), SchemaBody>(Method::GET, &format!("schemas/ids/{id}"), None).await?;
        let (entry, lookup) = match answer {
            Answer::Done(body) => {
                let schema_type = SchemaType::parse(body.schema_type.as_deref())?;
                let text = self.self_contained(schema_type, body.schema, body.references).await?;
                let schema = Arc::new(RegisteredSchema { id, schema_type, text });
                (Cached::Schema(Arc::clone(&schema)), Lookup::Found(schema))
            }
            Answer::NotFound => (Cached::NotFound(Instant::now()), Lookup::NotFound),
            Answer::Refused { code, message } => return Err(refused(code, &message)),
        };
        self.by_id.lock().put(id, entry);
        Ok(lookup)
    }

    fn cached(&self, id: i32) -> Option<Lookup<Arc<RegisteredSchema>>> {
        let mut cache = self.by_id.lock();
        match cache.get(&id)? {
            Cached::Schema(schema) => Some(Lookup::Found(Arc::clone(schema))),
            Cached::NotFound(since) if since.elapsed() < NOT_FOUND_TTL => Some(Lookup::NotFound),
            Cached::NotFound(_) => None,
        }
    }

    /// A schema with what it uses of other subjects put into it: Avro's named types where they are first used, documents of JSON Schemas
    /// under `$defs`, by the names that `$ref`s have for them.
    async fn self_contained(&self, schema_type: SchemaType, text: String, references: Vec<ReferenceBody>) -> Result<String> {
        if references.is_empty() || schema_type == SchemaType::Protobuf {
            return Ok(text);
        }
        let mut wanted = references;
        let mut seen: Vec<ReferenceBody> = Vec::new();
        let mut texts = Vec::new();
        while let Some(reference) = wanted.pop() {
            if seen.contains(&reference) {
                continue;
            }
            if seen.len() >= REFERENCES_MAX {
                return Err(err::registry(format!("a schema refers to more than {REFERENCES_MAX} others")));
            }
            let path = format!("subjects/{}/versions/{}", escape(&reference.subject), reference.version);
            match self.http.send::<(), SubjectVersionBody>(Method::GET, &path, None).await? {
                Answer::Done(body) => {
                    texts.push((reference.name.clone(), body.schema));
                    wanted.extend(body.references);
                }
                Answer::NotFound => {
                    // The schema stays as it is; whoever parses it says which type is missing.
                    let ReferenceBody { subject, version, .. } = &reference;
                    tracing::warn!(subject, version, "a schema refers to one that the schema registry does not have");
                }
                Answer::Refused { code, message } => return Err(refused(code, &message)),
            }
            seen.push(reference);
        }
        let whole = match schema_type {
            SchemaType::Avro => inline(&text, &texts.into_iter().map(|(_, text)| text).collect::<Vec<_>>()),
            _ => with_definitions(&text, &texts),
        };
        Ok(whole.unwrap_or_else(|reason| {
            tracing::warn!(reason, "a schema with references is left as it is");
            text
        }))
    }

    /// Latest version of a subject.
    pub async fn latest(&self, subject: &str) -> Result<Lookup<SubjectVersion>> {
        let path = format!("subjects/{}/versions/latest", escape(subject));
        match self.http.send::<(), SubjectVersionBody>(Method::GET, &path, None).await? {
            Answer::Done(body) => {
                let schema_type = SchemaType::parse(body.schema_type.as_deref())?;
                let text = self.self_contained(schema_type, body.schema, body.references).await?;
                let schema = RegisteredSchema { id: body.id, schema_type, text };
                Ok(Lookup::Found(SubjectVersion { version: body.version, schema }))
            }
            Answer::NotFound => Ok(Lookup::NotFound),
            Answer::Refused { code, message } => Err(refused(code, &message)),
        }
    }

    /// Registers a schema and returns its id; one that is there already keeps its id.
    ///
    /// # Errors
    /// `SchemaRegistry` if it is not compatible with the subject's versions, or invalid.
    pub async fn register(&self, subject: &str, schema_type: SchemaType, schema: &str) -> Result<i32> {
        let path = format!("subjects/{}/versions", escape(subject));
        let body = RegisterBody { schema, schema_type: schema_type.as_str() };
        match self.http.send::<_, RegisteredBody>(Method::POST, &path, Some(&body)).await? {
            Answer::Done(body) => Ok(body.id),
            Answer::NotFound => Err(err::registry(format!("the schema registry does not let '{subject}' be registered"))),
            Answer::Refused { code, message } => Err(refused(code, &format!("subject '{subject}': {message}"))),
        }
    }

    /// Whether a schema could be registered under the subject. A subject that is not there takes everything.
    pub async fn is_compatible(&self, subject: &str, schema_type: SchemaType, schema: &str) -> Result<bool> {
        let path = format!("compatibility/subjects/{}/versions/latest", escape(subject));
        let body = RegisterBody { schema, schema_type: schema_type.as_str() };
        match self.http.send::<_, CompatibilityBody>(Method::POST, &path, Some(&body)).await? {
            Answer::Done(body) => Ok(body.is_compatible),
            Answer::NotFound => Ok(true),
            Answer::Refused { code, message } => Err(refused(code, &message)),
        }
    }
}

fn refused(code: i64, message: &str) -> chainalytics_common::Error {
    err::registry(format!("the schema registry refused: {message} (code {code})"))
}

/// A subject as a path segment.
fn escape(subject: &str) -> String {
    url::form_urlencoded::byte_serialize(subject.as_bytes()).collect::<String>().replace('+', "%20")
}
