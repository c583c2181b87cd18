//! `products`: the state of one product at a time; prices and ratings change from record to record.

use super::Slot;
use super::catalog::Catalog;
use crate::options::ProduceOptions;
use crate::rng::Chance;
use crate::row::{Field, FieldType, Row, Value};
use crate::time::SECOND_US;

pub(super) const FIELDS: &[Field] = &[
    Field::new("product_id", FieldType::Long),
    Field::new("title", FieldType::Text),
    Field::new("price", FieldType::Double),
    Field::new("category", FieldType::Text),
    Field::new("rating_score", FieldType::Double),
    Field::new("rating_count", FieldType::Long),
    Field::new("ingestion_date", FieldType::Timestamp),
];

#[derive(Debug)]
pub(crate) struct Products {
    catalog: Catalog,
    /// Records made of each product.
    updates: Vec<u32>,
}

impl Products {
    pub fn new(options: &ProduceOptions) -> Self {
        let catalog = Catalog::new(options.seed, options.products);
        Self { catalog, updates: vec![0; options.products as usize] }
    }

    pub fn fill(&mut self, slot: &Slot, chance: &mut Chance, row: &mut Row) {
        let index = chance.skewed(self.catalog.products, 2);
        let product = index + 1;
        let mut updates = 0;
        if let Some(count) = self.updates.get_mut(index as usize) {
            updates = i64::from(*count);
            *count = count.wrapping_add(1);
        }
        // (product_id, ingestion_date) is the business key: the update's number makes the microseconds unique
        let second = slot.event_us.div_euclid(SECOND_US) - 1;
        let time_us = second * SECOND_US + updates % SECOND_US;
        self.catalog.title(product, &mut row.text);
        let mut price = self.catalog.price_cents(product, time_us);
        let mut rating = self.catalog.rating_tenths(product, time_us);
        match slot.invalid.map(|which| which % 3) {
            Some(0) => price = 0,
            Some(1) => price = -price,
            Some(_) => rating = 70,
            None => {}
        }
        row.set(&[
            Value::Long(product as i64),
            Value::Text { start: 0, end: row.text.len() },
            Value::Decimal { scaled: price, digits: 2 },
            Value::Word(self.catalog.category(product)),
            Value::Decimal { scaled: rating, digits: 1 },
            Value::Long(self.catalog.rating_count(product) + 3 * updates),
            Value::Time(time_us),
        ]);
    }
}
