-- The platform's own weather: hourly events against the hour's mean weather over all locations.
SELECT 'platform' AS source, 'events_per_hour' AS metric, f.weather_factor, count(*) AS observations, corr(CAST(e.events AS DOUBLE), f.factor) AS correlation,
       avg(CAST(e.events AS DOUBLE)) AS avg_metric, avg(f.factor) AS avg_factor
FROM (SELECT date_trunc('hour', event_timestamp) AS h, count(*) AS events FROM silver_user_events GROUP BY 1) e
JOIN (SELECT w.h, v.weather_factor, CASE v.weather_factor WHEN 'temperature' THEN w.temperature ELSE w.wind_speed END AS factor
      FROM (SELECT date_trunc('hour', observation_time) AS h, avg(temperature) AS temperature, avg(wind_speed) AS wind_speed FROM silver_weather_data GROUP BY 1) w
      CROSS JOIN (VALUES ('temperature'), ('wind_speed')) AS v (weather_factor)) f
  ON e.h = f.h
GROUP BY f.weather_factor
