//! A broker within the process and a lakehouse in a temporary folder.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;

use chainalytics_lakehouse::catalog::CatalogOptions;
use chainalytics_lakehouse::exec::LocalExecutor;
use chainalytics_lakehouse::scan::{IcebergTableProvider, SnapshotSelector};
use chainalytics_lakehouse::{CreateTable, Lakehouse, StoreRegistry, TableIdent};

use crate::decode::ValueFormat;
use crate::kafka::KafkaOptions;
use crate::kafka::test_broker::Broker;
use crate::stream::{StreamSpec, TopicSubscription};
use crate::topics::{DEAD_LETTERS_TABLE, bronze_schema, dead_letters_schema, platform_topic};

pub(crate) struct TestPlatform {
    pub(crate) lakehouse: Lakehouse,
    pub(crate) broker: Broker,
    _folder: tempfile::TempDir,
}

impl TestPlatform {
    /// User events and products with `partitions` partitions each, and their tables.
    pub(crate) async fn start(partitions: i32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let options = CatalogOptions {
            name: "test".to_owned(),
            uri: format!("sqlite:///{path}/catalog.db"),
            busy_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            connections_max: 8,
            warehouse: format!("{path}/warehouse"),
        };
        let lakehouse = Lakehouse::open_with(options, "test".to_owned(), StoreRegistry::local()).await.unwrap();
        for topic in ["user-events", "products"] {
            let definition = platform_topic(topic).unwrap();
            let create = CreateTable::new(ident(&definition.table), bronze_schema(&definition.schema)).partitioned_by(definition.event_time, "day");
            lakehouse.catalog().create_table(create, false).await.unwrap();
        }
        let create = CreateTable::new(ident(DEAD_LETTERS_TABLE), dead_letters_schema()).partitioned_by("ingested_at", "day");
        lakehouse.catalog().create_table(create, false).await.unwrap();
        Self { lakehouse, broker: Broker::start(&["user-events", "products"], partitions), _folder: folder }
    }

    pub(crate) fn spec(&self, topics: &[&str]) -> StreamSpec {
        let topics = topics.iter().map(|topic| TopicSubscription::new(&platform_topic(topic).unwrap(), "test", ValueFormat::Json)).collect();
        let kafka = KafkaOptions { stall_timeout_ms: 5000, ..KafkaOptions::new(self.broker.servers()) };
        let mut spec = StreamSpec::new("test", "run-1", kafka, topics, ident(DEAD_LETTERS_TABLE));
        spec.unit_len_min = 10;
        spec
    }

    pub(crate) fn executor(&self) -> LocalExecutor {
        LocalExecutor::new(self.context())
    }

    fn context(&self) -> SessionContext {
        use datafusion::execution::runtime_env::RuntimeEnvBuilder;
        let runtime = RuntimeEnvBuilder::new().with_object_store_registry(Arc::clone(self.lakehouse.store()) as _).build_arc().unwrap();
        SessionContext::new_with_config_rt(Default::default(), runtime)
    }

    /// One number that `sql` gives about `table`, named `t` in it.
    pub(crate) async fn number(&self, table: &str, sql: &str) -> i64 {
        let table = self.lakehouse.catalog().load_table(&ident(table)).await.unwrap();
        let provider = IcebergTableProvider::try_new(&table, &SnapshotSelector::Current).unwrap();
        let ctx = self.context();
        ctx.register_table("t", Arc::new(provider)).unwrap();
        let batches = ctx.sql(sql).await.unwrap().collect().await.unwrap();
        batches[0].column(0).as_primitive::<Int64Type>().value(0)
    }

    /// Rows, and distinct source positions among them: equal if no record is there twice.
    pub(crate) async fn rows(&self, table: &str) -> (i64, i64) {
        let rows = self.number(table, "SELECT count(*) FROM t").await;
        let positions = "SELECT count(*) FROM (SELECT DISTINCT kafka_topic, kafka_partition, kafka_offset FROM t)";
        (rows, self.number(table, positions).await)
    }
}

pub(crate) fn ident(table: &str) -> TableIdent {
    TableIdent::new("test", table)
}

/// A user event; every tenth is malformed, every twenty-third lacks its user.
pub(crate) fn user_event(number: usize) -> String {
    let day = number % 3 + 1;
    match number {
        n if n % 10 == 3 => format!(r#"{{"event_id":"e{number}","user_id":"#),
        n if n % 23 == 5 => {
            format!(r#"{{"event_id":"e{number}","event_type":"view","event_timestamp":"2026-01-0{day}T00:00:00Z"}}"#)
        }
        _ => format!(
            r#"{{"event_id":"e{number}","user_id":"u{}","event_type":"click","value":{number}.5,"event_timestamp":"2026-01-0{day}T01:02:03Z"}}"#,
            number % 7
        ),
    }
}

/// How many of the first `count` user events are valid.
pub(crate) fn valid_events(count: usize) -> i64 {
    (0..count).filter(|n| n % 10 != 3 && n % 23 != 5).count() as i64
}
