-- The versions that were current: as they are, or closed by the first effective change.
SELECT c.customer_key, c.customer_id, c.customer_name, c.customer_segment, c.purchase_behavior, c.geographic_region, c.lifecycle_stage, c.valid_from,
       e.changed_at AS valid_to, e.customer_id IS NULL AS is_current, c.version,
       CASE WHEN e.operation = 'delete' THEN e.sequence ELSE c.source_sequence END AS source_sequence
FROM (SELECT * FROM dim_customer WHERE is_current) c
LEFT JOIN (SELECT customer_id, changed_at, operation, sequence FROM ({effective}) WHERE place = 1) e ON c.customer_id = e.customer_id
