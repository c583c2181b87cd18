//! Categories and scores of late data, by hours between event and arrival (data-model.md, "Late data").

/// One category: its name, the greatest delay that still belongs to it, its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Category {
    pub name: &'static str,
    /// Statistics column.
    pub column: &'static str,
    /// `None`: no limit.
    pub hours_max: Option<u32>,
    pub score: u32,
}

/// From on time to too late.
pub(crate) const CATEGORIES: [Category; 5] = [
    Category { name: "On-time", column: "on_time", hours_max: Some(1), score: 100 },
    Category { name: "Slightly Late", column: "slightly_late", hours_max: Some(6), score: 90 },
    Category { name: "Late", column: "late", hours_max: Some(24), score: 75 },
    Category { name: "Very Late", column: "very_late", hours_max: Some(48), score: 50 },
    Category { name: "Too Late", column: "too_late", hours_max: None, score: 0 },
];

/// When a row arrived: by its producer's word, else Kafka's, else when it was stored. `with_ingestion`: the topic has that field.
pub(crate) fn arrival(with_ingestion: bool) -> &'static str {
    if with_ingestion { "coalesce(ingestion_timestamp, kafka_timestamp, ingested_at)" } else { "coalesce(kafka_timestamp, ingested_at)" }
}

/// Hours between two moments, as SQL. Never negative: a clock that is ahead makes nothing late.
pub(crate) fn delay_hours(time: &str, arrival: &str) -> String {
    format!("CAST(greatest(arrow_cast({arrival}, 'Int64') - arrow_cast({time}, 'Int64'), 0) AS DOUBLE) / 3600000000.0")
}

/// A CASE over `delay_hours` that gives something of the category.
pub(crate) fn by_category(pick: impl Fn(&Category) -> String) -> String {
    let mut cases = String::from("CASE");
    for category in &CATEGORIES {
        match category.hours_max {
            Some(hours) => cases.push_str(&format!(" WHEN delay_hours <= {hours} THEN {}", pick(category))),
            None => cases.push_str(&format!(" ELSE {}", pick(category))),
        }
    }
    cases.push_str(" END");
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_are_those_of_the_data_model() {
        let limits: Vec<_> = CATEGORIES.iter().map(|c| (c.name, c.hours_max, c.score)).collect();
        assert_eq!(
            limits,
            [("On-time", Some(1), 100), ("Slightly Late", Some(6), 90), ("Late", Some(24), 75), ("Very Late", Some(48), 50), ("Too Late", None, 0)]
        );
    }

    #[test]
    fn the_case_tries_categories_in_order() {
        let sql = by_category(|c| c.score.to_string());
        assert_eq!(
            sql,
            "CASE WHEN delay_hours <= 1 THEN 100 WHEN delay_hours <= 6 THEN 90 WHEN delay_hours <= 24 THEN 75 WHEN delay_hours <= 48 THEN 50 ELSE 0 END"
        );
    }
}
