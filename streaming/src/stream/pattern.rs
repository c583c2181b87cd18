use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use regex::Regex;

use chainalytics_common::Result;

use super::spec::TopicSubscription;
use crate::err;

/// Says what a topic that a pattern found is, and where it goes.
#[async_trait]
pub trait TopicResolver: Send + Sync {
    /// The topic's subscription; its table must exist when this returns.
    ///
    /// # Errors
    /// Why the topic cannot be read. What does not pass (`err::may_pass`) leaves the topic out for a while.
    async fn subscribe(&self, topic: &str) -> Result<TopicSubscription>;
}

/// Topics by their names.
#[derive(Clone)]
pub struct TopicPattern {
    regex: Regex,
    resolver: Arc<dyn TopicResolver>,
}

impl TopicPattern {
    /// Topics whose whole name matches the regular expression `pattern`.
    ///
    /// # Errors
    /// `InvalidArgument` for one that is none.
    pub fn new(pattern: &str, resolver: Arc<dyn TopicResolver>) -> Result<Self> {
        let regex =
            Regex::new(&format!("^(?:{pattern})$")).map_err(|e| err::invalid(format!("topic pattern '{pattern}' is no regular expression: {e}")))?;
        Ok(Self { regex, resolver })
    }

    /// Whether a topic belongs to the stream. Kafka's own never do.
    pub(super) fn matches(&self, topic: &str) -> bool {
        !topic.starts_with("__") && self.regex.is_match(topic)
    }

    pub(super) fn resolver(&self) -> &dyn TopicResolver {
        self.resolver.as_ref()
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TopicPattern").field(&self.regex.as_str()).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Nobody;

    #[async_trait]
    impl TopicResolver for Nobody {
        async fn subscribe(&self, topic: &str) -> Result<TopicSubscription> {
            Err(err::invalid(topic))
        }
    }

    #[test]
    fn a_pattern_means_the_whole_name() {
        let pattern = TopicPattern::new("user-.*|products", Arc::new(Nobody)).unwrap();
        assert!(pattern.matches("user-events") && pattern.matches("products"));
        assert!(!pattern.matches("my-user-events") && !pattern.matches("products2"));
        assert!(!TopicPattern::new(".*", Arc::new(Nobody)).unwrap().matches("__consumer_offsets"));
        assert!(TopicPattern::new("(", Arc::new(Nobody)).is_err());
    }
}
