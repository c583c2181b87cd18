//! Queries with state over tables that grow, with real processes: joins, deduplication and windows that are killed again and again come to
//! what they come to undisturbed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::process::Child;
use std::time::{Duration, Instant};

use chainalytics_tests::{Place, signal};
use serde_json::{Value, json};

const LOCAL: &[&str] = &["--master", "local[2]"];
const LINEAGE: &str = "'t', 0";

/// Two tables of a few columns: left rows (`id`, `k`, `at`), right rows the same.
fn tables(place: &Place) {
    let columns = "(id BIGINT, k STRING, at TIMESTAMP_LTZ, kafka_topic STRING, kafka_partition INT, kafka_offset BIGINT, ingested_at TIMESTAMP_LTZ)";
    for table in ["lefts", "rights"] {
        place.sql(&format!("CREATE TABLE {table} {columns}"), LOCAL);
    }
}

fn insert(place: &Place, table: &str, rows: &[(i64, &str, &str)]) {
    let rows: Vec<String> = rows
        .iter()
        .map(|(id, k, at)| format!("({id}, '{k}', TIMESTAMP '2026-01-01 {at}', {LINEAGE}, {id}, TIMESTAMP '2026-01-01 {at}')"))
        .collect();
    place.sql(&format!("INSERT INTO {table} VALUES {}", rows.join(", ")), LOCAL);
}

fn job(place: &Place, name: &str, args: &[&str]) -> Value {
    let mut all = vec!["submit", name, "--master", "local[2]", "--output", "json", "--"];
    all.extend(args);
    place.run(&all).ok().last_json()["report"].clone()
}

#[test]
fn rows_join_across_batches_until_the_watermark_has_passed_them() {
    let place = Place::new();
    tables(&place);
    let args = [
        "--left", "lefts", "--right", "rights", "--on", "k", "--left-time", "at", "--right-time", "at", "--lower", "-1m", "--upper", "10m",
        "--type", "left-outer", "--watermark", "5m", "--output", "joined",
    ];
    let pairs = "SELECT id, right_id AS r FROM joined ORDER BY 1, 2";
    insert(&place, "lefts", &[(1, "a", "10:00:00"), (2, "b", "10:01:00")]);
    insert(&place, "rights", &[(1, "a", "10:05:00")]);
    let first = job(&place, "stream_join", &args);
    assert_eq!((&first["input_rows"], &first["output_rows"], &first["state_rows"]), (&json!(3), &json!(1), &json!(3)), "{first}");
    // A match of the first batch's left row, one just outside the interval, and a left row with a match of before.
    insert(&place, "rights", &[(2, "a", "10:10:00"), (3, "b", "10:11:01")]);
    insert(&place, "lefts", &[(3, "a", "10:06:00")]);
    job(&place, "stream_join", &args);
    assert_eq!(place.sql(pairs, LOCAL), [json!({"id": 1, "r": 1}), json!({"id": 1, "r": 2}), json!({"id": 3, "r": 1}), json!({"id": 3, "r": 2})]);
    // Nothing new: no batch, no commit.
    let snapshots = place.number("SELECT count(*) FROM joined.snapshots", LOCAL);
    assert_eq!(job(&place, "stream_join", &args)["batches"], 0);
    assert_eq!(place.number("SELECT count(*) FROM joined.snapshots", LOCAL), snapshots);
    // Time goes on on both sides: the left row that had no match comes out, and state goes. A late row is dropped.
    insert(&place, "lefts", &[(4, "z", "11:00:00")]);
    insert(&place, "rights", &[(4, "y", "11:00:00")]);
    let passed = job(&place, "stream_join", &args);
    assert_eq!((&passed["output_rows"], &passed["state_rows"]), (&json!(1), &json!(2)), "{passed}");
    assert!(place.sql(pairs, LOCAL).contains(&json!({"id": 2, "r": null})));
    insert(&place, "rights", &[(5, "z", "10:54:00")]);
    assert_eq!(job(&place, "stream_join", &args)["late_rows_dropped"], 1);
    // Another join cannot go on with this one's state.
    let mut other = args;
    other[13] = "20m";
    let mut all = vec!["submit", "stream_join", "--master", "local[2]", "--"];
    all.extend(other);
    let refused = place.run(&all);
    assert!(refused.code == 2 && refused.stderr.contains("another join"), "{}", refused.stderr);
}

