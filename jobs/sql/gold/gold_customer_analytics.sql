-- Churn: 0 for activity at the newest event of all, rising to 1 over 30 days without any.
SELECT c.user_id AS customer_id, c.total_events, c.total_sessions, c.purchases, c.revenue,
       CASE WHEN c.total_events >= 20 THEN 'Gold' WHEN c.total_events >= 10 THEN 'Silver' ELSE 'Bronze' END AS customer_tier,
       c.first_activity, c.last_activity,
       CAST(date_diff(n.newest, c.last_activity) AS INT) AS days_since_last_event,
       least(1.0, CAST(date_diff(n.newest, c.last_activity) AS DOUBLE) / 30.0) AS churn_score
FROM (SELECT user_id, count(*) AS total_events, count(DISTINCT session_id) AS total_sessions,
             count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
             coalesce(sum(value) FILTER (WHERE event_type = 'purchase'), 0.0) AS revenue,
             min(event_timestamp) AS first_activity, max(event_timestamp) AS last_activity
      FROM silver_user_events GROUP BY user_id) c
CROSS JOIN (SELECT max(event_timestamp) AS newest FROM silver_user_events) n
