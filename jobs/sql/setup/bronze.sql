-- Views of the stream by lateness, derived from bronze_user_events by late_data_handler. They count in no sum.
CREATE TABLE IF NOT EXISTS bronze_streaming_events (
    event_id STRING NOT NULL, user_id STRING, event_type STRING, product_id STRING, session_id STRING, event_timestamp TIMESTAMP_LTZ NOT NULL,
    value DOUBLE, processing_timestamp TIMESTAMP_LTZ, ingestion_timestamp TIMESTAMP_LTZ, source_system STRING,
    kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL, kafka_offset BIGINT NOT NULL
) PARTITIONED BY (days(event_timestamp)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '90');

CREATE TABLE IF NOT EXISTS bronze_streaming_events_late (
    event_id STRING NOT NULL, user_id STRING, event_type STRING, product_id STRING, session_id STRING, event_timestamp TIMESTAMP_LTZ NOT NULL,
    value DOUBLE, processing_timestamp TIMESTAMP_LTZ, ingestion_timestamp TIMESTAMP_LTZ, source_system STRING,
    arrival_delay_hours DOUBLE, late_data_category STRING, late_data_score INT, requires_reprocessing BOOLEAN,
    kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL, kafka_offset BIGINT NOT NULL
) PARTITIONED BY (days(event_timestamp)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '90');

-- A change feed: each row inserts, updates or deletes a customer. The sequence orders the changes of one customer; NULL in an update means unchanged.
CREATE TABLE IF NOT EXISTS bronze_customer_changes (
    operation STRING NOT NULL, sequence BIGINT NOT NULL, customer_id STRING NOT NULL, customer_name STRING,
    geographic_region STRING, changed_at TIMESTAMP_LTZ NOT NULL,
    source_file STRING, source_row BIGINT, ingestion_run_id STRING
) PARTITIONED BY (days(changed_at)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '90');

