SELECT CAST(date_part('year', d) * 10000 + date_part('month', d) * 100 + date_part('day', d) AS INT) AS date_key, user_id AS customer_id,
       count(*) AS events, count(DISTINCT session_id) AS sessions,
       count(*) FILTER (WHERE event_type = 'view') AS views, count(*) FILTER (WHERE event_type = 'click') AS clicks,
       count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
       coalesce(sum(value) FILTER (WHERE event_type = 'purchase'), 0.0) AS revenue
FROM (SELECT CAST(event_timestamp AS DATE) AS d, user_id, session_id, event_type, value FROM silver_user_events WHERE {days})
GROUP BY d, user_id
