//! Whether the result of one attempt of a query counts. Pure, so that every case can be tested.

use ballista_core::serde::protobuf::KeyValuePair;
use chainalytics_common::{Error, ErrorCode};
use chainalytics_proto::v1::Validity;

use super::reason::{error_of, own_error};

/// How one attempt ended, as the driver saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Success, and all rows were fetched.
    Fetched,
    /// Success, but rows could not be fetched from an executor.
    FetchFailed(String),
    /// The scheduler called the query failed or cancelled.
    Failed(String),
    /// The scheduler does not know the query any more (it was restarted).
    Forgotten,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The rows count.
    Accept,
    /// Run it again from its start; why.
    Repeat(String),
    /// Give up.
    Fail(Error),
}

/// Judges an attempt.
///
/// A result counts only if the scheduler vouches for it. A failure is repeated only if an executor's loss may have caused it; errors of the
/// query itself would only come again. `attempt` counts from 1.
pub(crate) fn judge(ended: &Ended, validity: Validity, detail: &str, attempt: u32, max_attempts: u32) -> Verdict {
    let reason = match (ended, validity) {
        (Ended::Fetched, Validity::Ok) => return Verdict::Accept,
        (Ended::Fetched, validity) => format!("its result does not count ({}{})", validity.label(), suffix(detail)),
        (Ended::FetchFailed(message), _) => format!("its rows could not be fetched: {message}"),
        (Ended::Forgotten, _) => "the scheduler does not know it any more".to_owned(),
        (Ended::Failed(_), Validity::ExecutorLost | Validity::StageRetried | Validity::Unknown) => {
            format!("it failed when an executor was lost ({}{})", validity.label(), suffix(detail))
        }
        // Whoever cancelled it said why, in the platform's own terms.
        (Ended::Failed(_), Validity::NotSuccessful) if own_error(detail).is_some() => {
            return Verdict::Fail(own_error(detail).unwrap_or_else(|| error_of(detail)));
        }
        (Ended::Failed(message), Validity::NotSuccessful | Validity::Ok) if looks_like_a_loss(message) => {
            format!("it failed because an executor did not answer: {}", first_line(message))
        }
        (Ended::Failed(message), Validity::NotSuccessful | Validity::Ok) => return Verdict::Fail(error_of(message)),
    };
    if attempt < max_attempts {
        Verdict::Repeat(reason)
    } else {
        Verdict::Fail(Error::new(
            ErrorCode::ExecutorLost,
            format!("the query was tried {attempt} times, and each time an executor was lost; the last time {reason}"),
        ))
    }
}

const PREFER_HASH_JOIN: &str = "datafusion.optimizer.prefer_hash_join";

/// Hash joins keep a whole side in memory, sort-merge joins spill: settings for a second try of a query that ran out of memory. False if these
/// settings had them already.
pub(crate) fn without_hash_joins(settings: &mut [KeyValuePair]) -> bool {
    match settings.iter_mut().find(|pair| pair.key == PREFER_HASH_JOIN) {
        Some(pair) if pair.value.as_deref() == Some("true") => {
            pair.value = Some("false".to_owned());
            true
        }
        _ => false,
    }
}

/// Transport errors between executors reach the driver before the scheduler noticed the loss; a code of ours means that somebody knew better.
fn looks_like_a_loss(message: &str) -> bool {
    const SIGNS: [&str; 9] = [
        "GrpcConnectionError",
        "GrpcActionError",
        "FetchFailed",
        "Fetch failed",
        "tcp connect error",
        "transport error",
        "Connection refused",
        "Connection reset",
        "no executors remain",
    ];
    own_error(message).is_none() && SIGNS.iter().any(|sign| message.contains(sign))
}

fn suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const MAX: u32 = 3;

    fn repeats(ended: Ended, validity: Validity) -> bool {
        matches!(judge(&ended, validity, "", 1, MAX), Verdict::Repeat(_))
    }

    #[test]
    fn only_a_vouched_result_counts() {
        assert!(matches!(judge(&Ended::Fetched, Validity::Ok, "", 1, MAX), Verdict::Accept));
        for validity in [Validity::Unknown, Validity::ExecutorLost, Validity::StageRetried, Validity::NotSuccessful] {
            assert!(repeats(Ended::Fetched, validity), "{validity:?}");
        }
    }

    #[test]
    fn losses_are_repeated_and_errors_of_the_query_are_not() {
        assert!(repeats(Ended::FetchFailed("gone".to_owned()), Validity::Ok));
        assert!(repeats(Ended::Forgotten, Validity::Unknown));
        assert!(repeats(Ended::Failed("Cancelled".to_owned()), Validity::ExecutorLost));
        assert!(repeats(Ended::Failed("task: GrpcConnectionError(...)".to_owned()), Validity::NotSuccessful));
        assert!(!repeats(Ended::Failed("Arrow error: Divide by zero error".to_owned()), Validity::NotSuccessful));
    }

    #[test]
    fn attempts_are_bounded() {
        let Verdict::Fail(error) = judge(&Ended::Fetched, Validity::ExecutorLost, "e1", MAX, MAX) else { panic!("must give up") };
        assert_eq!(error.code(), ErrorCode::ExecutorLost);
        assert!(error.to_string().contains("3 times"), "{error}");
    }

    #[test]
    fn a_reason_with_a_code_is_passed_on() {
        let ended = Ended::Failed("Job failed: Cancelled".to_owned());
        let Verdict::Fail(error) = judge(&ended, Validity::NotSuccessful, "cancelled: [CA-CLUSTER-NOT-READY] no executor", 1, MAX) else {
            panic!("must fail")
        };
        assert_eq!((error.code(), error.message()), (ErrorCode::ClusterNotReady, "no executor"));
    }

    #[test]
    fn hash_joins_are_given_up_once() {
        let mut settings = vec![KeyValuePair { key: PREFER_HASH_JOIN.to_owned(), value: Some("true".to_owned()) }];
        assert!(without_hash_joins(&mut settings));
        assert_eq!(settings[0].value.as_deref(), Some("false"));
        assert!(!without_hash_joins(&mut settings));
        assert!(!without_hash_joins(&mut []));
    }

    #[test]
    fn a_cancelled_query_says_so() {
        let Verdict::Fail(error) = judge(&Ended::Failed("Job failed: Cancelled".to_owned()), Validity::NotSuccessful, "", 1, MAX) else {
            panic!("must fail")
        };
        assert_eq!(error.code(), ErrorCode::Cancelled);
    }
}
