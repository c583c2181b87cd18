#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;

use serde_json::Value as Json;

use super::*;
use crate::row::FieldType;

const BASE_US: i64 = 1_767_225_600 * SECOND_US;

fn options(count: u64) -> ProduceOptions {
    ProduceOptions { count: Some(count), base_time_us: Some(BASE_US), ..Default::default() }
}

fn all(topic: Topic, options: &ProduceOptions) -> Vec<Record> {
    generate(topic, options).unwrap().collect()
}

fn time_us(value: &Json) -> Option<i64> {
    let time = chrono::DateTime::parse_from_rfc3339(value.as_str()?).ok()?;
    Some(time.timestamp_micros())
}

/// What bronze checks: an object with every field, each of its type.
fn structural(topic: Topic, value: &[u8]) -> Option<Json> {
    let object: Json = serde_json::from_slice(value).ok()?;
    for field in topic.fields() {
        let value = object.get(field.name)?;
        let fits = match field.kind {
            // ids may be text or integer for a reader
            FieldType::Text | FieldType::Long => value.is_string() || value.is_i64(),
            FieldType::Int => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            FieldType::Double => value.is_number(),
            FieldType::Boolean => value.is_boolean(),
            FieldType::Timestamp => time_us(value).is_some(),
        };
        if !fits {
            return None;
        }
    }
    let known = |event_type: &Json| ["click", "view", "purchase"].iter().any(|known| event_type == known);
    if topic == Topic::UserEvents && !known(&object["event_type"]) {
        return None;
    }
    Some(object)
}

fn breaks_a_rule(topic: Topic, row: &Json) -> bool {
    let number = |name: &str| row[name].as_f64().unwrap();
    match topic {
        Topic::UserEvents => number("value") < 0.0,
        Topic::Products => !(10.0..=1000.0).contains(&number("price")) || !(1.0..=5.0).contains(&number("rating_score")),
        Topic::ApiLogs => !(10.0..=2000.0).contains(&number("response_time_ms")),
        Topic::UserPosts => row["title"].as_str().unwrap().is_empty(),
        Topic::WeatherData => {
            !(-10.0..=40.0).contains(&number("temperature")) || number("wind_speed") < 0.0 || !(0.0..=48.0).contains(&number("data_delay_hours"))
        }
    }
}

#[test]
fn same_seed_same_records() {
    for topic in Topic::ALL {
        let first = all(topic, &options(2000));
        assert_eq!(first, all(topic, &options(2000)));
        let other = ProduceOptions { seed: 43, ..options(2000) };
        assert_ne!(first, all(topic, &other));
        let other = ProduceOptions { base_time_us: Some(BASE_US + 1), ..options(2000) };
        assert_ne!(first, all(topic, &other));
    }
}

#[test]
fn every_record_is_what_the_account_says() {
    const COUNT: u64 = 30_000;
    for topic in Topic::ALL {
        let mut generator = Generator::new(topic, &options(COUNT), Format::Json, 0);
        let mut counts = Counts::default();
        let mut keys = HashSet::new();
        let mut values = HashSet::new();
        let mut purchases = 0.0;
        let mut last_timestamp = 0;
        while let Some(record) = generator.next_record() {
            counts.add(record.kind, record.key.len() + record.value.len(), 0);
            assert!(record.timestamp_ms >= last_timestamp && record.timestamp_ms <= BASE_US / 1000);
            last_timestamp = record.timestamp_ms;
            let text = String::from_utf8_lossy(record.value).into_owned();
            let row = structural(topic, record.value);
            assert_eq!(row.is_none(), record.kind == Kind::Malformed, "{topic}: {text}");
            let Some(row) = row else { continue };
            assert_eq!(breaks_a_rule(topic, &row), record.kind == Kind::Invalid, "{topic}: {text}");
            let key = &row[topic.key_field()];
            let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
            assert_eq!(key.as_bytes(), record.key);
            if record.kind == Kind::Duplicate {
                assert!(values.contains(record.value), "{topic}: not a repeat: {text}");
                continue;
            }
            if record.kind == Kind::Invalid {
                continue;
            }
            values.insert(record.value.to_vec());
            let business_key = row[topic.fields()[0].name].to_string();
            let event_us = time_us(&row[topic.event_time_field()]).unwrap();
            assert!(keys.insert((business_key, event_us)), "{topic}: key twice: {text}");
            let delay_us = record.timestamp_ms * 1000 + 999 - event_us;
            let expected = match record.kind {
                Kind::Late => HOUR_US..=topic.delay_max_us(),
                Kind::TooLate => 48 * HOUR_US..=73 * HOUR_US,
                _ => 0..=HOUR_US,
            };
            assert!(expected.contains(&delay_us), "{topic} {:?}: {text}", record.kind);
            if topic == Topic::UserEvents && row["event_type"] == "purchase" {
                purchases += row["value"].as_f64().unwrap();
            }
        }
        let made = generator.counts();
        assert_eq!(Counts { purchase_cents: made.purchase_cents, ..counts }, made);
        assert_eq!(made.sent, COUNT);
        assert_eq!(made.sent, made.on_time + made.late + made.duplicates + made.malformed + made.invalid);
        assert!((made.purchase_cents as f64 / 100.0 - purchases).abs() < 0.01);
        let shares = options(COUNT).shares(topic);
        for (share, n) in [
            (shares.late + shares.too_late, made.late),
            (shares.too_late, made.too_late),
            (shares.duplicates, made.duplicates),
            (shares.malformed, made.malformed),
            (shares.invalid, made.invalid),
            (shares.out_of_order, made.out_of_order),
        ] {
            let (expected, deviation) = (share * COUNT as f64, (share * COUNT as f64).sqrt());
            assert!((n as f64 - expected).abs() <= 5.0 * deviation, "{topic}: {n} instead of about {expected}");
        }
    }
}

