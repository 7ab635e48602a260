//! The model of the bus, which the simulation runs on, and the real nats-server do the same: one list of scenarios.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, Stream};
use async_nats::jetstream::{self};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::Value;
use tollgate_model::conformance::{ANY, PATIENCE_MS, Scenario, Step, Then, Write, are, scenarios};
use tollgate_model::{ConsumerConfig, Refused, StreamConfig};
use tollgate_tests::nats::NatsServer;
use tollgate_tests::wait::eventually;

const REQUEST_WITHIN: Duration = Duration::from_secs(20);

struct Real {
    server: NatsServer,
    client: async_nats::Client,
    /// Payload, count, and where its acknowledgements go.
    delivered: Vec<(String, u64, String)>,
}

#[tokio::test]
async fn the_model_and_the_server_do_the_same() {
    let server = NatsServer::start().await;
    let client = connect(&server).await;
    let mut real = Real { server, client, delivered: Vec::new() };
    for scenario in scenarios() {
        tollgate_model::conformance::run(&scenario).unwrap();
        real.run(&scenario).await;
    }
}

async fn connect(server: &NatsServer) -> async_nats::Client {
    async_nats::ConnectOptions::new()
        .request_timeout(Some(REQUEST_WITHIN))
        .connect(server.url())
        .await
        .unwrap()
}

fn micros(time: u64) -> Duration {
    Duration::from_micros(time)
}

fn stream_config(config: &StreamConfig) -> Config {
    let most = |count: usize| if count == 0 { -1 } else { i64::try_from(count).unwrap() };
    Config {
        name: config.name.clone(),
        subjects: config.subjects.clone(),
        retention: if config.work_queue { RetentionPolicy::WorkQueue } else { RetentionPolicy::Limits },
        discard: if config.discard_new { DiscardPolicy::New } else { DiscardPolicy::Old },
        discard_new_per_subject: config.discard_new && config.per_subject_max > 0,
        max_messages_per_subject: most(config.per_subject_max),
        max_messages: most(config.messages_max),
        max_consumers: 10,
        duplicate_window: micros(config.duplicate_window),
        allow_message_counter: config.counter,
        allow_message_schedules: config.schedules,
        allow_message_ttl: config.schedules,
        allow_direct: true,
        ..Config::default()
    }
}

