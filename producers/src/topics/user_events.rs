//! `user-events`: views, clicks and purchases of users in sessions.
//!
//! A few users and products get most of the traffic. At any time some tens of users are active, each for eight events on
//! average. Session ids are windows of 25 minutes, shifted per user, of the time when the event happened: so a late event
//! still belongs to the session in which it happened. Only purchases have a value: the product's price at that time,
//! times 1 to 4.

use super::catalog::Catalog;
use super::{IdSource, Slot};
use crate::options::ProduceOptions;
use crate::rng::{Chance, mix, mix_unit};
use crate::row::{Field, FieldType, Row, Value};
use crate::time::MINUTE_US;

pub(super) const FIELDS: &[Field] = &[
    Field::new("event_id", FieldType::Text),
    Field::new("user_id", FieldType::Long),
    Field::new("event_type", FieldType::Text),
    Field::new("product_id", FieldType::Long),
    Field::new("session_id", FieldType::Text),
    Field::new("value", FieldType::Double),
    Field::new("event_timestamp", FieldType::Timestamp),
    Field::new("ingestion_timestamp", FieldType::Timestamp),
];

const SESSION_US: i64 = 25 * MINUTE_US;
/// So many users make 2 % of all events on top of their share.
const HOT_USERS: u64 = 20;
const ACTIVE_USERS: usize = 64;
/// An active user's event is the last one of the visit with this probability.
const LEAVES: f64 = 0.125;

#[derive(Debug)]
pub(crate) struct UserEvents {
    ids: IdSource,
    catalog: Catalog,
    users: u64,
    active: [Option<u64>; ACTIVE_USERS],
}

impl UserEvents {
    pub fn new(options: &ProduceOptions, ids: IdSource) -> Self {
        let catalog = Catalog::new(options.seed, options.products);
        Self { ids, catalog, users: u64::from(options.users), active: [None; ACTIVE_USERS] }
    }

    pub fn fill(&mut self, slot: &Slot, chance: &mut Chance, row: &mut Row) -> i64 {
        let visit = chance.below(ACTIVE_USERS as u64) as usize;
        let user = match self.active[visit] {
            Some(user) => user,
            None if chance.chance(0.02) => chance.below(HOT_USERS.min(self.users)),
            None => chance.skewed(self.users, 3),
        };
        self.active[visit] = (!chance.chance(LEAVES)).then_some(user);
        let product = chance.skewed(self.catalog.products, 2) + 1;
        // some users buy, most look
        let buys = 0.04 + 0.16 * mix_unit(user).powi(2);
        let u = chance.unit();
        let event_type = if u < buys {
            "purchase"
        } else if u < buys + 0.3 {
            "click"
        } else {
            "view"
        };
        let mut cents = 0;
        if event_type == "purchase" {
            let quantity = 1 + chance.skewed(4, 3) as i64;
            cents = self.catalog.price_cents(product, slot.event_us) * quantity;
        }
        let phase = mix(user) as i64 & 0x7fff_ffff;
        let session = (slot.event_us + phase).div_euclid(SESSION_US) as u64;
        let session_id = self.ids.hash(user << 40 ^ session);
        // an unknown event type would be a structural fault: readers know the three
        let (event_type, cents) = match slot.invalid {
            Some(_) => ("purchase", -self.catalog.price_cents(product, slot.event_us)),
            None => (event_type, cents),
        };
        row.set(&[
            Value::Uuid(self.ids.uuid(slot.sequence)),
            Value::Long(user as i64 + 1),
            Value::Word(event_type),
            Value::Long(product as i64),
            Value::Hex(session_id),
            Value::Decimal { scaled: cents, digits: 2 },
            Value::Time(slot.event_us),
            Value::Time(slot.ingestion_us),
        ]);
        cents
    }
}
