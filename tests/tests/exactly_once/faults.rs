//! What goes wrong. Each says whether it came while events were still to be read, and leaves nothing away that would not come back by itself.

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use chainalytics_tests::dice::Dice;
use chainalytics_tests::proxy::Commits;
use chainalytics_tests::{signal, wait_for};
use serde_json::Value;

use crate::bed::Bed;

const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillDriver,
    DriverZombie,
    FrozenInCommit,
    KillExecutor,
    KillTwoExecutors,
    ExecutorZombie,
    KillScheduler,
    SchedulerZombie,
    KillBroker,
    BrokerFreeze,
    KillCatalog,
    KillCatalogInCommit,
    HaltBetweenTables,
    IntrudeBetweenTables,
    CutKafka,
    HoldKafka,
    CutCatalog,
    HoldCatalog,
    LoseAnswer,
    LoseRequest,
    LoseAnswerAndKill,
    Compact,
    Expire,
    SecondInstance,
}

impl Fault {
    pub const ALL: [Fault; 22] = [
        Fault::KillDriver,
        Fault::LoseAnswer,
        Fault::KillBroker,
        Fault::DriverZombie,
        Fault::Compact,
        Fault::ExecutorZombie,
        Fault::KillCatalog,
        Fault::CutKafka,
        Fault::LoseRequest,
        Fault::KillExecutor,
        Fault::Expire,
        Fault::SecondInstance,
        Fault::CutCatalog,
        Fault::KillScheduler,
        Fault::HoldKafka,
        Fault::LoseAnswerAndKill,
        Fault::HoldCatalog,
        Fault::KillTwoExecutors,
        Fault::BrokerFreeze,
        Fault::SchedulerZombie,
        Fault::FrozenInCommit,
        Fault::KillCatalogInCommit,
    ];
    /// Those that each go at another link of the chain, and do not take long.
    pub const SHORT: [Fault; 6] = [Fault::KillDriver, Fault::LoseAnswer, Fault::DriverZombie, Fault::CutCatalog, Fault::Compact, Fault::KillBroker];

    /// What only a server can do that moves the tables of a commit one after the other; a database moves all or none. Everything else is tried on a REST
    /// catalog too; a commit that is kept there has not begun at the server, and arrives when others have committed.
    pub const ONE_BY_ONE: [Fault; 2] = [Fault::HaltBetweenTables, Fault::IntrudeBetweenTables];
    /// The short form for a REST catalog: requests that were sent, and the above.
    pub const SHORT_REST: [Fault; 6] = [
        Fault::KillCatalogInCommit,
        Fault::LoseAnswer,
        Fault::HaltBetweenTables,
        Fault::KillDriver,
        Fault::IntrudeBetweenTables,
        Fault::FrozenInCommit,
    ];

