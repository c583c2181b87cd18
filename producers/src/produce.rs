//! A run: schemas registered, topics created, one thread per topic that generates and sends, until all is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{ProducerError, Result};
use crate::generate::{Generator, default_base_time_us};
use crate::options::{Format, ProduceOptions};
use crate::registry::{Registry, RegistryTarget};
use crate::report::{Counts, ProduceReport, Progress, TopicProgress, TopicReport};
use crate::sink::{DELIVERY_TIMEOUT, Deliveries, KafkaTarget, Offered, Sink};
use crate::topics::Topic;

/// Between two calls of the progress callback.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// How often the fate of records is looked at.
const SETTLE_INTERVAL: Duration = Duration::from_millis(10);
/// A full queue drains this long before the next attempt.
const FULL_PAUSE: Duration = Duration::from_millis(2);
/// Longest sleep of a rate-limited sender, so that it notices a cancellation.
const PACE_SLEEP_MAX: Duration = Duration::from_millis(20);
/// After a cancellation records on their way get this long.
const CANCEL_GRACE: Duration = Duration::from_secs(10);
/// On top of the delivery time-out, for the last reports to come in.
const SETTLE_MARGIN: Duration = Duration::from_secs(10);

/// Where a run sends to.
#[derive(Debug, Clone)]
pub struct Target {
    /// Kafka.
    pub kafka: KafkaTarget,
    /// Schema registry, if there is one.
    pub registry: Option<RegistryTarget>,
}

/// What a sending thread tells about itself while it runs.
#[derive(Debug, Default)]
struct Shown {
    sent: AtomicU64,
    bytes: AtomicU64,
}

struct Sender {
    topic: Topic,
    shown: Arc<Shown>,
    task: JoinHandle<SenderEnd>,
}

#[derive(Debug)]
struct SenderEnd {
    counts: Counts,
    dead: Option<String>,
}

/// Produces to all topics of the options and waits until every record is acknowledged.
///
/// `progress` is called about four times a second and once at the end. When `cancel` is cancelled, no more records are
/// made, those on their way are waited for (10 s at most), and the report says how far it came.
///
/// # Errors
/// * [`ProducerError::Option`]: nothing was sent.
/// * [`ProducerError::BrokerUnreachable`], [`ProducerError::CreateTopic`], [`ProducerError::Registry`]: nothing was sent.
/// * [`ProducerError::Delivery`]: some records were not acknowledged.
pub async fn produce_to(
    target: &Target,
    options: &ProduceOptions,
    progress: impl Fn(&Progress) + Send + Sync,
    cancel: CancellationToken,
) -> Result<ProduceReport> {
    options.validate()?;
    let format = options.format.resolve(target.registry.is_some());
    let mut topics = Vec::new();
    for topic in &options.topics {
        if !topics.contains(topic) {
            topics.push(*topic);
        }
    }
    let sink = Arc::new(Sink::open(&target.kafka, topics.len())?);
    sink.ensure_topics(&topics, options.partitions).await?;
    let mut schema_ids = vec![0; topics.len()];
    if matches!(format, Format::Avro | Format::JsonSchema) {
        let registry = target
            .registry
            .clone()
            .ok_or_else(|| ProducerError::Option { option: "format", reason: format!("{format} needs schema.registry.url") })?;
        let registry = Registry::new(registry)?;
        for (topic, id) in topics.iter().zip(schema_ids.iter_mut()) {
            *id = registry.register(*topic, format).await?;
        }
    }
    // Records that are sent as they happen carry the moment at which they are sent, not one before the topics were made.
    let base_time_us = options.base_time_us.unwrap_or_else(|| if options.rate.is_some() { Utc::now().timestamp_micros() } else { default_base_time_us() });
    let options = ProduceOptions { base_time_us: Some(base_time_us), ..options.clone() };
    let started = Instant::now();
    // senders end by this token too, when one of them cannot go on
    let stop = cancel.child_token();
    let senders: Vec<Sender> = topics
        .iter()
        .zip(&schema_ids)
        .enumerate()
        .map(|(index, (topic, id))| {
            let generator = Generator::new(*topic, &options, format, *id);
            let shown = Arc::new(Shown::default());
            let pace = Pace { rate: options.rate, ramp: options.ramp, duration: options.duration, started };
            let (sink, seen, stop) = (Arc::clone(&sink), Arc::clone(&shown), stop.clone());
            let task = tokio::task::spawn_blocking(move || send_all(generator, index, &sink, &pace, &seen, &stop));
            Sender { topic: *topic, shown, task }
        })
        .collect();
    let topics = settle(senders, &sink, &options, started, &progress, &stop, &cancel).await?;
    Ok(ProduceReport { topics, format, seed: options.seed, base_time_us, seconds: started.elapsed().as_secs_f64(), cancelled: cancel.is_cancelled() })
}

