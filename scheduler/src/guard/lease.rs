//! Executor leases as a pure state machine: time comes in as a value, decisions go out as values.
//!
//! An executor id lives through `pending -> live -> lost`, and `lost` is final: whoever was lost comes back under a new id. So a thawed
//! (SIGCONT) or reconnecting process can never be mistaken for the one whose task outputs were already written off.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

/// Lost ids remembered, so that a process that thaws hours later still finds its id stale.
const LOST_IDS_MAX: usize = 10_000;

/// Why an executor id counts as lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LossCause {
    /// No ping for longer than the lease's time to live.
    Expired,
    /// Its lease stream closed or was reset.
    StreamClosed,
    /// A second stream asked for the same id, so the first process or connection is gone.
    StreamReplaced,
    /// Registered with Ballista but never opened a lease.
    NeverLeased,
    /// It said that it leaves.
    Left,
    /// Ballista itself removed it (its heartbeat expired, a task launch failed, it reported its stop).
    RemovedByBallista,
}

impl fmt::Display for LossCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "no ping within the lease's time to live",
            Self::StreamClosed => "lease stream closed",
            Self::StreamReplaced => "a second lease stream with the same executor id",
            Self::NeverLeased => "registered but opened no lease",
            Self::Left => "left in order",
            Self::RemovedByBallista => "removed by Ballista",
        })
    }
}

#[derive(Debug, Clone)]
enum Lease {
    /// Ballista knows it, its lease stream has still to come.
    Pending {
        until: Instant,
    },
    Live {
        last_ping: Instant,
        draining: bool,
    },
    Lost(LossCause),
}

/// The answer to an executor id that is lost: it must come back under a new one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("executor id {executor_id} is stale ({cause}); register again under a new id")]
pub struct Stale {
    /// The id.
    pub executor_id: String,
    /// Why it was lost.
    pub cause: LossCause,
}

/// All leases, live and lost.
#[derive(Debug)]
pub struct LeaseTable {
    ttl: Duration,
    leases: HashMap<String, Lease>,
    lost_order: VecDeque<String>,
}

impl LeaseTable {
    /// An empty table; `ttl` is how long a lease lives without a ping.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, leases: HashMap::new(), lost_order: VecDeque::new() }
    }

    /// Ballista registered this id. Whoever has no lease yet gets one time to live to open it.
    pub fn registered(&mut self, executor_id: &str, now: Instant) -> Result<(), Stale> {
        match self.leases.get(executor_id) {
            Some(Lease::Lost(cause)) => Err(stale(executor_id, cause)),
            Some(_) => Ok(()),
            None => {
                self.leases.insert(executor_id.to_owned(), Lease::Pending { until: now + self.ttl });
                Ok(())
            }
        }
    }

    /// A lease stream opened with this id. `Err` also when the id is live already: then the earlier holder must be declared lost by the
    /// caller ([`LeaseTable::lose`] with [`LossCause::StreamReplaced`]).
    pub fn open(&mut self, executor_id: &str, draining: bool, now: Instant) -> Result<(), Stale> {
        match self.leases.get(executor_id) {
            Some(Lease::Lost(cause)) => Err(stale(executor_id, cause)),
            Some(Lease::Live { .. }) => Err(stale(executor_id, &LossCause::StreamReplaced)),
            Some(Lease::Pending { .. }) | None => {
                self.leases.insert(executor_id.to_owned(), Lease::Live { last_ping: now, draining });
                Ok(())
            }
        }
    }

    /// A ping on an open stream. A ping that comes after the lease ran out finds it lost, even if nobody looked in between.
    pub fn ping(&mut self, executor_id: &str, draining: bool, now: Instant) -> Result<(), Stale> {
        match self.leases.get_mut(executor_id) {
            Some(Lease::Live { last_ping, draining: was_draining }) => {
                if now.saturating_duration_since(*last_ping) > self.ttl {
                    return Err(stale(executor_id, &LossCause::Expired));
                }
                *last_ping = now;
                // Draining is one way: who began to leave does not come back under this id.
                *was_draining |= draining;
                Ok(())
            }
            Some(Lease::Lost(cause)) => Err(stale(executor_id, cause)),
            Some(Lease::Pending { .. }) | None => Err(stale(executor_id, &LossCause::NeverLeased)),
        }
    }

    /// Takes no further work from now on. False when the id holds no lease.
    pub fn drain(&mut self, executor_id: &str) -> bool {
        match self.leases.get_mut(executor_id) {
            Some(Lease::Live { draining, .. }) => {
                *draining = true;
                true
            }
            _ => false,
        }
    }

    /// Declares an id lost. True when it was not lost before; an id never seen becomes lost, too.
    pub fn lose(&mut self, executor_id: &str, cause: LossCause) -> bool {
        if matches!(self.leases.get(executor_id), Some(Lease::Lost(_))) {
            return false;
        }
        self.leases.insert(executor_id.to_owned(), Lease::Lost(cause));
        self.lost_order.push_back(executor_id.to_owned());
        while self.lost_order.len() > LOST_IDS_MAX {
            if let Some(oldest) = self.lost_order.pop_front() {
                self.leases.remove(&oldest);
            }
        }
        true
    }

    /// The ids whose time ran out; the caller declares them lost.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Vec<(String, LossCause)> {
        let mut overdue: Vec<_> = self
            .leases
            .iter()
            .filter_map(|(id, lease)| match lease {
                Lease::Live { last_ping, .. } if now.saturating_duration_since(*last_ping) > self.ttl => Some((id.clone(), LossCause::Expired)),
                Lease::Pending { until } if now > *until => Some((id.clone(), LossCause::NeverLeased)),
                _ => None,
            })
            .collect();
        overdue.sort_by(|a, b| a.0.cmp(&b.0));
        overdue
    }

    /// May new tasks go there?
    #[must_use]
    pub fn is_schedulable(&self, executor_id: &str) -> bool {
        matches!(self.leases.get(executor_id), Some(Lease::Pending { .. } | Lease::Live { draining: false, .. }))
    }

    /// Does the output of its tasks still count? Draining executors keep theirs.
    #[must_use]
    pub fn is_held(&self, executor_id: &str) -> bool {
        matches!(self.leases.get(executor_id), Some(Lease::Pending { .. } | Lease::Live { .. }))
    }

    /// Has an open lease stream.
    #[must_use]
    pub fn is_live(&self, executor_id: &str) -> bool {
        matches!(self.leases.get(executor_id), Some(Lease::Live { .. }))
    }

    /// Live and draining.
    #[must_use]
    pub fn is_draining(&self, executor_id: &str) -> bool {
        matches!(self.leases.get(executor_id), Some(Lease::Live { draining: true, .. }))
    }

    /// Number of leases that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.leases.values().filter(|lease| !matches!(lease, Lease::Lost(_))).count()
    }
}

