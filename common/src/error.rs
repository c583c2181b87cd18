//! One error type with a stable code. The code says what kind of thing went wrong and so what to do; it survives being sent as text through
//! gRPC and Ballista, because [`Display`](fmt::Display) puts it in front and [`Error::parse`] finds it again.

use std::error::Error as StdError;
use std::fmt;

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $help:expr;)*) => {
        /// What went wrong, as a code that never changes its meaning. `docs/error-codes.md` lists them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// `CA-...`, as printed and searched for.
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $code,)* }
            }

            /// What a person can do about it, where that is the same for every case of the code.
            pub fn help(self) -> Option<&'static str> {
                match self { $(ErrorCode::$name => $help,)* }
            }
        }
    };
}

codes! {
    /// A configuration key or value that cannot be used.
    Config = "CA-CONFIG", Some("`chainalytics config show` prints every key with its value and where it came from");
    /// An argument that cannot be used.
    InvalidArgument = "CA-INVALID-ARGUMENT", Some("see --help of the command");
    /// No job of that name.
    UnknownJob = "CA-UNKNOWN-JOB", Some("`chainalytics jobs` lists the jobs");
    /// A port is taken.
    PortInUse = "CA-PORT-IN-USE", Some("stop whoever listens there, or choose other ports (--port-offset, --conf)");
    /// No answer from the scheduler.
    SchedulerUnreachable = "CA-SCHEDULER-UNREACHABLE", Some("start a cluster with `chainalytics cluster start`, name another with --master, or run with --master 'local[2]'");
    /// The cluster is there but not (yet) able to work.
    ClusterNotReady = "CA-CLUSTER-NOT-READY", Some("`chainalytics cluster status` shows which process is missing");
    /// An executor that worked on the query was lost, and the query was repeated as often as allowed.
    ExecutorLost = "CA-EXECUTOR-LOST", Some("see the executors' logs; query.max-attempts bounds the repeats");
    /// The run ended with a failure.
    RunFailed = "CA-RUN-FAILED", None;
    /// Something of that name does not exist.
    NotFound = "CA-NOT-FOUND", None;
    /// A bounded queue is full.
    QueueFull = "CA-QUEUE-FULL", Some("try again later");
    /// Stopped on request.
    Cancelled = "CA-CANCELLED", None;
    /// Took longer than its time-out.
    Timeout = "CA-TIMEOUT", None;
    /// Memory or disk of the process does not suffice.
    ResourcesExhausted = "CA-RESOURCES-EXHAUSTED", Some("raise executor.memory or driver.memory, or read less at a time");
    /// SQL that does not parse.
    SqlSyntax = "CA-SQL-SYNTAX", None;
    /// SQL that parses but cannot be planned: an unknown column, function or type.
    SqlPlan = "CA-SQL-PLAN", None;
    /// SQL that is understood and not supported.
    SqlUnsupported = "CA-SQL-UNSUPPORTED", None;
    /// No stored procedure of that name.
    ProcedureNotFound = "CA-PROCEDURE-NOT-FOUND", None;
    /// An argument of a stored procedure that is missing, unknown or cannot be used.
    ProcedureArgument = "CA-PROCEDURE-ARGUMENT", None;
    /// A query failed while it ran.
    QueryFailed = "CA-QUERY-FAILED", None;
    /// The catalog answered with an error.
    Catalog = "CA-CATALOG", None;
    /// The catalog database stayed locked.
    CatalogBusy = "CA-CATALOG-BUSY", Some("another process holds the catalog's lock; try again, or raise catalog.busy-timeout");
    /// The catalog database cannot be reached.
    CatalogUnreachable = "CA-CATALOG-UNREACHABLE", Some("check catalog.uri and that its database runs");
    /// The catalog refused the credentials, or has no such database or warehouse.
    CatalogDenied = "CA-CATALOG-DENIED", Some("check user, password and database of catalog.uri, or catalog.rest.credential and catalog.rest.token");
    /// No such table.
    TableNotFound = "CA-TABLE-NOT-FOUND", Some("`SHOW TABLES` lists the tables; the setup jobs create the platform's own");
    /// The table is there already.
    TableExists = "CA-TABLE-EXISTS", Some("use IF NOT EXISTS, or drop the table first");
    /// The table or struct has no such column.
    ColumnNotFound = "CA-COLUMN-NOT-FOUND", Some("`DESCRIBE <table>` lists the columns");
    /// A column or partition field of that name is there already.
    ColumnExists = "CA-COLUMN-EXISTS", None;
    /// A change of schema or partitioning that rows written before would not survive.
    IncompatibleChange = "CA-INCOMPATIBLE-CHANGE", None;
    /// A branch or tag of that name is there already.
    RefExists = "CA-REF-EXISTS", Some("use IF NOT EXISTS, or CREATE OR REPLACE");
    /// No such namespace.
    NamespaceNotFound = "CA-NAMESPACE-NOT-FOUND", Some("`SHOW NAMESPACES` lists the namespaces");
    /// The namespace is there already.
    NamespaceExists = "CA-NAMESPACE-EXISTS", Some("use IF NOT EXISTS");
    /// The namespace still holds tables or views.
    NamespaceNotEmpty = "CA-NAMESPACE-NOT-EMPTY", Some("drop its tables first, or use CASCADE");
    /// A table's metadata or files cannot be read as the format demands.
    TableFormat = "CA-TABLE-FORMAT", None;
    /// No such snapshot, branch or tag.
    SnapshotNotFound = "CA-SNAPSHOT-NOT-FOUND", None;
    /// Rows do not fit the table's schema.
    SchemaMismatch = "CA-SCHEMA-MISMATCH", None;
    /// Several source rows of a MERGE match a row that it changes.
    MergeCardinality = "CA-MERGE-CARDINALITY", Some("make the source unique by the columns of ON; nothing was written");
    /// Someone else's commit got in between and cannot be built upon.
    CommitConflict = "CA-COMMIT-CONFLICT", Some("nothing was written; run it again on the table as it is now");
    /// It is not known whether the commit took effect.
    CommitUnknown = "CA-COMMIT-UNKNOWN", Some("run the same step again: it finds out whether it is done");
    /// Reading from the object store failed.
    StorageRead = "CA-STORAGE-READ", None;
    /// Writing to the object store failed.
    StorageWrite = "CA-STORAGE-WRITE", Some("check free space and credentials of catalog.warehouse; nothing was committed");
    /// The object store refused the credentials.
    StorageDenied = "CA-STORAGE-DENIED", Some("check s3.access-key-id, s3.secret-access-key, s3.region and what the key may do");
    /// The object store has no such bucket.
    BucketNotFound = "CA-BUCKET-NOT-FOUND", Some("create the bucket, or name another in catalog.warehouse");
    /// The object store cannot be reached.
    StorageUnreachable = "CA-STORAGE-UNREACHABLE", Some("check s3.endpoint and that the store runs");
    /// A local file cannot be read or written.
    Io = "CA-IO", None;
    /// No answer from Kafka.
    KafkaUnreachable = "CA-KAFKA-UNREACHABLE", Some("check kafka.bootstrap.servers and that the broker runs");
    /// Kafka answered too late.
    KafkaTimeout = "CA-KAFKA-TIMEOUT", Some("the run can be started again: it goes on where it stopped");
    /// Kafka refused the request.
    KafkaRefused = "CA-KAFKA-REFUSED", None;
    /// No such topic.
    TopicNotFound = "CA-TOPIC-NOT-FOUND", Some("create the topic, or produce into it first (`chainalytics produce`)");
    /// Offsets that have not been read yet are gone from Kafka.
    DataLoss = "CA-DATA-LOSS", Some("retention ran past the stream; accept the loss with streaming.fail-on-data-loss=false");
    /// A record cannot become a row, and the stream was told to stop at such.
    RecordRejected = "CA-RECORD-REJECTED", Some("mend the producer, or keep such records as dead letters (--on-error dead-letter) or drop them (--on-error skip)");
    /// A table with rows has lost the record of how far it was fed.
    ProgressLost = "CA-PROGRESS-LOST", Some("the table must not be fed again from the start; restore its property chainalytics.kafka.end-offsets");
    /// The schema registry refused.
    SchemaRegistry = "CA-SCHEMA-REGISTRY", None;
    /// The schema registry cannot be reached.
    SchemaRegistryUnreachable = "CA-SCHEMA-REGISTRY-UNREACHABLE", Some("check schema.registry.url");
    /// Counts that must agree do not.
    CountsDiffer = "CA-COUNTS-DIFFER", None;
    /// A data quality check that must hold does not.
    QualityFailed = "CA-QUALITY-FAILED", Some("table data_quality_report tells each check; data_quality_alerts those that failed");
    /// Understood and not supported.
    Unsupported = "CA-UNSUPPORTED", None;
    /// A defect of the platform.
    Internal = "CA-INTERNAL", Some("this is a defect: report it with the logs");
}