#[test]
fn fractions_of_zero_and_one() {
    let clean = ProduceOptions {
        late: Some(0.0),
        too_late: Some(0.0),
        out_of_order: Some(0.0),
        duplicates: Some(0.0),
        malformed: Some(0.0),
        invalid: Some(0.0),
        ..options(1000)
    };
    assert!(all(Topic::UserEvents, &clean).iter().all(|r| r.kind == Kind::OnTime));
    let repeats = ProduceOptions { duplicates: Some(1.0), ..clean.clone() };
    let repeats = all(Topic::WeatherData, &repeats);
    // the first has nothing to repeat
    assert_eq!(repeats.iter().filter(|r| r.kind == Kind::Duplicate).count(), 999);
    let broken = ProduceOptions { malformed: Some(1.0), ..clean.clone() };
    assert!(all(Topic::Products, &broken).iter().all(|r| structural(Topic::Products, &r.value).is_none()));
    let too_much = ProduceOptions { malformed: Some(0.6), late: Some(0.6), ..clean };
    assert!(generate(Topic::UserEvents, &too_much).is_err());
}

#[test]
fn avro_is_read_by_the_reference_library() {
    use apache_avro::types::Value as Avro;
    for topic in Topic::ALL {
        let schema = apache_avro::Schema::parse_str(&crate::schema::avro(topic)).unwrap();
        let json = all(topic, &options(5000));
        let avro = all(topic, &ProduceOptions { format: Format::Avro, ..options(5000) });
        for (json, avro) in json.iter().zip(&avro) {
            assert_eq!((&json.key, json.kind, json.timestamp_ms), (&avro.key, avro.kind, avro.timestamp_ms));
            let mut body = match avro.value.split_at_checked(5) {
                Some((&[0, 0, 0, 0, 1], body)) => body,
                _ => {
                    assert_eq!(avro.kind, Kind::Malformed);
                    continue;
                }
            };
            let decoded = apache_avro::from_avro_datum(&schema, &mut body, None);
            if avro.kind == Kind::Malformed {
                assert!(decoded.is_err(), "{topic}: {:?}", avro.value);
                continue;
            }
            assert!(body.is_empty());
            let Avro::Record(fields) = decoded.unwrap() else { panic!("no record") };
            let row: Json = serde_json::from_slice(&json.value).unwrap();
            for (name, value) in fields {
                let expected = &row[&name];
                match value {
                    Avro::String(s) => assert_eq!(expected, &s),
                    Avro::Long(n) => assert_eq!(expected, &n),
                    Avro::Int(n) => assert_eq!(expected, &n),
                    Avro::Double(n) => assert_eq!(expected.as_f64(), Some(n)),
                    Avro::Boolean(b) => assert_eq!(expected, &b),
                    Avro::TimestampMicros(t) => assert_eq!(time_us(expected), Some(t)),
                    other => panic!("{name}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn three_quarters_of_the_calls_succeed_in_bursts() {
    let clean = ProduceOptions { malformed: Some(0.0), duplicates: Some(0.0), ..options(40_000) };
    let rows: Vec<Json> = all(Topic::ApiLogs, &clean).iter().map(|r| serde_json::from_slice(&r.value).unwrap()).collect();
    let good = rows.iter().filter(|r| r["success_flag"] == true).count();
    assert!((0.72..0.78).contains(&(good as f64 / rows.len() as f64)), "{good}");
    // after a failure of a service the next call fails far more often than every fourth time
    let (mut pairs, mut both) = (0, 0);
    for service in ["auth-service", "user-service"] {
        let calls: Vec<bool> = rows.iter().filter(|r| r["api_source"] == service).map(|r| r["success_flag"] == true).collect();
        for pair in calls.windows(2).filter(|p| !p[0]) {
            pairs += 1;
            both += usize::from(!pair[1]);
        }
    }
    assert!(both * 2 > pairs, "{both} of {pairs}");
}

#[test]
fn users_are_skewed_and_sessions_hold_several_events() {
    let rows: Vec<Json> = all(Topic::UserEvents, &options(50_000)).iter().filter_map(|r| structural(Topic::UserEvents, &r.value)).collect();
    let mut users: std::collections::HashMap<i64, usize> = Default::default();
    let mut sessions: std::collections::HashMap<String, HashSet<i64>> = Default::default();
    for row in &rows {
        let user = row["user_id"].as_i64().unwrap();
        *users.entry(user).or_default() += 1;
        sessions.entry(row["session_id"].to_string()).or_default().insert(user);
    }
    let mut by_user: Vec<usize> = users.values().copied().collect();
    by_user.sort_unstable_by(|a, b| b.cmp(a));
    let top: usize = by_user.iter().take(users.len() / 10).sum();
    assert!(top * 10 > rows.len() * 4, "the top tenth of users makes {top} of {} events", rows.len());
    assert!(sessions.values().all(|users| users.len() == 1));
    assert!(sessions.len() * 3 < rows.len(), "{} sessions", sessions.len());
}

/// Not a benchmark: a floor far below what an optimised build does.
#[test]
fn speed_is_printed() {
    const COUNT: u64 = 300_000;
    let mut generator = Generator::new(Topic::UserEvents, &options(COUNT), Format::Json, 0);
    let started = std::time::Instant::now();
    while generator.next_record().is_some() {}
    let seconds = started.elapsed().as_secs_f64();
    let bytes = generator.counts().bytes as f64 / COUNT as f64;
    eprintln!("user-events: {:.0} records/s of {bytes:.0} bytes", COUNT as f64 / seconds);
}
