//! Why producing failed, by what has to be done about it.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, ProducerError>;

/// An error of producing.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    /// An option makes no sense: correct it.
    #[error("invalid option --{option}: {reason}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is wrong about it.
        reason: String,
    },
    /// No broker answers: check the address and that it runs.
    #[error("no Kafka broker answers at {address} (kafka.bootstrap.servers): {reason}")]
    BrokerUnreachable {
        /// The address that was tried.
        address: String,
        /// The client's words.
        reason: String,
    },
    /// The broker refuses to create a topic.
    #[error("cannot create topic '{topic}': {reason}")]
    CreateTopic {
        /// The topic.
        topic: String,
        /// The broker's words.
        reason: String,
    },
    /// Some records were not acknowledged: what was is in the counts.
    #[error("{failed} of {sent} records for '{topic}' were not acknowledged: {reason}")]
    Delivery {
        /// The topic.
        topic: String,
        /// Records handed to the client.
        sent: u64,
        /// Records that failed.
        failed: u64,
        /// The first failure.
        reason: String,
    },
    /// The schema registry cannot be reached or refuses.
    #[error("schema registry {url} (schema.registry.url): {reason}")]
    Registry {
        /// Address without credentials.
        url: String,
        /// What went wrong.
        reason: String,
        /// Worth another try later, in contrast to a refusal.
        retryable: bool,
    },
    /// A setting that the Kafka client refuses.
    #[error("invalid Kafka client setting: {0}")]
    ClientConfig(String),
    /// A defect: a thread died.
    #[error("the producer of '{0}' died")]
    Died(String),
}
