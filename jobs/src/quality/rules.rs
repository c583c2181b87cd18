//! What each table must fulfil (data-model.md, "Data quality"). Declarations only.

/// Expectations of one table.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableRules {
    pub table: &'static str,
    /// Columns that together are there once, and the share of repeats that is borne.
    pub unique: &'static [(&'static str, f64)],
    /// No NULL at all.
    pub critical: &'static [&'static str],
    /// Under 5 % NULL.
    pub others: &'static [&'static str],
    /// Name and the condition of rows that break it.
    pub ranges: &'static [(&'static str, &'static str)],
    /// Event time: none in the future, the newest not older than the freshness asked for.
    pub time: Option<&'static str>,
    /// Arrival, for the delay.
    pub arrival: Option<&'static str>,
}

/// Every value of the first table's column must be in the second's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference {
    pub table: &'static str,
    pub column: &'static str,
    pub to: &'static str,
    pub to_column: &'static str,
    /// Within the platform's own derivations an orphan is a fault; between topics it can be a matter of time.
    pub critical: bool,
}

pub(super) const NULLS_MAX: f64 = 0.05;
pub(super) const DUPLICATES_MAX: f64 = 0.001;
pub(super) const AVERAGE_DELAY_MAX_S: f64 = 300.0;
pub(super) const DELAY_MAX_S: f64 = 1_800.0;
pub(super) const LATE_SHARE_MAX: f64 = 0.01;
pub(super) const DEAD_LETTERS_MAX: f64 = 0.05;
/// Standard deviations of the daily volume.
pub(super) const VOLUME_DEVIATION_MAX: f64 = 3.0;

const POSITION: &str = "kafka_topic, kafka_partition, kafka_offset";

pub(super) const TABLES: &[TableRules] = &[
    TableRules {
        table: "bronze_user_events",
        unique: &[(POSITION, 0.0), ("event_id, event_timestamp", DUPLICATES_MAX)],
        critical: &["event_id", "user_id", "event_type", "event_timestamp"],
        others: &["session_id", "value"],
        ranges: &[("event_type_known", "event_type NOT IN ('click', 'view', 'purchase')")],
        time: Some("event_timestamp"),
        arrival: Some("ingestion_timestamp"),
    },
    TableRules {
        table: "bronze_products",
        unique: &[(POSITION, 0.0), ("product_id, ingestion_date", DUPLICATES_MAX)],
        critical: &["product_id", "ingestion_date"],
        others: &["title", "price", "category", "rating_score"],
        ranges: &[],
        time: Some("ingestion_date"),
        arrival: None,
    },
    TableRules {
        table: "bronze_api_logs",
        unique: &[(POSITION, 0.0), ("log_id, call_timestamp", DUPLICATES_MAX)],
        critical: &["log_id", "api_source", "call_timestamp"],
        others: &["response_time_ms", "success_flag"],
        ranges: &[],
        time: Some("call_timestamp"),
        arrival: None,
    },
    TableRules {
        table: "bronze_user_posts",
        unique: &[(POSITION, 0.0), ("post_id, created_timestamp", DUPLICATES_MAX)],
        critical: &["post_id", "user_id", "created_timestamp"],
        others: &["title"],
        ranges: &[],
        time: Some("created_timestamp"),
        arrival: Some("ingestion_timestamp"),
    },
    TableRules {
        table: "bronze_weather_data",
        unique: &[(POSITION, 0.0), ("location_id, observation_time", DUPLICATES_MAX)],
        critical: &["location_id", "observation_time"],
        others: &["weather_condition", "temperature", "wind_speed"],
        ranges: &[],
        time: Some("observation_time"),
        arrival: None,
    },
    TableRules {
        table: "silver_user_events",
        unique: &[(POSITION, 0.0), ("event_id, event_timestamp", 0.0)],
        critical: &["event_id", "user_id", "event_type", "event_timestamp"],
        others: &["session_id"],
        ranges: &[("value_not_negative", "value < 0"), ("event_type_known", "event_type NOT IN ('click', 'view', 'purchase')")],
        time: Some("event_timestamp"),
        arrival: None,
    },
    TableRules {
        table: "silver_products",
        unique: &[(POSITION, 0.0), ("product_id, ingestion_date", 0.0)],
        critical: &["product_id", "price", "rating_score"],
        others: &["title", "category"],
        ranges: &[("price_positive", "price <= 0"), ("rating_1_to_5", "rating_score < 1 OR rating_score > 5")],
        time: Some("ingestion_date"),
        arrival: None,
    },
    TableRules {
        table: "silver_api_logs",
        unique: &[(POSITION, 0.0), ("log_id, call_timestamp", 0.0)],
        critical: &["log_id", "api_source", "response_time_ms"],
        others: &["success_flag"],
        ranges: &[("duration_positive", "response_time_ms <= 0")],
        time: Some("call_timestamp"),
        arrival: None,
    },
    TableRules {
        table: "silver_user_posts",
        unique: &[(POSITION, 0.0), ("post_id, created_timestamp", 0.0)],
        critical: &["post_id", "user_id", "title"],
        others: &[],
        ranges: &[],
        time: Some("created_timestamp"),
        arrival: None,
    },
    TableRules {
        table: "silver_weather_data",
        unique: &[(POSITION, 0.0), ("location_id, observation_time", 0.0)],
        critical: &["location_id"],
        others: &["weather_condition", "temperature", "wind_speed"],
        ranges: &[("temperature_plausible", "temperature < -90 OR temperature > 60"), ("wind_not_negative", "wind_speed < 0")],
        time: Some("observation_time"),
        arrival: None,
    },
    TableRules {
        table: "silver_user_sessions",
        unique: &[("session_id, user_id", 0.0)],
        critical: &["session_id", "user_id", "session_start"],
        others: &[],
        ranges: &[("duration_not_negative", "session_duration_min < 0"), ("events_counted", "total_events < 1")],
        time: None,
        arrival: None,
    },
    TableRules {
        table: "dim_customer",
        unique: &[("customer_key", 0.0), ("customer_id, version", 0.0)],
        critical: &["customer_key", "customer_id", "valid_from", "version"],
        others: &[],
        ranges: &[("current_is_open", "is_current <> (valid_to IS NULL)"), ("valid_in_order", "valid_to < valid_from")],
        time: None,
        arrival: None,
    },
    TableRules {
        table: "dim_product",
        unique: &[("product_key", 0.0)],
        critical: &["product_key", "price_tier", "quality_rating"],
        others: &[],
        ranges: &[("price_positive", "price <= 0")],
        time: None,
        arrival: None,
    },
    TableRules {
        table: "dim_date",
        unique: &[("date_key", 0.0)],
        critical: &["date_key", "full_date"],
        others: &[],
        ranges: &[],
        time: None,
        arrival: None,
    },
    TableRules {
        table: "fact_customer_activity",
        unique: &[("date_key, customer_id", 0.0)],
        critical: &["date_key", "customer_id", "revenue"],
        others: &[],
        ranges: &[("events_add_up", "events <> views + clicks + purchases"), ("revenue_not_negative", "revenue < 0")],
        time: None,
        arrival: None,
    },
    TableRules {
        table: "gold_daily_business_summary",
        unique: &[("date_key", 0.0)],
        critical: &["date_key", "events", "revenue"],
        others: &[],
        ranges: &[("late_within_events", "late_events > events"), ("conversion_not_negative", "conversion_rate < 0")],
        time: None,
        arrival: None,
    },
    TableRules {
        table: "gold_customer_analytics",
        unique: &[("customer_id", 0.0)],
        critical: &["customer_id", "customer_tier", "churn_score"],
        others: &[],
        ranges: &[("churn_0_to_1", "churn_score < 0 OR churn_score > 1")],
        time: None,
        arrival: None,
    },
];

