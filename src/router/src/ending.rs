//! Requests that end at the router: rejected, or over their deadline.

use std::time::Duration;

use tollgate_bus::answer::Ending;
use tollgate_bus::record::Fenced;
use tollgate_bus::retry::Patience;
use tollgate_policy::answer::{self, End};
use tollgate_policy::claim::{self, Hand, Verdict};
use tollgate_protocol::event::{Kind, LifecycleEvent};
use tollgate_protocol::job::Job;
use tollgate_protocol::request::Head;
use tollgate_protocol::response::{Response, Status};
use tollgate_protocol::usage::UsageEvent;
use tollgate_protocol::{Digest, Encoding, ErrorCode, Identity, Priority, Problem, Sequence, Timestamp};
use tollgate_telemetry::{self as telemetry, Role};

use crate::holding::Holding;
use crate::{Context, SOURCE};

/// A terminal response about to be written.
struct Terminal {
    digest: Digest,
    encoding: Encoding,
    priority: Priority,
    deadline: Timestamp,
    traceparent: Option<String>,
    caller: Caller,
    expected: Sequence,
    response: Response,
    unpaid: UsageEvent,
}

/// Who waits for a reply, and in which form.
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) inbox: Option<String>,
    pub(crate) bare: bool,
    pub(crate) encoding: Encoding,
}

impl Caller {
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            identity: job.identity.clone(),
            inbox: job.reply_to.clone(),
            bare: job.bare,
            encoding: job.encoding,
        }
    }
}

impl Context {
    /// Rejects a request.
    pub(crate) async fn reject(&self, message: Holding, head: &Head, problem: Problem) {
        tracing::debug!(request = %head.identity, code = %problem.code, field = problem.field, "rejected");
        let now = tollgate_bus::now();
        let response = answer::rejection(head, problem, now);
        let unpaid = answer::unpaid(&answer::subject_of(head), &response, now);
        let caller = Caller {
            identity: head.identity.clone(),
            inbox: head.reply_to.clone(),
            bare: head.bare,
            encoding: head.encoding,
        };
        let terminal = Terminal {
            digest: head.digest,
            encoding: head.encoding,
            priority: head.priority,
            deadline: head.deadline,
            traceparent: head.traceparent.clone(),
            caller,
            expected: 0,
            response,
            unpaid,
        };
        self.finish(message, terminal).await;
    }

    /// Ends a request that is on its way.
    pub(crate) async fn end(&self, message: Holding, job: &Job, end: End) {
        let now = tollgate_bus::now();
        let response = answer::response(job, &job.history, end, now);
        let unpaid = answer::unpaid(&job.usage_subject(), &response, now);
        let terminal = Terminal {
            digest: job.digest,
            encoding: job.encoding,
            priority: job.priority,
            deadline: job.deadline,
            traceparent: job.traceparent.clone(),
            caller: Caller::of(job),
            expected: job.run,
            response,
            unpaid,
        };
        self.finish(message, terminal).await;
    }

    async fn finish(&self, message: Holding, mut terminal: Terminal) {
        loop {
            let ending = Ending {
                response: &terminal.response,
                encoding: terminal.encoding,
                digest: terminal.digest,
                from: &message.source,
                attempt: 0,
                dead: None,
                unpaid: Some(&terminal.unpaid),
                ttl_seconds: self.settings.retention.seconds(terminal.deadline, tollgate_bus::now()),
                expected: terminal.expected,
                traceparent: terminal.traceparent.as_deref(),
            };
            let last = match self.bus.write_answer(ending, Patience::NORMAL).await {
                Ok(Fenced::Written(_)) => {
                    tollgate_bus::point("router.end.stored");
                    let (status, total) =
                        (terminal.response.status.as_str(), terminal.response.timing.total_ms);
                    telemetry::count_request(status, terminal.priority.as_str());
                    telemetry::observe_request(status, Duration::from_millis(total));
                    if let Some(inbox) = &terminal.caller.inbox {
                        let caller = &terminal.caller;
                        self.bus.reply_with(inbox, &terminal.response, caller.bare, caller.encoding).await;
                    }
                    return message.ack().await;
                }
                Ok(Fenced::Refused(last)) => *last,
                Err(error) => {
                    tracing::warn!(%error, request = %terminal.caller.identity, "a response cannot be stored, the message will come again");
                    return message.hand_back(Duration::from_secs(1)).await;
                }
            };
            telemetry::count_record_conflict(Role::Router);
            let hand = Hand { from: message.source.clone(), digest: terminal.digest };
            match claim::judge(&hand, last) {
                Verdict::Claim { expected, .. } => terminal.expected = expected,
                Verdict::Finish { .. } => {
                    if !self.reply_stored(&terminal.caller).await {
                        return message.hand_back(Duration::from_secs(1)).await;
                    }
                    return message.ack().await;
                }
                Verdict::Conflict => {
                    self.report_conflict(&terminal.caller, terminal.response).await;
                    return message.ack().await;
                }
                // Another message of the same request goes on. (The last two cannot be: no router claims.)
                Verdict::Copy | Verdict::AskOwner { .. } | Verdict::HandOver { .. } => {
                    self.still_running(&terminal.caller, terminal.response).await;
                    return message.ack().await;
                }
            }
        }
    }

    /// Replies with the response that is stored already. `false`: it could not be read now.
    pub(crate) async fn reply_stored(&self, caller: &Caller) -> bool {
        let Some(inbox) = &caller.inbox else { return true };
        match self.bus.response_of(&caller.identity).await {
            Ok(Some((response, encoding))) => {
                self.bus.reply_with(inbox, &response, caller.bare, encoding).await;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, request = %caller.identity, "a stored response cannot be read");
                return false;
            }
        }
        true
    }

    /// Tells who waits for a copy that the request itself still runs. `form` is any response about this
    /// request; its error is replaced.
    pub(crate) async fn still_running(&self, caller: &Caller, form: Response) {
        let Some(inbox) = &caller.inbox else { return };
        let text = "the request is still on its way; ask again with the same id for its answer";
        let problem = Problem::at(ErrorCode::StillRunning, "id", text);
        let response = Response { status: Status::Rejected, error: Some(problem), body: None, ..form };
        self.bus.reply_with(inbox, &response, caller.bare, caller.encoding).await;
    }

    /// The identity was used before for another body: an event, and a word to who waits. `form` is any
    /// response about this request; its error is replaced.
    pub(crate) async fn report_conflict(&self, caller: &Caller, form: Response) {
        telemetry::count_duplicate();
        let text = "this identity was used before for another body; this one was not run";
        let event = LifecycleEvent::about(&caller.identity, Kind::DuplicateId, tollgate_bus::now(), text);
        let id = format!("{}.0.duplicate_id", caller.identity);
        self.bus.publish_event(&event, SOURCE, &id).await;
        if let Some(inbox) = &caller.inbox {
            let problem = Problem::at(ErrorCode::DuplicateId, "id", text);
            let response = Response { status: Status::Rejected, error: Some(problem), body: None, ..form };
            self.bus.reply_with(inbox, &response, caller.bare, caller.encoding).await;
        }
    }
}
