//! The command line as a newcomer meets it: exit codes, what goes to stdout and what to stderr, suggestions; then a cluster's life and its REST.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use chainalytics_tests::{Place, Ran, signal, wait_for};
use serde_json::Value;

/// Arguments, exit code, what stdout holds, what stderr holds. Nothing expected on a stream means that it is empty.
type Case = (&'static [&'static str], i32, &'static [&'static str], &'static [&'static str]);

const CASES: &[Case] = &[
    (&["--version"], 0, &["chainalytics "], &[]),
    (&["--help"], 0, &["Usage:", "Examples:", "Exit codes:"], &[]),
    (&["cluster", "start", "--help"], 0, &["Usage:", "Example", "--port-offset"], &[]),
    (&["submit", "kafka_to_bronze", "--", "--help"], 0, &["--trigger", "available-now"], &[]),
    (&["completions", "bash"], 0, &["_chainalytics()", "--data-dir"], &[]),
    (&["completions", "zsh"], 0, &["#compdef chainalytics"], &[]),
    (&["completions", "fish"], 0, &["complete -c chainalytics"], &[]),
    (&["jobs"], 0, &["JOB", "kafka_to_bronze", "gold_aggregation"], &[]),
    (&["jobs", "--output", "json"], 0, &["{\"job\":\"create_bronze_tables\""], &[]),
    (&["config", "show", "catalog.name"], 0, &["KEY", "catalog.name", "default"], &[]),
    (
        &["config", "show", "catalog.name", "--conf", "catalog.name=x", "--output", "json"],
        0,
        &["\"catalog.name\":{\"value\":\"x\",\"source\":\"conf\"}"],
        &[],
    ),
    (&["config", "docs"], 0, &["| `scheduler.http-port` | a whole number | `9090` |"], &[]),
    (&["config", "docs", "--output", "json"], 0, &["{\"key\":\"data-dir\""], &[]),
    (
        &["sql", "--master", "local[2]", "-q", "-e", "SELECT 1 AS one; SELECT 'a,b' AS t, CAST(NULL AS INT) AS n", "--output", "csv"],
        0,
        &["one\n1\nt,n\n\"a,b\",\n"],
        &[],
    ),
    (&["sql", "--master", "local[2]", "-e", "SELECT 1 AS one", "--output", "json"], 0, &["{\"one\":1}\n"], &["1 row in"]),
    (&["cluster", "stop"], 0, &[], &["no cluster is recorded in"]),
    // The work failed.
    (&["sql", "--master", "local", "-e", "SELECT * FROM nowhere"], 1, &[], &["error[CA-TABLE-NOT-FOUND]", "nowhere", "SHOW TABLES"]),
    (&["sql", "--master", "local", "-e", "SELCT 1"], 1, &[], &["error[CA-SQL-SYNTAX]", "SELCT"]),
    (
        &["sql", "--master", "chainalytics://127.0.0.1:1", "-e", "SELECT 1"],
        1,
        &[],
        &["error[CA-SCHEDULER-UNREACHABLE]", "127.0.0.1:1", "cluster start"],
    ),
    (&["runs", "--master", "chainalytics://127.0.0.1:1", "--output", "json"], 1, &[], &["{\"error\":{\"code\":\"CA-SCHEDULER-UNREACHABLE\""]),
    (&["cluster", "status"], 1, &[], &["error[CA-NOT-FOUND]", "chainalytics cluster start", "--data-dir"]),
    // The command line or the configuration is wrong.
    (&["clutser"], 2, &[], &["unrecognized subcommand 'clutser'", "'cluster'"]),
    (&["sql", "--execut", "SELECT 1"], 2, &[], &["--execute"]),
    (&["sql", "-e", "SELECT 1", "-f", "x.sql"], 2, &[], &["cannot be used with"]),
    (&["sql", "--master", "local", "-f", "missing.sql"], 2, &[], &["error[CA-INVALID-ARGUMENT]", "missing.sql"]),
    (&["sql", "--master", "spark://h:7077", "-e", "SELECT 1"], 2, &[], &["error[CA-INVALID-ARGUMENT]", "spark://h:7077", "local[N]"]),
    (&["runs", "--master", "local"], 2, &[], &["error[CA-INVALID-ARGUMENT]", "has no scheduler"]),
    (&["submit", "gold_agregation"], 2, &[], &["error[CA-UNKNOWN-JOB]", "did you mean 'gold_aggregation'", "chainalytics jobs"]),
    (&["submit", "gold_aggregation", "--master", "local", "--deploy-mode", "cluster"], 2, &[], &["--deploy-mode cluster needs a cluster"]),
    (&["config", "show", "--conf", "schedulr.port=1"], 2, &[], &["error[CA-CONFIG]", "did you mean \"scheduler.port\""]),
    (&["config", "show", "--conf", "scheduler.port=abc"], 2, &[], &["error[CA-CONFIG]", "scheduler.port", "abc"]),
    (&["config", "show", "schedulr.port"], 2, &[], &["no configuration key begins with", "did you mean 'scheduler.port'"]),
    (&["config", "show", "--config", "missing.toml"], 2, &[], &["error[CA-CONFIG]", "missing.toml"]),
    (&["cluster", "start", "--port-offset", "65000"], 2, &[], &["error[CA-INVALID-ARGUMENT]", "--port-offset"]),
    (&["cluster", "start", "--executors", "0"], 2, &[], &["--executors"]),
];

