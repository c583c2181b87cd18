//! The platform's jobs on small, known inputs in one process: exact results, and the same again when a job is run again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use chainalytics_tests::{Place, Ran};
use serde_json::{Value, json};

const LOCAL: &[&str] = &["--master", "local[2]"];

/// A job on a data directory of its own.
struct Lake {
    place: Place,
}

impl Lake {
    fn new() -> Self {
        let lake = Self { place: Place::new() };
        for job in ["create_bronze_tables", "create_silver_tables", "create_gold_tables", "verify_table_creation"] {
            lake.job(job, &[]);
        }
        lake
    }

    fn run(&self, job: &str, args: &[&str]) -> Ran {
        let mut all = vec!["submit", job, "--master", "local[2]", "--output", "json", "--"];
        all.extend(args);
        self.place.run(&all)
    }

    /// Runs a job to its end; its report.
    fn job(&self, job: &str, args: &[&str]) -> Value {
        self.run(job, args).ok().last_json()["report"].clone()
    }

    fn sql(&self, statement: &str) -> Vec<Value> {
        self.place.sql(statement, LOCAL)
    }

    fn count(&self, what: &str) -> i64 {
        self.place.number(&format!("SELECT count(*) AS n FROM {what}"), LOCAL)
    }

    /// User events: id, user, type, value, event time, arrival, partition, offset.
    fn events(&self, rows: &[(&str, &str, &str, f64, &str, &str, i32, i64)]) {
        let values: Vec<String> = rows
            .iter()
            .map(|(id, user, kind, value, at, arrived, partition, offset)| {
                format!(
                    "('{id}', '{user}', '{kind}', 'p1', 's-{user}', {value}, TIMESTAMP '{at}', TIMESTAMP '{arrived}', 'user-events', {partition}, {offset}, \
                     TIMESTAMP '{arrived}', 0, 'test', TIMESTAMP '{arrived}')"
                )
            })
            .collect();
        self.sql(&format!("INSERT INTO bronze_user_events VALUES {}", values.join(", ")));
    }

    fn snapshots(&self, table: &str) -> i64 {
        self.count(&format!("{table}.snapshots"))
    }
}

/// Three users' events of two days: one repeated by its producer, one against a rule.
fn two_days(lake: &Lake) {
    lake.events(&[
        ("e1", "u1", "view", 0.0, "2026-01-01 10:00:00", "2026-01-01 10:00:01", 0, 0),
        ("e2", "u1", "purchase", 20.5, "2026-01-01 10:05:00", "2026-01-01 10:05:01", 0, 1),
        ("e1", "u1", "view", 0.0, "2026-01-01 10:00:00", "2026-01-01 10:06:00", 0, 2),
        ("e3", "u2", "purchase", 9.5, "2026-01-02 09:00:00", "2026-01-02 09:00:01", 1, 0),
        ("e4", "u3", "click", -1.0, "2026-01-02 09:30:00", "2026-01-02 09:30:01", 1, 1),
    ]);
}

#[test]
fn silver_works_on_new_rows_only_and_loses_none() {
    let lake = Lake::new();
    two_days(&lake);
    let first = lake.job("silver_transformation", &[]);
    assert_eq!(first["bronze_rows_read"]["bronze_user_events"], 5, "{first}");
    let counts = |lake: &Lake| [lake.count("silver_user_events"), lake.count("silver_quarantine"), lake.count("silver_duplicates")];
    assert_eq!(counts(&lake), [3, 1, 1]);
    let rule = lake.sql("SELECT rule, business_key, kafka_offset FROM silver_quarantine");
    assert_eq!(rule, [json!({"rule": "value_not_negative", "business_key": "e4", "kafka_offset": 1})]);

    // Nothing new: nothing read, nothing written, no commit.
    let before = lake.snapshots("silver_user_events");
    let again = lake.job("silver_transformation", &[]);
    assert_eq!(again["bronze_rows_read"]["bronze_user_events"], 0, "{again}");
    assert_eq!((counts(&lake), lake.snapshots("silver_user_events")), ([3, 1, 1], before));

    // Later rows: one new, a repeat of one that silver has, a new partition.
    lake.events(&[
        ("e5", "u2", "view", 0.0, "2026-01-02 11:00:00", "2026-01-02 11:00:01", 1, 2),
        ("e2", "u1", "purchase", 20.5, "2026-01-01 10:05:00", "2026-01-02 11:00:02", 0, 3),
        ("e6", "u4", "view", 0.0, "2026-01-03 11:00:00", "2026-01-03 11:00:01", 2, 7),
    ]);
    let third = lake.job("silver_transformation", &[]);
    assert_eq!(third["bronze_rows_read"]["bronze_user_events"], 3, "{third}");
    assert_eq!(counts(&lake), [5, 1, 2]);
    let sessions = lake.sql("SELECT session_id, total_events, conversion_flag, session_duration_min FROM silver_user_sessions WHERE user_id = 'u1'");
    assert_eq!(sessions, [json!({"session_id": "s-u1", "total_events": 2, "conversion_flag": true, "session_duration_min": 5.0})]);

    // From scratch comes the same.
    let full = lake.job("silver_transformation", &["--full"]);
    assert_eq!(full["bronze_rows_read"]["bronze_user_events"], 8, "{full}");
    assert_eq!(counts(&lake), [5, 1, 2]);
}

