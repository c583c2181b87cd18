#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::runs::model::DeployMode;
use std::collections::BTreeMap;

fn at(now_ms: i64) -> At {
    At { now_ms, limits: Limits { failures_max: 3, launches_max: 10 } }
}

pub(crate) fn run(deploy_mode: DeployMode, supervise: bool) -> Run {
    Run {
        run_id: "r".to_owned(),
        name: "n".to_owned(),
        job: "j".to_owned(),
        args: Vec::new(),
        conf: BTreeMap::new(),
        deploy_mode,
        supervise,
        user: String::new(),
        priority: 0,
        state: RunState::Submitted,
        attempt: 0,
        failures: 0,
        submitted_at_ms: 1,
        started_at_ms: None,
        ended_at_ms: None,
        error: None,
        progress: None,
        executor_id: None,
        placed_at_ms: None,
        kill_requested_at_ms: None,
        report_json: None,
    }
}

fn follow(run: Run, events: &[Event]) -> (Run, Vec<Effect>) {
    let mut all = Vec::new();
    let mut run = run;
    for (i, event) in events.iter().enumerate() {
        if let Some((next, effects)) = apply(&run, event, at(i as i64 + 10)) {
            run = next;
            all.extend(effects);
        }
    }
    (run, all)
}

fn placed(executor: &str) -> Event {
    Event::Placed { executor_id: executor.to_owned() }
}

const ALIVE: Event = Event::Heartbeat { progress: None };

fn failed() -> Event {
    Event::Failed { error: RunError { code: "X".to_owned(), message: "m".to_owned() } }
}

#[test]
fn a_client_run_runs_and_finishes() {
    let finished = Event::Finished { report_json: Some("{}".to_owned()), progress: None };
    let (run, effects) = follow(run(DeployMode::Client, false), &[Event::Accepted, ALIVE, finished]);
    assert_eq!((run.state, run.attempt, run.started_at_ms, run.ended_at_ms), (RunState::Finished, 1, Some(11), Some(12)));
    assert!(effects.is_empty());
}

#[test]
fn a_cluster_run_is_placed_once_per_attempt() {
    let (run, effects) = follow(run(DeployMode::Cluster, false), &[Event::Accepted, placed("a"), placed("b"), ALIVE]);
    assert_eq!((run.state, run.attempt, run.executor_id.as_deref()), (RunState::Running, 1, Some("a")));
    assert_eq!(effects, [Effect::Launch { executor_id: "a".to_owned() }]);
}

#[test]
fn a_failed_driver_is_launched_again_only_under_supervision_and_within_bounds() {
    let (once, _) = follow(run(DeployMode::Cluster, false), &[Event::Accepted, placed("a"), ALIVE, failed()]);
    assert_eq!(once.state, RunState::Failed);
    let again = [placed("a"), ALIVE, failed()];
    let mut events = vec![Event::Accepted];
    events.extend(again.iter().cloned());
    let (run, _) = follow(run(DeployMode::Cluster, true), &events);
    assert_eq!((run.state, run.failures, run.executor_id.clone()), (RunState::Queued, 1, None));
    let (run, _) = follow(run, &again);
    assert_eq!(run.state, RunState::Queued);
    let (run, _) = follow(run, &again);
    assert_eq!((run.state, run.attempt, run.failures), (RunState::Failed, 3, 3));
}

#[test]
fn silence_means_lost_and_the_driver_is_told_should_it_live() {
    let (run, effects) = follow(run(DeployMode::Cluster, false), &[Event::Accepted, placed("a"), ALIVE, Event::Silent { for_ms: 15_000 }]);
    assert_eq!(run.state, RunState::Lost);
    assert!(run.error.unwrap().message.contains("15.0 s"));
    assert!(effects.contains(&Effect::KillDriver { executor_id: "a".to_owned(), attempt: 1 }));
    assert!(effects.contains(&Effect::CancelQueries));
}

#[test]
fn a_kill_waits_for_the_driver_and_then_does_not() {
    let start = [Event::Accepted, placed("a"), ALIVE, Event::KillRequested];
    let (killing, effects) = follow(run(DeployMode::Cluster, true), &start);
    assert_eq!(killing.state, RunState::Running);
    assert!(effects.contains(&Effect::KillDriver { executor_id: "a".to_owned(), attempt: 1 }));
    for end in [
        Event::Stopped,
        failed(),
        Event::KillOverdue,
        Event::Silent { for_ms: 1 },
        Event::Exited { code: None, signal: Some(15), stderr_tail: String::new() },
    ] {
        assert_eq!(follow(killing.clone(), &[end]).0.state, RunState::Killed, "supervision does not undo a kill");
    }
    let finished = Event::Finished { report_json: None, progress: None };
    assert_eq!(follow(killing, &[finished]).0.state, RunState::Finished, "it was done before it heard");
}

#[test]
fn queued_runs_are_killed_at_once() {
    for mode in [DeployMode::Client, DeployMode::Cluster] {
        assert_eq!(follow(run(mode, false), &[Event::Accepted, Event::KillRequested]).0.state, RunState::Killed);
    }
    assert_eq!(follow(run(DeployMode::Cluster, false), &[Event::KillRequested]).0.state, RunState::Killed);
}

#[test]
fn launches_that_do_not_come_about_are_bounded() {
    let mut current = follow(run(DeployMode::Cluster, false), &[Event::Accepted]).0;
    for _ in 0..10 {
        assert_eq!(current.state, RunState::Queued);
        current = follow(current, &[placed("a"), Event::LaunchFailed { message: "no".to_owned() }]).0;
    }
    assert_eq!((current.state, current.attempt), (RunState::Failed, 10));
}

#[test]
fn an_end_is_final() {
    for state in RunState::ALL.into_iter().filter(|state| state.is_terminal()) {
        let ended = Run { state, ..run(DeployMode::Cluster, true) };
        for event in [
            Event::Accepted,
            placed("a"),
            ALIVE,
            failed(),
            Event::Stopped,
            Event::KillRequested,
            Event::KillOverdue,
            Event::Silent { for_ms: 1 },
            Event::Finished { report_json: None, progress: None },
        ] {
            assert!(apply(&ended, &event, at(5)).is_none(), "{state:?} changed on {event:?}");
        }
    }
}
