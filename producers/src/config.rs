//! Producing as configured for the platform.

use chainalytics_common::{Config, Error, ErrorCode, keys};
use tokio_util::sync::CancellationToken;

use crate::error::ProducerError;
use crate::options::ProduceOptions;
use crate::produce::{Target, produce_to};
use crate::registry::RegistryTarget;
use crate::report::{ProduceReport, Progress};
use crate::sink::KafkaTarget;

/// Keys with this prefix go to the Kafka client, without it.
const KAFKA_PREFIX: &str = "kafka.";

/// [`produce_to`] the configured Kafka and schema registry.
///
/// # Errors
/// Those of [`produce_to`], as platform errors: `InvalidArgument`, `KafkaUnreachable`, `KafkaRefused`, `KafkaTimeout`,
/// `SchemaRegistry`, `SchemaRegistryUnreachable`, `Config`.
pub async fn produce(
    config: &Config,
    options: &ProduceOptions,
    progress: impl Fn(&Progress) + Send + Sync,
    cancel: CancellationToken,
) -> chainalytics_common::Result<ProduceReport> {
    Ok(produce_to(&Target::from_config(config), options, progress, cancel).await?)
}

impl Target {
    /// `kafka.bootstrap.servers` with all other `kafka.*` keys, and `schema.registry.*`.
    pub fn from_config(config: &Config) -> Self {
        let passed = config.with_prefix(KAFKA_PREFIX);
        let client = passed.into_iter().filter_map(|(k, v)| Some((k.strip_prefix(KAFKA_PREFIX)?.to_owned(), v)));
        let url = config.get(&keys::SCHEMA_REGISTRY_URL);
        let user = config.get(&keys::SCHEMA_REGISTRY_USER);
        let auth = (!user.is_empty()).then(|| (user, config.get(&keys::SCHEMA_REGISTRY_PASSWORD)));
        Self {
            kafka: KafkaTarget { bootstrap_servers: config.get(&keys::KAFKA_BOOTSTRAP_SERVERS), client: client.collect() },
            registry: (!url.is_empty()).then_some(RegistryTarget { url, auth }),
        }
    }
}

impl From<ProducerError> for Error {
    fn from(error: ProducerError) -> Self {
        let code = match &error {
            ProducerError::Option { .. } => ErrorCode::InvalidArgument,
            ProducerError::BrokerUnreachable { .. } => ErrorCode::KafkaUnreachable,
            ProducerError::CreateTopic { .. } => ErrorCode::KafkaRefused,
            ProducerError::Delivery { .. } => ErrorCode::KafkaTimeout,
            ProducerError::Registry { retryable: true, .. } => ErrorCode::SchemaRegistryUnreachable,
            ProducerError::Registry { retryable: false, .. } => ErrorCode::SchemaRegistry,
            ProducerError::ClientConfig(_) => ErrorCode::Config,
            ProducerError::Died(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string()).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_configuration_reaches_both_clients() {
        let conf = [
            ("kafka.bootstrap.servers", "a:1,b:2"),
            ("kafka.security.protocol", "SASL_SSL"),
            ("schema.registry.url", "http://r:8085"),
            ("schema.registry.user", "me"),
            ("schema.registry.password", "hush"),
        ];
        let target = Target::from_config(&Config::with_data_dir(std::path::Path::new("/d"), &conf).unwrap());
        assert_eq!(target.kafka.bootstrap_servers, "a:1,b:2");
        assert_eq!(target.kafka.client, vec![("security.protocol".to_owned(), "SASL_SSL".to_owned())]);
        assert_eq!(target.registry.unwrap().auth, Some(("me".to_owned(), "hush".to_owned())));
        let plain = Target::from_config(&Config::with_data_dir(std::path::Path::new("/d"), &[]).unwrap());
        assert!(plain.registry.is_none());
    }
}
