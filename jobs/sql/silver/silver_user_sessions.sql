SELECT session_id, user_id, CAST(date_part('epoch', max(event_timestamp)) - date_part('epoch', min(event_timestamp)) AS DOUBLE) / 60.0 AS session_duration_min,
       count(*) AS total_events, count(*) FILTER (WHERE event_type = 'purchase') > 0 AS conversion_flag, min(event_timestamp) AS session_start
FROM silver_user_events WHERE session_id IS NOT NULL GROUP BY session_id, user_id
