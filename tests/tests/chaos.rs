//! The kill matrix: executors are killed, frozen, drained and replaced while queries and writes run, with adaptive planning on and off. Each must end
//! with the result that one undisturbed process gives, and each write must be there once.
//!
//! `CHAOS_ROUNDS` sets the number of rounds, `CHAOS_SEED` the sequence of faults. A round counts only if its query was running when the fault came.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use chainalytics_tests::dice::Dice;
use chainalytics_tests::{Place, http_get, signal, wait_for};
use serde_json::Value;

const READS: [&str; 4] = [
    "SELECT count(*) AS n, sum(a.v + b.v) AS s FROM big a JOIN big b ON a.k = b.k",
    "SELECT k % 97 AS g, count(*) AS n, sum(v) AS s FROM big GROUP BY 1 ORDER BY 1",
    "SELECT count(*) AS n FROM (SELECT DISTINCT a.k, b.v FROM big a JOIN big b ON a.k = b.k + 1) AS d",
    "SELECT t, count(*) AS n, sum(v) AS s FROM (SELECT 'a' AS t, v FROM big UNION ALL SELECT 'b', 7 UNION ALL SELECT 'c', a.v FROM big a JOIN big b \
     ON a.k = b.k WHERE a.k < 3000 UNION ALL SELECT 'd', v FROM nothing) AS u GROUP BY t ORDER BY t",
];
const WRITE: &str = "INSERT INTO sink SELECT a.k, a.v + b.v FROM big a JOIN big b ON a.k = b.k WHERE a.k % 5 = 0";
const SUMS: &str = "SELECT count(*) AS n, sum(v) AS s FROM sink";
/// Detection of a loss takes at most the lease's time to live; the rest is the query's own time on what is left, on a busy machine.
const ROUND_MAX: Duration = Duration::from_secs(60);
const EXECUTORS: u16 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    KillTwo,
    Freeze,
    Drain,
}

struct Cluster {
    place: Place,
    http_port: u16,
    scheduler: String,
    replacements: Vec<Child>,
}

impl Cluster {
    fn start() -> Self {
        let place = Place::new();
        place.start_cluster(EXECUTORS, &["--no-broker"]);
        let scheduler = format!("scheduler.url=chainalytics://127.0.0.1:{}", 7077 + place.offset);
        Self { http_port: 9090 + place.offset, place, scheduler, replacements: Vec::new() }
    }

    fn get(&self, path: &str) -> Value {
        wait_for(path, Duration::from_secs(20), || http_get(self.http_port, path))
    }

    fn live(&self) -> Vec<i64> {
        let executors = self.get("/api/v1/executors");
        let alive = executors["items"].as_array().unwrap().iter().filter(|e| e["state"] == "alive");
        alive.filter_map(|e| e["pid"].as_i64()).collect()
    }

    /// Starts one executor for each that is gone, and waits until as many are alive as at first; a frozen one wakes up and comes back by itself.
    fn replenish(&mut self, gone: &[i64]) {
        for _ in gone {
            self.replacements.push(self.place.spawn(&["executor", "--conf", &self.scheduler, "--conf", "executor.cores=1"]));
        }
        wait_for("three executors", Duration::from_secs(60), || {
            let live = self.live();
            (live.iter().filter(|pid| !gone.contains(pid)).count() >= usize::from(EXECUTORS)).then_some(())
        });
    }

