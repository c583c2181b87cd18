#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::TryStreamExt;

use chainalytics_lakehouse::WriteSpec;
use chainalytics_lakehouse::exec::QueryExecutor;

use super::*;
use crate::batch::Unit;
use crate::codec;
use crate::decode::ValueFormat;
use crate::test_support::{TestPlatform, ident, user_event, valid_events};
use crate::topics::{DEAD_LETTERS_TABLE, platform_topic};

const RECORDS: usize = 700;

async fn plan(platform: &TestPlatform, groups: &[Vec<Unit>]) -> Arc<dyn ExecutionPlan> {
    let definition = platform_topic("user-events").unwrap();
    let catalog = platform.lakehouse.catalog();
    let table = catalog.load_table(&ident(&definition.table)).await.unwrap();
    let dead = catalog.load_table(&ident(DEAD_LETTERS_TABLE)).await.unwrap();
    let spec = IngestSpec {
        kafka: platform.spec(&["user-events"]).kafka,
        registry: None,
        on_error: OnError::DeadLetter,
        topics: vec![TopicSink {
            topic: definition.topic,
            format: ValueFormat::Json,
            schema: definition.schema,
            event_time: Some(definition.event_time),
            tombstones: Tombstones::Reject,
            evolve: false,
            write: WriteSpec::from_table(&table).unwrap(),
        }],
        dead_letters: WriteSpec::from_table(&dead).unwrap(),
        settled: Default::default(),
        batch_id: 4,
        run_id: "run-1".to_owned(),
        ingested_at_us: 1_767_225_600_000_000,
    };
    let source = unit_source(groups).unwrap();
    Arc::new(KafkaToIcebergExec::new(source, Arc::new(spec), Arc::clone(platform.lakehouse.store())))
}

async fn run(platform: &TestPlatform, plan: Arc<dyn ExecutionPlan>) -> TaskReport {
    let rows = platform.executor().execute_physical(plan).await.unwrap();
    read_reports(&rows.try_collect::<Vec<_>>().await.unwrap()).unwrap()
}

fn units(groups: usize) -> Vec<Vec<Unit>> {
    let step = RECORDS / groups;
    (0..groups)
        .map(|group| {
            let (start, end) = (group * step, if group + 1 == groups { RECORDS } else { (group + 1) * step });
            vec![Unit { topic: "user-events".into(), partition: 0, start: start as i64, end: end as i64 }]
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_becomes_one_row_or_one_dead_letter_whatever_the_tasks() {
    let platform = TestPlatform::start(1).await;
    platform.broker.send("user-events", 0, (0..RECORDS).map(user_event));
    for groups in [1, 3, 7] {
        let plan = plan(&platform, &units(groups)).await;
        assert_eq!(plan.output_partitioning().partition_count(), groups);
        let report = run(&platform, plan).await;
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        let rows = |files: &[WrittenFile]| files.iter().map(|written| written.file.record_count).sum::<u64>() as i64;
        assert_eq!(rows(&report.data), valid_events(RECORDS));
        assert_eq!(rows(&report.dead_letters), RECORDS as i64 - valid_events(RECORDS));
        let mut consumed: Vec<Unit> = report.consumed.iter().map(|consumed| consumed.unit.clone()).collect();
        consumed.sort();
        assert_eq!(consumed, units(groups).concat());
        let records: u64 = report.consumed.iter().map(|consumed| consumed.records).sum();
        assert_eq!(records, RECORDS as u64);
        assert!(report.consumed.iter().all(|consumed| consumed.event_time_min_us.is_some()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_crosses_the_wire() {
    let platform = TestPlatform::start(1).await;
    platform.broker.send("user-events", 0, (0..RECORDS).map(user_event));
    let plan = plan(&platform, &units(2)).await;
    let bytes = codec::try_encode_physical(&plan).unwrap().unwrap();
    let inputs: Vec<Arc<dyn ExecutionPlan>> = plan.children().into_iter().cloned().collect();
    assert!(codec::try_encode_physical(&inputs[0]).is_none());
    assert!(codec::try_decode_physical(b"lakehouse:1:pw:", &inputs, platform.lakehouse.store()).is_none());
    let decoded = codec::try_decode_physical(&bytes, &inputs, platform.lakehouse.store()).unwrap().unwrap();
    let report = run(&platform, decoded).await;
    assert_eq!(report.consumed.iter().map(|consumed| consumed.records).sum::<u64>(), RECORDS as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_reaches_the_driver_with_its_code_and_leaves_no_files() {
    let platform = TestPlatform::start(1).await;
    platform.broker.send("user-events", 0, (0..RECORDS).map(user_event));
    let unit = |start, end| Unit { topic: "user-events".into(), partition: 0, start, end };
    let report = run(&platform, plan(&platform, &[vec![unit(0, 300), unit(5000, 6000)]]).await).await;
    assert_eq!(report.failures.len(), 1);
    assert_eq!(report.failures[0].code, chainalytics_common::ErrorCode::DataLoss.as_str());
    assert!(report.data.is_empty() && report.consumed.is_empty());
    let table = platform.lakehouse.catalog().load_table(&ident("bronze_user_events")).await.unwrap();
    let files = platform.lakehouse.store().list(&format!("{}/data", table.location())).await.unwrap();
    assert!(files.is_empty(), "{files:?}");
}
