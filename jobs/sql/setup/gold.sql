-- Dimensional model.
CREATE TABLE IF NOT EXISTS dim_date (
    date_key INT NOT NULL, full_date DATE NOT NULL, year INT, quarter INT, month INT, day INT, day_of_week INT, is_weekend BOOLEAN
) TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'chainalytics.retention-days' = '2555');

CREATE TABLE IF NOT EXISTS dim_product (
    product_key STRING NOT NULL, product_name STRING, category STRING, price DOUBLE, price_tier STRING, rating_score DOUBLE,
    quality_rating STRING, last_updated TIMESTAMP_LTZ
) TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'chainalytics.retention-days' = '2555');

CREATE TABLE IF NOT EXISTS dim_customer (
    customer_key BIGINT NOT NULL, customer_id STRING NOT NULL, customer_name STRING, customer_segment STRING, purchase_behavior STRING,
    geographic_region STRING, lifecycle_stage STRING, valid_from TIMESTAMP_LTZ NOT NULL, valid_to TIMESTAMP_LTZ, is_current BOOLEAN NOT NULL,
    version INT NOT NULL, source_sequence BIGINT
) PARTITIONED BY (is_current) TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'chainalytics.retention-days' = '2555');

CREATE TABLE IF NOT EXISTS fact_customer_activity (
    date_key INT NOT NULL, customer_id STRING NOT NULL, events BIGINT, sessions BIGINT, views BIGINT, clicks BIGINT, purchases BIGINT,
    revenue DOUBLE
) PARTITIONED BY (date_key) TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'chainalytics.retention-days' = '2555');

CREATE TABLE IF NOT EXISTS fact_operational_metrics (
    date_key INT NOT NULL, api_source STRING NOT NULL, calls BIGINT, failures BIGINT, success_rate DOUBLE, avg_response_time_ms DOUBLE
) PARTITIONED BY (date_key) TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'chainalytics.retention-days' = '2555');

-- Business tables.
CREATE TABLE IF NOT EXISTS gold_customer_analytics (
    customer_id STRING NOT NULL, total_events BIGINT, total_sessions BIGINT, purchases BIGINT, revenue DOUBLE, customer_tier STRING,
    first_activity TIMESTAMP_LTZ, last_activity TIMESTAMP_LTZ, days_since_last_event INT, churn_score DOUBLE
) TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'chainalytics.retention-days' = '2555');

CREATE TABLE IF NOT EXISTS gold_product_performance (
    product_key STRING NOT NULL, product_name STRING, category STRING, price_tier STRING, quality_rating STRING, views BIGINT, clicks BIGINT,
    purchases BIGINT, conversion_rate DOUBLE, revenue DOUBLE, revenue_rank BIGINT
) TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'chainalytics.retention-days' = '2555');

CREATE TABLE IF NOT EXISTS gold_daily_business_summary (
    date_key INT NOT NULL, full_date DATE, events BIGINT, active_customers BIGINT, sessions BIGINT, views BIGINT, purchases BIGINT,
    conversion_rate DOUBLE, revenue DOUBLE, avg_order_value DOUBLE, late_events BIGINT
) TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'chainalytics.retention-days' = '2555');

CREATE TABLE IF NOT EXISTS gold_executive_dashboard (
    kpi STRING NOT NULL, value DOUBLE, unit STRING, as_of TIMESTAMP_LTZ
) TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'chainalytics.retention-days' = '2555');

CREATE TABLE IF NOT EXISTS gold_weather_correlation (
    source STRING NOT NULL, metric STRING NOT NULL, weather_factor STRING NOT NULL, observations BIGINT, correlation DOUBLE,
    avg_metric DOUBLE, avg_factor DOUBLE
) TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'chainalytics.retention-days' = '2555');

CREATE TABLE IF NOT EXISTS gold_customer_conversion_features (
    customer_id STRING NOT NULL, sessions BIGINT, converting_sessions BIGINT, session_conversion_rate DOUBLE, avg_events_per_session DOUBLE,
    avg_session_min DOUBLE, view_to_purchase_rate DOUBLE, distinct_products BIGINT, days_active BIGINT
) TBLPROPERTIES ('write.parquet.compression-codec' = 'zstd', 'chainalytics.retention-days' = '2555')
