-- Of the told changes those that change something, in order, each with the time at which the next one takes over.
-- NULL in a change means unchanged.
SELECT *, lead(changed_at) OVER (PARTITION BY customer_id ORDER BY sequence) AS next_changed_at,
       lead(operation) OVER (PARTITION BY customer_id ORDER BY sequence) AS next_operation,
       lead(sequence) OVER (PARTITION BY customer_id ORDER BY sequence) AS next_sequence,
       row_number() OVER (PARTITION BY customer_id ORDER BY sequence) AS place,
       sum(CASE WHEN operation = 'delete' THEN 0 ELSE 1 END) OVER (PARTITION BY customer_id ORDER BY sequence ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS nth
FROM (
  SELECT *, lag(operation) OVER (PARTITION BY customer_id ORDER BY sequence) AS previous_operation,
         lag(signature) OVER (PARTITION BY customer_id ORDER BY sequence) AS previous_signature
  FROM (
    SELECT *, concat(coalesce(customer_name, chr(30)), chr(31), coalesce(geographic_region, chr(30)), chr(31), coalesce(customer_segment, chr(30)), chr(31), coalesce(purchase_behavior, chr(30)), chr(31), coalesce(lifecycle_stage, chr(30))) AS signature
    FROM (
      SELECT t.customer_id, t.sequence, t.operation, greatest(t.changed_at, coalesce(c.valid_from, t.changed_at)) AS changed_at,
             c.customer_id IS NOT NULL AS had_current,
             concat(coalesce(c.customer_name, chr(30)), chr(31), coalesce(c.geographic_region, chr(30)), chr(31), coalesce(c.customer_segment, chr(30)), chr(31), coalesce(c.purchase_behavior, chr(30)), chr(31), coalesce(c.lifecycle_stage, chr(30))) AS current_signature,
             coalesce(last_value(t.customer_name) IGNORE NULLS OVER (PARTITION BY t.customer_id ORDER BY t.sequence ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW), c.customer_name) AS customer_name,
             coalesce(last_value(t.geographic_region) IGNORE NULLS OVER (PARTITION BY t.customer_id ORDER BY t.sequence ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW), c.geographic_region) AS geographic_region,
             coalesce(t.customer_segment, c.customer_segment) AS customer_segment,
             coalesce(t.purchase_behavior, c.purchase_behavior) AS purchase_behavior,
             coalesce(t.lifecycle_stage, c.lifecycle_stage) AS lifecycle_stage
      FROM ({told}) t
      LEFT JOIN (SELECT * FROM dim_customer WHERE is_current) c ON t.customer_id = c.customer_id
    )
  )
)
WHERE CASE WHEN operation = 'delete' THEN coalesce(previous_operation <> 'delete', had_current)
           WHEN previous_operation IS NULL THEN NOT had_current OR signature <> current_signature
           ELSE previous_operation = 'delete' OR signature <> previous_signature END
