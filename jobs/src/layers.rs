//! How bronze becomes silver: for each topic its key, its time, its rules and the columns of the clean copy.
//!
//! A bronze row goes to exactly one of three tables: `silver_quarantine` if it breaks a rule (with the first rule's name),
//! `silver_duplicates` if a row with the same business key and event time came before it (an earlier run or batch, then by partition and
//! offset), else the silver copy. Queries work on a selection of bronze rows: what is new, or whole days.

use crate::source::moment;

/// One topic's way from bronze to silver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer {
    pub bronze: &'static str,
    pub silver: &'static str,
    /// Identifies the thing that an event tells of.
    pub key: &'static str,
    /// The event's time.
    pub time: &'static str,
    /// Name of the rule and the condition of rows that break it, in the order in which they are tried. Every condition is never NULL.
    pub rules: &'static [(&'static str, &'static str)],
    /// Columns of the silver table, lineage left out.
    pub columns: &'static str,
}

const LINEAGE: &str = "kafka_topic, kafka_partition, kafka_offset";

/// Delay categories of late data, by hours between event and arrival.
const LATE_CATEGORY: &str = "CASE WHEN delay_hours IS NULL OR delay_hours <= 1 THEN 'On-time' WHEN delay_hours <= 6 THEN 'Slightly Late' \
     WHEN delay_hours <= 24 THEN 'Late' WHEN delay_hours <= 48 THEN 'Very Late' ELSE 'Too Late' END AS late_data_category";

pub(crate) const LAYERS: &[Layer] = &[
    Layer {
        bronze: "bronze_user_events",
        silver: "silver_user_events",
        key: "event_id",
        time: "event_timestamp",
        rules: &[("value_not_negative", "value IS NOT NULL AND value < 0")],
        columns: "event_id, user_id, lower(trim(event_type)) AS event_type, product_id, session_id, value, event_timestamp, ingestion_timestamp, delay_hours",
    },
    Layer {
        bronze: "bronze_products",
        silver: "silver_products",
        key: "product_id",
        time: "ingestion_date",
        rules: &[
            ("price_positive", "price IS NULL OR price <= 0"),
            ("rating_1_to_5", "rating_score IS NULL OR rating_score < 1 OR rating_score > 5"),
        ],
        columns: "product_id, trim(title) AS title, price, trim(category) AS category, rating_score, rating_count, ingestion_date",
    },
    Layer {
        bronze: "bronze_api_logs",
        silver: "silver_api_logs",
        key: "log_id",
        time: "call_timestamp",
        rules: &[("duration_positive", "response_time_ms IS NULL OR response_time_ms <= 0")],
        columns: "log_id, api_source, response_time_ms, success_flag, call_timestamp",
    },
    Layer {
        bronze: "bronze_user_posts",
        silver: "silver_user_posts",
        key: "post_id",
        time: "created_timestamp",
        rules: &[("title_present", "title IS NULL OR trim(title) = ''")],
        columns: "post_id, user_id, trim(title) AS title, created_timestamp, ingestion_timestamp",
    },
    Layer {
        bronze: "bronze_weather_data",
        silver: "silver_weather_data",
        key: "location_id",
        time: "observation_time",
        rules: &[
            ("temperature_plausible", "temperature IS NOT NULL AND (temperature < -90 OR temperature > 60)"),
            ("wind_not_negative", "wind_speed IS NOT NULL AND wind_speed < 0"),
        ],
        columns: "location_id, weather_condition, temperature, wind_speed, data_delay_hours, observation_time, ingestion_timestamp, \
                  CASE WHEN temperature IS NULL THEN NULL WHEN temperature < 10 THEN 'Cold' WHEN temperature < 25 THEN 'Moderate' ELSE 'Hot' END AS temperature_category",
    },
];

impl Layer {
    fn rule(&self) -> String {
        let cases: Vec<String> = self.rules.iter().map(|(name, broken)| format!("WHEN {broken} THEN '{name}'")).collect();
        format!("CASE {} END", cases.join(" "))
    }

    fn breaks_none(&self) -> String {
        let broken: Vec<String> = self.rules.iter().map(|(_, broken)| format!("NOT ({broken})")).collect();
        broken.join(" AND ")
    }

