SELECT v.kpi,
       CASE v.kpi WHEN 'total_revenue' THEN k.revenue WHEN 'events' THEN k.events WHEN 'active_customers' THEN k.customers
                  WHEN 'sessions' THEN k.sessions WHEN 'purchases' THEN k.purchases
                  WHEN 'conversion_rate' THEN CASE WHEN k.views > 0 THEN k.purchases / k.views END
                  WHEN 'revenue_per_customer' THEN CASE WHEN k.customers > 0 THEN k.revenue / k.customers END
                  WHEN 'late_share' THEN CASE WHEN k.events > 0 THEN k.late / k.events END END AS value,
       v.unit, k.as_of
FROM (SELECT CAST(count(*) AS DOUBLE) AS events, CAST(count(DISTINCT user_id) AS DOUBLE) AS customers,
             CAST(count(DISTINCT session_id) AS DOUBLE) AS sessions,
             CAST(count(*) FILTER (WHERE event_type = 'view') AS DOUBLE) AS views,
             CAST(count(*) FILTER (WHERE event_type = 'purchase') AS DOUBLE) AS purchases,
             coalesce(sum(value) FILTER (WHERE event_type = 'purchase'), 0.0) AS revenue,
             CAST(count(*) FILTER (WHERE late_data_category <> 'On-time') AS DOUBLE) AS late, max(event_timestamp) AS as_of
      FROM silver_user_events) k
CROSS JOIN (VALUES ('total_revenue', 'currency'), ('events', 'count'), ('active_customers', 'count'), ('sessions', 'count'), ('purchases', 'count'),
                   ('conversion_rate', 'ratio'), ('revenue_per_customer', 'currency'), ('late_share', 'ratio')) AS v (kpi, unit)
