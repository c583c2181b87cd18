//! The products: what each is called and costs at a time. A function of the product and the time, without state, so that
//! events and product records agree.

use crate::rng::{mix, mix_unit};
use crate::time::{DAY_US, HOUR_US};

/// Categories with the things sold in them.
const CATEGORIES: [(&str, [&str; 4]); 6] = [
    ("Electronics", ["Headphones", "Monitor", "Keyboard", "Camera"]),
    ("Books", ["Novel", "Atlas", "Cookbook", "Biography"]),
    ("Clothing", ["Jacket", "Sweater", "Sneakers", "Scarf"]),
    ("Home", ["Lamp", "Kettle", "Armchair", "Rug"]),
    ("Sports", ["Racket", "Bicycle", "Dumbbell", "Tent"]),
    ("Toys", ["Puzzle", "Train Set", "Kite", "Board Game"]),
];
const ADJECTIVES: [&str; 8] = ["Classic", "Compact", "Deluxe", "Eco", "Modern", "Pro", "Travel", "Vintage"];

/// Prices lie in this range, in cents.
const PRICE_CENTS: (i64, i64) = (1_000, 100_000);

/// All products of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Catalog {
    seed: u64,
    pub products: u64,
}

impl Catalog {
    pub fn new(seed: u64, products: u32) -> Self {
        Self { seed: mix(seed ^ 0x00ca_7a10), products: u64::from(products) }
    }

    fn of(&self, product: u64, what: u64) -> u64 {
        self.seed ^ mix(product.wrapping_mul(31).wrapping_add(what))
    }

    /// Price in cents: few products are dear; each price moves within 10 % every six hours.
    pub fn price_cents(&self, product: u64, time_us: i64) -> i64 {
        let usual = 1_000.0 * 100f64.powf(mix_unit(self.of(product, 1)).powf(1.3));
        let period = time_us.div_euclid(6 * HOUR_US) as u64;
        let change = 0.9 + 0.2 * mix_unit(self.of(product, 2) ^ mix(period));
        ((usual * change) as i64).clamp(PRICE_CENTS.0, PRICE_CENTS.1)
    }

    /// Rating in tenths, 10 to 50; drifts from day to day.
    pub fn rating_tenths(&self, product: u64, time_us: i64) -> i64 {
        let usual = 50.0 - 30.0 * mix_unit(self.of(product, 3)).powi(2);
        let day = time_us.div_euclid(DAY_US) as u64;
        let drift = 4.0 * (mix_unit(self.of(product, 4) ^ mix(day)) - 0.5);
        ((usual + drift) as i64).clamp(10, 50)
    }

    /// Ratings given before the run.
    pub fn rating_count(&self, product: u64) -> i64 {
        (5_000.0 * mix_unit(self.of(product, 5)).powi(3)) as i64
    }

    pub fn category(&self, product: u64) -> &'static str {
        self.entry(product).0
    }

    /// Appends the title: adjective, thing, number.
    pub fn title(&self, product: u64, out: &mut String) {
        let hash = mix(self.of(product, 6));
        let things = self.entry(product).1;
        out.push_str(ADJECTIVES[(hash % 8) as usize]);
        out.push(' ');
        out.push_str(things[(hash >> 8 & 3) as usize]);
        out.push(' ');
        out.push_str(itoa::Buffer::new().format(product));
    }

    fn entry(&self, product: u64) -> (&'static str, [&'static str; 4]) {
        CATEGORIES[(mix(self.of(product, 7)) % 6) as usize]
    }
}
