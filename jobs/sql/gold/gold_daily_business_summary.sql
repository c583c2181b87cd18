SELECT CAST(date_part('year', d) * 10000 + date_part('month', d) * 100 + date_part('day', d) AS INT) AS date_key, d AS full_date, count(*) AS events,
       count(DISTINCT user_id) AS active_customers, count(DISTINCT session_id) AS sessions,
       count(*) FILTER (WHERE event_type = 'view') AS views, count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
       CASE WHEN count(*) FILTER (WHERE event_type = 'view') > 0
            THEN CAST(count(*) FILTER (WHERE event_type = 'purchase') AS DOUBLE) / count(*) FILTER (WHERE event_type = 'view') END AS conversion_rate,
       coalesce(sum(value) FILTER (WHERE event_type = 'purchase'), 0.0) AS revenue,
       avg(value) FILTER (WHERE event_type = 'purchase') AS avg_order_value,
       count(*) FILTER (WHERE late_data_category <> 'On-time') AS late_events
FROM (SELECT CAST(event_timestamp AS DATE) AS d, user_id, session_id, event_type, value, late_data_category FROM silver_user_events WHERE {days})
GROUP BY d
