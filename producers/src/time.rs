//! When records come in: evenly at a rate, or over a span with the rhythm of days.

/// Microseconds.
pub const SECOND_US: i64 = 1_000_000;
/// Microseconds.
pub const MINUTE_US: i64 = 60 * SECOND_US;
/// Microseconds.
pub const HOUR_US: i64 = 60 * MINUTE_US;
/// Microseconds.
pub const DAY_US: i64 = 24 * HOUR_US;

/// Ingestion times of records 0, 1, 2 ..., never decreasing.
#[derive(Debug, Clone)]
pub enum Timeline {
    /// A fixed distance between records.
    Rate {
        /// First time, microseconds since the epoch.
        start_us: i64,
        /// Records per second.
        rate: f64,
    },
    /// `count` records over `[start, start + span)`, denser in the day than at night.
    Rhythm(Rhythm),
}

/// State of walking along a span: the minute that the next record falls into.
#[derive(Debug, Clone)]
pub struct Rhythm {
    start_us: i64,
    span_us: i64,
    count: u64,
    /// Sum of all steps' weights.
    total: f64,
    /// Weights before the current step, and of it.
    before: f64,
    step: i64,
}

const STEP_US: i64 = MINUTE_US;

impl Timeline {
    /// Records that fill a span of time.
    pub fn rhythm(start_us: i64, span_us: i64, count: u64) -> Self {
        let span_us = span_us.max(1);
        let total = (0..steps(span_us)).map(|s| step_weight(start_us, span_us, s)).sum();
        Self::Rhythm(Rhythm { start_us, span_us, count: count.max(1), total, before: 0.0, step: 0 })
    }

    /// Time of record `index` in microseconds since the epoch. Indexes must not decrease between calls.
    pub fn at(&mut self, index: u64) -> i64 {
        match self {
            Self::Rate { start_us, rate } => *start_us + (index as f64 / *rate * SECOND_US as f64) as i64,
            Self::Rhythm(rhythm) => rhythm.at(index),
        }
    }
}

impl Rhythm {
    fn at(&mut self, index: u64) -> i64 {
        let target = (index as f64 + 0.5) / self.count as f64 * self.total;
        let last = steps(self.span_us) - 1;
        let mut weight = step_weight(self.start_us, self.span_us, self.step);
        while self.step < last && self.before + weight < target {
            self.before += weight;
            self.step += 1;
            weight = step_weight(self.start_us, self.span_us, self.step);
        }
        let within = ((target - self.before) / weight).clamp(0.0, 1.0);
        let length = step_length(self.span_us, self.step);
        self.start_us + self.step * STEP_US + ((length as f64 * within) as i64).min(length - 1)
    }
}

fn steps(span_us: i64) -> i64 {
    (span_us + STEP_US - 1) / STEP_US
}

fn step_length(span_us: i64, step: i64) -> i64 {
    (span_us - step * STEP_US).min(STEP_US)
}

fn step_weight(start_us: i64, span_us: i64, step: i64) -> f64 {
    let middle = start_us + step * STEP_US;
    activity(middle) * step_length(span_us, step) as f64 / STEP_US as f64
}

/// How busy a time of day is, relative to the mean: quiet at 4 h, a peak in the evening (UTC).
pub fn activity(time_us: i64) -> f64 {
    let hour = time_us.rem_euclid(DAY_US) as f64 / HOUR_US as f64;
    let daily = ((hour - 16.0) / 24.0 * std::f64::consts::TAU).cos();
    let evening = (-(hour - 20.0).powi(2) / 4.0).exp();
    1.0 + 0.7 * daily + 0.4 * evening
}

/// Day and second of `time_us` as year, month, day, hour, minute, second, microsecond (proleptic Gregorian, UTC).
pub fn civil(time_us: i64) -> (i64, u32, u32, u32, u32, u32, u32) {
    let days = time_us.div_euclid(DAY_US);
    let rest = time_us.rem_euclid(DAY_US);
    // Howard Hinnant, "chrono-compatible low-level date algorithms"
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    let year = yoe + era * 400 + i64::from(month <= 2);
    let seconds = rest / SECOND_US;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    (year, month, day, hour as u32, minute as u32, second as u32, (rest % SECOND_US) as u32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn rhythm_fills_its_span_in_order() {
        let start = 1_767_225_600 * SECOND_US;
        for (span, count) in [(DAY_US, 10_000), (90 * SECOND_US, 7), (SECOND_US, 1000), (3 * DAY_US + 5, 1)] {
            let mut timeline = Timeline::rhythm(start, span, count);
            let times: Vec<i64> = (0..count).map(|i| timeline.at(i)).collect();
            assert!(times.windows(2).all(|w| w[0] <= w[1]));
            assert!(*times.first().unwrap() >= start && *times.last().unwrap() < start + span);
        }
        let mut timeline = Timeline::rhythm(start, DAY_US, 10_000);
        let hour = |t: i64| (t - start) / HOUR_US;
        let times: Vec<i64> = (0..10_000).map(|i| timeline.at(i)).collect();
        let in_hour = |h: i64| times.iter().filter(|t| hour(**t) == h).count();
        assert!(in_hour(19) > 4 * in_hour(4), "{} {}", in_hour(19), in_hour(4));
    }

    #[test]
    fn rate_is_even() {
        let mut timeline = Timeline::Rate { start_us: 5, rate: 1000.0 };
        assert_eq!((timeline.at(0), timeline.at(1), timeline.at(1000)), (5, 1005, 1_000_005));
    }

    #[test]
    fn civil_dates() {
        assert_eq!(civil(0), (1970, 1, 1, 0, 0, 0, 0));
        assert_eq!(civil(951_782_400 * SECOND_US + 7), (2000, 2, 29, 0, 0, 0, 7));
        assert_eq!(civil(-1), (1969, 12, 31, 23, 59, 59, 999_999));
        assert_eq!(civil(1_767_225_599 * SECOND_US), (2025, 12, 31, 23, 59, 59, 0));
    }
}