/// Waits for the senders and for the acknowledgements, and tells of the progress meanwhile.
async fn settle(
    senders: Vec<Sender>,
    sink: &Sink,
    options: &ProduceOptions,
    started: Instant,
    progress: &(impl Fn(&Progress) + Send + Sync),
    stop: &CancellationToken,
    cancel: &CancellationToken,
) -> Result<Vec<TopicReport>> {
    let mut seconds: Vec<Option<f64>> = vec![None; senders.len()];
    let mut told = Instant::now();
    let mut all_sent_at: Option<Instant> = None;
    loop {
        for (i, sender) in senders.iter().enumerate() {
            let sent = sender.shown.sent.load(Ordering::Acquire);
            let settled = sink.deliveries.get(i).map_or(0, Deliveries::settled);
            if seconds[i].is_none() && sender.task.is_finished() && settled >= sent {
                seconds[i] = Some(started.elapsed().as_secs_f64());
            }
        }
        if seconds.iter().all(Option::is_some) {
            break;
        }
        if senders.iter().all(|s| s.task.is_finished()) {
            let since = all_sent_at.get_or_insert_with(Instant::now).elapsed();
            let patience = if cancel.is_cancelled() { CANCEL_GRACE } else { DELIVERY_TIMEOUT + SETTLE_MARGIN };
            if since > patience || sink.fatal().is_some() && since > CANCEL_GRACE {
                break;
            }
        }
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            progress(&figures(&senders, sink, options, started));
            if sink.fatal().is_some() {
                stop.cancel();
            }
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
    }
    progress(&figures(&senders, sink, options, started));
    let mut reports = Vec::with_capacity(senders.len());
    for (i, sender) in senders.into_iter().enumerate() {
        let topic = sender.topic;
        let end = sender.task.await.map_err(|_| ProducerError::Died(topic.name().to_owned()))?;
        let Some(deliveries) = sink.deliveries.get(i) else { continue };
        let (sent, acked) = (end.counts.sent, deliveries.acked.load(Ordering::Relaxed));
        let lost = sent.saturating_sub(acked);
        if end.dead.is_some() || (lost > 0 && !cancel.is_cancelled()) {
            let reason = end.dead.or_else(|| deliveries.first_failure.get().cloned()).or_else(|| sink.fatal());
            let reason = reason.unwrap_or_else(|| "no answer in time".to_owned());
            return Err(ProducerError::Delivery { topic: topic.name().to_owned(), sent, failed: lost, reason });
        }
        let seconds = seconds[i].unwrap_or_else(|| started.elapsed().as_secs_f64());
        reports.push(TopicReport { topic, counts: end.counts, acked, seconds });
    }
    Ok(reports)
}

