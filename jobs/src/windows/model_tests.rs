//! The job over real tables, batch after batch, against the operator that keeps all windows in memory: however many batches there are, whatever
//! they touch, and whatever compaction does in between, tables and operator have the same windows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;

use chainalytics_client::Session;
use chainalytics_common::{Config, Master};
use chainalytics_lakehouse::sql::{StatementResult, load_table};
use chainalytics_lakehouse::{SnapshotInfo, Table};
use chainalytics_streaming::window::{Figures, Partial, WindowOperator, WindowSpec};
use futures::TryStreamExt;
use serde_json::Value;

use super::*;
use crate::rows::fetch;
use crate::source::moment;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
/// 2026-01-01
const DAY: i64 = 1_767_225_600 * SECOND;

struct Place {
    folder: tempfile::TempDir,
    context: JobContext,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let context = Self::open(&folder).await;
        crate::setup::CreateBronzeTables.run(context.clone(), Vec::new()).await.unwrap();
        Self { folder, context }
    }

    async fn open(folder: &tempfile::TempDir) -> JobContext {
        let config = Arc::new(Config::with_data_dir(folder.path(), &[]).unwrap());
        JobContext::new(Session::connect(config, Master::Local(2)).await.unwrap())
    }

    /// Nothing stays in memory.
    async fn restart(&mut self) {
        self.context = Self::open(&self.folder).await;
    }

    async fn sql(&self, statement: &str) {
        let done = self.context.session().sql(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
        if let StatementResult::Rows(rows) = done {
            rows.try_collect::<Vec<_>>().await.unwrap();
        }
    }

    async fn insert(&self, events: &[Event]) {
        let rows: Vec<String> = events
            .iter()
            .map(|e| {
                let (kind, at) = (if e.purchase { "purchase" } else { "view" }, moment(e.time));
                format!(
                    "('e{}', 'u{}', '{kind}', 'p1', 's', {}, {at}, {at}, 'user-events', 0, {}, {at}, 0, 'test', {at})",
                    e.id, e.key, e.value, e.offset
                )
            })
            .collect();
        self.sql(&format!("INSERT INTO bronze_user_events VALUES {}", rows.join(", "))).await;
    }

    async fn job(&self, args: &[&str]) -> Value {
        WindowAggregation.run(self.context.clone(), args.iter().map(|a| (*a).to_owned()).collect()).await.unwrap()
    }

    async fn table(&self, name: &str) -> Table {
        load_table(self.context.session().lakehouse(), &self.context.table(name).unwrap()).await.unwrap()
    }

    async fn snapshot(&self, name: &str) -> SnapshotInfo {
        self.table(name).await.current_snapshot().unwrap()
    }

    /// Windows of a table as texts, in order; repeats stay.
    async fn windows(&self, table: &str, condition: &str) -> Vec<String> {
        let query = format!("SELECT window_key, window_start, window_end, events, views, clicks, purchases, revenue, first_event, last_event FROM {table} WHERE {condition}");
        let rows = fetch(self.context.session(), &query).await.unwrap();
        let window = |row| {
            let time = |name| rows.micros(row, name).unwrap();
            let figures = queries::figures(&rows, row).unwrap();
            text(&rows.text(row, "window_key").unwrap(), time("window_start"), time("window_end"), &figures)
        };
        let mut windows: Vec<String> = (0..rows.len()).map(window).collect();
        windows.sort();
        windows
    }
}

fn text(key: &str, start: i64, end: i64, figures: &Figures) -> String {
    format!("{key} {} {} {figures:?}", start - DAY, end - DAY)
}

fn texts_of<'a>(windows: impl IntoIterator<Item = &'a chainalytics_streaming::window::OpenWindow>) -> Vec<String> {
    let mut texts: Vec<String> = windows.into_iter().map(|w| text(&w.key, w.start, w.end, &w.figures)).collect();
    texts.sort();
    texts
}