#[test]
fn every_topic_flows_to_gold() {
    let lake = Lake::new();
    two_days(&lake);
    let lineage =
        |topic: &str, offset: i64| format!("'{topic}', 0, {offset}, TIMESTAMP '2026-01-01 12:00:00', 0, 'test', TIMESTAMP '2026-01-01 12:00:00'");
    let at = "TIMESTAMP '2026-01-01 12:00:00'";
    lake.sql(&format!(
        "INSERT INTO bronze_products VALUES ('p1', 'Lamp', 30.0, 'home', 4.6, 10, {at}, {}), ('p2', 'Free', 0.0, 'Home', 4.0, 1, {at}, {}), \
         ('p3', 'Odd', 60.0, 'Toys', 5.5, 1, {at}, {})",
        lineage("products", 0),
        lineage("products", 1),
        lineage("products", 2)
    ));
    lake.sql(&format!(
        "INSERT INTO bronze_api_logs VALUES ('l1', 'auth-service', 100.0, true, {at}, {}), ('l2', 'auth-service', 300.0, false, {at}, {}), \
         ('l3', 'auth-service', 0.0, true, {at}, {})",
        lineage("api-logs", 0),
        lineage("api-logs", 1),
        lineage("api-logs", 2)
    ));
    lake.sql(&format!(
        "INSERT INTO bronze_user_posts VALUES ('po1', 'u1', ' Hello ', {at}, {at}, {}), ('po2', 'u1', ' ', {at}, {at}, {})",
        lineage("user-posts", 0),
        lineage("user-posts", 1)
    ));
    lake.sql(&format!("INSERT INTO bronze_weather_data VALUES ('NYC', 'Sunny', 9.5, 3.0, 0.0, {at}, {at}, {})", lineage("weather-data", 0)));
    lake.job("silver_transformation", &[]);
    lake.job("gold_aggregation", &[]);

    let rules = lake.sql("SELECT source_table, rule FROM silver_quarantine WHERE source_table <> 'bronze_user_events' ORDER BY 1, 2");
    let rule = |table: &str, rule: &str| json!({"source_table": table, "rule": rule});
    assert_eq!(
        rules,
        [
            rule("bronze_api_logs", "duration_positive"),
            rule("bronze_products", "price_positive"),
            rule("bronze_products", "rating_1_to_5"),
            rule("bronze_user_posts", "title_present")
        ]
    );
    assert_eq!(lake.sql("SELECT title FROM silver_user_posts"), [json!({"title": "Hello"})]);
    assert_eq!(lake.sql("SELECT temperature_category FROM silver_weather_data"), [json!({"temperature_category": "Cold"})]);
    let api = lake.sql("SELECT calls, failures, success_rate, avg_response_time_ms FROM fact_operational_metrics");
    assert_eq!(api, [json!({"calls": 2, "failures": 1, "success_rate": 0.5, "avg_response_time_ms": 200.0})]);
    assert_eq!(lake.sql("SELECT performance_grade FROM silver_api_performance"), [json!({"performance_grade": "Poor"})]);
    let product = lake.sql("SELECT product_key, price_tier, quality_rating FROM dim_product");
    assert_eq!(product, [json!({"product_key": "p1", "price_tier": "Budget", "quality_rating": "Excellent"})]);
    let days = lake.sql("SELECT date_key, events, purchases, revenue FROM gold_daily_business_summary ORDER BY date_key");
    assert_eq!(
        days,
        [
            json!({"date_key": 20_260_101, "events": 2, "purchases": 1, "revenue": 20.5}),
            json!({"date_key": 20_260_102, "events": 1, "purchases": 1, "revenue": 9.5})
        ]
    );
    let kpi = lake.sql("SELECT value FROM gold_executive_dashboard WHERE kpi = 'total_revenue'");
    assert_eq!(kpi, [json!({"value": 30.0})]);
    assert_eq!(lake.count("dim_date"), 2);
    let customers = lake.sql("SELECT customer_id, customer_segment, version, is_current FROM dim_customer ORDER BY customer_id");
    assert_eq!(customers.len(), 2, "{customers:?}");
    assert_eq!(customers[0], json!({"customer_id": "u1", "customer_segment": "Bronze", "version": 1, "is_current": true}));
    // What did not change is not built again.
    let again = lake.job("gold_aggregation", &[]);
    assert_eq!((&again["rows"], again["tables"]["dim_customer"].as_i64()), (&json!(0), Some(0)), "{again}");
}

