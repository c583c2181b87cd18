-- What the customers' own behaviour tells, as of the newest event of all. A customer whom the feed has deleted stays deleted.
SELECT g.customer_id, coalesce(v.last_sequence, -1) AS sequence, 'update' AS operation,
       CASE WHEN v.customer_id IS NULL THEN g.first_activity ELSE n.newest END AS changed_at,
       CAST(NULL AS STRING) AS customer_name, CAST(NULL AS STRING) AS geographic_region, g.customer_tier AS customer_segment,
       CASE WHEN g.purchases = 0 THEN 'Browser' WHEN g.purchases < 5 THEN 'Occasional Buyer' ELSE 'Frequent Buyer' END AS purchase_behavior,
       CASE WHEN g.days_since_last_event > 30 THEN 'Churned' WHEN g.days_since_last_event > 7 THEN 'At Risk'
            WHEN date_diff(n.newest, g.first_activity) <= 7 THEN 'New' ELSE 'Active' END AS lifecycle_stage
FROM gold_customer_analytics g
CROSS JOIN (SELECT max(last_activity) AS newest FROM gold_customer_analytics) n
LEFT JOIN (SELECT customer_id, max(source_sequence) AS last_sequence, bool_or(is_current) AS has_current FROM dim_customer GROUP BY customer_id) v
  ON g.customer_id = v.customer_id
WHERE v.customer_id IS NULL OR v.has_current
