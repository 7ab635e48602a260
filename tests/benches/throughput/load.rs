//! The load: a bare client, the same for everything that is measured.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::client::{connect, number_of, publish, responses};

/// After this long without its response a request counts as lost, and the run as broken.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Instant>>>>;

/// A client that publishes requests and waits for their republished responses.
#[derive(Clone)]
pub(crate) struct Client {
    jetstream: Context,
    prefix: String,
    waiting: Waiting,
    next: Arc<AtomicU64>,
    /// Responses to no request that waits: each is a second answer, or one that came after its limit.
    strays: Arc<AtomicU64>,
}

/// A client together with the reader of its responses.
pub(crate) struct Load {
    pub(crate) client: Client,
    reader: JoinHandle<()>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Load {
    /// Connects and subscribes.
    pub(crate) async fn start(url: &str, prefix: &str) -> Self {
        let jetstream = connect(url).await;
        let mut responses = responses(&jetstream, prefix).await;
        let (waiting, strays) = (Waiting::default(), Arc::<AtomicU64>::default());
        let reader = tokio::spawn({
            let (waiting, strays) = (waiting.clone(), strays.clone());
            async move {
                while let Some(message) = responses.next().await {
                    let id = number_of(&message.subject);
                    let waiter = id.and_then(|id| lock(&waiting).remove(&id));
                    match waiter {
                        // A waiter that gave up has counted itself as lost.
                        Some(waiter) => drop(waiter.send(Instant::now())),
                        None => drop(strays.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            }
        });
        let client = Client { jetstream, prefix: prefix.to_owned(), waiting, next: Arc::default(), strays };
        Self { client, reader }
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Instant>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// One request from its publish to its response.
    async fn request(&self) -> Instant {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(number, sender);
        let (answered, ()) = tokio::join!(
            tokio::time::timeout(ANSWER_WITHIN, receiver),
            publish(&self.jetstream, &self.prefix, number)
        );
        match answered {
            Ok(Ok(at)) => at,
            _ => panic!("request r{number} under {} was not answered in {ANSWER_WITHIN:?}", self.prefix),
        }
    }

    /// Keeps so many requests under way until dropped; returns how many were answered so far, for ever rising.
    pub(crate) fn keep_busy(&self, outstanding: usize) -> Busy {
        let (answered, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let tasks = (0..outstanding)
            .map(|_| {
                let (client, answered, stop) = (self.clone(), answered.clone(), stop.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        client.request().await;
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Busy { answered, stop, tasks }
    }

    /// Sends requests at fixed times, whether or not earlier ones were answered, and returns how long each took
    /// from the time it was due, in order of size.
    pub(crate) async fn at_rate(&self, per_second: u32, lasting: Duration) -> Vec<Duration> {
        let start = Instant::now() + Duration::from_millis(20);
        let count = u32::try_from(lasting.as_millis()).expect("a short time") * per_second / 1_000;
        let requests: Vec<_> = (0..count)
            .map(|index| {
                let due = start + Duration::from_secs(1) * index / per_second;
                let client = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep_until(due.into()).await;
                    // The timer's own coarseness (1 ms) is none of the broker's time.
                    let begun = Instant::now();
                    client.request().await - begun
                })
            })
            .collect();
        let mut took = Vec::with_capacity(requests.len());
        for request in requests {
            took.push(request.await.expect("a request ends with its response"));
        }
        took.sort_unstable();
        took
    }

    /// How many responses nobody waited for.
    pub(crate) fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }
}

/// A closed loop under way.
pub(crate) struct Busy {
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Busy {
    /// Answered up to now.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets what is under way be answered, then ends.
    pub(crate) async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("every request is answered");
        }
    }
}

/// The value below which this part (0 to 1) of sorted values lies, in milliseconds.
pub(crate) fn quantile_ms(sorted: &[Duration], part: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of a short list")]
    let index = ((sorted.len() - 1) as f64 * part).round() as usize;
    sorted[index].as_secs_f64() * 1_000.0
}