#[test]
fn exactly_the_days_that_the_queue_names_are_rebuilt() {
    let lake = Lake::new();
    two_days(&lake);
    lake.job("silver_transformation", &[]);
    lake.job("gold_aggregation", &[]);
    // Both days are damaged in silver and gold; one is asked for.
    lake.sql("DELETE FROM silver_user_events");
    lake.sql("UPDATE gold_daily_business_summary SET revenue = -1.0 WHERE revenue > 0");
    lake.sql("INSERT INTO reprocessing_queue (event_date, trigger_batch_id, trigger_timestamp, reason, processed) VALUES (DATE '2026-01-01', 1, TIMESTAMP '2026-01-03 00:00:00', 'test', false)");
    let silver = lake.job("silver_transformation", &[]);
    assert_eq!((&silver["requests"], &silver["days_rebuilt"]["silver_user_events"]), (&json!(1), &json!(2)), "{silver}");
    assert_eq!(lake.count("silver_user_events WHERE event_timestamp < TIMESTAMP '2026-01-02 00:00:00'"), 2);
    assert_eq!(lake.count("silver_user_events WHERE event_timestamp >= TIMESTAMP '2026-01-02 00:00:00'"), 0);
    assert_eq!(lake.count("reprocessing_queue WHERE NOT processed"), 1, "gold has not had its turn");
    lake.job("gold_aggregation", &[]);
    let revenue = lake.sql("SELECT date_key, revenue FROM gold_daily_business_summary ORDER BY date_key");
    assert_eq!(revenue, [json!({"date_key": 20_260_101, "revenue": 20.5}), json!({"date_key": 20_260_102, "revenue": -1.0})]);
    assert_eq!(lake.count("reprocessing_queue WHERE processed AND processed_at IS NOT NULL"), 1);
    // Done is done.
    let again = lake.job("silver_transformation", &[]);
    assert_eq!(again["requests"], 0, "{again}");
    assert_eq!(lake.count("silver_quarantine") + lake.count("silver_duplicates"), 2);
}

