//! What comes back from the retry stream. The record is looked at first: a repeat of an answered request
//! never waits for a place, and only the message that the record waits for goes on.

use tollgate_bus::retry::Patience;
use tollgate_policy::answer::{self, End};
use tollgate_policy::claim::{self, Due};
use tollgate_protocol::job::Job;

use tollgate_protocol::request::is_led_here;
use tollgate_telemetry as telemetry;

use crate::Context;
use crate::ending::Caller;
use crate::holding::Holding;

/// How long a message rests that this version cannot read.
const UNREADABLE: std::time::Duration = std::time::Duration::from_secs(30);

impl Context {
    /// Judges a message that was due or is released. `Some`: it is to be ordered like any other.
    pub(crate) async fn due(&self, message: Holding) -> Option<(Holding, Job)> {
        let job = match Job::decode(&message.payload) {
            Ok(job) => job,
            // Nobody wrote it: a reply subject led an acknowledgement or a copy here.
            Err(_) if is_led_here(&message.header_view(), &message.payload) => {
                telemetry::count_drained_acknowledgement();
                message.ack().await;
                return None;
            }
            Err(error) => {
                // A request of a newer version, perhaps: kept for a process that can read it.
                tracing::error!(%error, message = %message.source, "a due message cannot be read by this version");
                message.hand_back(UNREADABLE).await;
                return None;
            }
        };
        let last = match self.bus.last_record(&job.identity, Patience::NORMAL).await {
            Ok(last) => last,
            Err(error) => {
                tracing::warn!(%error, request = %job.identity, "the record cannot be read, the message will come again");
                message.hand_back(std::time::Duration::from_secs(1)).await;
                return None;
            }
        };
        let caller = Caller::of(&job);
        match claim::due(&job.digest, job.run, &last) {
            Due::Dispatch => return Some((message, job)),
            Due::Reply => {
                if !self.reply_stored(&caller).await {
                    message.hand_back(std::time::Duration::from_secs(1)).await;
                    return None;
                }
            }
            Due::Conflict => {
                let form = answer::response(&job, &[], End::expired(&[]), tollgate_bus::now());
                self.report_conflict(&caller, form).await;
            }
            Due::Copy => {
                if !self.wait_on(&message, &job).await {
                    message.hand_back(std::time::Duration::from_secs(1)).await;
                    return None;
                }
            }
        }
        message.ack().await;
        None
    }

    /// Somebody waits for a reply to a copy: look again later, or say at its deadline that it still runs.
    async fn wait_on(&self, message: &Holding, job: &Job) -> bool {
        if job.reply_to.is_none() {
            return true;
        }
        let now = tollgate_bus::now();
        if now < job.deadline {
            return self.bus.look_again(job, &message.source, message.stored_at).await.is_ok();
        }
        self.still_running(&Caller::of(job), answer::response(job, &[], End::expired(&[]), now)).await;
        true
    }
}
