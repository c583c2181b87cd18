SELECT p.product_id AS product_key, p.title AS product_name,
       CASE WHEN p.price < 50 THEN 'Budget' WHEN p.price < 200 THEN 'Standard' ELSE 'Premium' END AS price_tier, initcap(trim(p.category)) AS category_std,
       coalesce(e.events, 0) AS popularity_score,
       CASE WHEN p.rating_score >= 4.5 THEN 'Excellent' WHEN p.rating_score >= 4.0 THEN 'Good' WHEN p.rating_score >= 3.0 THEN 'Average' ELSE 'Poor' END AS quality_rating,
       p.ingestion_date AS last_updated
FROM silver_products p
JOIN (SELECT product_id, max(ingestion_date) AS newest FROM silver_products GROUP BY product_id) n ON p.product_id = n.product_id AND p.ingestion_date = n.newest
LEFT JOIN (SELECT product_id, count(*) AS events FROM silver_user_events GROUP BY product_id) e ON p.product_id = e.product_id