    fn running(&self) -> bool {
        http_get(self.http_port, "/api/v1/queries?state=running").is_some_and(|page| page["items"].as_array().is_some_and(|items| !items.is_empty()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.replacements {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

#[test]
fn lost_executors_never_change_a_result() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let (rounds, seed) = (number("CHAOS_ROUNDS").unwrap_or(10), number("CHAOS_SEED").unwrap_or(42));
    let mut dice = Dice(seed);
    let mut cluster = Cluster::start();
    let local = ["--master", "local[2]"];
    cluster.place.sql(
        "CREATE TABLE nothing (v BIGINT); CREATE TABLE sink (k BIGINT, v BIGINT); CREATE TABLE big AS SELECT value % 60000 AS k, value % 1009 AS v \
         FROM range(0, 3000000)",
        &local,
    );
    let expected: Vec<Vec<Value>> = READS.iter().map(|q| cluster.place.sql(q, &local)).collect();
    let one = cluster.place.sql("SELECT count(*) AS n, sum(a.v + b.v) AS s FROM big a JOIN big b ON a.k = b.k WHERE a.k % 5 = 0", &local);
    let one = (one[0]["n"].as_i64().unwrap(), one[0]["s"].as_i64().unwrap());
    // How long each takes here and now when nothing happens: the faults come within that time. The write is measured last and counts.
    let undisturbed: Vec<Duration> = READS
        .iter()
        .chain([&WRITE])
        .map(|statement| {
            let started = Instant::now();
            cluster.place.run(&["sql", "-e", statement]).ok();
            started.elapsed()
        })
        .collect();
    let mut written = 1;
    let mut landed: BTreeMap<(Fault, bool), u64> = BTreeMap::new();
    let (mut slowest, mut repeated) = (Duration::ZERO, 0);
    for round in 0..rounds {
        let what = dice.below(READS.len() as u64 + 1) as usize;
        let statement = READS.get(what).copied().unwrap_or(WRITE);
        let adaptive = dice.below(2) == 0;
        let fault = [Fault::Kill, Fault::KillTwo, Fault::Freeze, Fault::Drain][dice.below(4) as usize];
        let conf = format!("query.adaptive={adaptive}");
        let context = format!("round {round} of seed {seed}: {fault:?}, {conf}, {statement}");
        let started = Instant::now();
        let mut command = cluster.place.command(["sql", "-e", statement, "--output", "json", "--conf", &conf]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("the query to run", Duration::from_secs(20), || (cluster.running() || child.try_wait().unwrap().is_some()).then_some(()));
        // The moment of the fault within the query is the random part of the round, not a wait for something.
        let late_ms = u64::try_from(undisturbed[what].as_millis()).unwrap() * 6 / 10;
        std::thread::sleep(Duration::from_millis(dice.below(late_ms.max(1))));
        let mut victims = cluster.live();
        let count = if fault == Fault::KillTwo { 2 } else { 1 };
        while victims.len() > count {
            victims.remove(dice.below(victims.len() as u64) as usize);
        }
        let hit = cluster.running();
        let sent = match fault {
            Fault::Kill | Fault::KillTwo => "KILL",
            Fault::Freeze => "STOP",
            Fault::Drain => "TERM",
        };
        for pid in &victims {
            signal(*pid, sent);
        }
        *landed.entry((fault, adaptive)).or_default() += u64::from(hit);
        let output = child.wait_with_output().unwrap();
        let took = started.elapsed();
        if fault == Fault::Freeze {
            // It wakes up after its successor took over, and must find its lease gone.
            for pid in &victims {
                signal(*pid, "CONT");
            }
        }
        assert!(output.status.success(), "{context}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(took < ROUND_MAX, "{context}: took {took:?}");
        slowest = slowest.max(took);
        repeated += u64::from(String::from_utf8_lossy(&output.stderr).contains("running a query again"));
        if let Some(expected) = expected.get(what) {
            let rows: Vec<Value> = String::from_utf8_lossy(&output.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            assert_eq!(&rows, expected, "{context}");
        } else {
            written += 1;
            let sums = cluster.place.sql(SUMS, &local);
            let seen = (sums[0]["n"].as_i64().unwrap(), sums[0]["s"].as_i64().unwrap());
            assert_eq!(seen, (one.0 * written, one.1 * written), "{context}");
        }
        cluster.replenish(if fault == Fault::Freeze { &[] } else { &victims });
    }
    let doubled = "SELECT count(*) - count(DISTINCT file_path) FROM sink.files";
    assert_eq!(cluster.place.number(doubled, &local), 0, "a data file is in the table twice");
    let hits: u64 = landed.values().sum();
    println!(
        "seed {seed}: {rounds} rounds, {hits} faults landed while a query ran ({landed:?}), {repeated} rounds repeated their query, {written} \
         writes, slowest round {slowest:.1?}"
    );
    assert!(hits * 2 >= rounds, "only {hits} of {rounds} faults landed");
}
