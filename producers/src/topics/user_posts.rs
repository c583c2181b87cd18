//! `user-posts`: what users write, up to 24 hours old when it comes in. Titles carry quotes and letters beyond ASCII, as
//! real ones do.

use super::{IdSource, Slot};
use crate::options::ProduceOptions;
use crate::rng::Chance;
use crate::row::{Field, FieldType, Row, Value};

pub(super) const FIELDS: &[Field] = &[
    Field::new("post_id", FieldType::Text),
    Field::new("user_id", FieldType::Long),
    Field::new("title", FieldType::Text),
    Field::new("created_timestamp", FieldType::Timestamp),
    Field::new("ingestion_timestamp", FieldType::Timestamp),
];

const OPENINGS: [&str; 8] = [
    "Why I love",
    "Three months with",
    "Not convinced by",
    "Question about",
    "Returned:",
    "My \"honest\" view of",
    "Für alle Freunde von",
    "Un avis détaillé:",
];
const SUBJECTS: [&str; 8] = [
    "the new headphones",
    "this kettle",
    "a 2-in-1 tent",
    "the travel lamp",
    "my first racket",
    "the café set",
    "the 27\\\" monitor",
    "a wooden train 🚂",
];
const ENDINGS: [&str; 4] = ["", " (long read)", ", part 2", " - an update"];

#[derive(Debug)]
pub(crate) struct UserPosts {
    ids: IdSource,
    users: u64,
}

impl UserPosts {
    pub fn new(options: &ProduceOptions, ids: IdSource) -> Self {
        Self { ids, users: u64::from(options.users) }
    }

    pub fn fill(&mut self, slot: &Slot, chance: &mut Chance, row: &mut Row) {
        let user = chance.skewed(self.users, 2);
        let words = chance.below(256) as usize;
        if slot.invalid.is_none() {
            row.text.push_str(OPENINGS[words & 7]);
            row.text.push(' ');
            row.text.push_str(SUBJECTS[words >> 3 & 7]);
            row.text.push_str(ENDINGS[words >> 6]);
        }
        row.set(&[
            Value::Uuid(self.ids.uuid(slot.sequence)),
            Value::Long(user as i64 + 1),
            Value::Text { start: 0, end: row.text.len() },
            Value::Time(slot.event_us),
            Value::Time(slot.ingestion_us),
        ]);
    }
}
