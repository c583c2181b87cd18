//! Commits whose outcome the client cannot know: the server acted and the answer was an error, a cut connection or
//! nothing at all; or it did not act; or it acts when the client has already tried again. Exactly once in every case.

use std::time::Duration;

use chainalytics_common::{Config, ErrorCode};
use datafusion::prelude::SessionConfig;
use futures::StreamExt;

use super::crash::{Scenario, scenarios};
use super::is_long;
use super::place::Process;
use super::rest_server::{Answer, Applies, CommitFault, RestServer};
use crate::exec::LocalExecutor;
use crate::lakehouse::Lakehouse;

/// How long a request may take.
const TIMEOUT: &str = "700ms";
const AT_ONCE: usize = 8;

async fn process(server: &RestServer) -> Process {
    let conf = [("catalog.uri", server.uri.as_str()), ("catalog.namespace", "proof"), ("catalog.rest.timeout", TIMEOUT)];
    let config = Config::with_data_dir(std::path::Path::new("/nowhere"), &conf).unwrap();
    let lakehouse = Lakehouse::open(&config).await.unwrap();
    let executor = LocalExecutor::open(&lakehouse, "chain", SessionConfig::new().with_target_partitions(2)).unwrap();
    Process { lakehouse, executor }
}

async fn prove(scenario: &Scenario, faults: &[CommitFault]) {
    let what = format!("{}, {faults:?}", scenario.name);
    let folder = tempfile::tempdir().unwrap();
    let server = RestServer::start(folder.path().to_str().unwrap()).await;
    let first = process(&server).await;
    for sql in scenario.setup {
        first.sql(sql).await;
    }
    let before = scenario.seen(&first).await;
    let asked = server.commits();
    server.fail_next(faults.iter().copied());
    let ended = scenario.run(&first).await;
    assert!(server.commits() > asked, "{what}: nothing was committed");
    let mut tries = 0;
    if let Err(error) = &ended {
        assert!(
            matches!(error.code(), ErrorCode::CommitUnknown | ErrorCode::CatalogUnreachable | ErrorCode::CommitConflict),
            "{what}: {error}"
        );
        if error.code() != ErrorCode::CommitUnknown && !faults.iter().any(|fault| matches!(fault.applies, Applies::Late(_))) {
            assert_eq!(scenario.seen(&process(&server).await).await, before, "{what}: said to have failed: {error}");
        }
    }
    // Whatever is late has come by now.
    tokio::time::sleep(late(faults)).await;
    let mut ended = ended;
    while ended.is_err() && tries < 5 {
        tries += 1;
        ended = scenario.run(&process(&server).await).await;
    }
    ended.unwrap_or_else(|error| panic!("{what}: {error}"));
    let fresh = process(&server).await;
    let after = scenario.seen(&fresh).await;
    assert_ne!(after, before, "{what}: acknowledged, but not there");
    scenario.run(&fresh).await.unwrap_or_else(|error| panic!("{what}: repeated: {error}"));
    let fresh = process(&server).await;
    assert_eq!(scenario.seen(&fresh).await, after, "{what}: the step repeated itself");
    // The same operations without a fault.
    let calm_folder = tempfile::tempdir().unwrap();
    let calm = RestServer::start(calm_folder.path().to_str().unwrap()).await;
    let undisturbed = process(&calm).await;
    for sql in scenario.setup {
        undisturbed.sql(sql).await;
    }
    scenario.run(&undisturbed).await.unwrap();
    assert_eq!(after, scenario.seen(&undisturbed).await, "{what}: not what it does without a fault");
    for table in scenario.tables {
        fresh.check_files(table).await;
    }
}

fn late(faults: &[CommitFault]) -> Duration {
    let wait = faults.iter().map(|fault| if let Applies::Late(wait) = fault.applies { wait } else { Duration::ZERO }).max();
    wait.filter(|wait| !wait.is_zero()).map_or(Duration::ZERO, |wait| wait + Duration::from_millis(200))
}

async fn prove_all(faults: &[&[CommitFault]], names: Option<&[&str]>) {
    let all = scenarios();
    let chosen = all.iter().filter(|one| names.is_none_or(|names| names.contains(&one.name)) && one.name != "upload in parts");
    let cases: Vec<_> = chosen.flat_map(|scenario| faults.iter().map(move |faults| prove(scenario, faults))).collect();
    println!("{} cases", cases.len());
    futures::stream::iter(cases).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

const fn fault(applies: Applies, answer: Answer) -> CommitFault {
    CommitFault { applies, answer }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applied_and_not_answered() {
    let answers =
        [Answer::Status(500), Answer::Status(502), Answer::Status(503), Answer::Status(504), Answer::Cut, Answer::Silence].map(|a| [fault(Applies::Now, a)]);
    let faults: Vec<&[CommitFault]> = answers.iter().map(<[_; 1]>::as_slice).collect();
    if is_long() {
        return prove_all(&faults, None).await;
    }
    prove_all(&faults, Some(&["append"])).await;
    prove_all(&faults[3..5], Some(&["merge, merge-on-read", "compaction", "several tables", "branch", "expire_snapshots"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_applied_and_not_answered() {
    let answers = [Answer::Status(500), Answer::Status(502), Answer::Status(503), Answer::Status(504), Answer::Cut, Answer::Silence]
        .map(|a| [fault(Applies::Never, a)]);
    let faults: Vec<&[CommitFault]> = answers.iter().map(<[_; 1]>::as_slice).collect();
    if is_long() {
        return prove_all(&faults, None).await;
    }
    prove_all(&faults[2..4], Some(&["append", "several tables", "delete, position deletes"])).await;
}

/// The answers of a gateway that gave up before its server did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applied_late() {
    let waits = [100, 600, 1500, 2500, 4000].map(|ms| [fault(Applies::Late(Duration::from_millis(ms)), Answer::Status(504))]);
    let twice = [[fault(Applies::Late(Duration::from_millis(2500)), Answer::Status(504)), fault(Applies::Now, Answer::Cut)]];
    let mut faults: Vec<&[CommitFault]> = waits.iter().map(<[_; 1]>::as_slice).collect();
    faults.push(&twice[0]);
    if is_long() {
        return prove_all(&faults, None).await;
    }
    prove_all(&faults[2..], Some(&["append", "update, copy-on-write"])).await;
}