/// An error of the platform: a code, a message that says what and where, and what caused it.
#[derive(Debug)]
pub struct Error {
    code: ErrorCode,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), source: None }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    /// A failed access to a local file; `what` says which.
    pub fn io(what: impl fmt::Display, source: std::io::Error) -> Self {
        Self::new(ErrorCode::Io, format!("{what}: {source}")).with_source(source)
    }

    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn code(&self) -> ErrorCode {
        self.code
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn help(&self) -> Option<&'static str> {
        self.code.help()
    }

    /// Finds a platform error in text that went over the wire: `... [CA-TABLE-NOT-FOUND] message`.
    pub fn parse(text: &str) -> Option<Self> {
        let start = text.find("[CA-")?;
        let (code, rest) = text[start + 1..].split_once(']')?;
        let code = ErrorCode::ALL.iter().copied().find(|c| c.as_str() == code)?;
        Some(Self::new(code, rest.trim_start().trim_end()))
    }

    /// The platform error inside a DataFusion error, or a new one that keeps it as its source.
    pub fn from_datafusion(error: DataFusionError) -> Self {
        if let Some(found) = find(&error) {
            return found.with_source(error);
        }
        let text = error.strip_backtrace();
        if let Some(found) = Self::parse(&text) {
            return found.with_source(error);
        }
        let code = match error.find_root() {
            DataFusionError::SQL(..) => ErrorCode::SqlSyntax,
            DataFusionError::Plan(_) | DataFusionError::SchemaError(..) => ErrorCode::SqlPlan,
            DataFusionError::NotImplemented(_) => ErrorCode::SqlUnsupported,
            DataFusionError::ResourcesExhausted(_) => ErrorCode::ResourcesExhausted,
            DataFusionError::Configuration(_) => ErrorCode::Config,
            _ => of_object_store(&text).unwrap_or(ErrorCode::QueryFailed),
        };
        let text = if code == ErrorCode::SqlSyntax { plain_syntax_error(&text) } else { text };
        Self::new(code, text).with_source(error)
    }
}