    /// Valid rows of the selection, each with its place among those of the same key and time: the first that came is the one.
    fn placed(&self, selected: &str) -> String {
        let Self { bronze, key, time, .. } = self;
        format!(
            "SELECT *, row_number() OVER (PARTITION BY {key}, {time} ORDER BY ingested_at, kafka_topic, kafka_partition, kafka_offset) AS place \
             FROM {bronze} WHERE {selected} AND {}",
            self.breaks_none()
        )
    }

    /// Keys and times that silver has, between two moments: what a new row can repeat.
    fn known(&self, times: (i64, i64)) -> String {
        let Self { silver, key, time, .. } = self;
        format!("SELECT {key} AS known_key, {time} AS known_time FROM {silver} WHERE {time} >= {} AND {time} <= {}", moment(times.0), moment(times.1))
    }

    /// Rows of the silver table. `against`: the selection's least and greatest event time if silver may have such rows already.
    pub(crate) fn silver_query(&self, selected: &str, against: Option<(i64, i64)>) -> String {
        let Self { key, time, columns, .. } = self;
        let unknown = against.map_or_else(String::new, |times| {
            format!("LEFT ANTI JOIN ({}) AS k ON p.{key} = k.known_key AND p.{time} = k.known_time", self.known(times))
        });
        let firsts = format!("SELECT p.* FROM ({}) AS p {unknown} WHERE p.place = 1", self.placed(selected));
        if self.silver == "silver_user_events" {
            let delay = "(date_part('epoch', ingestion_timestamp) - date_part('epoch', event_timestamp)) / 3600.0 AS delay_hours";
            return format!("SELECT {columns}, {LATE_CATEGORY}, {LINEAGE} FROM (SELECT *, {delay} FROM ({firsts}) AS f) AS d");
        }
        format!("SELECT {columns}, {LINEAGE} FROM ({firsts}) AS f")
    }

    /// Rows for `silver_quarantine`.
    pub(crate) fn quarantine_query(&self, selected: &str) -> String {
        let Self { bronze, key, time, .. } = self;
        format!(
            "SELECT '{bronze}' AS source_table, rule, business_key, event_time, {LINEAGE} FROM (\
             SELECT {} AS rule, {key} AS business_key, {time} AS event_time, {LINEAGE} FROM {bronze} WHERE {selected}) AS r WHERE rule IS NOT NULL",
            self.rule()
        )
    }

    /// Rows for `silver_duplicates`.
    pub(crate) fn duplicates_query(&self, selected: &str, against: Option<(i64, i64)>) -> String {
        let Self { bronze, key, time, .. } = self;
        let placed = self.placed(selected);
        let columns = format!(
            "SELECT '{bronze}' AS source_table, p.{key} AS business_key, p.{time} AS event_time, p.kafka_topic, p.kafka_partition, p.kafka_offset"
        );
        match against {
            None => format!("{columns} FROM ({placed}) AS p WHERE p.place > 1"),
            Some(times) => format!(
                "{columns} FROM ({placed}) AS p LEFT JOIN ({}) AS k ON p.{key} = k.known_key AND p.{time} = k.known_time \
                 WHERE p.place > 1 OR k.known_key IS NOT NULL",
                self.known(times)
            ),
        }
    }

    /// The topic whose records the bronze table holds.
    pub(crate) fn topic(&self) -> String {
        self.bronze.trim_start_matches("bronze_").replace('_', "-")
    }
}

/// The layer of a topic.
pub(crate) fn layer_of(topic: &str) -> Option<&'static Layer> {
    LAYERS.iter().find(|layer| layer.topic() == topic)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_topic_of_the_platform_has_its_layer() {
        for definition in chainalytics_streaming::topics::platform_topics() {
            let layer = layer_of(&definition.topic).unwrap();
            assert_eq!((layer.bronze, layer.time), (definition.table.as_str(), definition.event_time.as_str()));
        }
    }

    #[test]
    fn only_a_later_run_looks_at_what_silver_has() {
        let layer = layer_of("products").unwrap();
        assert!(!layer.silver_query("TRUE", None).contains("JOIN"));
        assert!(layer.silver_query("TRUE", Some((1, 2))).contains("LEFT ANTI JOIN"));
    }
}
