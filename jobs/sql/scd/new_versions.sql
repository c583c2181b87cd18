-- Each effective change but a deletion is a version; keys go on from the greatest.
SELECT k.greatest_key + CAST(row_number() OVER (ORDER BY e.customer_id, e.sequence) AS BIGINT) AS customer_key, e.customer_id, e.customer_name, e.customer_segment,
       e.purchase_behavior, e.geographic_region, e.lifecycle_stage, e.changed_at AS valid_from, e.next_changed_at AS valid_to,
       e.next_changed_at IS NULL AS is_current, CAST(coalesce(v.last_version, 0) + e.nth AS INT) AS version,
       CASE WHEN e.next_operation = 'delete' THEN e.next_sequence ELSE e.sequence END AS source_sequence
FROM ({effective}) e
CROSS JOIN (SELECT coalesce(max(customer_key), 0) AS greatest_key FROM dim_customer) k
LEFT JOIN (SELECT customer_id, max(version) AS last_version FROM dim_customer GROUP BY customer_id) v ON e.customer_id = v.customer_id
WHERE e.operation <> 'delete'
