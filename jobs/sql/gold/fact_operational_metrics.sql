SELECT CAST(date_part('year', d) * 10000 + date_part('month', d) * 100 + date_part('day', d) AS INT) AS date_key, api_source, count(*) AS calls,
       count(*) FILTER (WHERE NOT success_flag) AS failures, avg(CASE WHEN success_flag THEN 1.0 ELSE 0.0 END) AS success_rate,
       avg(response_time_ms) AS avg_response_time_ms
FROM (SELECT CAST(call_timestamp AS DATE) AS d, api_source, success_flag, response_time_ms FROM silver_api_logs WHERE {days})
GROUP BY d, api_source
