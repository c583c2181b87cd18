SELECT api_source, count(*) AS calls, avg(CASE WHEN success_flag THEN 1.0 ELSE 0.0 END) AS success_rate, avg(response_time_ms) AS avg_response_time_ms,
       approx_percentile_cont(0.95) WITHIN GROUP (ORDER BY response_time_ms) AS p95_response_time_ms,
       CASE WHEN avg(CASE WHEN success_flag THEN 1.0 ELSE 0.0 END) >= 0.9 THEN 'Good' ELSE 'Poor' END AS performance_grade, max(call_timestamp) AS last_call
FROM silver_api_logs GROUP BY api_source
