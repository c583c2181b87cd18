//! Many processes change one table at once: what was acknowledged is there once, what was refused is not there at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use chainalytics_tests::Place;

const LOCAL: [&str; 2] = ["--master", "local[1]"];
const WRITERS: i64 = 4;
const ROUNDS: i64 = 12;

/// True when the statement was acknowledged; false when it lost against another writer. Anything else is a fault.
fn acknowledged(place: &Place, sql: &str) -> bool {
    let ran = place.run(&["sql", "-e", sql, LOCAL[0], LOCAL[1]]);
    let refused = ["CA-COMMIT-CONFLICT", "CA-CATALOG-BUSY"].iter().any(|code| ran.stderr.contains(code));
    assert!(ran.code == 0 || refused, "{sql}: {}", ran.stderr);
    ran.code == 0
}

/// Appends, serializable updates, compaction, manifest merging and expiry of the same tables by processes that know nothing of each other.
#[test]
fn concurrent_writers_lose_and_double_nothing() {
    let place = Place::new();
    place.sql(
        "CREATE TABLE events (writer BIGINT, n BIGINT) PARTITIONED BY (bucket(2, writer)); CREATE TABLE counters (id BIGINT, n BIGINT); \
         INSERT INTO counters VALUES (1, 0), (2, 0)",
        &LOCAL,
    );
    let (appended, added) = (AtomicI64::new(0), AtomicI64::new(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (place, appended, added) = (&place, &appended, &added);
                scope.spawn(move || {
                    for n in 0..ROUNDS {
                        if acknowledged(place, &format!("INSERT INTO events VALUES ({writer}, {n}), ({writer}, {n})")) {
                            appended.fetch_add(1, Ordering::Relaxed);
                        }
                        if n % 3 == 0 && acknowledged(place, "UPDATE counters SET n = n + 1 WHERE id = 1") {
                            added.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                acknowledged(&place, "CALL system.rewrite_data_files(table => 'events', options => map('min-input-files', '2'))");
                acknowledged(&place, "CALL system.rewrite_manifests(table => 'events')");
                acknowledged(&place, "CALL system.expire_snapshots(table => 'events', older_than => now(), retain_last => 3)");
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let (appended, added) = (appended.into_inner(), added.into_inner());
    println!("{appended} of {} appends and {added} of {} updates were acknowledged", WRITERS * ROUNDS, WRITERS * ROUNDS / 3);
    assert_eq!(place.number("SELECT count(*) FROM events", &LOCAL), 2 * appended);
    assert_eq!(place.number("SELECT count(*) FROM (SELECT writer, n FROM events GROUP BY writer, n HAVING count(*) <> 2) AS odd", &LOCAL), 0);
    assert_eq!(place.number("SELECT n FROM counters WHERE id = 1", &LOCAL), added);
    assert_eq!(place.number("SELECT count(*) FROM counters", &LOCAL), 2);
    assert_eq!(appended, WRITERS * ROUNDS, "appends never conflict: they are rebased");
    assert!(added > 0);
}
