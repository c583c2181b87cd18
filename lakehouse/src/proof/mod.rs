//! What a table must never do, tried out: a process that dies, or is answered with an error, at every single operation it
//! sends out; answers that are lost after the server acted; statements between whose reading and commit another one
//! commits; files that are lost or damaged; random sequences of operations beside a model of plain rows.
//!
//! The short forms run with the unit tests. `TEST_PROOF=long` runs every step of every fault, and hundreds of seeds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod answers;
mod crash;
mod damage;
mod faults;
mod isolation;
mod model;
mod place;
mod random;
mod rest_server;
mod unknown;

pub(crate) use faults::Faults;

/// Whether the long forms are asked for.
fn is_long() -> bool {
    std::env::var("TEST_PROOF").is_ok_and(|value| value == "long")
}
