//! Many processes change one table at once, some of them killed: what was acknowledged is there once, what was refused is
//! not there at all, what nobody answered is there whole or not at all.
//!
//! Each catalog gets 10 seconds, with `TEST_PROOF=long` three minutes (`TEST_PROOF_SECONDS` says others).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chainalytics_tests::Place;
use chainalytics_tests::third_party::Parts;

const LOCAL: [&str; 2] = ["--master", "local[1]"];
const APPENDERS: i64 = 2;
/// This one is killed at any time.
const KILLED: i64 = 99;

/// What became of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Acknowledged,
    /// It lost against another one, and says so.
    Refused,
    /// It may have happened.
    Unknown,
}

/// A warehouse behind one kind of catalog.
struct Shop {
    place: Place,
    conf: Vec<String>,
    _parts: Option<Parts>,
}

impl Shop {
    fn new(place: Place, parts: Option<Parts>, conf: &[(&str, String)]) -> Self {
        let conf = conf.iter().flat_map(|(key, value)| ["--conf".to_owned(), format!("{key}={value}")]);
        let conf = LOCAL.iter().map(|&flag| flag.to_owned()).chain(conf).collect();
        Self { place, conf, _parts: parts }
    }

    fn args(&self) -> Vec<&str> {
        self.conf.iter().map(String::as_str).collect()
    }

