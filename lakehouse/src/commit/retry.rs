use std::collections::HashMap;
use std::time::Duration;

use rand::Rng;

/// How often, how long and how patiently a commit that lost a race is tried again.
///
/// Table properties `commit.retry.num-retries` (default 10), `commit.retry.min-wait-ms` (50),
/// `commit.retry.max-wait-ms` (5000), `commit.retry.total-timeout-ms` (300000).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RetryPolicy {
    pub retries_max: u32,
    pub wait_min: Duration,
    pub wait_max: Duration,
    pub total_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { retries_max: 10, wait_min: Duration::from_millis(50), wait_max: Duration::from_secs(5), total_max: Duration::from_secs(300) }
    }
}

impl RetryPolicy {
    pub fn from_properties(properties: &HashMap<String, String>) -> Self {
        let default = Self::default();
        let millis = |key: &str, default: Duration| properties.get(key).and_then(|value| value.parse().ok()).map_or(default, Duration::from_millis);
        Self {
            retries_max: properties.get("commit.retry.num-retries").and_then(|value| value.parse().ok()).unwrap_or(default.retries_max),
            wait_min: millis("commit.retry.min-wait-ms", default.wait_min),
            wait_max: millis("commit.retry.max-wait-ms", default.wait_max),
            total_max: millis("commit.retry.total-timeout-ms", default.total_max),
        }
    }

    /// Wait before retry number `retry` (from 1): exponential, with full jitter so that losers do not meet again.
    pub fn wait(&self, retry: u32) -> Duration {
        let ceiling = self.wait_min.saturating_mul(1 << retry.min(16)).min(self.wait_max).max(self.wait_min);
        let jitter = rand::rng().random_range(0.0..1.0);
        self.wait_min + ceiling.saturating_sub(self.wait_min).mul_f64(jitter)
    }
}
