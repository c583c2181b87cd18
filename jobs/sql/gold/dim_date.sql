-- Every day that a fact table can name.
SELECT CAST(date_part('year', d) * 10000 + date_part('month', d) * 100 + date_part('day', d) AS INT) AS date_key, d AS full_date, CAST(date_part('year', d) AS INT) AS year,
       CAST(date_part('quarter', d) AS INT) AS quarter, CAST(date_part('month', d) AS INT) AS month, CAST(date_part('day', d) AS INT) AS day,
       CAST(date_part('dow', d) AS INT) AS day_of_week, date_part('dow', d) IN (0, 6) AS is_weekend
FROM (SELECT coalesce(e.d, a.d) AS d
      FROM (SELECT DISTINCT CAST(event_timestamp AS DATE) AS d FROM silver_user_events) e
      FULL OUTER JOIN (SELECT DISTINCT CAST(call_timestamp AS DATE) AS d FROM silver_api_logs) a ON e.d = a.d)