    fn start(&self, sql: &str) -> Child {
        let mut command = self.place.command(["sql", "-e", sql]);
        command.args(&self.conf).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn run(&self, sql: &str) -> Told {
        let mut child = self.start(sql);
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        if child.wait().unwrap().success() {
            return Told::Acknowledged;
        }
        if text.contains("CA-COMMIT-UNKNOWN") {
            return Told::Unknown;
        }
        assert!(["CA-COMMIT-CONFLICT", "CA-CATALOG-BUSY"].iter().any(|code| text.contains(code)), "{sql}: {text}");
        Told::Refused
    }

    fn sql(&self, sql: &str) {
        self.place.sql(sql, &self.args());
    }

    fn number(&self, query: &str) -> i64 {
        self.place.number(query, &self.args())
    }

    /// Rows of `events` by writer and number.
    fn events(&self) -> BTreeMap<(i64, i64), i64> {
        let rows = self.place.sql("SELECT writer, n, count(*) AS c FROM events GROUP BY writer, n", &self.args());
        let number = |row: &serde_json::Value, key: &str| row[key].as_i64().unwrap();
        rows.iter().map(|row| ((number(row, "writer"), number(row, "n")), number(row, "c"))).collect()
    }
}

fn duration() -> Duration {
    let text = |name: &str| std::env::var(name).ok();
    match text("TEST_PROOF_SECONDS") {
        Some(seconds) => Duration::from_secs(seconds.parse().unwrap()),
        None if text("TEST_PROOF").as_deref() == Some("long") => Duration::from_secs(180),
        None => Duration::from_secs(10),
    }
}

#[derive(Default)]
struct Tally {
    acknowledged: AtomicI64,
    refused: AtomicI64,
    unknown: AtomicI64,
}

impl Tally {
    fn count(&self, told: Told) -> Told {
        let counter = match told {
            Told::Acknowledged => &self.acknowledged,
            Told::Refused => &self.refused,
            Told::Unknown => &self.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        told
    }

    fn acknowledged(&self) -> i64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn unknown(&self) -> i64 {
        self.unknown.load(Ordering::Relaxed)
    }

    fn shown(&self) -> String {
        format!("{}+{}?-{}", self.acknowledged(), self.unknown(), self.refused.load(Ordering::Relaxed))
    }
}

/// Appends, merges, transfers, compaction and expiry of the same tables by processes that know nothing of each other.
fn many_processes(what: &str, shop: &Shop) {
    shop.sql(
        "CREATE TABLE events (writer BIGINT, n BIGINT) PARTITIONED BY (bucket(2, writer)); \
         CREATE TABLE counters (id BIGINT, n BIGINT); \
         CREATE TABLE ledger (id BIGINT, amount BIGINT, moves BIGINT) TBLPROPERTIES ('write.update.mode' = 'merge-on-read'); \
         INSERT INTO ledger VALUES (1, 1000, 0), (2, 0, 0), (3, 0, 0)",
    );
    let end = Instant::now() + duration();
    let (appends, merges, moves, care) = (Tally::default(), Tally::default(), Tally::default(), Tally::default());
    let told: Mutex<BTreeMap<(i64, i64), Told>> = Mutex::default();
    let (kills, reads) = (AtomicI64::new(0), AtomicI64::new(0));
    std::thread::scope(|scope| {
        for writer in 0..APPENDERS {
            let (appends, told) = (&appends, &told);
            scope.spawn(move || {
                for n in (0..).take_while(|_| Instant::now() < end) {
                    let answer = appends.count(shop.run(&format!("INSERT INTO events VALUES ({writer}, {n}), ({writer}, {n})")));
                    told.lock().unwrap().insert((writer, n), answer);
                }
            });
        }
        // Dies at another moment each time: none of its statements is answered.
        scope.spawn(|| {
            for n in (0..).take_while(|_| Instant::now() < end) {
                let mut child = shop.start(&format!("INSERT INTO events VALUES ({KILLED}, {n}), ({KILLED}, {n})"));
                let patience = Instant::now() + Duration::from_millis(30 + (n as u64 * 37) % 600);
                while Instant::now() < patience && child.try_wait().unwrap().is_none() {
                    std::thread::sleep(Duration::from_millis(2));
                }
                let ended = child.try_wait().unwrap().is_some_and(|status| status.success());
                let _gone = child.kill();
                child.wait().unwrap();
                kills.fetch_add(i64::from(!ended), Ordering::Relaxed);
                told.lock().unwrap().insert((KILLED, n), if ended { Told::Acknowledged } else { Told::Unknown });
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while Instant::now() < end {
                    let merge = "MERGE INTO counters AS t USING (SELECT 1 AS id) AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET n = t.n + 1 \
                                 WHEN NOT MATCHED THEN INSERT (id, n) VALUES (s.id, 1)";
                    merges.count(shop.run(merge));
                }
            });
        }
        scope.spawn(|| {
            for n in (0..).take_while(|_| Instant::now() < end) {
                let (from, to) = (1 + n % 3, 1 + (n + 1) % 3);
                let update = format!(
                    "UPDATE ledger SET moves = moves + 1, amount = amount + CASE WHEN id = {from} THEN -7 WHEN id = {to} THEN 7 ELSE 0 END WHERE id IN ({from}, {to})"
                );
                moves.count(shop.run(&update));
            }
        });
        scope.spawn(|| {
            while Instant::now() < end {
                for table in ["events", "counters", "ledger"] {
                    care.count(shop.run(&format!("CALL system.rewrite_data_files(table => '{table}', options => map('min-input-files', '2'))")));
                }
                care.count(shop.run("CALL system.rewrite_manifests(table => 'events')"));
                for table in ["events", "counters", "ledger"] {
                    care.count(shop.run(&format!("CALL system.expire_snapshots(table => '{table}', older_than => now(), retain_last => 20)")));
                }
            }
        });
        scope.spawn(|| {
            while Instant::now() < end {
                assert_eq!(shop.number("SELECT sum(amount) FROM ledger"), 1000, "{what}: half a transfer is there");
                let halves: Vec<_> = shop.events().into_iter().filter(|(_, count)| *count != 2).collect();
                assert!(halves.is_empty(), "{what}: rows that are not there twice: {halves:?}");
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    println!(
        "{what}, {:?} (acknowledged+unknown?-refused): appends {}, merges {}, transfers {}, maintenance {}; {} killed, {} reads",
        duration(),
        appends.shown(),
        merges.shown(),
        moves.shown(),
        care.shown(),
        kills.into_inner(),
        reads.into_inner()
    );
    settled(what, shop, &told.into_inner().unwrap(), &merges, &moves);
    // What the killed and the refused left behind goes; nothing else.
    let before = shop.events();
    shop.sql("CALL system.remove_orphan_files(table => 'events', older_than => now() + INTERVAL '1 day', force => true)");
    assert_eq!(shop.events(), before, "{what}: removal of orphans took rows");
    assert!(appends.acknowledged() > 0 && merges.acknowledged() > 0 && moves.acknowledged() > 0, "{what}: nothing happened");
}

/// Compares what the statements were told with what is there.
fn settled(what: &str, shop: &Shop, told: &BTreeMap<(i64, i64), Told>, merges: &Tally, moves: &Tally) {
    let there = shop.events();
    for (key, answer) in told {
        let count = there.get(key).copied().unwrap_or(0);
        let fits = match answer {
            Told::Acknowledged => count == 2,
            Told::Refused => count == 0,
            Told::Unknown => count == 0 || count == 2,
        };
        assert!(fits, "{what}: {key:?} was {answer:?} and is there {count} times");
    }
    assert!(there.keys().all(|key| told.contains_key(key)), "{what}: rows that nobody wrote");
    let counted = shop.number("SELECT sum(n) FROM counters");
    let merged = merges.acknowledged()..=merges.acknowledged() + merges.unknown();
    assert!(merged.contains(&counted), "{what}: {counted} merges are there, {} were acknowledged", merges.shown());
    assert_eq!(shop.number("SELECT count(*) FROM counters"), 1, "{what}: two merges inserted the same key");
    let moved = shop.number("SELECT sum(moves) FROM ledger");
    let expected = 2 * moves.acknowledged()..=2 * (moves.acknowledged() + moves.unknown());
    assert!(expected.contains(&moved), "{what}: {moved} halves of transfers, {} were acknowledged", moves.shown());
    assert_eq!(shop.number("SELECT sum(amount) FROM ledger"), 1000, "{what}");
}

#[test]
fn many_processes_on_sqlite() {
    many_processes("SQLite", &Shop::new(Place::new(), None, &[]));
}

#[test]
fn many_processes_on_postgresql() {
    let place = Place::new();
    let Some(parts) = Parts::start(&["postgres"], place.offset) else { return };
    let uri = parts.get("POSTGRES_URI").to_owned();
    many_processes("PostgreSQL", &Shop::new(place, Some(parts), &[("catalog.uri", uri)]));
}

#[test]
fn many_processes_on_a_rest_catalog() {
    let place = Place::new();
    let Some(parts) = Parts::start(&["postgres", "seaweedfs", "rest-catalog"], place.offset) else { return };
    let conf = [
        ("catalog.uri", "REST_URI"),
        ("catalog.rest.credential", "REST_CREDENTIAL"),
        ("s3.endpoint", "S3_ENDPOINT"),
        ("s3.access-key-id", "S3_ACCESS_KEY_ID"),
        ("s3.secret-access-key", "S3_SECRET_ACCESS_KEY"),
    ]
    .map(|(key, part)| (key, parts.get(part).to_owned()));
    many_processes("REST", &Shop::new(place, Some(parts), &conf));
}

/// Where a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The server never hears COMMIT.
    BeforeCommit,
    /// The server has committed; the client never hears it.
    AfterCommit,
}

/// Passes bytes between clients and PostgreSQL, and cuts the first connections that commit.
struct Proxy {
    port: u16,
    left: Arc<AtomicU32>,
}

impl Proxy {
    fn start(server: String, cut: Cut, times: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicU32::new(times));
        let shared = Arc::clone(&left);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (server, left) = (server.clone(), Arc::clone(&shared));
                std::thread::spawn(move || Self::pass(client, TcpStream::connect(server).unwrap(), cut, &left));
            }
        });
        Self { port, left }
    }

    fn pass(mut client: TcpStream, mut server: TcpStream, cut: Cut, left: &Arc<AtomicU32>) {
        let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let armed = Arc::new(AtomicU32::new(0));
        let (watched, taken) = (Arc::clone(&armed), Arc::clone(left));
        let back = std::thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok(count @ 1..) = from_server.read(&mut bytes) {
                if watched.load(Ordering::SeqCst) == 1 && bytes[..count].windows(7).any(|window| window == b"COMMIT\0") {
                    taken.fetch_sub(1, Ordering::SeqCst);
                    break;
                }
                if to_client.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            let _closed = (to_client.shutdown(Shutdown::Both), from_server.shutdown(Shutdown::Both));
        });
        let mut bytes = [0; 65536];
        while let Ok(count @ 1..) = client.read(&mut bytes) {
            // A simple query: 'Q', the length, the text.
            if bytes[..count].windows(7).any(|window| window == b"COMMIT\0") && left.load(Ordering::SeqCst) > 0 {
                if cut == Cut::BeforeCommit {
                    left.fetch_sub(1, Ordering::SeqCst);
                    break;
                }
                armed.store(1, Ordering::SeqCst);
            }
            if server.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _closed = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        let _ended = back.join();
    }
}

/// The connection ends between COMMIT and its answer: each statement happens exactly once, by itself or when it is repeated.
#[test]
fn a_connection_cut_at_commit() {
    let place = Place::new();
    let Some(parts) = Parts::start(&["postgres"], place.offset) else { return };
    let uri = parts.get("POSTGRES_URI").to_owned();
    let (head, rest) = uri.rsplit_once('@').unwrap();
    let (address, database) = rest.split_once('/').unwrap();
    let shop = Shop::new(place, Some(parts), &[("catalog.uri", uri.clone())]);
    shop.sql("CREATE TABLE t (a BIGINT, b BIGINT); INSERT INTO t VALUES (0, 0)");
    let statements = [
        ("INSERT INTO t VALUES (1, 1)", "SELECT count(*) FROM t WHERE a = 1", 1),
        ("UPDATE t SET b = b + 1 WHERE a = 0", "SELECT b FROM t WHERE a = 0", 1),
        (
            "MERGE INTO t USING (SELECT 0 AS a) AS s ON t.a = s.a WHEN MATCHED THEN UPDATE SET b = t.b + 1",
            "SELECT b FROM t WHERE a = 0",
            2,
        ),
        ("DELETE FROM t WHERE a = 1", "SELECT count(*) FROM t", 1),
    ];
    for (at, (statement, query, once)) in statements.into_iter().enumerate() {
        for cut in [Cut::BeforeCommit, Cut::AfterCommit] {
            let proxy = Proxy::start(address.to_owned(), cut, 1);
            let through = format!("catalog.uri={head}@127.0.0.1:{}/{database}", proxy.port);
            let ran = shop.place.run(&["sql", "-e", statement, LOCAL[0], LOCAL[1], "--conf", &through]);
            assert_eq!(ran.code, 0, "{statement}, {cut:?}: {}", ran.stderr);
            assert_eq!(proxy.left.load(Ordering::SeqCst), 0, "{statement}, {cut:?}: nothing was cut");
            assert_eq!(shop.number(query), once, "{statement}, {cut:?}");
            if cut == Cut::BeforeCommit {
                // Undone, so that the same is tried with the other cut.
                shop.sql(match at {
                    0 => "DELETE FROM t WHERE a = 1",
                    3 => "INSERT INTO t VALUES (1, 1)",
                    _ => "UPDATE t SET b = b - 1 WHERE a = 0",
                });
            }
        }
    }
}
