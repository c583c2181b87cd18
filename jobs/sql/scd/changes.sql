-- What the change feed tells that the dimension does not have yet: each change once, by customer and sequence.
SELECT f.customer_id, f.sequence, f.operation, f.changed_at, f.customer_name, f.geographic_region,
       CAST(NULL AS STRING) AS customer_segment, CAST(NULL AS STRING) AS purchase_behavior, CAST(NULL AS STRING) AS lifecycle_stage
FROM (SELECT customer_id, sequence, lower(operation) AS operation, changed_at, customer_name, geographic_region,
             row_number() OVER (PARTITION BY customer_id, sequence ORDER BY changed_at) AS place
      FROM bronze_customer_changes) f
LEFT JOIN (SELECT customer_id, max(source_sequence) AS last_sequence FROM dim_customer GROUP BY customer_id) v ON f.customer_id = v.customer_id
WHERE f.place = 1 AND (v.last_sequence IS NULL OR f.sequence > v.last_sequence)
