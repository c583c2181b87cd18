//! The kill matrix: executors are killed, frozen and restarted while queries run, with adaptive planning on and off. Every query must end
//! with the result that one process gives. `CHAOS_ROUNDS` sets the number of rounds; a round counts if the fault landed while its query ran.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use chainalytics_tests::{Place, signal};
use serde_json::Value;

const QUERIES: [&str; 3] = [
    "SELECT count(*) AS n, sum(a.v + b.v) AS s FROM big a JOIN big b ON a.k = b.k",
    "SELECT k % 97 AS g, count(*) AS n, sum(v) AS s FROM big GROUP BY 1 ORDER BY 1",
    "SELECT count(*) AS n FROM (SELECT DISTINCT a.k, b.v FROM big a JOIN big b ON a.k = b.k + 1) AS d",
];

/// splitmix64: the faults are a function of the seed.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn executors(place: &Place) -> Vec<i64> {
    let status = place.status();
    let of = |s: &Value| (s["role"] == "executor").then(|| s["pid"].as_i64()).flatten();
    status["services"].as_array().unwrap().iter().filter_map(of).collect()
}

#[test]
fn lost_executors_never_change_a_result() {
    let rounds: u64 = std::env::var("CHAOS_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let seed: u64 = std::env::var("CHAOS_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(42);
    println!("seed {seed}, {rounds} rounds");
    let place = Place::new();
    place.start_cluster(3, &["--no-broker"]);
    place.sql(
        "CREATE TABLE big AS SELECT value % 60000 AS k, value % 1009 AS v FROM generate_series(1, 400000) AS t(value)",
        &["--master", "local[2]"],
    );
    let expected: Vec<Vec<Value>> = QUERIES.iter().map(|q| place.sql(q, &["--master", "local[2]"])).collect();
    let (mut state, mut landed) = (seed, 0);
    for round in 0..rounds {
        let which = (next(&mut state) % QUERIES.len() as u64) as usize;
        let adaptive = format!("query.adaptive={}", round % 2 == 0);
        let pids = executors(&place);
        let victim = pids[(next(&mut state) % pids.len() as u64) as usize];
        let delay = Duration::from_millis(200 + next(&mut state) % 1800);
        let freeze = next(&mut state) % 3 == 0;
        let started = Instant::now();
        let mut command = place.command(["sql", "-e", QUERIES[which], "--output", "json", "--conf", &adaptive]);
        let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        // The moment of the fault is the random part of the round, not a wait for something.
        std::thread::sleep(delay);
        let running = child.try_wait().unwrap().is_none();
        landed += u64::from(running);
        if freeze {
            signal(victim, "STOP");
        } else {
            signal(victim, "KILL");
        }
        let output = child.wait_with_output().unwrap();
        if freeze {
            signal(victim, "CONT");
        }
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "round {round} (seed {seed}): {}", String::from_utf8_lossy(&output.stderr));
        let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(rows, expected[which], "round {round} (seed {seed}), query {which}, {adaptive}");
        assert!(started.elapsed() < Duration::from_secs(120), "round {round} took {:?}", started.elapsed());
        if !freeze {
            place.run(&["cluster", "stop"]).ok();
            place.start_cluster(3, &["--no-broker"]);
        }
    }
    println!("{landed} of {rounds} faults landed while a query ran");
    assert!(landed * 2 >= rounds, "only {landed} of {rounds} faults landed");
}
