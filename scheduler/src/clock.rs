//! The wall clock, for what is shown and kept. Decisions about silence use the monotonic one.

/// Ms since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