pub(super) const REFERENCES: &[Reference] = &[
    Reference { table: "silver_user_events", column: "product_id", to: "silver_products", to_column: "product_id", critical: false },
    Reference { table: "fact_customer_activity", column: "date_key", to: "dim_date", to_column: "date_key", critical: true },
    Reference { table: "fact_operational_metrics", column: "date_key", to: "dim_date", to_column: "date_key", critical: true },
    Reference { table: "fact_customer_activity", column: "customer_id", to: "dim_customer", to_column: "customer_id", critical: true },
    Reference { table: "gold_product_performance", column: "product_key", to: "dim_product", to_column: "product_key", critical: true },
];

/// One current version for each customer at most; versions that do not overlap.
pub(super) const VERSIONS: &str = "SELECT count(*) AS n FROM (\
     SELECT is_current, valid_to, lead(valid_from) OVER (PARTITION BY customer_id ORDER BY version) AS next_from FROM dim_customer) AS v \
     WHERE next_from IS NOT NULL AND (is_current OR valid_to > next_from)";

/// Revenue of gold against the purchases of silver.
pub(super) const REVENUE: &str = "SELECT abs(g.revenue - s.revenue) / greatest(abs(s.revenue), 1.0) AS value FROM \
     (SELECT coalesce(sum(revenue), 0.0) AS revenue FROM gold_daily_business_summary) AS g CROSS JOIN \
     (SELECT coalesce(sum(value), 0.0) AS revenue FROM silver_user_events WHERE event_type = 'purchase') AS s";

/// The newest whole day against up to 14 before it, in standard deviations. No row with fewer than five days of history.
pub(super) const VOLUME: &str = "SELECT abs(l.events - h.mean) / greatest(h.deviation, 1.0) AS value FROM (\
     SELECT CAST(events AS DOUBLE) AS events, row_number() OVER (ORDER BY date_key DESC) AS place FROM gold_daily_business_summary) AS l \
     CROSS JOIN (SELECT avg(CAST(events AS DOUBLE)) AS mean, stddev(CAST(events AS DOUBLE)) AS deviation, count(*) AS n FROM (\
     SELECT events, row_number() OVER (ORDER BY date_key DESC) AS place FROM gold_daily_business_summary) AS d WHERE place BETWEEN 3 AND 16) AS h \
     WHERE l.place = 2 AND h.n >= 5";
