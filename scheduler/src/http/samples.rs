//! The last half hour of the cluster in equal steps, so that a page that is opened late shows what was.

use super::HttpState;
use super::cluster;
use axum::Json;
use axum::extract::State;
use chainalytics_api_types::{ClusterSample, Page};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Between two samples.
const STEP: Duration = Duration::from_secs(5);
/// Half an hour.
const SAMPLES_MAX: usize = 360;

/// The samples kept; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Samples(Arc<Mutex<VecDeque<ClusterSample>>>);

impl Samples {
    fn add(&self, sample: ClusterSample) {
        let mut samples = self.0.lock();
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}

/// Takes a sample in every step until `shutdown`.
pub async fn sample(state: HttpState, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => state.samples.add(cluster::glance(&state)),
        }
    }
}

pub async fn samples(State(state): State<HttpState>) -> Json<Page<ClusterSample>> {
    let items: Vec<ClusterSample> = state.samples.0.lock().iter().copied().collect();
    Json(Page { total: items.len() as u64, items, next: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_samples_go() {
        let samples = Samples::default();
        for at_ms in 0..(SAMPLES_MAX as i64 + 5) {
            samples.add(ClusterSample { at_ms, ..ClusterSample::default() });
        }
        let kept = samples.0.lock();
        assert_eq!((kept.len(), kept.front().map(|s| s.at_ms)), (SAMPLES_MAX, Some(5)));
    }
}
