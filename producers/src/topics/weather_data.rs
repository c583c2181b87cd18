//! `weather-data`: observations of five places, with seasons, days and nights; they come in up to 48 hours late.

use super::Slot;
use crate::rng::Chance;
use crate::row::{Field, FieldType, Row, Value};
use crate::time::{DAY_US, HOUR_US, MINUTE_US};

pub(super) const FIELDS: &[Field] = &[
    Field::new("location_id", FieldType::Text),
    Field::new("weather_condition", FieldType::Text),
    Field::new("temperature", FieldType::Double),
    Field::new("wind_speed", FieldType::Double),
    Field::new("data_delay_hours", FieldType::Int),
    Field::new("observation_time", FieldType::Timestamp),
    Field::new("ingestion_timestamp", FieldType::Timestamp),
];

/// Place, mean temperature of the year, half the difference between summer and winter (degrees Celsius).
const LOCATIONS: [(&str, f64, f64); 5] =
    [("NYC", 13.0, 12.0), ("LA", 18.5, 5.0), ("Chicago", 10.5, 14.0), ("Miami", 25.0, 4.5), ("Seattle", 11.5, 7.0)];

#[derive(Debug)]
pub(crate) struct WeatherData {
    /// Observations made at each place.
    observations: [i64; 5],
}

impl WeatherData {
    pub fn new() -> Self {
        Self { observations: [0; 5] }
    }

    pub fn fill(&mut self, slot: &Slot, chance: &mut Chance, row: &mut Row) {
        let place = chance.below(5) as usize;
        let (location, mean, season) = LOCATIONS[place];
        let number = self.observations[place];
        self.observations[place] += 1;
        // stations report on the minute; (location_id, observation_time) is the business key, so the observation's number
        // makes the microseconds unique
        let minute = slot.event_us.div_euclid(MINUTE_US) - 1;
        let time_us = minute * MINUTE_US + number % MINUTE_US;
        let day_of_year = time_us.div_euclid(DAY_US) as f64 % 365.25;
        let hour = time_us.rem_euclid(DAY_US) as f64 / HOUR_US as f64;
        // warmest in the last days of July, and at 20 h UTC (afternoon in America)
        let seasonal = season * ((day_of_year - 207.0) / 365.25 * std::f64::consts::TAU).cos();
        let daily = 4.0 * ((hour - 20.0) / 24.0 * std::f64::consts::TAU).cos();
        let degrees = mean + seasonal + daily + 3.0 * chance.normal();
        let mut tenths = ((degrees * 10.0) as i64).clamp(-100, 400);
        let mut wind_tenths = (120.0 * (0.5 * chance.normal()).exp()) as i64;
        let u = chance.unit();
        let condition = if wind_tenths > 350 {
            "Stormy"
        } else if u < 0.4 {
            "Sunny"
        } else if u < 0.7 {
            "Cloudy"
        } else if u < 0.75 {
            "Foggy"
        } else if tenths < 10 {
            "Snowy"
        } else {
            "Rainy"
        };
        match slot.invalid.map(|which| which % 2) {
            Some(0) => tenths = 999,
            Some(_) => wind_tenths = -wind_tenths - 1,
            None => {}
        }
        row.set(&[
            Value::Word(location),
            Value::Word(condition),
            Value::Decimal { scaled: tenths, digits: 1 },
            Value::Decimal { scaled: wind_tenths, digits: 1 },
            Value::Long((slot.ingestion_us - time_us) / HOUR_US),
            Value::Time(time_us),
            Value::Time(slot.ingestion_us),
        ]);
    }
}