-- Late data: what late_data_handler finds.
CREATE TABLE IF NOT EXISTS monitoring_rejected_late_data (
    kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL, kafka_offset BIGINT NOT NULL, business_key STRING,
    event_timestamp TIMESTAMP_LTZ NOT NULL, arrival_timestamp TIMESTAMP_LTZ, arrival_delay_hours DOUBLE, late_data_category STRING,
    late_data_score INT, watermark TIMESTAMP_LTZ, trigger_batch_id BIGINT, rejected_at TIMESTAMP_LTZ NOT NULL
) PARTITIONED BY (days(rejected_at)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.retention-days' = '90');

-- A request to rebuild one day of silver and gold; of one topic, or of all where it names none. `processed` once gold is rebuilt too.
CREATE TABLE IF NOT EXISTS reprocessing_queue (
    event_date DATE NOT NULL, trigger_batch_id BIGINT, trigger_timestamp TIMESTAMP_LTZ, reason STRING, processed BOOLEAN,
    kafka_topic STRING, late_rows BIGINT, silver_processed_at TIMESTAMP_LTZ, processed_at TIMESTAMP_LTZ
) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy');

CREATE TABLE IF NOT EXISTS late_data_alerts (
    alert_id STRING NOT NULL, alert_timestamp TIMESTAMP_LTZ NOT NULL, alert_type STRING NOT NULL, severity STRING NOT NULL, kafka_topic STRING,
    metric STRING, value DOUBLE, threshold DOUBLE, message STRING, trigger_batch_id BIGINT
) PARTITIONED BY (days(alert_timestamp)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy');

-- One row per batch of the handler, topic and partition.
CREATE TABLE IF NOT EXISTS monitoring_late_data_statistics (
    trigger_batch_id BIGINT NOT NULL, batch_timestamp TIMESTAMP_LTZ NOT NULL, kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL,
    start_offset BIGINT, end_offset BIGINT, rows BIGINT, on_time BIGINT, slightly_late BIGINT, late BIGINT, very_late BIGINT, too_late BIGINT,
    average_score DOUBLE, average_delay_s DOUBLE, max_delay_s DOUBLE, out_of_order BIGINT, max_out_of_order_s DOUBLE
) PARTITIONED BY (days(batch_timestamp)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy');

-- Where event time stands: one row per topic and partition. An idle partition does not hold back its topic.
CREATE TABLE IF NOT EXISTS monitoring_watermarks (
    kafka_topic STRING NOT NULL, kafka_partition INT NOT NULL, next_offset BIGINT NOT NULL, max_event_time TIMESTAMP_LTZ,
    last_arrival TIMESTAMP_LTZ, partition_watermark TIMESTAMP_LTZ, idle BOOLEAN NOT NULL, topic_watermark TIMESTAMP_LTZ
) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy');

-- Per topic and hour of arrival: log positions that the hour's batches covered against rows and dead letters that are there.
CREATE TABLE IF NOT EXISTS monitoring_completeness (
    kafka_topic STRING NOT NULL, arrival_hour TIMESTAMP_LTZ NOT NULL, expected BIGINT NOT NULL, arrived BIGINT NOT NULL,
    dead_letters BIGINT NOT NULL, missing BIGINT NOT NULL, completeness DOUBLE
) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy');

CREATE TABLE IF NOT EXISTS data_quality_report (
    table_name STRING NOT NULL, check_type STRING NOT NULL, metric STRING NOT NULL, value DOUBLE, status STRING NOT NULL,
    check_timestamp TIMESTAMP_LTZ NOT NULL, check_date DATE NOT NULL, threshold DOUBLE, severity STRING, message STRING, run_id STRING
) PARTITIONED BY (check_date) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy');

CREATE TABLE IF NOT EXISTS data_quality_alerts (
    alert_id STRING NOT NULL, alert_timestamp TIMESTAMP_LTZ NOT NULL, severity STRING NOT NULL, table_name STRING NOT NULL,
    check_type STRING NOT NULL, metric STRING NOT NULL, value DOUBLE, threshold DOUBLE, message STRING, run_id STRING
) PARTITIONED BY (days(alert_timestamp)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy');

-- Windows over event time: results, and the open windows that a restart goes on with.
CREATE TABLE IF NOT EXISTS windowed_user_events (
    query STRING NOT NULL, window_type STRING NOT NULL, window_key STRING NOT NULL, window_start TIMESTAMP_LTZ NOT NULL,
    window_end TIMESTAMP_LTZ NOT NULL, events BIGINT NOT NULL, views BIGINT NOT NULL, clicks BIGINT NOT NULL, purchases BIGINT NOT NULL,
    revenue DOUBLE NOT NULL, first_event TIMESTAMP_LTZ NOT NULL, last_event TIMESTAMP_LTZ NOT NULL, closed BOOLEAN NOT NULL
) PARTITIONED BY (query, closed, days(window_start)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy',
    'chainalytics.maintenance.enabled' = 'true', 'chainalytics.maintenance.delete-file-threshold' = '1');

CREATE TABLE IF NOT EXISTS window_state (
    query STRING NOT NULL, window_key STRING NOT NULL, window_start TIMESTAMP_LTZ NOT NULL, window_end TIMESTAMP_LTZ NOT NULL,
    events BIGINT NOT NULL, views BIGINT NOT NULL, clicks BIGINT NOT NULL, purchases BIGINT NOT NULL, revenue DOUBLE NOT NULL,
    first_event TIMESTAMP_LTZ NOT NULL, last_event TIMESTAMP_LTZ NOT NULL
) PARTITIONED BY (query, hours(window_end)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'format-version' = '3',
    'chainalytics.maintenance.enabled' = 'true');

-- Identities seen, as long as a repeat could still come in before the watermark.
CREATE TABLE IF NOT EXISTS window_seen_events (
    query STRING NOT NULL, event_id STRING NOT NULL, event_timestamp TIMESTAMP_LTZ NOT NULL
) PARTITIONED BY (query, days(event_timestamp)) TBLPROPERTIES ('write.parquet.compression-codec' = 'snappy', 'chainalytics.maintenance.enabled' = 'true')
