SELECT location_id, CAST(observation_time AS DATE) AS observation_date, weather_condition, avg(temperature) AS avg_temperature,
       CASE WHEN avg(temperature) < 10 THEN 'Cold' WHEN avg(temperature) < 25 THEN 'Moderate' ELSE 'Hot' END AS temperature_category,
       avg(wind_speed) AS avg_wind_speed, count(*) AS observations
FROM silver_weather_data GROUP BY location_id, CAST(observation_time AS DATE), weather_condition
