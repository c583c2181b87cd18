//! Shop events of about 315 bytes, the same for every engine: as JSON, and as Avro in the registry's wire format. Seeded; one in 200 JSON events is cut
//! short.

use std::fmt::Write as _;

/// Columns in the order of the Avro schema: name, SQL type, Avro type.
pub(crate) const FIELDS: [(&str, &str, &str); 14] = [
    ("event_id", "STRING", "string"),
    ("user_id", "BIGINT", "long"),
    ("session_id", "STRING", "string"),
    ("event_type", "STRING", "string"),
    ("product_id", "BIGINT", "long"),
    ("event_ts", "STRING", "string"),
    ("price", "DOUBLE", "double"),
    ("quantity", "INT", "int"),
    ("currency", "STRING", "string"),
    ("device", "STRING", "string"),
    ("browser", "STRING", "string"),
    ("country", "STRING", "string"),
    ("page", "STRING", "string"),
    ("ip", "STRING", "string"),
];

/// One JSON event in so many is cut short.
const CUT_EVERY: u64 = 200;
/// Seconds of a day.
const DAY_SECONDS: u64 = 86_400;

/// Avro's schema of [`FIELDS`].
pub(crate) fn avro_schema() -> String {
    let fields: Vec<_> = FIELDS.iter().map(|(name, _, kind)| serde_json::json!({ "name": name, "type": kind })).collect();
    serde_json::json!({ "type": "record", "name": "Event", "namespace": "shop", "fields": fields }).to_string()
}

/// An event of a number.
pub(crate) struct Event {
    n: u64,
    user_id: u64,
    event_type: &'static str,
    product_id: u64,
    event_ts: String,
    cents: u64,
    quantity: u64,
    device: &'static str,
    browser: &'static str,
    country: &'static str,
}

fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn pick<'a>(of: &[&'a str], dice: u64) -> &'a str {
    of[(dice % of.len() as u64) as usize]
}

impl Event {
    pub(crate) fn new(n: u64) -> Self {
        let dice = |stream: u64| mix(mix(n) ^ (stream << 56));
        // Few users and products have most of the events.
        let skewed = |stream: u64, of: f64, power: i32| (of * ((dice(stream) >> 11) as f64 / (1_u64 << 53) as f64).powi(power)) as u64;
        let kinds = ["page_view", "page_view", "page_view", "page_view", "click", "click", "search", "add_to_cart", "purchase", "login"];
        let second = dice(3) % (3 * DAY_SECONDS);
        let (day, rest) = (second / DAY_SECONDS, second % DAY_SECONDS);
        Self {
            n,
            user_id: skewed(1, 200_000.0, 3),
            event_type: pick(&kinds, dice(2)),
            product_id: skewed(4, 20_000.0, 2) + 1,
            event_ts: format!("2026-01-0{}T{:02}:{:02}:{:02}.{:03}Z", day + 1, rest / 3600, rest / 60 % 60, rest % 60, dice(5) % 1000),
            cents: 99 + skewed(6, 40_000.0, 3),
            quantity: dice(7) % 4 + 1,
            device: pick(&["mobile", "mobile", "desktop", "tablet"], dice(8)),
            browser: pick(&["Chrome", "Chrome", "Safari", "Firefox", "Edge"], dice(9)),
            country: pick(&["US", "US", "DE", "BR", "IN", "GB", "FR", "JP"], dice(10)),
        }
    }

    fn event_id(&self) -> String {
        let (high, low) = (mix(self.n * 2), mix(self.n * 2 + 1));
        format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, high >> 16 & 0xffff, high & 0xffff, low >> 48, low & 0xffff_ffff_ffff)
    }

    fn session_id(&self) -> String {
        format!("{:016x}", mix(self.user_id * 97 + self.n % 12))
    }

    fn ip(&self) -> String {
        format!("10.{}.{}.{}", self.user_id >> 16 & 255, self.user_id >> 8 & 255, self.user_id & 255)
    }

    pub(crate) fn json(&self, into: &mut Vec<u8>) {
        into.clear();
        let mut text = String::with_capacity(330);
        let _ = write!(
            text,
            r#"{{"event_id":"{}","user_id":{},"session_id":"{}","event_type":"{}","product_id":{},"event_ts":"{}","price":{}.{:02},"quantity":{},"currency":"USD","device":"{}","browser":"{}","country":"{}","page":"/product/{}","ip":"{}"}}"#,
            self.event_id(),
            self.user_id,
            self.session_id(),
            self.event_type,
            self.product_id,
            self.event_ts,
            self.cents / 100,
            self.cents % 100,
            self.quantity,
            self.device,
            self.browser,
            self.country,
            self.product_id,
            self.ip()
        );
        if self.n % CUT_EVERY == CUT_EVERY - 1 {
            text.truncate(140);
        }
        into.extend_from_slice(text.as_bytes());
    }

    /// Behind the zero byte and the schema's id.
    pub(crate) fn avro(&self, schema_id: u32, into: &mut Vec<u8>) {
        into.clear();
        into.push(0);
        into.extend_from_slice(&schema_id.to_be_bytes());
        text(into, &self.event_id());
        long(into, self.user_id);
        text(into, &self.session_id());
        text(into, self.event_type);
        long(into, self.product_id);
        text(into, &self.event_ts);
        into.extend_from_slice(&(self.cents as f64 / 100.0).to_le_bytes());
        long(into, self.quantity);
        text(into, "USD");
        text(into, self.device);
        text(into, self.browser);
        text(into, self.country);
        text(into, &format!("/product/{}", self.product_id));
        text(into, &self.ip());
    }
}

/// Zigzag, seven bits a byte.
fn long(into: &mut Vec<u8>, value: u64) {
    let mut rest = value << 1;
    while rest > 0x7f {
        into.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

fn text(into: &mut Vec<u8>, value: &str) {
    long(into, value.len() as u64);
    into.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn events_are_json_of_the_size_said() {
        let mut bytes = Vec::new();
        let mut all = 0;
        for n in 0..1000 {
            Event::new(n).json(&mut bytes);
            all += bytes.len();
            let read = serde_json::from_slice::<serde_json::Value>(&bytes);
            assert_eq!(read.is_err(), n % CUT_EVERY == CUT_EVERY - 1, "{}", String::from_utf8_lossy(&bytes));
            if let Ok(value) = read {
                assert!(FIELDS.iter().all(|(name, _, _)| value.get(name).is_some()));
            }
        }
        assert!((295..325).contains(&(all / 1000)), "{}", all / 1000);
    }

    #[test]
    fn numbers_are_avros() {
        let mut bytes = Vec::new();
        long(&mut bytes, 1);
        long(&mut bytes, 64);
        long(&mut bytes, 300);
        assert_eq!(bytes, [2, 0x80, 1, 0xd8, 4]);
    }
}
