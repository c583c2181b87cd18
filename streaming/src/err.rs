//! Errors of this crate, by what the caller must do about them.

use chainalytics_common::{Error, ErrorCode};

use crate::batch::PlanError;
use crate::exec::TaskFailure;

/// A caller's mistake.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}

/// Our own mistake.
pub(crate) fn internal(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Internal, message)
}

/// A wrong setting.
pub(crate) fn config(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Config, message)
}

/// A wrong `kafka.*` setting, in librdkafka's words.
pub(crate) fn kafka_config(message: &str) -> Error {
    config(format!("Kafka client: {message}"))
}

/// No broker answers; may pass.
pub(crate) fn kafka_unreachable(servers: &str, cause: &str) -> Error {
    Error::new(ErrorCode::KafkaUnreachable, format!("Kafka at {servers} cannot be reached: {cause}"))
}

/// A broker that answers, but gives nothing for too long; may pass.
pub(crate) fn kafka_timeout(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::KafkaTimeout, message)
}

/// The broker does not let us.
pub(crate) fn kafka_refused(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::KafkaRefused, message)
}

/// A topic that is not there. `like`: topics of a like name.
pub(crate) fn topic_not_found(servers: &str, topic: &str, like: &[String]) -> Error {
    let hint = match like {
        [] => String::new(),
        like => format!("; did you mean {}?", like.join(" or ")),
    };
    Error::new(ErrorCode::TopicNotFound, format!("topic '{topic}' does not exist at {servers}{hint}"))
}

/// Records are gone that the stream should have read.
pub(crate) fn data_loss(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::DataLoss, message)
}

/// Records and table do not go together.
pub(crate) fn schema_mismatch(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::SchemaMismatch, message)
}

/// A record that is no row, where none may be.
pub(crate) fn record_rejected(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::RecordRejected, message)
}

/// What was planned does not hold any more: nothing was written.
pub(crate) fn stale(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::CommitConflict, message)
}

/// A table whose place in its topics cannot be told.
pub(crate) fn progress_lost(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::ProgressLost, message)
}

/// No batch can be planned.
pub(crate) fn plan(error: &PlanError) -> Error {
    data_loss(error.to_string())
}

/// The registry does not answer; may pass.
pub(crate) fn registry_unreachable(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::SchemaRegistryUnreachable, message)
}

/// The registry's refusal, or an answer that makes no sense.
pub(crate) fn registry(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::SchemaRegistry, message)
}

/// Someone asked us to stop.
pub(crate) fn cancelled(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Cancelled, message)
}

/// Whether the cause is a request to stop.
pub(crate) fn is_cancelled(error: &Error) -> bool {
    error.code() == ErrorCode::Cancelled
}

/// Whether a commit lost against another writer: nothing was written.
pub(crate) fn is_conflict(error: &Error) -> bool {
    error.code() == ErrorCode::CommitConflict
}

/// Whether records are gone that the stream should have read.
pub(crate) fn is_data_loss(error: &Error) -> bool {
    error.code() == ErrorCode::DataLoss
}

/// Whether a failed commit certainly wrote nothing.
pub(crate) fn is_certain(error: &Error) -> bool {
    error.code() != ErrorCode::CommitUnknown
}

/// Whether the same thing may work a little later. After a commit of unknown outcome the tables tell what happened.
pub(crate) fn may_pass(error: &Error) -> bool {
    matches!(
        error.code(),
        ErrorCode::KafkaUnreachable
            | ErrorCode::KafkaTimeout
            | ErrorCode::SchemaRegistryUnreachable
            | ErrorCode::CatalogUnreachable
            | ErrorCode::CatalogBusy
            | ErrorCode::StorageUnreachable
            | ErrorCode::CommitUnknown
            // A topic that was there: it is being made anew, or its brokers have just started.
            | ErrorCode::TopicNotFound
            | ErrorCode::SchedulerUnreachable
            | ErrorCode::ExecutorLost
    )
}

/// The error that made a task fail.
pub(crate) fn from_task(failure: &TaskFailure) -> Error {
    let code = ErrorCode::ALL.iter().find(|code| code.as_str() == failure.code);
    Error::new(code.copied().unwrap_or(ErrorCode::QueryFailed), failure.message.clone())
}
