//! The five topics: their fields, and one module each for what happens in them.

mod api_logs;
mod catalog;
mod products;
mod user_events;
mod user_posts;
mod weather_data;

use serde::{Deserialize, Serialize};

use crate::error::{ProducerError, Result};
use crate::options::ProduceOptions;
use crate::rng::Chance;
use crate::row::{Field, FieldType, Row};
use crate::time::HOUR_US;

/// A topic of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// What users do.
    UserEvents,
    /// Products, each record the state of one at a time.
    Products,
    /// Calls of services.
    ApiLogs,
    /// What users write.
    UserPosts,
    /// Observations of weather stations.
    WeatherData,
}

/// A record to be made: its place in time and what shall be wrong with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// Number of the record in its topic, duplicates and malformed ones included.
    pub sequence: u64,
    /// When the record comes in, microseconds since the epoch.
    pub ingestion_us: i64,
    /// When it happened, microseconds since the epoch.
    pub event_us: i64,
    /// Break a business rule; the number selects which, if there are several.
    pub invalid: Option<u64>,
}

/// The state of one topic's world.
#[derive(Debug)]
pub(crate) enum Source {
    UserEvents(Box<user_events::UserEvents>),
    Products(products::Products),
    ApiLogs(api_logs::ApiLogs),
    UserPosts(user_posts::UserPosts),
    WeatherData(weather_data::WeatherData),
}

impl Source {
    pub fn new(topic: Topic, options: &ProduceOptions, ids: IdSource) -> Self {
        match topic {
            Topic::UserEvents => Self::UserEvents(Box::new(user_events::UserEvents::new(options, ids))),
            Topic::Products => Self::Products(products::Products::new(options)),
            Topic::ApiLogs => Self::ApiLogs(api_logs::ApiLogs::new(ids)),
            Topic::UserPosts => Self::UserPosts(user_posts::UserPosts::new(options, ids)),
            Topic::WeatherData => Self::WeatherData(weather_data::WeatherData::new()),
        }
    }

    /// Writes the next record's values. Returns the value of a purchase in cents, else 0.
    pub fn fill(&mut self, slot: &Slot, chance: &mut Chance, row: &mut Row) -> i64 {
        row.text.clear();
        match self {
            Self::UserEvents(source) => return source.fill(slot, chance, row),
            Self::Products(source) => source.fill(slot, chance, row),
            Self::ApiLogs(source) => source.fill(slot, chance, row),
            Self::UserPosts(source) => source.fill(slot, chance, row),
            Self::WeatherData(source) => source.fill(slot, chance, row),
        }
        0
    }
}

/// Ids that are unique in a run and the same in the next one with the same seed and base time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdSource {
    salt: u64,
}

impl IdSource {
    pub fn new(topic: Topic, seed: u64, base_time_us: i64) -> Self {
        use crate::rng::mix;
        Self { salt: mix(seed ^ mix(base_time_us as u64 ^ mix(topic as u64))) }
    }

    /// A version 4 UUID of a sequence number.
    pub fn uuid(&self, sequence: u64) -> u128 {
        use crate::rng::mix;
        let high = mix(self.salt.wrapping_add(sequence.wrapping_mul(2)));
        let low = mix(self.salt.wrapping_add(sequence.wrapping_mul(2)).wrapping_add(1));
        let bits = u128::from(high) << 64 | u128::from(low);
        bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62)
    }

    /// A hash of a number, different for each run.
    pub fn hash(&self, number: u64) -> u64 {
        crate::rng::mix(self.salt ^ crate::rng::mix(number))
    }
}

impl Topic {
    /// All topics.
    pub const ALL: [Self; 5] = [Self::UserEvents, Self::Products, Self::ApiLogs, Self::UserPosts, Self::WeatherData];

    /// Name in Kafka.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserEvents => "user-events",
            Self::Products => "products",
            Self::ApiLogs => "api-logs",
            Self::UserPosts => "user-posts",
            Self::WeatherData => "weather-data",
        }
    }

    /// Name of the record type in schemas.
    pub fn record_name(self) -> &'static str {
        match self {
            Self::UserEvents => "UserEvent",
            Self::Products => "Product",
            Self::ApiLogs => "ApiLog",
            Self::UserPosts => "UserPost",
            Self::WeatherData => "WeatherObservation",
        }
    }

    /// Subject in the schema registry.
    pub fn subject(self) -> String {
        format!("{}-value", self.name())
    }

    /// Fields in their order.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Self::UserEvents => user_events::FIELDS,
            Self::Products => products::FIELDS,
            Self::ApiLogs => api_logs::FIELDS,
            Self::UserPosts => user_posts::FIELDS,
            Self::WeatherData => weather_data::FIELDS,
        }
    }

    /// Name of the field that is also the Kafka key, as text.
    pub fn key_field(self) -> &'static str {
        match self {
            Self::UserEvents | Self::UserPosts => "user_id",
            Self::Products => "product_id",
            Self::ApiLogs => "api_source",
            Self::WeatherData => "location_id",
        }
    }

    /// Name of the field that tells when it happened. With the first field (the business key) it is unique among all
    /// records that are not duplicates.
    pub fn event_time_field(self) -> &'static str {
        match self {
            Self::UserEvents => "event_timestamp",
            Self::Products => "ingestion_date",
            Self::ApiLogs => "call_timestamp",
            Self::UserPosts => "created_timestamp",
            Self::WeatherData => "observation_time",
        }
    }

    /// Longest delay of a late record.
    pub(crate) fn delay_max_us(self) -> i64 {
        match self {
            Self::UserPosts => 24 * HOUR_US,
            _ => 48 * HOUR_US,
        }
    }

    /// Position of the first field of a type.
    pub(crate) fn first_of(self, wanted: impl Fn(FieldType) -> bool) -> usize {
        self.fields().iter().position(|f| wanted(f.kind)).unwrap_or(0)
    }
}

impl std::fmt::Display for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Topic {
    type Err = ProducerError;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|t| t.name() == text).ok_or_else(|| ProducerError::Option {
            option: "topics",
            reason: format!("'{text}' is none of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}
