SELECT s.product_key, s.product_name, s.category_std AS category, s.price_tier, s.quality_rating, e.views, e.clicks, e.purchases,
       CASE WHEN e.views > 0 THEN CAST(e.purchases AS DOUBLE) / e.views END AS conversion_rate, e.revenue,
       CAST(rank() OVER (ORDER BY e.revenue DESC) AS BIGINT) AS revenue_rank
FROM silver_product_performance s
JOIN (SELECT product_id, count(*) FILTER (WHERE event_type = 'view') AS views, count(*) FILTER (WHERE event_type = 'click') AS clicks,
             count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
             coalesce(sum(value) FILTER (WHERE event_type = 'purchase'), 0.0) AS revenue
      FROM silver_user_events GROUP BY product_id) e ON s.product_key = e.product_id