#[derive(Debug, Clone, Copy)]
struct Event {
    id: u64,
    key: u64,
    time: i64,
    purchase: bool,
    value: f64,
    offset: i64,
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// All windows, in memory.
struct Model {
    operator: WindowOperator,
    spec: WindowSpec,
    delay: i64,
    newest: Option<i64>,
    seen: BTreeSet<(u64, i64)>,
    closed: Vec<String>,
}

impl Model {
    fn take(&mut self, events: &[Event]) {
        let watermark = self.operator.watermark();
        for event in events.iter().filter(|e| self.seen.insert((e.id, e.time))) {
            let figures = Figures {
                events: 1,
                views: u64::from(!event.purchase),
                clicks: 0,
                purchases: u64::from(event.purchase),
                revenue: if event.purchase { event.value } else { 0.0 },
                first: event.time,
                last: event.time,
            };
            let late = matches!(self.spec, WindowSpec::Session { gap } if watermark.is_some_and(|w| event.time + gap <= w));
            for start in self.spec.starts(event.time) {
                self.operator.absorb(Partial { key: format!("u{}", event.key), start, figures, late });
            }
        }
        self.newest = self.newest.max(events.iter().map(|e| e.time).max());
        let closed = self.operator.advance(self.newest.map(|newest| newest - self.delay));
        self.closed.extend(texts_of(&closed));
        self.closed.sort();
    }
}

/// A batch: mostly about now, some as late as the watermark allows and later, some of long ago.
fn events(dice: &mut Dice, now: i64, offset: &mut i64, known: &mut Vec<Event>) -> Vec<Event> {
    let n = 1 + dice.below(14);
    (0..n)
        .map(|_| {
            *offset += 1;
            if !known.is_empty() && dice.below(9) == 0 {
                // Sent again.
                let repeated = known[usize::try_from(dice.below(known.len() as u64)).unwrap()];
                return Event { offset: *offset, ..repeated };
            }
            let behind = match dice.below(10) {
                0 => dice.below(6 * 3_600),
                1 => dice.below(30 * 3_600),
                _ => dice.below(900),
            };
            let time = now - i64::try_from(behind).unwrap() * SECOND;
            let id = u64::try_from(*offset).unwrap();
            let event = Event { id, key: dice.below(6), time, purchase: dice.below(3) == 0, value: dice.below(100) as f64, offset: *offset };
            known.push(event);
            event
        })
        .collect()
}

/// What the tables had before windows were kept apart: the whole state by query, and nothing known of the results.
async fn as_an_older_version_left_it(place: &Place, query: &str) {
    let key = format!("chainalytics.windows.{query}");
    let mut state: Value = serde_json::from_str(place.table(STATE).await.property(&key).unwrap()).unwrap();
    state.as_object_mut().unwrap().remove("told");
    place.sql(&format!("CREATE TABLE kept AS SELECT * FROM {STATE}")).await;
    place.sql(&format!("DROP TABLE {STATE}")).await;
    place
        .sql(&format!(
            "CREATE TABLE {STATE} (query STRING NOT NULL, window_key STRING NOT NULL, window_start TIMESTAMP_LTZ NOT NULL, window_end TIMESTAMP_LTZ NOT NULL, \
             events BIGINT NOT NULL, views BIGINT NOT NULL, clicks BIGINT NOT NULL, purchases BIGINT NOT NULL, revenue DOUBLE NOT NULL, \
             first_event TIMESTAMP_LTZ NOT NULL, last_event TIMESTAMP_LTZ NOT NULL) PARTITIONED BY (query)"
        ))
        .await;
    place.sql(&format!("INSERT INTO {STATE} SELECT * FROM kept")).await;
    place.sql("DROP TABLE kept").await;
    place.sql(&format!("ALTER TABLE {STATE} SET TBLPROPERTIES ('{key}' = '{state}')")).await;
}

async fn compact_often(place: &Place) {
    for table in [STATE, RESULTS, SEEN] {
        let properties = "'chainalytics.maintenance.every-commits' = '2', 'chainalytics.maintenance.min-input-files' = '2'";
        place.sql(&format!("ALTER TABLE {table} SET TBLPROPERTIES ({properties})")).await;
    }
}

async fn compare(kind: &[&str], spec: WindowSpec, update: bool, seed: u64, batches: usize) {
    let mut place = Place::new().await;
    compact_often(&place).await;
    let delay = 5 * HOUR;
    let mut args = kind.to_vec();
    args.extend(["--key", "user-id", "--watermark", "5h", "--query", "q", "--output", if update { "update" } else { "append" }]);
    let mut model =
        Model { operator: WindowOperator::restore(spec, None, []), spec, delay, newest: None, seen: BTreeSet::new(), closed: Vec::new() };
    let (mut dice, mut now, mut offset, mut known) = (Dice(seed), DAY, 0, Vec::new());
    let mut compacted = 0;
    for batch in 0..batches {
        now += i64::try_from(dice.below(5_400)).unwrap() * SECOND;
        let new = events(&mut dice, now, &mut offset, &mut known);
        place.insert(&new).await;
        if batch == batches / 2 {
            as_an_older_version_left_it(&place, "q").await;
            compact_often(&place).await;
        }
        if dice.below(3) == 0 {
            place.restart().await;
        }
        let report = place.job(&args).await;
        model.take(&new);
        let what = format!("{spec:?}, update {update}, seed {seed}, batch {batch}: {report}");
        let open = texts_of(&model.operator.open().collect::<Vec<_>>());
        assert_eq!(place.windows(STATE, "query = 'q'").await, open, "state, {what}");
        assert_eq!(place.windows(RESULTS, "query = 'q' AND closed").await, model.closed, "closed, {what}");
        assert_eq!(place.windows(RESULTS, "query = 'q' AND NOT closed").await, if update { open } else { Vec::new() }, "open, {what}");
        assert_eq!(report["windows_open"].as_u64(), Some(model.operator.len() as u64), "{what}");
        compacted += place.table(STATE).await.ancestry().filter(|s| s.operation == "replace").count();
    }
    assert!(model.closed.len() > 5 && model.operator.len() > 5 && compacted > 0, "{} closed, {} open, {compacted}", model.closed.len(), model.operator.len());
    // The older layout was brought up.
    assert!(place.table(STATE).await.partition_fields().iter().any(|f| f.source == "window_end"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tumbling_windows_are_those_of_the_model() {
    compare(&["--type", "tumbling", "--size", "10m"], WindowSpec::Tumbling { size: 10 * MINUTE }, true, 0x9E37_79B9, 14).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sliding_windows_are_those_of_the_model() {
    let spec = WindowSpec::Sliding { size: 2 * HOUR, slide: 30 * MINUTE };
    compare(&["--type", "sliding", "--size", "2h", "--slide", "30m"], spec, false, 0xD1B5_4A32, 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_those_of_the_model() {
    for (update, seed) in [(true, 0x5851_F42D), (false, 0x1405_7B7E), (true, 0xBF58_476D)] {
        compare(&["--type", "session", "--gap", "20m"], WindowSpec::Session { gap: 20 * MINUTE }, update, seed, 14).await;
    }
}

/// A batch that has to do with `k` of `n` windows writes `k` rows, and takes out as many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_writes_the_windows_that_it_touches() {
    let place = Place::new().await;
    let args = ["--type", "session", "--gap", "5m", "--watermark", "48h", "--output", "update", "--query", "q"];
    let mut offset = 0;
    let mut event = |key: u64, time: i64| {
        offset += 1;
        Event { id: u64::try_from(offset).unwrap(), key, time, purchase: false, value: 0.0, offset }
    };
    // Twelve hours with 50 sessions each, of as many users.
    let many: Vec<Event> = (0..600_u64).map(|user| event(user, DAY + i64::try_from(user % 12).unwrap() * HOUR)).collect();
    place.insert(&many).await;
    assert_eq!(place.job(&args).await["windows_open"], 600);
    // One goes on, two begin.
    place.insert(&[event(7, DAY + 7 * HOUR + MINUTE), event(20, DAY + 8 * HOUR + 6 * MINUTE), event(1_000, DAY + 3 * HOUR)]).await;
    assert_eq!(place.job(&args).await["windows_open"], 602);
    for (table, files) in [(STATE, 3), (RESULTS, 1)] {
        let snapshot = place.snapshot(table).await;
        assert_eq!((snapshot.count("added-records"), snapshot.count("added-position-deletes")), (3, 1), "{table}: {:?}", snapshot.summary);
        assert!(snapshot.count("added-data-files") <= files && snapshot.count("deleted-data-files") == 0, "{table}: {:?}", snapshot.summary);
    }
    // An event joins two.
    place.insert(&[event(20, DAY + 8 * HOUR + 3 * MINUTE)]).await;
    assert_eq!(place.job(&args).await["windows_open"], 601);
    for table in [STATE, RESULTS] {
        let snapshot = place.snapshot(table).await;
        assert_eq!(snapshot.count("added-records"), 1, "{table}: {:?}", snapshot.summary);
    }
    // The watermark passes the first two hours: their windows go, with their files, and no other is read or written.
    place.insert(&[event(2_000, DAY + 48 * HOUR + 90 * MINUTE)]).await;
    let report = place.job(&args).await;
    assert_eq!((&report["windows_closed"], &report["windows_open"]), (&serde_json::json!(100), &serde_json::json!(502)), "{report}");
    let snapshot = place.snapshot(STATE).await;
    assert_eq!((snapshot.count("added-records"), snapshot.count("deleted-records")), (1, 100), "{:?}", snapshot.summary);
    assert_eq!(snapshot.count("deleted-data-files"), 2, "{:?}", snapshot.summary);
}
