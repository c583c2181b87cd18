use super::record::{FieldKind, FieldSpec, RecordSchema};
use FieldKind::{Boolean, Double, Id, Long, Text, Timestamp};

/// The platform's topics.
pub const PLATFORM_TOPICS: [&str; 5] = ["user-events", "products", "api-logs", "user-posts", "weather-data"];

/// A topic, its records and the table that they go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDefinition {
    /// Topic.
    pub topic: String,
    /// Bare name of the bronze table.
    pub table: String,
    /// Its records.
    pub schema: RecordSchema,
    /// Field with the event's time; the table is partitioned by its day (UTC).
    pub event_time: String,
    /// Field that producers use as the key.
    pub key: String,
}

impl TopicDefinition {
    fn new(topic: &str, key: &str, event_time: &str, fields: Vec<FieldSpec>) -> Self {
        Self {
            topic: topic.to_owned(),
            table: format!("bronze_{}", topic.replace('-', "_")),
            schema: RecordSchema::new(fields),
            event_time: event_time.to_owned(),
            key: key.to_owned(),
        }
    }

    /// Subject of the topic's values in the schema registry.
    pub fn subject(&self) -> String {
        format!("{}-value", self.topic)
    }
}

/// Definition of one of the platform's topics.
pub fn platform_topic(topic: &str) -> Option<TopicDefinition> {
    let definition = match topic {
        "user-events" => TopicDefinition::new(
            topic,
            "user_id",
            "event_timestamp",
            vec![
                FieldSpec::required("event_id", Id),
                FieldSpec::required("user_id", Id),
                FieldSpec::required("event_type", Text).one_of(&["click", "view", "purchase"]),
                FieldSpec::optional("product_id", Id),
                FieldSpec::optional("session_id", Id),
                FieldSpec::optional("value", Double),
                FieldSpec::required("event_timestamp", Timestamp),
                FieldSpec::optional("ingestion_timestamp", Timestamp),
            ],
        ),
        "products" => TopicDefinition::new(
            topic,
            "product_id",
            "ingestion_date",
            vec![
                FieldSpec::required("product_id", Id),
                FieldSpec::optional("title", Text),
                FieldSpec::optional("price", Double),
                FieldSpec::optional("category", Text),
                FieldSpec::optional("rating_score", Double),
                FieldSpec::optional("rating_count", Long),
                FieldSpec::required("ingestion_date", Timestamp),
            ],
        ),
        "api-logs" => TopicDefinition::new(
            topic,
            "api_source",
            "call_timestamp",
            vec![
                FieldSpec::required("log_id", Id),
                FieldSpec::required("api_source", Text),
                FieldSpec::optional("response_time_ms", Double),
                FieldSpec::optional("success_flag", Boolean),
                FieldSpec::required("call_timestamp", Timestamp),
            ],
        ),
        "user-posts" => TopicDefinition::new(
            topic,
            "user_id",
            "created_timestamp",
            vec![
                FieldSpec::required("post_id", Id),
                FieldSpec::required("user_id", Id),
                FieldSpec::optional("title", Text),
                FieldSpec::required("created_timestamp", Timestamp),
                FieldSpec::optional("ingestion_timestamp", Timestamp),
            ],
        ),
        "weather-data" => TopicDefinition::new(
            topic,
            "location_id",
            "observation_time",
            vec![
                FieldSpec::required("location_id", Id),
                FieldSpec::optional("weather_condition", Text),
                FieldSpec::optional("temperature", Double),
                FieldSpec::optional("wind_speed", Double),
                FieldSpec::optional("data_delay_hours", Double),
                FieldSpec::required("observation_time", Timestamp),
                FieldSpec::optional("ingestion_timestamp", Timestamp),
            ],
        ),
        _ => return None,
    };
    Some(definition)
}

/// Definitions of all the platform's topics.
pub fn platform_topics() -> Vec<TopicDefinition> {
    PLATFORM_TOPICS.iter().filter_map(|topic| platform_topic(topic)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_platform_topic_is_defined_with_its_key_and_time() {
        assert_eq!(platform_topics().len(), PLATFORM_TOPICS.len());
        for definition in platform_topics() {
            let time = &definition.schema.fields[definition.schema.index_of(&definition.event_time).unwrap()];
            assert_eq!((time.kind, time.required), (Timestamp, true), "{}", definition.topic);
            assert!(definition.schema.fields[definition.schema.index_of(&definition.key).unwrap()].required);
        }
        assert_eq!(platform_topic("user-events").unwrap().table, "bronze_user_events");
    }
}
