#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use chainalytics_common::{Error, ErrorCode, Result};
use chainalytics_lakehouse::exec::{LocalExecutor, QueryExecutor};
use chainalytics_lakehouse::{CommitOptions, TableChange, Transaction};

use super::*;
use crate::batch::{OFFSETS_KEY, OFFSETS_PROPERTY, OffsetRange, Progress};
use crate::test_support::{TestPlatform, ident, user_event, valid_events};

/// Collects progress.
#[derive(Default)]
struct Listener {
    batches: Mutex<Vec<StreamingQueryProgress>>,
    waits: AtomicU32,
}

impl ProgressListener for Listener {
    fn on_progress(&self, progress: &StreamingQueryProgress) {
        self.batches.lock().push(progress.clone());
    }

    fn on_waiting(&self, _waiting: &Waiting) {
        self.waits.fetch_add(1, Ordering::SeqCst);
    }
}

async fn drain(platform: &TestPlatform, spec: StreamSpec) -> Result<StreamSummary> {
    let query = StreamingQuery::new(platform.lakehouse.clone(), spec)?;
    query.run(&platform.executor(), Trigger::AvailableNow, &CancellationToken::new(), &NoListener).await
}

async fn assert_exactly_once(platform: &TestPlatform, table: &str, valid: i64, rejected: i64) {
    assert_eq!(platform.rows(table).await, (valid, valid), "{table}");
    let topic = table.trim_start_matches("bronze_").replace('_', "-");
    let dead = format!("SELECT count(*) FROM t WHERE kafka_topic = '{topic}'");
    let distinct = format!("SELECT count(*) FROM (SELECT DISTINCT kafka_partition, kafka_offset FROM t WHERE kafka_topic = '{topic}')");
    assert_eq!(platform.number("bronze_dead_letters", &dead).await, rejected);
    assert_eq!(platform.number("bronze_dead_letters", &distinct).await, rejected);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_topics_drain_exactly_once_over_restarts() {
    let platform = TestPlatform::start(3).await;
    let product = |n: usize| format!(r#"{{"product_id":{n},"price":9.5,"ingestion_date":"2026-01-01"}}"#);
    for partition in 0..3 {
        platform.broker.send("user-events", partition, (0..500).map(user_event));
    }
    platform.broker.send("products", 1, (0..50).map(product));

    let mut spec = platform.spec(&["user-events", "products"]);
    spec.limits.rows_max = 400;
    let listener = Listener::default();
    let query = StreamingQuery::new(platform.lakehouse.clone(), spec.clone()).unwrap();
    let summary = query.run(&platform.executor(), Trigger::AvailableNow, &CancellationToken::new(), &listener).await.unwrap();
    assert_eq!(summary.input_rows, 1550);
    assert_eq!(summary.batches, 4);
    assert_exactly_once(&platform, "bronze_user_events", 3 * valid_events(500), 3 * (500 - valid_events(500))).await;
    assert_exactly_once(&platform, "bronze_products", 50, 0).await;

    let batches = listener.batches.lock().clone();
    assert_eq!(batches.iter().map(|batch| batch.batch_id).collect::<Vec<_>>(), [0, 1, 2, 3]);
    for pair in batches.windows(2) {
        assert_eq!(pair[0].sources[0].end_offset, pair[1].sources[0].start_offset);
    }
    let last = batches.last().unwrap();
    assert_eq!(last.sources.iter().map(|source| source.offsets_behind_latest).sum::<u64>(), 0);
    assert!(last.sink.snapshot_ids.contains_key("test.bronze_user_events"));

    // Nothing new: nothing is committed.
    assert_eq!(drain(&platform, spec.clone()).await.unwrap().batches, 0);
    platform.broker.send("user-events", 0, (500..600).map(user_event));
    let summary = drain(&platform, spec).await.unwrap();
    assert_eq!((summary.batches, summary.input_rows), (1, 100));
    let table = platform.lakehouse.catalog().load_table(&ident("bronze_user_events")).await.unwrap();
    assert_eq!(last_id(&table), Some(4));
}

fn last_id(table: &chainalytics_lakehouse::Table) -> Option<i64> {
    super::load::last_batch_id(table)
}

/// Fails after the plan has run, `failures` times: as if the driver died between execution and commit.
struct Dying {
    inner: LocalExecutor,
    failures: AtomicU32,
}

#[async_trait]
impl QueryExecutor for Dying {
    async fn execute_logical(&self, plan: LogicalPlan) -> Result<SendableRecordBatchStream> {
        self.inner.execute_logical(plan).await
    }

    async fn execute_physical(&self, plan: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream> {
        use futures::TryStreamExt;
        let rows = self.inner.execute_physical(plan).await?;
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let _ = rows.try_collect::<Vec<_>>().await;
            return Err(Error::new(ErrorCode::Internal, "died"));
        }
        Ok(rows)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_dies_before_its_commit_is_as_if_it_never_was() {
    let platform = TestPlatform::start(2).await;
    platform.broker.send("user-events", 0, (0..300).map(user_event));
    let dying = Dying { inner: platform.executor(), failures: AtomicU32::new(3) };
    let mut spec = platform.spec(&["user-events"]);
    spec.limits.rows_max = 100;
    let mut deaths = 0;
    loop {
        let query = StreamingQuery::new(platform.lakehouse.clone(), spec.clone()).unwrap();
        match query.run(&dying, Trigger::AvailableNow, &CancellationToken::new(), &NoListener).await {
            Ok(_) => break,
            Err(error) => {
                deaths += 1;
                assert!(deaths <= 3, "{error}");
            }
        }
    }
    assert_eq!(deaths, 3);
    assert_exactly_once(&platform, "bronze_user_events", valid_events(300), 300 - valid_events(300)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_side_by_side_lose_and_double_nothing() {
    let platform = TestPlatform::start(3).await;
    for partition in 0..3 {
        platform.broker.send("user-events", partition, (0..400).map(user_event));
    }
    let mut runs = Vec::new();
    for instance in 0..3 {
        let mut spec = platform.spec(&["user-events"]);
        spec.run_id = format!("run-{}", instance % 2);
        spec.limits.rows_max = 150 + 70 * instance;
        let (lakehouse, executor) = (platform.lakehouse.clone(), platform.executor());
        runs.push(tokio::spawn(async move {
            let query = StreamingQuery::new(lakehouse, spec).unwrap();
            query.run(&executor, Trigger::AvailableNow, &CancellationToken::new(), &NoListener).await
        }));
    }
    for run in runs {
        run.await.unwrap().unwrap();
    }
    assert_exactly_once(&platform, "bronze_user_events", 3 * valid_events(400), 3 * (400 - valid_events(400))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_survives_foreign_snapshots_and_lives_in_the_property() {
    let platform = TestPlatform::start(1).await;
    platform.broker.send("user-events", 0, (0..100).map(user_event));
    drain(&platform, platform.spec(&["user-events"])).await.unwrap();
    let bronze = ident("bronze_user_events");
    // Someone else's commit, then expiry of every snapshot that carries our key.
    let catalog = platform.lakehouse.catalog();
    let foreign = TableChange::append(bronze.clone(), Vec::new());
    Transaction::new(&platform.lakehouse).add(foreign).commit(CommitOptions::default()).await.unwrap();
    let table = catalog.load_table(&bronze).await.unwrap();
    assert_eq!(table_progress(&table, "user-events").unwrap(), Progress::At([(0, 100)].into()));
    let old: Vec<i64> = table.ancestry().skip(1).map(|snapshot| snapshot.snapshot_id).collect();
    let expire = TableChange::metadata(bronze.clone()).expire_snapshots(old);
    Transaction::new(&platform.lakehouse).add(expire).commit(CommitOptions::default()).await.unwrap();
    let table = catalog.load_table(&bronze).await.unwrap();
    assert_eq!(table.latest_summary_value(OFFSETS_KEY), None);
    assert_eq!(table_progress(&table, "user-events").unwrap(), Progress::At([(0, 100)].into()));

    platform.broker.send("user-events", 0, (100..150).map(user_event));
    assert_eq!(drain(&platform, platform.spec(&["user-events"])).await.unwrap().input_rows, 50);

    // Without the property either, a table with rows is never started over.
    let table = catalog.load_table(&bronze).await.unwrap();
    let foreign = TableChange::append(bronze.clone(), Vec::new());
    Transaction::new(&platform.lakehouse).add(foreign).commit(CommitOptions::default()).await.unwrap();
    let old: Vec<i64> = table.snapshots().iter().map(|snapshot| snapshot.snapshot_id).collect();
    let wipe = TableChange::metadata(bronze).expire_snapshots(old).remove_property(OFFSETS_PROPERTY);
    Transaction::new(&platform.lakehouse).add(wipe).commit(CommitOptions::default()).await.unwrap();
    let error = drain(&platform, platform.spec(&["user-events"])).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ProgressLost, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_at_the_end_is_kept_over_a_restart() {
    let platform = TestPlatform::start(1).await;
    platform.broker.send("user-events", 0, (0..100).map(user_event));
    let mut spec = platform.spec(&["user-events"]);
    spec.start = StartPolicy::Latest;
    assert_eq!(drain(&platform, spec.clone()).await.unwrap().input_rows, 0);
    platform.broker.send("user-events", 0, (100..130).map(user_event));
    assert_eq!(drain(&platform, spec).await.unwrap().input_rows, 30);
    let table = platform.lakehouse.catalog().load_table(&ident("bronze_user_events")).await.unwrap();
    let first = table.ancestry().last().unwrap().summary.remove(OFFSETS_KEY).unwrap();
    let offsets = crate::batch::BatchOffsets::from_json(&first).unwrap();
    assert_eq!(offsets.0["user-events"][&0], OffsetRange::new(100, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_is_waited_for() {
    let platform = TestPlatform::start(1).await;
    platform.broker.send("user-events", 0, (0..50).map(user_event));
    let mut spec = platform.spec(&["user-events"]);
    spec.kafka.request_timeout_ms = 500;
    let listener = Arc::new(Listener::default());
    let cancel = CancellationToken::new();
    let query = StreamingQuery::new(platform.lakehouse.clone(), spec).unwrap();
    let (executor, heard, stop) = (platform.executor(), Arc::clone(&listener), cancel.clone());
    let run = tokio::spawn(async move { query.run(&executor, Trigger::Interval(Duration::from_millis(50)), &stop, heard.as_ref()).await });
    wait_until(|| !listener.batches.lock().is_empty()).await;
    platform.broker.down();
    wait_until(|| listener.waits.load(Ordering::SeqCst) > 0).await;
    platform.broker.up();
    platform.broker.send("user-events", 0, (50..80).map(user_event));
    wait_until(|| listener.batches.lock().iter().map(|batch| batch.num_input_rows).sum::<u64>() == 80).await;
    cancel.cancel();
    let summary = run.await.unwrap().unwrap();
    assert!(summary.stopped);
    assert_exactly_once(&platform, "bronze_user_events", valid_events(80), 80 - valid_events(80)).await;
}

async fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "waited for a minute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_there_is_told_at_once() {
    let platform = TestPlatform::start(1).await;
    let mut spec = platform.spec(&["user-events"]);
    spec.topics[0].topic = "user-event".into();
    let error = drain(&platform, spec).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TopicNotFound, "{error}");
    assert!(error.to_string().contains("user-events"), "{error}");

    let mut spec = platform.spec(&["user-events"]);
    spec.kafka.bootstrap_servers = "127.0.0.1:1".into();
    spec.kafka.request_timeout_ms = 500;
    assert_eq!(drain(&platform, spec).await.unwrap_err().code(), ErrorCode::KafkaUnreachable);

    let mut spec = platform.spec(&["user-events"]);
    spec.topics[0].table = ident("bronze_nothing");
    assert_eq!(drain(&platform, spec).await.unwrap_err().code(), ErrorCode::TableNotFound);
}

/// Subscribes to the platform's own topics.
struct PlatformTopics;

#[async_trait]
impl TopicResolver for PlatformTopics {
    async fn subscribe(&self, topic: &str) -> Result<TopicSubscription> {
        let definition =
            crate::topics::platform_topic(topic).ok_or_else(|| Error::new(ErrorCode::TopicNotFound, format!("'{topic}' is unknown here")))?;
        Ok(TopicSubscription::new(&definition, "test", crate::decode::ValueFormat::Json))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_finds_topics_and_leaves_out_those_it_cannot_read() {
    let platform = TestPlatform::start(1).await;
    platform.broker.create("user-tales", 1);
    platform.broker.send("user-events", 0, (0..50).map(user_event));
    let mut spec = platform.spec(&[]);
    spec.pattern = Some(TopicPattern::new("user-.*", Arc::new(PlatformTopics)).unwrap());
    let summary = drain(&platform, spec).await.unwrap();
    assert_eq!(summary.input_rows, 50);
    assert_exactly_once(&platform, "bronze_user_events", valid_events(50), 50 - valid_events(50)).await;

    let mut spec = platform.spec(&[]);
    spec.pattern = Some(TopicPattern::new("nothing-.*", Arc::new(PlatformTopics)).unwrap());
    assert_eq!(drain(&platform, spec).await.unwrap(), StreamSummary::default());
    assert_eq!(drain(&platform, platform.spec(&[])).await.unwrap_err().code(), ErrorCode::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_no_rows_stop_the_stream_or_are_dropped_as_told() {
    let platform = TestPlatform::start(1).await;
    platform.broker.send("user-events", 0, (0..40).map(user_event));
    let mut spec = platform.spec(&["user-events"]);
    // One task: with more of them any one's first bad record may be told.
    spec.parallelism = 1;
    spec.on_error = crate::exec::OnError::Fail;
    let error = drain(&platform, spec.clone()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::RecordRejected, "{error}");
    assert!(error.to_string().contains("offset 3"), "{error}");
    assert_eq!(platform.rows("bronze_user_events").await.0, 0);

    spec.on_error = crate::exec::OnError::Skip;
    let summary = drain(&platform, spec).await.unwrap();
    assert_eq!((summary.dead_letter_rows, summary.skipped_rows as i64), (0, 40 - valid_events(40)));
    assert_exactly_once(&platform, "bronze_user_events", valid_events(40), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_offsets_start_a_fresh_table_there() {
    let platform = TestPlatform::start(2).await;
    platform.broker.send("products", 0, (0..20).map(|n| format!(r#"{{"product_id":{n},"ingestion_date":"2026-01-01"}}"#)));
    platform.broker.send("products", 1, (0..20).map(|n| format!(r#"{{"product_id":{n},"ingestion_date":"2026-01-01"}}"#)));
    let mut spec = platform.spec(&["products"]);
    spec.start = r#"{"products":{"0":15,"1":-1}}"#.parse().unwrap();
    assert_eq!(drain(&platform, spec.clone()).await.unwrap().input_rows, 5);
    spec.start = r#"{"products":{"0":99}}"#.parse().unwrap();
    // The table's own progress wins; a fresh one would be told.
    assert_eq!(drain(&platform, spec).await.unwrap().input_rows, 0);
    let mut spec = platform.spec(&["user-events"]);
    spec.start = r#"{"user-events":{"0":99}}"#.parse().unwrap();
    assert_eq!(drain(&platform, spec).await.unwrap_err().code(), ErrorCode::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_as_spark_tells_it_and_names_the_topic() {
    let platform = TestPlatform::start(1).await;
    platform.broker.send("user-events", 0, (0..100).map(user_event));
    let mut spec = platform.spec(&["user-events"]);
    spec.limits.rows_max = 60;
    let listener = Listener::default();
    let query = StreamingQuery::new(platform.lakehouse.clone(), spec).unwrap();
    query.run(&platform.executor(), Trigger::AvailableNow, &CancellationToken::new(), &listener).await.unwrap();
    let batches = listener.batches.lock().clone();
    let first = serde_json::to_value(&batches[0]).unwrap();
    assert_eq!(first["sources"][0]["description"], "KafkaV2[Subscribe[user-events]]");
    assert_eq!(first["sources"][0]["startOffset"]["user-events"]["0"], 0);
    assert_eq!(first["sources"][0]["endOffset"]["user-events"]["0"], 60);
    assert_eq!(first["sources"][0]["metrics"]["maxOffsetsBehindLatest"], "40");
    assert_eq!(first["eventTime"]["watermark"], "2026-01-01T01:02:03.000Z");
    assert_eq!((&batches[0].id, batches[0].batch_id), (&batches[1].id, 0));
    let table = platform.lakehouse.catalog().load_table(&ident("bronze_user_events")).await.unwrap();
    let standing = table_standing(&table, "user-events").unwrap();
    assert_eq!(standing.topic_id, batches[0].sources[0].topic_id);
}

/// As a catalog leaves it that moved the dead letters and then stopped: they are there, and the table stands before their records.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_went_ahead_are_not_stored_again() {
    let platform = TestPlatform::start(2).await;
    let send = |numbers: std::ops::Range<usize>| (0..2).for_each(|partition| platform.broker.send("user-events", partition, numbers.clone().map(user_event)));
    let bronze = ident("bronze_user_events");
    send(0..100);
    drain(&platform, platform.spec(&["user-events"])).await.unwrap();
    let before = platform.lakehouse.catalog().load_table(&bronze).await.unwrap().current_snapshot_id().unwrap();
    send(100..200);
    drain(&platform, platform.spec(&["user-events"])).await.unwrap();
    chainalytics_lakehouse::maintenance::rollback_to_snapshot(&platform.lakehouse, &bronze, before).await.unwrap();
    // Read again in other batches, with more behind.
    send(200..250);
    let mut spec = platform.spec(&["user-events"]);
    spec.limits.rows_max = 70;
    let summary = drain(&platform, spec).await.unwrap();
    assert_eq!((summary.input_rows, summary.batches), (300, 5));
    assert_exactly_once(&platform, "bronze_user_events", 2 * valid_events(250), 2 * (250 - valid_events(250))).await;
    // The positions of those that were there are no holes.
    let table = platform.lakehouse.catalog().load_table(&bronze).await.unwrap();
    assert_eq!(absent_offsets(&table, "user-events").values().sum::<u64>(), 0);
}