#[test]
fn commands_end_as_documented() {
    let place = Place::new();
    let mut wrong = Vec::new();
    for (args, code, stdout, stderr) in CASES {
        let ran = place.run(args);
        let fits = |text: &str, wanted: &[&str]| if wanted.is_empty() { text.is_empty() } else { wanted.iter().all(|part| text.contains(part)) };
        if ran.code != *code || !fits(&ran.stdout, stdout) || !fits(&ran.stderr, stderr) {
            wrong.push(format!(
                "chainalytics {}\nexit {} (wanted {code})\nstdout: {:.600}\nstderr: {:.600}",
                args.join(" "),
                ran.code,
                ran.stdout,
                ran.stderr
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n\n{}", wrong.len(), CASES.len(), wrong.join("\n\n"));
}

#[test]
fn every_command_shows_help_with_an_example() {
    let place = Place::new();
    let help = place.run(&["--help"]).ok().stdout;
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|l| !l.starts_with("Commands:"))
        .skip(1)
        .take_while(|l| !l.is_empty())
        .filter(|l| !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(commands.len() >= 13, "{commands:?}");
    for command in commands.into_iter().filter(|c| *c != "help") {
        let text = place.run(&[command, "--help"]).ok().stdout;
        assert!(text.contains("Example") && text.contains(&format!("chainalytics {command}")), "{command}:\n{text}");
    }
}

#[test]
fn unknown_keys_and_secrets_in_files() {
    let place = Place::new();
    std::fs::write(place.path().join("chainalytics.toml"), "[s3]\nsecret-access-key = \"hunter2\"\n").unwrap();
    let shown = place.run(&["config", "show", "s3", "--output", "json"]).ok();
    assert!(!shown.stdout.contains("hunter2"), "{}", shown.stdout);
    let value = &shown.last_json()["s3.secret-access-key"];
    assert_eq!(value["source"], "file", "{value}");
    std::fs::write(place.path().join("chainalytics.toml"), "[s3]\nendpiont = \"x\"\n").unwrap();
    let refused = place.run(&["config", "show"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("s3.endpoint") && refused.stderr.contains("chainalytics.toml"), "{}", refused.stderr);
}

#[test]
fn sql_reads_pipes_and_ends_with_its_reader() {
    let place = Place::new();
    let mut child =
        place.command(["sql", "--master", "local[2]", "-q", "--output", "csv"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"SELECT 1 AS a; -- a comment; not a statement\nSELECT 2 AS b").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(0), "a\n1\nb\n2\n"));

    // A reader that has seen enough is nobody's error, however much would have followed.
    let mut child = place
        .command(["sql", "--master", "local[2]", "--output", "csv", "-e", "SELECT a.value, b.value FROM range(0, 5000) a, range(0, 5000) b"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 32];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = wait_for("the end of a command without a reader", Duration::from_secs(60), || child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn an_interrupt_ends_a_query() {
    let place = Place::new();
    let mut child =
        place.spawn(&["sql", "--master", "local[2]", "-e", "SELECT max(a.value * b.value) FROM range(0, 2000000) a, range(0, 1000000) b"]);
    // Start-up takes some hundredths of a second; what goes beyond half a second is the query at work.
    wait_for("the query to be at work", Duration::from_secs(30), || (cpu_ticks(child.id()) >= 50).then_some(()));
    assert!(child.try_wait().unwrap().is_none(), "the query must still run");
    assert!(signal(child.id().into(), "INT"));
    let ended = wait_for("the end after an interrupt", Duration::from_secs(20), || child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(130));
}

/// Processor time of a process so far, in hundredths of a second (proc(5): utime and stime).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// One request over a connection of its own; status and body.
fn http(port: u16, method: &str, path: &str, headers: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(socket, "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n{headers}Content-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split_whitespace().nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn json(port: u16, path: &str) -> (u16, Value) {
    let (status, body) = http(port, "GET", path, "");
    (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}")))
}

#[test]
fn a_cluster_lives_and_its_history_outlives_it() {
    let place = Place::new();
    place.start_cluster(1, &[]);
    let (live, history) = (9_090 + place.offset, 18_080 + place.offset);

    // Twice the same directory is the same cluster, another directory with its ports is refused.
    let again = place.run(&["cluster", "start", "--output", "json"]).ok();
    assert!(again.stderr.contains("already running"), "{}", again.stderr);
    let other = Place::new();
    let refused = other.run(&["cluster", "start", "--port-offset", &place.offset.to_string()]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("error[CA-PORT-IN-USE]") && refused.stderr.contains("--port-offset"), "{}", refused.stderr);

    std::fs::write(
        place.path().join("two.sql"),
        "CREATE TABLE numbers AS SELECT value AS v FROM range(0, 100000);\nSELECT count(*) AS n FROM numbers WHERE v % 7 = 0;\n",
    )
    .unwrap();
    let run = place.run(&["submit", "--sql", "two.sql", "--output", "json"]).ok().last_json();
    let run_id = run["run_id"].as_str().unwrap();
    assert_eq!(place.run(&["runs", "--output", "json"]).ok().rows()[0]["run_id"], run["run_id"]);
    for named in ["last", &run_id[..20], run_id] {
        assert_eq!(place.run(&["runs", "show", named, "--output", "json"]).ok().last_json()["state"], "finished", "{named}");
    }
    let missing = place.run(&["logs", "ffffffff"]);
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("error[CA-NOT-FOUND]") && missing.stderr.contains("runs list"), "{}", missing.stderr);
    assert!(place.run(&["logs", "last"]).ok().stderr.contains("client mode"));

    what_ran_is_explained(&place, live);
    typed_errors(live, run_id);
    let metrics = http(live, "GET", "/metrics", "").1;
    for line in [
        "chainalytics_executors{state=\"alive\"} 1",
        "chainalytics_leases 1",
        "chainalytics_runs{state=\"finished\"} 1",
        "chainalytics_queries{state=\"succeeded\"}",
        "chainalytics_query_repeats_total 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    for line in metrics.lines().filter(|l| !l.starts_with('#')) {
        assert!(line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok()), "{line}");
    }
    assert_eq!(json(live, "/healthz").1["status"], "ok");
    assert_eq!(json(live, "/readyz").0, 200);
    assert!(json(live, "/api/v1/cluster/samples").1["total"].as_u64().unwrap() >= 1);

    // A running history server picks up the log of the run, and the bodies are the same.
    let of_history = wait_for("the run in the history", Duration::from_secs(40), || {
        Some(json(history, &format!("/api/v1/runs/{run_id}"))).filter(|(status, _)| *status == 200).map(|(_, body)| body)
    });
    let of_scheduler = json(live, &format!("/api/v1/runs/{run_id}")).1;
    let names = |body: &Value| body.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&of_history), names(&of_scheduler));
    for name in ["run_id", "name", "job", "state", "args", "queries_total"] {
        assert_eq!(of_history[name], of_scheduler[name], "{name}");
    }
    let (status, body) = http(history, "POST", &format!("/api/v1/runs/{run_id}/kill"), "");
    assert!(matches!(status, 404 | 405) && body.contains("\"code\""), "{status} {body}");

    // The scheduler dies: the command tells it, the history stays.
    let services = place.status()["services"].as_array().unwrap().clone();
    let pid = services.iter().find(|s| s["name"] == "scheduler").unwrap()["pid"].as_i64().unwrap();
    assert!(signal(pid, "KILL"));
    let degraded: Ran =
        wait_for("the loss to be told", Duration::from_secs(20), || Some(place.run(&["cluster", "status"])).filter(|ran| ran.code == 1));
    assert!(degraded.stdout.contains("degraded") && degraded.stdout.contains("stopped"), "{}", degraded.stdout);
    assert_eq!(json(history, &format!("/api/v1/runs/{run_id}")).1["state"], "finished");
    let query = of_history["queries"][0]["job_id"].as_str().unwrap().to_owned();
    assert!(!json(history, &format!("/api/v1/queries/{query}")).1["stages"].as_array().unwrap().is_empty());
    place.run(&["cluster", "stop"]).ok();
    assert_eq!(place.run(&["cluster", "status"]).code, 1);
}

/// EXPLAIN ANALYZE shows the stages that executors ran, and the pages name the query by its statement.
fn what_ran_is_explained(place: &Place, port: u16) {
    let analyze = "EXPLAIN ANALYZE SELECT v % 10 AS digit, count(*) FROM numbers WHERE v >= 40 GROUP BY 1";
    let stages = place.run(&["sql", "-e", analyze, "--output", "json"]).ok().rows();
    let plans: Vec<(&str, &str)> = stages.iter().map(|row| (row["plan_type"].as_str().unwrap(), row["plan"].as_str().unwrap())).collect();
    assert_eq!(plans[0].0, "Query");
    assert!(plans[0].1.contains("attempt=1"), "{plans:?}");
    let (_, read) = plans.iter().find(|(name, _)| *name == "Stage 1").unwrap();
    assert!(read.contains("FilterExec") && read.contains("metrics=[output_rows=~99960"), "{read}");
    let (_, last) = plans.last().unwrap();
    assert!(last.contains("output_rows=10"), "{last}");
    let printed = place.run(&["sql", "-e", analyze]).ok().stdout;
    assert!(printed.contains("== Stage 1 ==\n"), "{printed}");
    let queries = json(port, "/api/v1/queries").1;
    assert!(queries["items"].as_array().unwrap().iter().any(|query| query["label"] == analyze), "{queries}");
}

fn typed_errors(port: u16, run_id: &str) {
    for (path, status, code) in [
        ("/api/v1/runs/nobody", 404, "RUN_NOT_FOUND"),
        ("/api/v1/queries/nobody", 404, "QUERY_NOT_FOUND"),
        ("/api/v1/nothing", 404, "NO_SUCH_PATH"),
        ("/api/v1/runs?limit=many", 400, "INVALID_REQUEST"),
        ("/api/v1/runs?after=x", 400, "INVALID_REQUEST"),
        ("/api/v1/queries?after=-1", 400, "INVALID_REQUEST"),
    ] {
        let (got, body) = json(port, path);
        assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{path}: {body}");
        assert!(!body["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(json(port, "/api/v1/runs?limit=1000000").0, 200, "a limit too high is lowered");
    let path = format!("/api/v1/runs/{run_id}/kill");
    let (status, body) = http(port, "POST", &path, "Origin: https://elsewhere.example\r\n");
    assert!(status == 403 && body.contains("FOREIGN_ORIGIN"), "{status} {body}");
    let (status, body) = http(port, "GET", &path, "");
    assert!(status == 405 && body.contains("METHOD_NOT_ALLOWED"), "{status} {body}");
    assert_eq!(http(port, "POST", &path, &format!("Origin: http://127.0.0.1:{port}\r\n")).0, 200, "a run that has ended stays as it is");
}