#[test]
fn late_data_is_categorised_counted_and_requested_once() {
    let lake = Lake::new();
    lake.events(&[
        ("e1", "u1", "view", 0.0, "2026-01-05 10:00:00", "2026-01-05 10:00:30", 0, 0),
        ("e2", "u1", "view", 0.0, "2026-01-05 08:00:00", "2026-01-05 10:01:00", 0, 1),
        ("e3", "u1", "view", 0.0, "2026-01-04 22:00:00", "2026-01-05 10:02:00", 0, 2),
        // Offset 3 is a dead letter, 4 is nowhere.
        ("e4", "u1", "view", 0.0, "2026-01-03 22:00:00", "2026-01-05 10:03:00", 0, 5),
        ("e5", "u1", "view", 0.0, "2026-01-01 10:00:00", "2026-01-05 10:04:00", 0, 6),
        // Another partition, silent for two hours.
        ("e6", "u2", "view", 0.0, "2026-01-05 08:00:00", "2026-01-05 08:00:01", 1, 100),
    ]);
    lake.sql(
        "INSERT INTO bronze_dead_letters VALUES ('user-events', 0, 3, NULL, NULL, 'not_json', 'no JSON', NULL, TIMESTAMP '2026-01-05 10:02:30', 0, 'test', TIMESTAMP '2026-01-05 10:02:30')",
    );
    let now = ["--now", "2026-01-05T12:00:00Z", "--topics", "user-events"];
    let report = lake.job("late_data_handler", &now);
    let topic = &report["topics"]["user-events"];
    assert_eq!(
        (&topic["rows"], &topic["on_time"], &topic["late"], &topic["too_late"], &topic["missing"], &topic["days_requested"]),
        (&json!(6), &json!(2), &json!(3), &json!(1), &json!(1), &json!(2)),
        "{report}"
    );
    // Partition 1 is idle: the newest event of partition 0 less 48 hours.
    assert_eq!(topic["watermark"], "2026-01-03T10:00:00+00:00", "{report}");
    let late = lake.sql("SELECT event_id, late_data_category AS c, late_data_score AS s, requires_reprocessing AS r FROM bronze_streaming_events_late ORDER BY event_id");
    let row = |id: &str, c: &str, s: i64, r: bool| json!({"event_id": id, "c": c, "s": s, "r": r});
    assert_eq!(late, [row("e2", "Slightly Late", 90, false), row("e3", "Late", 75, true), row("e4", "Very Late", 50, true)]);
    assert_eq!(lake.count("bronze_streaming_events"), 2);
    let rejected = lake.sql("SELECT business_key, late_data_score, arrival_delay_hours > 96 AS d FROM monitoring_rejected_late_data");
    assert_eq!(rejected, [json!({"business_key": "e5", "late_data_score": 0, "d": true})]);
    let queue = lake.sql("SELECT CAST(event_date AS STRING) AS d, late_rows AS n, processed AS p FROM reprocessing_queue ORDER BY 1");
    assert_eq!(queue, [json!({"d": "2026-01-03", "n": 1, "p": false}), json!({"d": "2026-01-04", "n": 1, "p": false})]);
    let hours = lake.sql("SELECT date_part('hour', arrival_hour) AS h, expected AS e, arrived AS a, dead_letters AS d, missing AS m FROM monitoring_completeness ORDER BY arrival_hour");
    assert_eq!(hours.len(), 2, "{hours:?}");
    assert_eq!((&hours[0]["e"], &hours[0]["a"], &hours[0]["m"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!((&hours[1]["e"], &hours[1]["a"], &hours[1]["d"], &hours[1]["m"]), (&json!(7), &json!(5), &json!(1), &json!(1)));
    let statistics =
        lake.sql("SELECT out_of_order, max_out_of_order_s, very_late, average_score FROM monitoring_late_data_statistics WHERE kafka_partition = 0");
    assert_eq!(statistics, [json!({"out_of_order": 4, "max_out_of_order_s": 345_600.0, "very_late": 1, "average_score": 63.0})]);
    let alerts = lake.sql("SELECT alert_type FROM late_data_alerts ORDER BY 1");
    let kinds: Vec<&str> = alerts.iter().map(|a| a["alert_type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["AVERAGE_DELAY", "IDLE_PARTITION", "INCOMPLETE", "LATE_SHARE", "MAX_DELAY", "REPROCESSING_REQUESTED", "TOO_LATE"]);

    // Nothing new, nothing written.
    let before = lake.snapshots("monitoring_watermarks");
    assert_eq!(lake.job("late_data_handler", &now)["rows"], 0);
    assert_eq!((lake.snapshots("monitoring_watermarks"), lake.count("reprocessing_queue")), (before, 2));

    // More of the same hour: counts go on where they were, and an event before the last batch's newest is out of order.
    lake.events(&[("e7", "u1", "view", 0.0, "2026-01-05 09:59:00", "2026-01-05 10:30:00", 0, 7)]);
    assert_eq!(lake.job("late_data_handler", &now)["rows"], 1);
    let hour = lake.sql("SELECT expected AS e, arrived AS a, missing AS m FROM monitoring_completeness ORDER BY arrival_hour DESC LIMIT 1");
    assert_eq!(hour, [json!({"e": 8, "a": 6, "m": 1})]);
    assert_eq!(lake.place.number("SELECT out_of_order FROM monitoring_late_data_statistics WHERE trigger_batch_id = 2", LOCAL), 1);

    // Every topic has its turn.
    lake.sql(
        "INSERT INTO bronze_products VALUES ('p1', 'Lamp', 30.0, 'home', 4.6, 10, TIMESTAMP '2026-01-05 09:00:00', 'products', 0, 0, TIMESTAMP '2026-01-05 11:00:00', 0, 'test', TIMESTAMP '2026-01-05 11:00:00')",
    );
    let all = lake.job("late_data_handler", &["--now", "2026-01-05T12:00:00Z"]);
    assert_eq!((&all["rows"], &all["topics"]["products"]["late"]), (&json!(1), &json!(1)), "{all}");
    assert_eq!(all["topics"].as_object().unwrap().len(), 5);

    // The batch jobs obey the queue.
    lake.job("silver_transformation", &[]);
    lake.job("gold_aggregation", &[]);
    assert_eq!(lake.count("reprocessing_queue WHERE processed"), 2);
    assert_eq!(lake.count("silver_user_events"), 7);
}

#[test]
fn customer_history_has_a_version_per_change() {
    let lake = Lake::new();
    two_days(&lake);
    lake.job("silver_transformation", &[]);
    lake.job("gold_aggregation", &[]);
    let change = |rows: &str| {
        lake.sql(&format!(
            "INSERT INTO bronze_customer_changes (operation, sequence, customer_id, customer_name, geographic_region, changed_at) VALUES {rows}"
        ))
    };
    change(
        "('insert', 1, 'u1', 'Ann', 'North', TIMESTAMP '2026-01-03 00:00:00'), ('update', 2, 'u1', NULL, 'South', TIMESTAMP '2026-01-04 00:00:00'), \
         ('update', 3, 'u1', NULL, 'South', TIMESTAMP '2026-01-05 00:00:00'), ('insert', 1, 'u9', 'Zoe', 'West', TIMESTAMP '2026-01-01 00:00:00')",
    );
    let report = lake.job("scd_customer", &[]);
    assert_eq!(report, json!({"versions_opened": 3, "versions_closed": 1}));
    let versions = "SELECT customer_id AS c, version AS v, customer_name AS n, geographic_region AS r, customer_segment AS s, is_current AS cur, \
                    CAST(CAST(valid_to AS DATE) AS STRING) AS until FROM dim_customer WHERE customer_id IN ('u1', 'u9') ORDER BY 1, 2";
    let expected = vec![
        json!({"c": "u1", "v": 1, "n": null, "r": null, "s": "Bronze", "cur": false, "until": "2026-01-03"}),
        json!({"c": "u1", "v": 2, "n": "Ann", "r": "North", "s": "Bronze", "cur": false, "until": "2026-01-04"}),
        json!({"c": "u1", "v": 3, "n": "Ann", "r": "South", "s": "Bronze", "cur": true, "until": null}),
        json!({"c": "u9", "v": 1, "n": "Zoe", "r": "West", "s": null, "cur": true, "until": null}),
    ];
    assert_eq!(lake.sql(versions), expected);
    // No change, no version.
    assert_eq!(lake.job("scd_customer", &[]), json!({"versions_opened": 0, "versions_closed": 0}));
    assert_eq!(lake.sql(versions), expected);
    // A deletion closes; behaviour alone does not bring the customer back.
    change("('delete', 4, 'u1', NULL, NULL, TIMESTAMP '2026-01-06 00:00:00')");
    assert_eq!(lake.job("scd_customer", &[]), json!({"versions_opened": 0, "versions_closed": 1}));
    assert_eq!(lake.count("dim_customer WHERE customer_id = 'u1' AND is_current"), 0);
    assert_eq!(lake.job("scd_customer", &[]), json!({"versions_opened": 0, "versions_closed": 0}));
    let keys = lake.sql("SELECT count(*) AS n, count(DISTINCT customer_key) AS d FROM dim_customer");
    assert_eq!(keys[0]["n"], keys[0]["d"]);
    change("('upsert', 5, 'u1', NULL, NULL, TIMESTAMP '2026-01-07 00:00:00')");
    let refused = lake.run("scd_customer", &[]);
    assert!(refused.code != 0 && refused.stderr.contains("upsert"), "{}", refused.stderr);
}

#[test]
fn quality_checks_fail_the_run_when_something_critical_is_wrong() {
    let lake = Lake::new();
    two_days(&lake);
    lake.job("silver_transformation", &[]);
    lake.job("gold_aggregation", &[]);
    let now = ["--now", "2026-01-02T10:00:00Z"];
    let report = lake.job("quality_checks", &now);
    assert_eq!(report["critical"], json!([]), "{report}");
    assert!(report["checks"].as_i64().unwrap() > 100, "{report}");
    assert_eq!(lake.count("data_quality_report WHERE status = 'FAIL'"), 0);
    // The generator's repeat is above 0.1 %: told, not failed.
    assert_eq!(lake.count("data_quality_report WHERE table_name = 'bronze_user_events' AND check_type = 'uniqueness' AND status = 'WARN'"), 1);

    lake.sql("DELETE FROM silver_user_events WHERE event_id = 'e3'");
    lake.sql("UPDATE gold_customer_analytics SET churn_score = 2.0 WHERE customer_id = 'u1'");
    let failed = lake.run("quality_checks", &now);
    assert_ne!(failed.code, 0, "{}", failed.stdout);
    assert!(failed.stderr.contains("CA-QUALITY-FAILED") && failed.stderr.contains("bronze_rows_unaccounted"), "{}", failed.stderr);
    let alerts = lake.sql("SELECT table_name, metric FROM data_quality_alerts WHERE severity = 'critical' ORDER BY 1, 2");
    let alert = |table: &str, metric: &str| json!({"table_name": table, "metric": metric});
    assert_eq!(
        alerts,
        [
            alert("gold_customer_analytics", "churn_0_to_1"),
            alert("gold_daily_business_summary", "revenue_difference"),
            alert("silver_user_events", "bronze_rows_unaccounted")
        ]
    );
    lake.run("quality_checks", &["--now", "2026-01-02T10:00:00Z", "--fail-on", "never"]).ok();
    // An event from the future is critical.
    let future = lake.run("quality_checks", &["--now", "2026-01-01T00:00:00Z", "--tables", "bronze_user_events"]);
    assert!(future.stderr.contains("future_events"), "{}", future.stderr);
    assert_eq!(lake.run("quality_checks", &["--tables", "no_such_table"]).code, 2);
}

#[test]
fn windows_close_behind_the_watermark_and_count_each_event_once() {
    let lake = Lake::new();
    let args = ["--type", "tumbling", "--size", "10m", "--watermark", "5m", "--key", "all", "--query", "t"];
    lake.events(&[
        ("e1", "u1", "view", 0.0, "2026-01-01 10:01:00", "2026-01-01 10:01:00", 0, 0),
        ("e2", "u1", "purchase", 5.0, "2026-01-01 10:09:59", "2026-01-01 10:10:00", 0, 1),
        ("e2", "u1", "purchase", 5.0, "2026-01-01 10:09:59", "2026-01-01 10:10:01", 0, 2),
        ("e3", "u1", "view", 0.0, "2026-01-01 10:12:00", "2026-01-01 10:12:00", 0, 3),
    ]);
    let first = lake.job("window_aggregation", &args);
    assert_eq!(
        (&first["input_rows"], &first["duplicates"], &first["windows_closed"], &first["windows_open"]),
        (&json!(4), &json!(1), &json!(0), &json!(2)),
        "{first}"
    );
    assert_eq!(lake.count("windowed_user_events"), 0, "10:12 less five minutes has not passed 10:10");
    // A repeat of the first run's event, one that is in time for the open window, and one that closes it.
    lake.events(&[
        ("e1", "u1", "view", 0.0, "2026-01-01 10:01:00", "2026-01-01 10:13:00", 0, 4),
        ("e4", "u2", "click", 0.0, "2026-01-01 10:08:00", "2026-01-01 10:13:30", 0, 5),
        ("e5", "u2", "view", 0.0, "2026-01-01 10:16:00", "2026-01-01 10:16:00", 0, 6),
    ]);
    let second = lake.job("window_aggregation", &args);
    assert_eq!((&second["duplicates"], &second["windows_closed"], &second["windows_open"]), (&json!(1), &json!(1), &json!(1)), "{second}");
    let result = "SELECT CAST(window_start AS STRING) AS s, CAST(window_end AS STRING) AS e, events AS n, views AS v, clicks AS c, purchases AS p, revenue AS r FROM windowed_user_events ORDER BY window_start";
    let window = json!({"s": "2026-01-01T10:00:00Z", "e": "2026-01-01T10:10:00Z", "n": 3, "v": 1, "c": 1, "p": 1, "r": 5.0});
    assert_eq!(lake.sql(result), [window.clone()]);
    // Too late for that window: dropped. It does not come out again.
    lake.events(&[("e6", "u3", "view", 0.0, "2026-01-01 10:05:00", "2026-01-01 10:17:00", 0, 7)]);
    let third = lake.job("window_aggregation", &args);
    assert_eq!((&third["late_rows_dropped"], &third["windows_closed"]), (&json!(1), &json!(0)), "{third}");
    let before = lake.snapshots("window_state");
    assert_eq!(lake.job("window_aggregation", &args)["input_rows"], 0);
    assert_eq!((lake.sql(result), lake.snapshots("window_state")), (vec![window], before));
    // The name belongs to this definition.
    let other = lake.run("window_aggregation", &["--type", "session", "--query", "t"]);
    assert!(other.code == 2 && other.stderr.contains("other windows"), "{}", other.stderr);
}

#[test]
fn sessions_grow_join_and_end() {
    let lake = Lake::new();
    let args = ["--type", "session", "--gap", "5m", "--watermark", "10m", "--output", "update", "--query", "s"];
    lake.events(&[
        ("a1", "u1", "view", 0.0, "2026-01-01 10:00:00", "2026-01-01 10:00:00", 0, 0),
        ("a2", "u1", "view", 0.0, "2026-01-01 10:08:00", "2026-01-01 10:08:00", 0, 1),
        ("b1", "u2", "view", 0.0, "2026-01-01 10:08:30", "2026-01-01 10:08:30", 0, 2),
    ]);
    lake.job("window_aggregation", &args);
    let result = "SELECT window_key AS k, CAST(window_start AS STRING) AS s, CAST(window_end AS STRING) AS e, events AS n, closed AS c FROM windowed_user_events ORDER BY 1, 2";
    let session = |k: &str, s: &str, e: &str, n: i64, c: bool| json!({"k": k, "s": format!("2026-01-01T{s}Z"), "e": format!("2026-01-01T{e}Z"), "n": n, "c": c});
    assert_eq!(
        lake.sql(result),
        [
            session("u1", "10:00:00", "10:05:00", 1, false),
            session("u1", "10:08:00", "10:13:00", 1, false),
            session("u2", "10:08:30", "10:13:30", 1, false)
        ]
    );
    // An event in between joins the two; nothing of what was told before is left.
    lake.events(&[("a3", "u1", "purchase", 1.0, "2026-01-01 10:04:00", "2026-01-01 10:09:00", 0, 3)]);
    lake.job("window_aggregation", &args);
    assert_eq!(lake.sql(result), [session("u1", "10:00:00", "10:13:00", 3, false), session("u2", "10:08:30", "10:13:30", 1, false)]);
    // Time goes on: u1's session has ended, u2's goes on with the event that moved it.
    lake.events(&[
        ("b2", "u2", "view", 0.0, "2026-01-01 10:12:00", "2026-01-01 10:12:00", 0, 4),
        ("c1", "u3", "view", 0.0, "2026-01-01 10:24:00", "2026-01-01 10:24:00", 0, 5),
    ]);
    let report = lake.job("window_aggregation", &args);
    assert_eq!((&report["windows_closed"], &report["windows_open"]), (&json!(1), &json!(2)), "{report}");
    assert_eq!(
        lake.sql(result),
        [
            session("u1", "10:00:00", "10:13:00", 3, true),
            session("u2", "10:08:30", "10:17:00", 2, false),
            session("u3", "10:24:00", "10:29:00", 1, false)
        ]
    );
    assert_eq!(lake.count("window_state"), 2);
}

#[test]
fn sliding_windows_overlap() {
    let lake = Lake::new();
    lake.events(&[
        ("e1", "u1", "view", 0.0, "2026-01-01 10:07:00", "2026-01-01 10:07:00", 0, 0),
        ("e2", "u1", "view", 0.0, "2026-01-01 12:00:00", "2026-01-01 12:00:00", 0, 1),
    ]);
    let report = lake.job("window_aggregation", &["--type", "sliding", "--size", "10m", "--slide", "5m", "--watermark", "0s"]);
    assert_eq!((&report["input_rows"], &report["windows_closed"], &report["windows_open"]), (&json!(2), &json!(2), &json!(2)), "{report}");
    let starts = lake.sql("SELECT CAST(window_start AS STRING) AS s, events AS n FROM windowed_user_events ORDER BY 1");
    let window = |s: &str| json!({"s": format!("2026-01-01T{s}Z"), "n": 1});
    assert_eq!(starts, [window("10:00:00"), window("10:05:00")]);
}

#[test]
fn files_join_a_topics_table_once() {
    let lake = Lake::new();
    let file = lake.place.path().join("products.csv");
    std::fs::write(&file, "product_id,title,price,category,rating_score,rating_count,ingestion_date\np1,Lamp,30.5,Home,4.5,10,2026-01-01T00:00:00Z\np2,Book,12,Books,4,3,2026-01-01T00:00:00Z\n").unwrap();
    let path = file.to_string_lossy().into_owned();
    let args = ["--path", path.as_str(), "--table", "bronze_products"];
    assert_eq!(lake.job("bronze_ingestion", &args)["rows"], 2);
    assert_eq!(lake.job("bronze_ingestion", &args)["files_skipped"], 1);
    let positions = lake.sql("SELECT kafka_topic AS t, kafka_offset AS o, price AS p FROM bronze_products ORDER BY 2");
    assert_eq!(positions, [json!({"t": "file:products.csv", "o": 0, "p": 30.5}), json!({"t": "file:products.csv", "o": 1, "p": 12.0})]);
    lake.job("silver_transformation", &[]);
    assert_eq!(lake.count("silver_products"), 2);
    assert_eq!(lake.job("silver_transformation", &[])["bronze_rows_read"]["bronze_products"], 0);
}

#[test]
fn bronze_forgets_before_silver_does() {
    let lake = Lake::new();
    lake.events(&[
        ("e1", "u1", "view", 0.0, "2025-01-01 10:00:00", "2025-01-01 10:00:01", 0, 0),
        ("e2", "u1", "view", 0.0, "2026-01-01 10:00:00", "2026-01-01 10:00:01", 0, 1),
    ]);
    lake.job("silver_transformation", &[]);
    let now = ["--now", "2026-01-02T00:00:00Z"];
    let dry = lake.job("apply_retention", &["--now", "2026-01-02T00:00:00Z", "--dry-run"]);
    assert_eq!((&dry["deleted"], lake.count("bronze_user_events")), (&json!({"bronze_user_events": 1}), 2), "{dry}");
    assert_eq!(lake.job("apply_retention", &now)["rows"], 1);
    assert_eq!((lake.count("bronze_user_events"), lake.count("silver_user_events")), (1, 2));
    // Building silver from what is left keeps what bronze has forgotten.
    lake.job("silver_transformation", &["--full"]);
    assert_eq!(lake.count("silver_user_events"), 2);
    assert_eq!(lake.job("apply_retention", &now)["rows"], 0);
}

#[test]
fn every_job_tells_its_arguments() {
    let place = Place::new();
    let jobs = place.run(&["jobs", "--output", "json"]).ok().rows();
    let names: Vec<&str> = jobs.iter().map(|job| job["job"].as_str().unwrap()).filter(|name| *name != "sql").collect();
    for name in ["late_data_handler", "quality_checks", "scd_customer", "window_aggregation", "silver_transformation"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for name in names {
        let help = place.run(&["submit", name, "--master", "local", "--", "--help"]).ok();
        assert!(help.stdout.contains("Usage"), "{name}: {}", help.stdout);
    }
}
