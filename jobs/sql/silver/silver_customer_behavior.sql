SELECT e.user_id AS customer_id,
       CASE WHEN e.events >= 20 THEN 'High' WHEN e.events >= 10 THEN 'Medium' ELSE 'Low' END AS engagement_level, s.avg_session_min,
       CAST(e.purchases AS DOUBLE) / e.days_active AS purchase_frequency, c.category AS preferred_category, e.first_activity
FROM (SELECT user_id, count(*) AS events, count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
             count(DISTINCT CAST(event_timestamp AS DATE)) AS days_active, min(event_timestamp) AS first_activity
      FROM silver_user_events GROUP BY user_id) e
LEFT JOIN (SELECT user_id, avg(session_duration_min) AS avg_session_min FROM silver_user_sessions GROUP BY user_id) s ON e.user_id = s.user_id
LEFT JOIN (SELECT user_id, category FROM (
             SELECT u.user_id, p.category_std AS category, row_number() OVER (PARTITION BY u.user_id ORDER BY count(*) DESC, p.category_std) AS place
             FROM silver_user_events u JOIN silver_product_performance p ON u.product_id = p.product_key GROUP BY u.user_id, p.category_std)
           WHERE place = 1) c ON e.user_id = c.user_id