/// `SQL error: ParserError("Expected: ... at Line: 1, Column: 7")` without its wrapping.
fn plain_syntax_error(text: &str) -> String {
    let inner = text.strip_prefix("SQL error: ").and_then(|rest| rest.split_once("(\"")).and_then(|(_, rest)| rest.strip_suffix("\")"));
    inner.map_or_else(|| text.to_owned(), |inner| inner.replace("\\\"", "\"").replace("\\'", "'"))
}

/// What the text of an object store's error means, wherever it comes from: wrong key, no bucket, no store. By text, because it may have come over the wire.
pub fn of_object_store(text: &str) -> Option<ErrorCode> {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&["NoSuchBucket"]) {
        Some(ErrorCode::BucketNotFound)
    } else if has(&["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken", "InvalidToken", "403 Forbidden", "401 Unauthorized"]) {
        Some(ErrorCode::StorageDenied)
    } else if text.contains("Error performing ") && has(&["HTTP error: ", "status code: 50"]) {
        // The store's client gave up: no answer, or that of a server or gateway in trouble.
        Some(ErrorCode::StorageUnreachable)
    } else {
        None
    }
}

/// A copy of the platform error below wrappers of DataFusion and Arrow (the wrappers share their content, so it cannot be moved out).
fn find(error: &DataFusionError) -> Option<Error> {
    let any = |inner: &(dyn StdError + Send + Sync + 'static)| {
        inner
            .downcast_ref::<Error>()
            .map(|e| Error::new(e.code, e.message.clone()))
            .or_else(|| inner.downcast_ref::<DataFusionError>().and_then(find))
    };
    match error {
        DataFusionError::External(inner) => any(inner.as_ref()),
        DataFusionError::Context(_, inner) => find(inner),
        DataFusionError::Diagnostic(_, inner) => find(inner),
        DataFusionError::Shared(inner) => find(inner),
        DataFusionError::Collection(all) => all.iter().find_map(find),
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::ExternalError(inner) => any(inner.as_ref()),
            _ => None,
        },
        _ => None,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code.as_str(), self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn survives_the_wire() {
        let error = Error::new(ErrorCode::TableNotFound, "no table a.b");
        let wire = format!("Job x failed: Execution error: {error}");
        let parsed = Error::parse(&wire).unwrap();
        assert_eq!(parsed.code(), ErrorCode::TableNotFound);
        assert_eq!(parsed.message(), "no table a.b");
        assert!(Error::parse("[CA-NO-SUCH-CODE] x").is_none());
        assert!(Error::parse("plain").is_none());
    }

    #[test]
    fn survives_datafusion() {
        let error: DataFusionError = Error::new(ErrorCode::DataLoss, "gone").into();
        let wrapped = DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(error.context("while reading")))), None);
        assert_eq!(Error::from_datafusion(wrapped).code(), ErrorCode::DataLoss);
        assert_eq!(Error::from_datafusion(DataFusionError::Plan("x".into())).code(), ErrorCode::SqlPlan);
    }

    #[test]
    fn syntax_errors_are_told_plainly() {
        let wrapped = "SQL error: ParserError(\"Expected: an SQL statement, found: \\\"x\\\" at Line: 1, Column: 1\")";
        assert_eq!(plain_syntax_error(wrapped), "Expected: an SQL statement, found: \"x\" at Line: 1, Column: 1");
        assert_eq!(plain_syntax_error("something else"), "something else");
    }

    #[test]
    fn codes_are_distinct() {
        let mut codes: Vec<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorCode::ALL.len());
    }
}