/// Columns with capital letters, asked for in others; rows of both sides that never match.
#[test]
fn rows_of_both_sides_come_out_alone_once_nothing_can_match_them() {
    let place = Place::new();
    let columns = "(Id BIGINT, userKey STRING, EventTime TIMESTAMP_LTZ, kafka_topic STRING, kafka_partition INT, kafka_offset BIGINT, ingested_at TIMESTAMP_LTZ)";
    for table in ["lefts", "rights"] {
        place.sql(&format!("CREATE TABLE {table} {columns}"), LOCAL);
    }
    let args = |kind: &'static str, output: &'static str| {
        [
            "--left", "lefts", "--right", "rights", "--on", "userkey", "--left-time", "eventtime", "--right-time", "EVENTTIME", "--lower", "-1m", "--upper",
            "10m", "--type", kind, "--watermark", "5m", "--left-columns", "id", "--right-columns", "ID,eventTime", "--output", output,
        ]
    };
    let all = ["inner", "left-outer", "right-outer", "full-outer"];
    let outputs = ["inners", "left_outers", "right_outers", "full_outers"];
    let run = || all.iter().zip(outputs).map(|(kind, output)| job(&place, "stream_join", &args(kind, output))).collect::<Vec<_>>();
    insert(&place, "lefts", &[(1, "a", "10:00:00"), (2, "b", "10:01:00")]);
    insert(&place, "rights", &[(1, "a", "10:05:00"), (2, "c", "10:05:00")]);
    run();
    // A right row that the left one of before matches, and one that a left row to come matches: neither comes out alone.
    insert(&place, "rights", &[(3, "b", "10:06:00"), (4, "d", "10:07:00")]);
    run();
    insert(&place, "lefts", &[(3, "d", "10:08:00"), (4, "e", "10:08:00")]);
    run();
    for (table, other) in [("lefts", "y"), ("rights", "z")] {
        insert(&place, table, &[(5, other, "11:00:00")]);
    }
    let reports = run();
    let pair = |l: Option<i64>, r: Option<i64>| json!({"l": l, "r": r});
    let pairs = [pair(Some(1), Some(1)), pair(Some(2), Some(3)), pair(Some(3), Some(4))];
    let (left, right) = ([pair(Some(4), None)], [pair(None, Some(2))]);
    let expected = [pairs.to_vec(), [&pairs[..], &left].concat(), [&pairs[..], &right].concat(), [&pairs[..], &left, &right].concat()];
    for (output, expected) in outputs.iter().zip(expected) {
        let rows = place.sql(&format!("SELECT Id AS l, right_Id AS r FROM {output} ORDER BY l NULLS LAST, r"), LOCAL);
        assert_eq!(rows, expected, "{output}");
    }
    // Spelled as the table has them; the last rows of each side are what is left of the state.
    let described = place.sql("SELECT EventTime AS t, right_EventTime AS r, right_userKey AS k FROM full_outers WHERE Id = 1", LOCAL);
    assert_eq!(described.len(), 1, "{described:?}");
    assert!(reports.iter().all(|report| report["state_rows"] == 2), "{reports:?}");
    // The same columns in other letters are the same query.
    let once = |key: &'static str, time: &'static str| {
        job(&place, "stream_dedup", &["--source", "lefts", "--key", key, "--time", time, "--watermark", "10m", "--columns", "ID", "--output", "once"])
    };
    assert_eq!(once("USERKEY", "eventtime")["output_rows"], 5);
    insert(&place, "lefts", &[(6, "y", "11:01:00"), (7, "x", "11:02:00")]);
    let second = once("userKey", "EventTime");
    assert_eq!((&second["output_rows"], &second["duplicates"]), (&json!(1), &json!(1)), "{second}");
}

#[test]
fn a_key_passes_once_within_the_watermark() {
    let place = Place::new();
    tables(&place);
    let args = ["--source", "lefts", "--key", "k", "--time", "at", "--watermark", "10m", "--columns", "id", "--output", "once"];
    let ids = || place.sql("SELECT id FROM once ORDER BY 1", LOCAL).iter().map(|row| row["id"].as_i64().unwrap()).collect::<Vec<_>>();
    insert(&place, "lefts", &[(1, "a", "10:00:00"), (2, "a", "10:01:00"), (3, "b", "10:02:00")]);
    let first = job(&place, "stream_dedup", &args);
    assert_eq!((&first["output_rows"], &first["duplicates"], &first["state_rows"]), (&json!(2), &json!(1), &json!(2)), "{first}");
    // A repeat in a later batch; the key of a row that moves the watermark behind 10:10.
    insert(&place, "lefts", &[(4, "a", "10:09:00"), (5, "c", "10:21:00")]);
    let second = job(&place, "stream_dedup", &args);
    assert_eq!((&second["output_rows"], &second["duplicates"], &second["state_rows"]), (&json!(1), &json!(1), &json!(2)), "{second}");
    // Too late; and the key whose state has gone passes again, as in Spark.
    insert(&place, "lefts", &[(6, "d", "10:05:00"), (7, "a", "10:22:00"), (8, "b", "10:11:30")]);
    let third = job(&place, "stream_dedup", &args);
    assert_eq!((&third["output_rows"], &third["late_rows_dropped"]), (&json!(1), &json!(1)), "{third}");
    assert_eq!(ids(), [1, 3, 5, 7]);
}

