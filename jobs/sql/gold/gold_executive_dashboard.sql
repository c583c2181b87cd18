WITH k AS (
    SELECT CAST(count(*) AS DOUBLE) AS events, CAST(count(DISTINCT user_id) AS DOUBLE) AS customers,
           CAST(count(DISTINCT session_id) AS DOUBLE) AS sessions,
           CAST(count(*) FILTER (WHERE event_type = 'view') AS DOUBLE) AS views,
           CAST(count(*) FILTER (WHERE event_type = 'purchase') AS DOUBLE) AS purchases,
           coalesce(sum(value) FILTER (WHERE event_type = 'purchase'), 0.0) AS revenue,
           CAST(count(*) FILTER (WHERE late_data_category <> 'On-time') AS DOUBLE) AS late, max(event_timestamp) AS as_of
    FROM silver_user_events)
SELECT 'total_revenue' AS kpi, revenue AS value, 'currency' AS unit, as_of FROM k
UNION ALL SELECT 'events', events, 'count', as_of FROM k
UNION ALL SELECT 'active_customers', customers, 'count', as_of FROM k
UNION ALL SELECT 'sessions', sessions, 'count', as_of FROM k
UNION ALL SELECT 'purchases', purchases, 'count', as_of FROM k
UNION ALL SELECT 'conversion_rate', CASE WHEN views > 0 THEN purchases / views END, 'ratio', as_of FROM k
UNION ALL SELECT 'revenue_per_customer', CASE WHEN customers > 0 THEN revenue / customers END, 'currency', as_of FROM k
UNION ALL SELECT 'late_share', CASE WHEN events > 0 THEN late / events END, 'ratio', as_of FROM k
