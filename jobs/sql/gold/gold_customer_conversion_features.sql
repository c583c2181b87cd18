SELECT s.user_id AS customer_id, s.sessions, s.converting_sessions, CAST(s.converting_sessions AS DOUBLE) / s.sessions AS session_conversion_rate,
       s.avg_events_per_session, s.avg_session_min,
       CASE WHEN e.views > 0 THEN CAST(e.purchases AS DOUBLE) / e.views END AS view_to_purchase_rate, e.distinct_products, e.days_active
FROM (SELECT user_id, count(*) AS sessions, count(*) FILTER (WHERE conversion_flag) AS converting_sessions,
             avg(CAST(total_events AS DOUBLE)) AS avg_events_per_session, avg(session_duration_min) AS avg_session_min
      FROM silver_user_sessions GROUP BY user_id) s
JOIN (SELECT user_id, count(*) FILTER (WHERE event_type = 'view') AS views, count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
             count(DISTINCT product_id) AS distinct_products, count(DISTINCT CAST(event_timestamp AS DATE)) AS days_active
      FROM silver_user_events GROUP BY user_id) e ON s.user_id = e.user_id