/// Kills a job at growing moments of its life until it has come to its end.
fn until_done(place: &Place, args: &[&str], kills_min: u32) {
    let (mut pause, mut kills) = (Duration::from_millis(15), 0);
    loop {
        let mut child: Child = place.spawn(args);
        let deadline = Instant::now() + pause;
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() >= deadline {
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        match ended {
            Some(status) => {
                assert!(status.success(), "{args:?} failed");
                assert!(kills >= kills_min, "killed only {kills} times");
                return;
            }
            None => {
                assert!(signal(child.id().into(), "KILL"));
                child.wait().unwrap();
                kills += 1;
                pause += Duration::from_millis(11);
            }
        }
    }
}

#[test]
fn killed_queries_come_to_the_same() {
    let place = Place::new();
    tables(&place);
    place.run(&["submit", "create_bronze_tables", "--master", "local[2]"]).ok();
    // Rows of one day in four portions; the watermark stays behind all of them, so that batches must not matter.
    let rows = |table: &str, portion: i64| {
        place.sql(
            &format!(
                "INSERT INTO {table} SELECT v AS id, concat('k', CAST(v % 40 AS STRING)) AS k, to_timestamp_seconds(1767225600 + (v * 7919) % 86400) AS at, \
                 't' AS kafka_topic, CAST(v % 3 AS INT) AS kafka_partition, v AS kafka_offset, to_timestamp_seconds(1767225600) AS ingested_at \
                 FROM (SELECT value AS v FROM generate_series({}, {})) AS g",
                portion * 1_000,
                portion * 1_000 + 999
            ),
            LOCAL,
        );
    };
    let join = [
        "submit", "stream_join", "--master", "local[2]", "--", "--left", "lefts", "--right", "rights", "--on", "k", "--left-time", "at", "--right-time", "at",
        "--lower", "0s", "--upper", "15m", "--watermark", "48h", "--output", "joined",
    ];
    let dedup = ["submit", "stream_dedup", "--master", "local[2]", "--", "--source", "lefts", "--key", "k", "--time", "at", "--output", "once"];
    let windows = |query: &'static str| {
        ["--type", "session", "--gap", "5m", "--watermark", "6h", "--output", "update", "--query", query]
    };
    let window = [&["submit", "window_aggregation", "--master", "local[2]", "--"][..], &windows("killed")[..]].concat();
    for portion in 0..3 {
        // The same rows as user events: a third of the day each, so that sessions close on the way.
        place.sql(
            &format!(
                "INSERT INTO bronze_user_events SELECT CAST(v AS STRING) AS id, concat('u', CAST(v % 17 AS STRING)), 'view', 'p1', 's', 1.0, at AS happened, at AS sent, 'user-events', \
                 CAST(v % 3 AS INT), v, at, 0, 'test', at AS ingested FROM (SELECT value AS v, to_timestamp_seconds(1767225600 + {portion} * 28800 + (value * 7919) % 28800) AS at \
                 FROM generate_series({}, {})) AS g",
                portion * 1_000,
                portion * 1_000 + 999
            ),
            LOCAL,
        );
        until_done(&place, &window, 3);
        job(&place, "window_aggregation", &windows("undisturbed"));
        rows("lefts", portion);
        rows("rights", portion);
        until_done(&place, &join, 3);
        until_done(&place, &dedup, 3);
    }
    let expected = place.number(
        "SELECT count(*) FROM lefts AS l JOIN rights AS r ON l.k = r.k AND r.at >= l.at AND r.at <= l.at + INTERVAL '15 minutes'",
        LOCAL,
    );
    assert!(expected > 1_000, "{expected}");
    assert_eq!(place.number("SELECT count(*) FROM joined", LOCAL), expected);
    assert_eq!(place.number("SELECT count(DISTINCT concat_ws('/', id, right_id)) FROM joined", LOCAL), expected);
    assert_eq!(place.number("SELECT count(*) FROM once", LOCAL), 40);
    assert_eq!(place.number("SELECT count(*) FROM joined_left_state", LOCAL), 3_000);
    let of = |query: &str| {
        let columns = "window_key, window_start, window_end, events, views, revenue, first_event, last_event, closed";
        place.sql(&format!("SELECT {columns} FROM windowed_user_events WHERE query = '{query}' ORDER BY window_key, window_start"), LOCAL)
    };
    let (killed, undisturbed) = (of("killed"), of("undisturbed"));
    assert!(killed.iter().any(|w| w["closed"] == true) && killed.iter().any(|w| w["closed"] == false), "{}", killed.len());
    assert_eq!(killed, undisturbed);
}