fn stale(executor_id: &str, cause: &LossCause) -> Stale {
    Stale { executor_id: executor_id.to_owned(), cause: cause.clone() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const TTL: Duration = Duration::from_secs(4);

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_lease_lives_as_long_as_it_is_pinged() {
        let t0 = Instant::now();
        let mut table = LeaseTable::new(TTL);
        table.open("a", false, t0).unwrap();
        for second in 1..60 {
            table.ping("a", false, at(t0, second * 1000)).unwrap();
            assert!(table.overdue(at(t0, second * 1000 + 3_999)).is_empty());
        }
        assert_eq!(table.overdue(at(t0, 59_000 + 4_001)), [("a".to_owned(), LossCause::Expired)]);
    }

    #[test]
    fn a_late_ping_finds_the_lease_gone_even_if_nobody_looked() {
        let t0 = Instant::now();
        let mut table = LeaseTable::new(TTL);
        table.open("a", false, t0).unwrap();
        assert_eq!(table.ping("a", false, at(t0, 4_001)).unwrap_err().cause, LossCause::Expired);
    }

    #[test]
    fn lost_is_final() {
        let t0 = Instant::now();
        let mut table = LeaseTable::new(TTL);
        table.open("a", false, t0).unwrap();
        assert!(table.lose("a", LossCause::StreamClosed));
        assert!(!table.lose("a", LossCause::Expired), "only the first cause counts");
        assert_eq!(table.open("a", false, t0).unwrap_err().cause, LossCause::StreamClosed);
        assert_eq!(table.registered("a", t0).unwrap_err().cause, LossCause::StreamClosed);
        assert_eq!(table.ping("a", false, t0).unwrap_err().cause, LossCause::StreamClosed);
        assert!(!table.is_held("a") && !table.is_schedulable("a"));
        table.open("a2", false, t0).unwrap();
        assert!(table.is_schedulable("a2"));
    }

    #[test]
    fn registration_without_a_lease_lasts_one_ttl() {
        let t0 = Instant::now();
        let mut table = LeaseTable::new(TTL);
        table.registered("a", t0).unwrap();
        table.registered("b", t0).unwrap();
        assert!(table.is_schedulable("a"));
        table.open("b", false, at(t0, 1_000)).unwrap();
        assert_eq!(table.overdue(at(t0, 4_500)), [("a".to_owned(), LossCause::NeverLeased)]);
    }

    #[test]
    fn either_order_of_lease_and_registration_works() {
        let t0 = Instant::now();
        let mut table = LeaseTable::new(TTL);
        table.open("a", false, t0).unwrap();
        table.registered("a", at(t0, 100)).unwrap();
        assert!(table.is_live("a"));
    }

    #[test]
    fn draining_takes_nothing_new_but_keeps_what_it_did() {
        let t0 = Instant::now();
        let mut table = LeaseTable::new(TTL);
        table.open("a", false, t0).unwrap();
        assert!(table.drain("a"));
        table.ping("a", false, at(t0, 1_000)).unwrap();
        assert!(!table.is_schedulable("a"), "a ping does not undo a drain");
        assert!(table.is_held("a"));
        assert!(!table.drain("nobody"));
    }

    #[test]
    fn a_second_stream_with_a_live_id_is_stale() {
        let t0 = Instant::now();
        let mut table = LeaseTable::new(TTL);
        table.open("a", false, t0).unwrap();
        assert_eq!(table.open("a", false, at(t0, 10)).unwrap_err().cause, LossCause::StreamReplaced);
    }

    #[test]
    fn lost_ids_are_bounded() {
        let mut table = LeaseTable::new(TTL);
        for i in 0..LOST_IDS_MAX + 10 {
            table.lose(&format!("e{i}"), LossCause::Expired);
        }
        assert_eq!(table.leases.len(), LOST_IDS_MAX);
        assert_eq!(table.held(), 0);
    }
}
