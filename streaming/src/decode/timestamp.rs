/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;
/// 9999-12-31T23:59:59.999999Z, microseconds since the epoch: the last moment that every reader of Iceberg can show.
const MAX_US: i64 = 253_402_300_799_999_999;
/// 0001-01-01T00:00:00Z.
const MIN_US: i64 = -62_135_596_800_000_000;

/// Reads `YYYY-MM-DD`, optionally followed by `T`, `t` or a space and `hh:mm[:ss[.fraction]]` and by `Z`, `z`, `+hh:mm`,
/// `+hhmm` or `+hh`; without an offset it is UTC. Fractions beyond microseconds are cut. Years 0001 to 9999.
///
/// Returns microseconds since the epoch; `None` for anything else, such as the 30th of February or hour 24.
pub fn parse_timestamp_us(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let date = bytes.get(..10)?;
    if date[4] != b'-' || date[7] != b'-' {
        return None;
    }
    let year = digits(&date[..4])?;
    let month = digits(&date[5..7])?;
    let day = digits(&date[8..10])?;
    if year < 1 || !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let midnight_us = days_from_civil(year, month, day) * DAY_US;
    let rest = &bytes[10..];
    if rest.is_empty() {
        return Some(midnight_us);
    }
    if !matches!(rest[0], b'T' | b't' | b' ') {
        return None;
    }
    let (time_us, zone) = time_of_day(&rest[1..])?;
    in_range(midnight_us + time_us - offset_us(zone)?)
}

/// Milliseconds since the epoch to microseconds, within the same years.
pub(super) fn from_epoch_ms(milliseconds: i64) -> Option<i64> {
    in_range(milliseconds.checked_mul(1000)?)
}

/// The value if it lies in the years 0001 to 9999.
pub(super) fn in_range(us: i64) -> Option<i64> {
    (MIN_US..=MAX_US).contains(&us).then_some(us)
}

/// Microseconds since midnight, and what follows the time.
fn time_of_day(bytes: &[u8]) -> Option<(i64, &[u8])> {
    if bytes.len() < 5 || bytes[2] != b':' {
        return None;
    }
    let hour = digits(&bytes[..2])?;
    let minute = digits(&bytes[3..5])?;
    let mut rest = &bytes[5..];
    let (mut second, mut fraction_us) = (0, 0);
    if rest.first() == Some(&b':') {
        second = digits(rest.get(1..3)?)?;
        rest = &rest[3..];
        if let Some(b'.' | b',') = rest.first() {
            let len = rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if len == 0 {
                return None;
            }
            let mut scale = 100_000;
            for byte in &rest[1..=len.min(6)] {
                fraction_us += i64::from(byte - b'0') * scale;
                scale /= 10;
            }
            rest = &rest[1 + len..];
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some((((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction_us, rest))
}

fn offset_us(zone: &[u8]) -> Option<i64> {
    let (sign, hour, minute) = match zone {
        [] | [b'Z' | b'z'] => return Some(0),
        [sign, h1, h2] => (sign, digits(&[*h1, *h2])?, 0),
        [sign, h1, h2, m1, m2] | [sign, h1, h2, b':', m1, m2] => (sign, digits(&[*h1, *h2])?, digits(&[*m1, *m2])?),
        _ => return None,
    };
    if hour > 23 || minute > 59 {
        return None;
    }
    let us = (hour * 60 + minute) * 60_000_000;
    match sign {
        b'+' => Some(us),
        b'-' => Some(-us),
        _ => None,
    }
}

fn digits(bytes: &[u8]) -> Option<i64> {
    let mut value = 0;
    for byte in bytes {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    Some(value)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 (Howard Hinnant's `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chrono::{DateTime, Duration, NaiveDate, SecondsFormat};

    use super::*;

    #[test]
    fn reads_what_chrono_writes() {
        let mut at = DateTime::from_timestamp(-62_135_596_800, 0).unwrap();
        let end = DateTime::from_timestamp(253_402_300_799, 0).unwrap();
        while at < end {
            let expected = Some(at.timestamp_micros());
            assert_eq!(parse_timestamp_us(&at.to_rfc3339_opts(SecondsFormat::Micros, true)), expected, "{at}");
            assert_eq!(parse_timestamp_us(&at.format("%Y-%m-%d %H:%M:%S%.6f+00:00").to_string()), expected, "{at}");
            // A step that visits every day of the year, leap days included, and odd times of day.
            at += Duration::microseconds(86_400_000_000 * 17 + 3_723_000_123);
        }
    }

    #[test]
    fn reads_the_forms_that_producers_use() {
        let noon = NaiveDate::from_ymd_opt(2026, 3, 1).unwrap().and_hms_opt(12, 0, 0).unwrap().and_utc();
        let us = noon.timestamp_micros();
        for text in [
            "2026-03-01T12:00:00Z",
            "2026-03-01t12:00:00z",
            "2026-03-01T12:00Z",
            "2026-03-01T12:00:00",
            "2026-03-01 12:00:00.000",
            "2026-03-01T14:30:00+02:30",
            "2026-03-01T14:30:00+0230",
            "2026-03-01T07:00:00.0000000-05",
        ] {
            assert_eq!(parse_timestamp_us(text), Some(us), "{text}");
        }
        assert_eq!(parse_timestamp_us("2026-03-01"), Some(us - 12 * 3_600_000_000));
        assert_eq!(parse_timestamp_us("2026-03-01T12:00:00.1234567Z"), Some(us + 123_456));
        assert_eq!(parse_timestamp_us("2026-03-01T12:00:00.5Z"), Some(us + 500_000));
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "not-a-time",
            "2026",
            "2026-3-1",
            "2026-02-30",
            "2025-02-29",
            "2026-13-01",
            "2026-00-10",
            "2026-01-00",
            "0000-01-01",
            "2026-01-01T",
            "2026-01-01T24:00:00Z",
            "2026-01-01T12:60:00Z",
            "2026-01-01T12:00:60Z",
            "2026-01-01T12:00:00.Z",
            "2026-01-01T12:00:00 Z",
            "2026-01-01T12:00:00Zx",
            "2026-01-01T12:00:00+2",
            "2026-01-01T12:00:00+25:00",
            "2026-01-01x12:00:00Z",
            "2026/01/01",
            "+026-01-01",
            "2026-01-01T1:00:00Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "２026-01-01",
            "2026-01-0é",
        ] {
            assert_eq!(parse_timestamp_us(text), None, "{text}");
        }
        assert_eq!(from_epoch_ms(i64::MAX), None);
        assert_eq!(from_epoch_ms(1_700_000_000_000), Some(1_700_000_000_000_000));
    }
}
