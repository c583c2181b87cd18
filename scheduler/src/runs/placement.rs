//! Which executor launches a driver: pure.

/// An executor that holds a lease and takes work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub executor_id: String,
    /// Drivers that it runs or was told to launch.
    pub drivers: usize,
    pub cores: u32,
}

/// The one with the fewest drivers, then the most cores; one that just failed this run only if there is no other. `None` when all are full.
#[must_use]
pub fn choose<'a>(candidates: &'a [Candidate], drivers_max: usize, avoid: Option<&str>) -> Option<&'a Candidate> {
    candidates.iter().filter(|candidate| candidate.drivers < drivers_max).min_by_key(|candidate| {
        (Some(candidate.executor_id.as_str()) == avoid, candidate.drivers, std::cmp::Reverse(candidate.cores), candidate.executor_id.clone())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn candidate(id: &str, drivers: usize, cores: u32) -> Candidate {
        Candidate { executor_id: id.to_owned(), drivers, cores }
    }

    #[test]
    fn fewest_drivers_then_most_cores() {
        let all = [candidate("a", 1, 8), candidate("b", 0, 2), candidate("c", 0, 4)];
        assert_eq!(choose(&all, 4, None).unwrap().executor_id, "c");
        assert_eq!(choose(&all, 4, Some("c")).unwrap().executor_id, "b");
        assert_eq!(choose(&all[..1], 4, Some("a")).unwrap().executor_id, "a", "better there than nowhere");
        assert!(choose(&all[..1], 1, None).is_none());
        assert!(choose(&[], 1, None).is_none());
    }
}