fn figures(senders: &[Sender], sink: &Sink, options: &ProduceOptions, started: Instant) -> Progress {
    let topic = |(i, sender): (usize, &Sender)| {
        let deliveries = sink.deliveries.get(i);
        let count = |which: fn(&Deliveries) -> &AtomicU64| deliveries.map_or(0, |d| which(d).load(Ordering::Relaxed));
        TopicProgress {
            topic: sender.topic,
            sent: sender.shown.sent.load(Ordering::Relaxed),
            acked: count(|d| &d.acked),
            failed: count(|d| &d.failed),
            bytes: sender.shown.bytes.load(Ordering::Relaxed),
            total: options.count,
        }
    };
    Progress { topics: senders.iter().enumerate().map(topic).collect(), seconds: started.elapsed().as_secs_f64() }
}

/// When the next record may go.
#[derive(Debug, Clone, Copy)]
struct Pace {
    rate: Option<f64>,
    ramp: Duration,
    duration: Option<Duration>,
    started: Instant,
}

impl Pace {
    /// Time from the start until record number `index` is due.
    fn due(&self, index: u64) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let ramp = self.ramp.as_secs_f64();
        let index = index as f64;
        // while the rate rises linearly, rate * t^2 / (2 * ramp) records have gone
        let seconds = if index < rate * ramp / 2.0 { (2.0 * ramp * index / rate).sqrt() } else { index / rate + ramp / 2.0 };
        Duration::from_secs_f64(seconds)
    }

    fn is_over(&self) -> bool {
        self.duration.is_some_and(|d| self.started.elapsed() >= d)
    }
}

/// The loop of one topic's thread.
fn send_all(mut generator: Generator, index: usize, sink: &Sink, pace: &Pace, shown: &Shown, stop: &CancellationToken) -> SenderEnd {
    /// Clock and token are looked at every so many records when no rate is set.
    const CHECK_EVERY: u64 = 256;
    let topic = generator.topic();
    let mut reason = None;
    let mut counts = Counts::default();
    'records: loop {
        let number = counts.sent;
        if (number % CHECK_EVERY == 0 || pace.rate.is_some()) && (stop.is_cancelled() || pace.is_over()) {
            break;
        }
        if pace.rate.is_some() {
            let due = pace.due(number);
            loop {
                let wait = due.saturating_sub(pace.started.elapsed());
                if wait.is_zero() {
                    break;
                }
                if stop.is_cancelled() || pace.is_over() {
                    break 'records;
                }
                std::thread::sleep(wait.min(PACE_SLEEP_MAX));
            }
        }
        let Some(record) = generator.next_record() else { break };
        loop {
            match sink.offer(topic, index, record.key, record.value, record.timestamp_ms) {
                Offered::Taken => break,
                Offered::Full if stop.is_cancelled() => break 'records,
                Offered::Full => std::thread::sleep(FULL_PAUSE),
                Offered::Dead(why) => {
                    reason = Some(why);
                    break 'records;
                }
            }
        }
        // only what was taken counts: a record made but not sent at the end is not in the account
        counts = generator.counts();
        shown.sent.store(counts.sent, Ordering::Release);
        shown.bytes.store(counts.bytes, Ordering::Relaxed);
    }
    SenderEnd { counts, dead: reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn pace_rises_then_is_even() {
        let pace = |rate, ramp| Pace { rate, ramp, duration: None, started: Instant::now() };
        let even = pace(Some(1000.0), Duration::ZERO);
        assert_eq!(even.due(0), Duration::ZERO);
        assert!((even.due(500).as_secs_f64() - 0.5).abs() < 1e-9);
        let rising = pace(Some(1000.0), Duration::from_secs(2));
        // after the two seconds half of 2000 records have gone
        assert!((rising.due(1000).as_secs_f64() - 2.0).abs() < 1e-9);
        assert!((rising.due(2000).as_secs_f64() - 3.0).abs() < 1e-9);
        assert!(rising.due(250).as_secs_f64() > 0.9);
        assert_eq!(pace(None, Duration::ZERO).due(1 << 40), Duration::ZERO);
    }
}
