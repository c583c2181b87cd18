//! `api-logs`: calls of four services. Failures come in bursts: each service is healthy (93 % success) or in trouble
//! (20 %, and slow), so that 75 % of all calls succeed.

use super::{IdSource, Slot};
use crate::rng::Chance;
use crate::row::{Field, FieldType, Row, Value};

pub(super) const FIELDS: &[Field] = &[
    Field::new("log_id", FieldType::Text),
    Field::new("api_source", FieldType::Text),
    Field::new("response_time_ms", FieldType::Int),
    Field::new("success_flag", FieldType::Boolean),
    Field::new("call_timestamp", FieldType::Timestamp),
];

const SERVICES: [&str; 4] = ["auth-service", "payment-gateway", "user-service", "inventory-service"];
const SUCCESS_HEALTHY: f64 = 0.93;
const SUCCESS_TROUBLE: f64 = 0.20;
/// Share of the time in trouble that gives 75 % over all: (0.93 - 0.75) / (0.93 - 0.20).
const TROUBLE_SHARE: f64 = (SUCCESS_HEALTHY - 0.75) / (SUCCESS_HEALTHY - SUCCESS_TROUBLE);
/// A burst lasts 50 calls of a service on average.
const LEAVE_TROUBLE: f64 = 0.02;
const ENTER_TROUBLE: f64 = LEAVE_TROUBLE * TROUBLE_SHARE / (1.0 - TROUBLE_SHARE);

#[derive(Debug)]
pub(crate) struct ApiLogs {
    ids: IdSource,
    /// `None` until a service's first call decides how it starts.
    trouble: [Option<bool>; 4],
}

impl ApiLogs {
    pub fn new(ids: IdSource) -> Self {
        Self { ids, trouble: [None; 4] }
    }

    pub fn fill(&mut self, slot: &Slot, chance: &mut Chance, row: &mut Row) {
        let service = chance.below(4) as usize;
        let u = chance.unit();
        let trouble = match self.trouble[service] {
            None => u < TROUBLE_SHARE,
            Some(true) => u >= LEAVE_TROUBLE,
            Some(false) => u < ENTER_TROUBLE,
        };
        self.trouble[service] = Some(trouble);
        let success = chance.chance(if trouble { SUCCESS_TROUBLE } else { SUCCESS_HEALTHY });
        let typical = if trouble { 900.0 } else { 90.0 };
        let spread = (0.6 * chance.normal()).exp();
        let mut response_ms = ((typical * spread) as i64).clamp(10, 2000);
        match slot.invalid.map(|which| which % 2) {
            Some(0) => response_ms = 0,
            Some(_) => response_ms = -response_ms,
            None => {}
        }
        row.set(&[
            Value::Uuid(self.ids.uuid(slot.sequence)),
            Value::Word(SERVICES[service]),
            Value::Long(response_ms),
            Value::Boolean(success),
            Value::Time(slot.event_us),
        ]);
    }
}