    pub fn words(self) -> &'static str {
        match self {
            Fault::KillDriver => "driver: SIGKILL",
            Fault::DriverZombie => "driver: SIGSTOP, wakes beside its successor",
            Fault::FrozenInCommit => "driver: SIGSTOP within its commit, wakes beside its successor",
            Fault::KillExecutor => "executor: SIGKILL",
            Fault::KillTwoExecutors => "two executors: SIGKILL",
            Fault::ExecutorZombie => "executor: SIGSTOP, wakes after its work was given to others",
            Fault::KillScheduler => "scheduler: SIGKILL, started again",
            Fault::SchedulerZombie => "scheduler: SIGSTOP beyond its leases",
            Fault::KillBroker => "broker: SIGKILL, started again",
            Fault::BrokerFreeze => "broker: SIGSTOP",
            Fault::KillCatalog => "catalog server: SIGKILL, started again",
            Fault::KillCatalogInCommit => "catalog server: SIGKILL while it carries out a commit, started again",
            Fault::HaltBetweenTables => "catalog server: dies between two tables of a commit, stays away",
            Fault::IntrudeBetweenTables => "another commit between two tables of a commit",
            Fault::CutKafka => "network to the broker: cut",
            Fault::HoldKafka => "network to the broker: silent",
            Fault::CutCatalog => "network to the catalog: cut",
            Fault::HoldCatalog => "network to the catalog: silent",
            Fault::LoseAnswer => "commit unknown: done, answer lost",
            Fault::LoseRequest => "commit unknown: not done, connection lost",
            Fault::LoseAnswerAndKill => "commit done, answer lost, driver: SIGKILL",
            Fault::Compact => "compaction beside the stream",
            Fault::Expire => "expiry beside the stream",
            Fault::SecondInstance => "a second instance of the job",
        }
    }

    /// Whether it landed.
    pub fn strike(self, bed: &mut Bed, dice: &mut Dice) -> bool {
        let pause =
            |dice: &mut Dice, least_ms: u64, most_ms: u64| std::thread::sleep(Duration::from_millis(least_ms + dice.below(most_ms - least_ms)));
        let at_work = bed.at_work();
        match self {
            Fault::KillDriver => {
                let hit = at_work && alive(&mut bed.driver);
                bed.driver.kill().unwrap();
                bed.driver.wait().unwrap();
                hit
            }
            Fault::DriverZombie => {
                let hit = at_work && alive(&mut bed.driver) && signal(bed.driver.id().into(), "STOP");
                let mut zombie = bed.replace_driver();
                bed.await_some();
                bed.await_some();
                signal(zombie.id().into(), "CONT");
                // It works on beside its successor, or finds itself outdone and ends.
                bed.await_all();
                let _gone = zombie.kill();
                zombie.wait().unwrap();
                hit
            }
            Fault::FrozenInCommit => {
                bed.catalog.lose(Commits::Keep);
                wait_for("a commit", PATIENCE, || (bed.catalog.keeps() || !bed.at_work()).then_some(()));
                bed.catalog.lose(Commits::Pass);
                let hit = bed.catalog.keeps() && at_work && alive(&mut bed.driver) && signal(bed.driver.id().into(), "STOP");
                let mut zombie = bed.replace_driver();
                // PostgreSQL gives its rows free, or nobody could go on.
                bed.await_some();
                bed.await_some();
                bed.catalog.release();
                signal(zombie.id().into(), "CONT");
                bed.await_all();
                let _gone = zombie.kill();
                zombie.wait().unwrap();
                hit
            }
            Fault::KillExecutor | Fault::KillTwoExecutors => {
                let mut live = bed.live_executors();
                for _ in 0..if self == Fault::KillExecutor { 1 } else { 2.min(live.len()) } {
                    let victim = live.swap_remove(dice.below(live.len() as u64) as usize);
                    signal(victim, "KILL");
                }
                at_work
            }
            Fault::ExecutorZombie => {
                let live = bed.live_executors();
                let victim = live[dice.below(live.len() as u64) as usize];
                signal(victim, "STOP");
                wait_for("the loss of the frozen executor", PATIENCE, || (!bed.live_executors().contains(&victim)).then_some(()));
                bed.await_some();
                signal(victim, "CONT");
                at_work
            }
            Fault::KillScheduler => {
                signal(bed.scheduler(), "KILL");
                pause(dice, 100, 2_000);
                bed.start_scheduler();
                at_work
            }
            Fault::SchedulerZombie => {
                let scheduler = bed.scheduler();
                signal(scheduler, "STOP");
                pause(dice, 4_000, 8_000);
                signal(scheduler, "CONT");
                at_work
            }
            Fault::KillBroker => {
                signal(bed.parts.pid("kafka"), "KILL");
                pause(dice, 100, 2_000);
                bring_up(bed, "kafka");
                at_work
            }
            Fault::BrokerFreeze => {
                let pid = bed.parts.pid("kafka");
                signal(pid, "STOP");
                pause(dice, 1_000, 8_000);
                signal(pid, "CONT");
                at_work
            }
            Fault::KillCatalog => {
                kill_catalog(bed, dice);
                at_work
            }
            Fault::KillCatalogInCommit => {
                bed.catalog.lose(Commits::Keep);
                wait_for("a commit", PATIENCE, || (bed.catalog.keeps() || !bed.at_work()).then_some(()));
                bed.catalog.lose(Commits::Pass);
                let hit = bed.catalog.keeps() && at_work;
                bed.catalog.release();
                // Somewhere within the work that it makes.
                pause(dice, 0, 60);
                kill_catalog(bed, dice);
                hit
            }
            Fault::HaltBetweenTables => {
                let server = bed.kept_by.server();
                let hit = at_work && stop_between(bed, "halt-between");
                // Longer than a driver looks for the outcome of its commit.
                pause(dice, 9_000, 12_000);
                bring_up(bed, server);
                hit
            }
            Fault::IntrudeBetweenTables => {
                let hit = at_work && stop_between(bed, "hold-between");
                if hit {
                    bed.sql(&format!("ALTER TABLE bronze_numbered SET TBLPROPERTIES ('intruded' = '{}')", dice.below(1_000_000)));
                }
                let _let_go = std::fs::remove_file(Path::new(bed.parts.get("REST_FAULTS")).join("held-between"));
                hit
            }
            Fault::CutKafka | Fault::CutCatalog => {
                let proxy = if self == Fault::CutKafka { &bed.kafka } else { &bed.catalog };
                let cut = proxy.cut();
                pause(dice, 200, 3_000);
                proxy.mend();
                at_work && cut > 0
            }
            Fault::HoldKafka | Fault::HoldCatalog => {
                let proxy = if self == Fault::HoldKafka { &bed.kafka } else { &bed.catalog };
                let held = proxy.hold();
                pause(dice, 1_000, 6_000);
                proxy.mend();
                at_work && held > 0
            }
            Fault::LoseAnswer | Fault::LoseRequest => {
                let what = if self == Fault::LoseAnswer { Commits::LoseAnswer } else { Commits::LoseRequest };
                at_work && lose_commit(bed, what)
            }
            Fault::LoseAnswerAndKill => {
                let hit = at_work && lose_commit(bed, Commits::LoseAnswer) && alive(&mut bed.driver);
                bed.driver.kill().unwrap();
                bed.driver.wait().unwrap();
                hit
            }
            Fault::Compact => at_work && maintain(bed, &["compact", "bronze_numbered", "--option", "min-input-files=2"]),
            Fault::Expire => at_work && maintain(bed, &["expire", "bronze_numbered", "--older-than", "0s", "--retain-last", "2"]),
            Fault::SecondInstance => {
                let mut second = bed.another_instance();
                bed.await_all();
                let hit = at_work && alive(&mut second);
                second.kill().unwrap();
                second.wait().unwrap();
                hit
            }
        }
    }
}

