//! "Is this attempt in your hands?" Asked of one process, over core NATS.

use std::time::Duration;

use async_nats::RequestErrorKind;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tollgate_protocol::Identity;

use crate::Bus;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The attempt asked about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Question {
    /// The request.
    pub identity: Identity,
    /// The attempt.
    pub attempt: u32,
}

/// What is sent to an owner.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    #[serde(flatten)]
    question: Question,
    /// Whether it is to end the attempt.
    #[serde(default)]
    abort: bool,
}

/// What the owner says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The attempt is in its hands.
    Holding,
    /// It is not.
    NotMine,
}

/// What one unanswered question counts for, at most.
const LISTENED_MAX: Duration = Duration::from_secs(2);

/// For how long an owner was silent while this side could have heard it.
#[derive(Debug)]
pub struct Silence {
    silent: Duration,
    disconnections: u64,
}

impl Silence {
    /// Nothing was asked yet.
    pub fn new(bus: &Bus) -> Self {
        Self { silent: Duration::ZERO, disconnections: bus.connection().health().disconnections }
    }

    /// Notes a question, asked at `asked`, and the pause before the next one; returns the silence up to now.
    pub fn note(&mut self, bus: &Bus, answer: Option<Answer>, asked: Instant, pause: Duration) -> Duration {
        let health = bus.connection().health();
        if answer.is_some() || !health.connected || health.disconnections != self.disconnections {
            (self.silent, self.disconnections) = (Duration::ZERO, health.disconnections);
        } else {
            // Not the time that has passed, but the time that was listened: this process may have been stopped as well.
            self.silent += asked.elapsed().min(LISTENED_MAX) + pause;
        }
        self.silent
    }
}

impl Bus {
    /// Asks the process `owner`. `None`: nobody answered.
    pub async fn ask_owner(&self, owner: &str, question: &Question) -> Option<Answer> {
        self.say_to_owner(owner, Asked { question: question.clone(), abort: false }).await
    }

    /// Tells the process `owner` to end an attempt, if it is in its hands; then it writes how the request ended.
    pub async fn abort_attempt(&self, owner: &str, question: &Question) -> Option<Answer> {
        self.say_to_owner(owner, Asked { question: question.clone(), abort: true }).await
    }

    async fn say_to_owner(&self, owner: &str, asked: Asked) -> Option<Answer> {
        let payload = serde_json::to_vec(&asked).ok()?;
        let request = async_nats::Request::new().payload(payload.into()).timeout(Some(ANSWER_TIMEOUT));
        match self.client().send_request(self.subjects().owner(owner), request).await {
            Ok(message) => serde_json::from_slice(&message.payload).ok(),
            Err(error) => {
                // Nobody listens: wait as long as a slow answer would have taken, so as not to ask in a loop.
                if error.kind() == RequestErrorKind::NoResponders {
                    tokio::time::sleep(ANSWER_TIMEOUT / 4).await;
                }
                None
            }
        }
    }

    /// Answers such questions for `owner` until `stop`. `holds` says whether an attempt is in its hands, and ends it
    /// if it is told to.
    pub async fn serve_owner(
        &self,
        owner: &str,
        stop: CancellationToken,
        holds: impl Fn(&Question, bool) -> bool,
    ) {
        loop {
            let Ok(mut questions) = self.client().subscribe(self.subjects().owner(owner)).await else {
                tracing::error!("cannot subscribe to questions about my attempts");
                return;
            };
            loop {
                let message = tokio::select! {
                    () = stop.cancelled() => return,
                    message = questions.next() => message,
                };
                let Some(message) = message else { break };
                let (Some(reply), Ok(asked)) =
                    (message.reply, serde_json::from_slice::<Asked>(&message.payload))
                else {
                    continue;
                };
                let answer =
                    if holds(&asked.question, asked.abort) { Answer::Holding } else { Answer::NotMine };
                let Ok(payload) = serde_json::to_vec(&answer) else { continue };
                if let Err(error) = self.client().publish(reply, payload.into()).await {
                    tracing::debug!(%error, "answer about an attempt was not sent");
                }
            }
        }
    }
}
