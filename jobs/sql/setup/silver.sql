-- Cleansed, deduplicated copies of the bronze tables (one row per business key and event time), partitioned by the day of the event.
CREATE TABLE IF NOT EXISTS silver_user_events (
    event_id STRING NOT NULL, user_id STRING NOT NULL, event_type STRING NOT NULL, product_id STRING, session_id STRING, value DOUBLE,
    event_timestamp TIMESTAMP_LTZ NOT NULL, ingestion_timestamp TIMESTAMP_LTZ, delay_hours DOUBLE, late_data_category STRING,
    kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL, kafka_offset BIGINT NOT NULL
) PARTITIONED BY (days(event_timestamp)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730');

CREATE TABLE IF NOT EXISTS silver_products (
    product_id STRING NOT NULL, title STRING, price DOUBLE NOT NULL, category STRING, rating_score DOUBLE NOT NULL, rating_count BIGINT,
    ingestion_date TIMESTAMP_LTZ NOT NULL,
    kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL, kafka_offset BIGINT NOT NULL
) PARTITIONED BY (days(ingestion_date)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730');

CREATE TABLE IF NOT EXISTS silver_api_logs (
    log_id STRING NOT NULL, api_source STRING NOT NULL, response_time_ms DOUBLE NOT NULL, success_flag BOOLEAN,
    call_timestamp TIMESTAMP_LTZ NOT NULL,
    kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL, kafka_offset BIGINT NOT NULL
) PARTITIONED BY (days(call_timestamp)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730');

CREATE TABLE IF NOT EXISTS silver_user_posts (
    post_id STRING NOT NULL, user_id STRING NOT NULL, title STRING NOT NULL, created_timestamp TIMESTAMP_LTZ NOT NULL,
    ingestion_timestamp TIMESTAMP_LTZ,
    kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL, kafka_offset BIGINT NOT NULL
) PARTITIONED BY (days(created_timestamp)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730');

CREATE TABLE IF NOT EXISTS silver_weather_data (
    location_id STRING NOT NULL, weather_condition STRING, temperature DOUBLE, wind_speed DOUBLE, data_delay_hours DOUBLE,
    observation_time TIMESTAMP_LTZ NOT NULL, ingestion_timestamp TIMESTAMP_LTZ, temperature_category STRING,
    kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL, kafka_offset BIGINT NOT NULL
) PARTITIONED BY (days(observation_time)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730');

-- A row that breaks a rule, and one that repeats another: neither is lost, each is traceable to its source position.
CREATE TABLE IF NOT EXISTS silver_quarantine (
    source_table STRING NOT NULL, rule STRING NOT NULL, business_key STRING, event_time TIMESTAMP_LTZ,
    kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL, kafka_offset BIGINT NOT NULL
) PARTITIONED BY (source_table) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730');

CREATE TABLE IF NOT EXISTS silver_duplicates (
    source_table STRING NOT NULL, business_key STRING, event_time TIMESTAMP_LTZ,
    kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL, kafka_offset BIGINT NOT NULL
) PARTITIONED BY (source_table) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730');

-- Derived from the silver copies.
CREATE TABLE IF NOT EXISTS silver_user_sessions (
    session_id STRING NOT NULL, user_id STRING NOT NULL, session_duration_min DOUBLE, total_events BIGINT, conversion_flag BOOLEAN,
    session_start TIMESTAMP_LTZ
) PARTITIONED BY (days(session_start)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730');

CREATE TABLE IF NOT EXISTS silver_customer_behavior (
    customer_id STRING NOT NULL, engagement_level STRING, avg_session_min DOUBLE, purchase_frequency DOUBLE, preferred_category STRING,
    first_activity TIMESTAMP_LTZ
) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730');

CREATE TABLE IF NOT EXISTS silver_product_performance (
    product_key STRING NOT NULL, product_name STRING, price_tier STRING, category_std STRING, popularity_score BIGINT, quality_rating STRING,
    last_updated TIMESTAMP_LTZ
) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730');

CREATE TABLE IF NOT EXISTS silver_api_performance (
    api_source STRING NOT NULL, calls BIGINT, success_rate DOUBLE, avg_response_time_ms DOUBLE, p95_response_time_ms DOUBLE,
    performance_grade STRING, last_call TIMESTAMP_LTZ
) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730');

CREATE TABLE IF NOT EXISTS silver_weather_impact (
    location_id STRING NOT NULL, observation_date DATE, weather_condition STRING, avg_temperature DOUBLE, temperature_category STRING,
    avg_wind_speed DOUBLE, observations BIGINT
) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '730')