fn consumer_config(config: &ConsumerConfig) -> pull::Config {
    pull::Config {
        durable_name: Some(config.name.clone()),
        filter_subject: config.filter.clone(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: micros(config.ack_wait),
        max_deliver: -1,
        max_ack_pending: i64::try_from(config.ack_pending_max).unwrap(),
        ..pull::Config::default()
    }
}

impl Real {
    fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client.clone())
    }

    async fn stream(&self, scenario: &Scenario) -> Stream {
        self.jetstream().get_stream(&scenario.stream.name).await.unwrap()
    }

    async fn run(&mut self, scenario: &Scenario) {
        let stream = self.jetstream().create_stream(stream_config(&scenario.stream)).await.unwrap();
        for consumer in &scenario.consumers {
            stream.create_consumer(consumer_config(consumer)).await.unwrap();
        }
        self.delivered.clear();
        let mut before = Instant::now();
        for (index, step) in scenario.steps.iter().enumerate() {
            let began = Instant::now();
            let what = format!("{}, step {index}: {step:?}", scenario.name);
            self.step(scenario, step, before, &what).await;
            before = began;
        }
        self.jetstream().delete_stream(&scenario.stream.name).await.unwrap();
    }

    async fn step(&mut self, scenario: &Scenario, step: &Step, before: Instant, what: &str) {
        match step {
            Step::Publish(write, then) => assert_eq!(self.publish(write).await, *then, "{what}"),
            Step::Fetch { consumer, then, not_before_ms } => {
                let until = Instant::now() + Duration::from_millis(PATIENCE_MS);
                let mut found = Vec::new();
                while found.len() < then.len() && Instant::now() < until {
                    let most = then.len() - found.len();
                    found.extend(self.fetch(scenario, consumer, most, Duration::from_secs(1)).await);
                }
                assert!(are(&found, then), "{what}: {found:?}");
                assert!(
                    before.elapsed() >= Duration::from_millis(*not_before_ms),
                    "{what}: {:?}",
                    before.elapsed()
                );
            }
            Step::Nothing { consumer, for_ms } => {
                let found = self.fetch(scenario, consumer, 1, Duration::from_millis(*for_ms)).await;
                assert_eq!(found, [], "{what}");
            }
            Step::Ack(payload, count) => {
                // Answered, so that it is done when the next step begins.
                self.client.request(self.reply(payload, *count), "+ACK".into()).await.unwrap();
            }
            Step::Nak(payload, count, delay_ms) => {
                let text = format!("-NAK {{\"delay\": {}}}", delay_ms * 1_000_000);
                self.client.publish(self.reply(payload, *count), text.into()).await.unwrap();
                self.client.flush().await.unwrap();
            }
            Step::Progress(payload, count) => {
                self.client.publish(self.reply(payload, *count), "+WPI".into()).await.unwrap();
                self.client.flush().await.unwrap();
            }
            Step::Last(filter, then) => {
                let last = self.stream(scenario).await.get_last_raw_message_by_subject(filter).await.ok();
                let last = last.map(|message| (message.sequence, text(&message.payload)));
                assert_eq!(last, then.map(|(sequence, payload)| (sequence, payload.to_owned())), "{what}");
            }
            Step::Get(sequence, then) => {
                let message = self.stream(scenario).await.get_raw_message(*sequence).await.ok();
                assert_eq!(message.map(|message| text(&message.payload)).as_deref(), *then, "{what}");
            }
            Step::CounterIs(subject, total) => {
                let last =
                    self.stream(scenario).await.get_last_raw_message_by_subject(subject).await.unwrap();
                let value: Value = serde_json::from_slice(&last.payload).unwrap();
                assert_eq!(value["val"], total.to_string(), "{what}");
            }
            Step::Delete(sequence) => {
                assert!(self.stream(scenario).await.delete_message(*sequence).await.unwrap())
            }
            Step::Holds(count) => {
                eventually(Duration::from_secs(20), what, async || {
                    let messages = self.stream(scenario).await.cached_info().state.messages;
                    if messages == *count as u64 { Ok(true) } else { Err(format!("{messages} messages")) }
                })
                .await;
            }
            Step::Restart => {
                self.server.restart().await;
                self.client = connect(&self.server).await;
            }
        }
    }

    fn reply(&self, payload: &str, count: u64) -> String {
        let is = |(of, times, _): &&(String, u64, String)| of == payload && (count == ANY || *times == count);
        self.delivered.iter().rev().find(is).expect("it was delivered").2.clone()
    }

    async fn fetch(
        &mut self,
        scenario: &Scenario,
        consumer: &str,
        most: usize,
        time: Duration,
    ) -> Vec<(String, u64)> {
        let stream = self.stream(scenario).await;
        let consumer: jetstream::consumer::PullConsumer = stream.get_consumer(consumer).await.unwrap();
        let mut messages = consumer.batch().max_messages(most).expires(time).messages().await.unwrap();
        let mut found = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            let count = u64::try_from(message.info().unwrap().delivered).unwrap();
            let reply = message.reply.as_ref().unwrap().to_string();
            self.delivered.push((text(&message.payload), count, reply));
            found.push((text(&message.payload), count));
        }
        found
    }

    async fn publish(&self, write: &Write) -> Then {
        let mut headers = HeaderMap::new();
        if let Some(id) = write.id {
            headers.insert("Nats-Msg-Id", id);
        }
        if let Some((last, filter)) = write.expect {
            headers.insert("Nats-Expected-Last-Subject-Sequence", last.to_string().as_str());
            headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", filter);
        }
        if let Some(increment) = write.increment {
            headers.insert("Nats-Incr", increment.to_string().as_str());
        }
        if let Some((in_ms, target)) = write.schedule {
            let at = chrono::Utc::now() + Duration::from_millis(in_ms);
            let at = format!("@at {}", at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
            headers.insert("Nats-Schedule", at.as_str());
            headers.insert("Nats-Schedule-Target", target);
        }
        let sent = self.client.request_with_headers(write.subject, headers, Bytes::from(write.payload)).await;
        let reply: Value = serde_json::from_slice(&sent.unwrap().payload).unwrap();
        outcome(&reply, write.increment.is_some())
    }
}

fn outcome(reply: &Value, is_counter: bool) -> Then {
    if let Some(error) = reply.get("error") {
        let description = error["description"].as_str().unwrap();
        return Then::Refused(match error["err_code"].as_u64() {
            Some(10_071 | 10_164) => Refused::WrongLast,
            Some(10_077) if description.contains("per subject") => Refused::SubjectFull,
            Some(10_077) => Refused::StreamFull,
            _ => panic!("{reply}"),
        });
    }
    let sequence = reply["seq"].as_u64().unwrap();
    match (is_counter, reply["val"].as_str(), reply["duplicate"] == true) {
        (true, Some(total), _) => Then::Total(total.parse().unwrap()),
        (true, None, _) => Then::NoTotal,
        (false, _, true) => Then::Duplicate(sequence),
        (false, _, false) => Then::Stored(sequence),
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}
