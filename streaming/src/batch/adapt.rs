use std::time::Duration;

/// Rows of a batch while nothing is known of the speed, and never fewer than this because of it.
const ROWS_FIRST: u64 = 500_000;
const ROWS_MIN: u64 = 10_000;
/// Weight of the newest batch in the average.
const WEIGHT: f64 = 0.5;
/// Batches below this many rows say more about overhead than about speed.
const ROWS_TELLING: u64 = 5_000;

/// Sizes batches by how fast the last ones went, so that one takes about a target time: a slow cluster, a slow store or a
/// narrow network makes batches smaller instead of later, and what a crash throws away stays small.
#[derive(Debug, Clone)]
pub struct BatchPace {
    target: Duration,
    rows_per_second: Option<f64>,
}

impl BatchPace {
    /// `target`: how long a batch should take; zero leaves the limits alone.
    pub fn new(target: Duration) -> Self {
        Self { target, rows_per_second: None }
    }

    /// Takes note of a batch.
    pub fn observe(&mut self, rows: u64, took: Duration) {
        if rows < ROWS_TELLING {
            return;
        }
        let speed = rows as f64 / took.as_secs_f64().max(0.001);
        self.rows_per_second = Some(match self.rows_per_second {
            None => speed,
            Some(before) => before * (1.0 - WEIGHT) + speed * WEIGHT,
        });
    }

    /// After a batch that failed: the next one is half as large at most.
    pub fn failed(&mut self, rows: u64) {
        let seconds = self.target.as_secs_f64();
        if seconds > 0.0 {
            let half = rows as f64 / 2.0 / seconds;
            self.rows_per_second = Some(self.rows_per_second.map_or(half, |before| before.min(half)));
        }
    }

    /// Rows of the next batch, given the most that are allowed.
    pub fn rows_max(&self, allowed: u64) -> u64 {
        if self.target.is_zero() {
            return allowed;
        }
        let fitting = match self.rows_per_second {
            None => ROWS_FIRST,
            Some(speed) => (speed * self.target.as_secs_f64()).min(1e15) as u64,
        };
        fitting.max(ROWS_MIN).min(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_and_shrink_with_the_speed() {
        let mut pace = BatchPace::new(Duration::from_secs(10));
        assert_eq!(pace.rows_max(2_000_000), ROWS_FIRST);
        assert_eq!(pace.rows_max(1_000), 1_000);
        pace.observe(500_000, Duration::from_secs(2));
        assert_eq!(pace.rows_max(u64::MAX), 2_500_000);
        assert_eq!(pace.rows_max(2_000_000), 2_000_000);
        for _ in 0..20 {
            pace.observe(100_000, Duration::from_secs(10));
        }
        assert!((100_000..101_000).contains(&pace.rows_max(2_000_000)), "{pace:?}");
    }

    #[test]
    fn tiny_batches_say_nothing_and_failures_halve() {
        let mut pace = BatchPace::new(Duration::from_secs(10));
        pace.observe(10, Duration::from_secs(5));
        assert_eq!(pace.rows_max(2_000_000), ROWS_FIRST);
        pace.failed(400_000);
        assert_eq!(pace.rows_max(2_000_000), 200_000);
        pace.failed(2);
        assert_eq!(pace.rows_max(2_000_000), ROWS_MIN);
    }

    #[test]
    fn without_a_target_the_limits_stand() {
        let mut pace = BatchPace::new(Duration::ZERO);
        pace.observe(500_000, Duration::from_secs(100));
        pace.failed(5);
        assert_eq!(pace.rows_max(7_000_000), 7_000_000);
    }
}
