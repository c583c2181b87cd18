//! Exactly once, with real processes on Apache Kafka and PostgreSQL or a REST catalog: numbered events flow into a table while everything that can die,
//! freeze or be cut off does. After each round every acknowledged event is in the table or among the dead letters, once.
//!
//! `EXACTLY_ONCE_EVENTS`, `EXACTLY_ONCE_ROUNDS` and `EXACTLY_ONCE_SEED` make the long form (`make exactly-once`), `EXACTLY_ONCE_CATALOG=rest` puts its
//! tables into a REST catalog. A round counts only if its fault came
//! while events were still to be read. Runs only if TEST_PARTS is set.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod bed;
mod faults;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bed::{Bed, Catalog};
use chainalytics_tests::dice::Dice;
use faults::Fault;

/// What came of the rounds of one fault.
#[derive(Default)]
struct Tally {
    rounds: u64,
    landed: u64,
    events: u64,
    driver_ends: u64,
    slowest: Duration,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

#[test]
fn every_acknowledged_event_is_there_once() {
    prove(Catalog::chosen());
}

/// The short form alone: `EXACTLY_ONCE_CATALOG=rest` makes the long one of the test above.
#[test]
fn on_a_rest_catalog_too() {
    if number("EXACTLY_ONCE_EVENTS").is_none() && Catalog::chosen() == Catalog::Postgres {
        prove(Catalog::Rest);
    }
}

fn prove(catalog: Catalog) {
    let (events, seed) = (number("EXACTLY_ONCE_EVENTS"), number("EXACTLY_ONCE_SEED").unwrap_or(7));
    let only = std::env::var("EXACTLY_ONCE_FAULTS").unwrap_or_default();
    let long = events.is_some();
    let one_by_one = if catalog == Catalog::Rest { Fault::ONE_BY_ONE.to_vec() } else { Vec::new() };
    let faults: Vec<Fault> = if long {
        Fault::ALL.into_iter().chain(one_by_one).filter(|f| only.is_empty() || only.split(',').any(|n| n == format!("{f:?}"))).collect()
    } else {
        match catalog {
            Catalog::Postgres => Fault::SHORT.to_vec(),
            Catalog::Rest => Fault::SHORT_REST.to_vec(),
        }
    };
    let rounds = number("EXACTLY_ONCE_ROUNDS").unwrap_or(if long { 4 * faults.len() as u64 } else { faults.len() as u64 }).max(1);
    let each = (events.unwrap_or(60_000).div_ceil(rounds)).max(3_000);
    let Some(mut bed) = Bed::start(catalog, if long { 3 } else { 2 }, each / 15) else { return };
    let mut dice = Dice(seed);
    // An undisturbed round first: it tells how long the work takes here, and that the count is right at all.
    let began = Instant::now();
    bed.send(each);
    bed.await_all();
    let undisturbed = began.elapsed();
    bed.check("undisturbed");
    println!("{catalog:?}, seed {seed}: {rounds} rounds of {each} events; undisturbed {undisturbed:.1?}");
    let mut table: BTreeMap<Fault, Tally> = BTreeMap::new();
    for round in 0..rounds {
        // Every fault comes equally often, in an order that the seed gives.
        let fault = faults[(round as usize) % faults.len()];
        let beside = long && dice.below(4) == 0;
        let context = format!("{catalog:?}, round {round} of seed {seed}: {fault:?}{}", if beside { " beside a second instance" } else { "" });
        let (began, ends) = (Instant::now(), bed.driver_ends);
        let mut second = beside.then(|| bed.another_instance());
        bed.send(each);
        bed.await_some();
        // The moment within the work is the random part of the round, not a wait for something.
        std::thread::sleep(Duration::from_millis(dice.below((undisturbed.as_millis() as u64 / 3).max(1))));
        let landed = fault.strike(&mut bed, &mut dice);
        bed.await_all();
        if let Some(second) = &mut second {
            second.kill().unwrap();
            second.wait().unwrap();
        }
        bed.check(&context);
        bed.make_whole();
        let took = began.elapsed();
        println!("{context}: {} in {took:.1?}, {} driver ends", if landed { "landed" } else { "did not land" }, bed.driver_ends - ends);
        let tally = table.entry(fault).or_default();
        tally.rounds += 1;
        tally.landed += u64::from(landed);
        tally.events += each;
        tally.driver_ends += bed.driver_ends - ends;
        tally.slowest = tally.slowest.max(took);
    }
    bed.check_with_others();
    println!("| fault | rounds | landed | events | driver ends | slowest round s | lost or doubled |\n|---|---|---|---|---|---|---|");
    for (fault, tally) in &table {
        println!(
            "| {} | {} | {} | {} | {} | {:.1} | 0 |",
            fault.words(),
            tally.rounds,
            tally.landed,
            tally.events,
            tally.driver_ends,
            tally.slowest.as_secs_f64()
        );
    }
    let hits: u64 = table.values().map(|t| t.landed).sum();
    println!("{catalog:?}, seed {seed}: {} events acknowledged, each there once; {hits} of {rounds} faults landed", bed.acknowledged());
    assert!(hits * 3 >= rounds * 2, "only {hits} of {rounds} faults landed");
}