fn alive(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

/// A part that was killed holds on to its port and its files for a moment.
fn bring_up(bed: &mut Bed, name: &str) {
    wait_for(name, PATIENCE, || bed.parts.try_up(name).ok());
}

/// Lets the server stop between the tables of the next commit that moves several; whether one came.
fn stop_between(bed: &Bed, fault: &str) -> bool {
    let file = Path::new(bed.parts.get("REST_FAULTS")).join(fault);
    std::fs::write(&file, "").unwrap();
    wait_for("a commit of several tables", PATIENCE, || (!file.exists() || !bed.at_work()).then_some(()));
    // None came: then none shall.
    std::fs::remove_file(&file).is_err()
}

fn kill_catalog(bed: &mut Bed, dice: &mut Dice) {
    let server = bed.kept_by.server();
    signal(bed.parts.pid(server), "KILL");
    std::thread::sleep(Duration::from_millis(100 + dice.below(1_900)));
    bring_up(bed, server);
}

/// Lets the next commit of the stream be lost; whether one was.
fn lose_commit(bed: &mut Bed, what: Commits) -> bool {
    let before = bed.catalog.lost_commits();
    bed.catalog.lose(what);
    let lost = || bed.catalog.lost_commits() > before;
    wait_for("a commit", PATIENCE, || (lost() || !bed.at_work()).then_some(()));
    bed.catalog.lose(Commits::Pass);
    lost()
}

/// Maintenance of the table while the stream writes: it does its work, or loses the race in so many words.
fn maintain(bed: &Bed, args: &[&str]) -> bool {
    let output = bed.table_command(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        let did: Value = serde_json::from_str(text.trim()).unwrap_or_default();
        println!("  {}: {did}", args[0]);
        return bed.at_work();
    }
    assert!(errors.contains("CA-COMMIT-CONFLICT"), "{args:?}: {errors}");
    println!("  {}: outdone by the stream", args[0]);
    false
}
