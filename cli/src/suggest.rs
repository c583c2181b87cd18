//! The nearest known name for one that is not known.

/// The nearest of `known`, if it is near enough to be what was meant.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `unknown topic 'produtcs'; did you mean 'products'? Known: ...`
pub fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let hint = nearest(name, known).map(|n| format!("; did you mean '{n}'?")).unwrap_or_else(|| ".".to_owned());
    format!("unknown {what} '{name}'{hint} Known: {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_not() {
        let known = ["kafka_to_bronze", "gold_aggregation"];
        assert_eq!(nearest("kafka_to_bronz", &known), Some("kafka_to_bronze"));
        assert_eq!(nearest("gold_agregation", &known), Some("gold_aggregation"));
        assert_eq!(nearest("xyz", &known), None);
    }
}
