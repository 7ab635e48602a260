//! From a delivered message to a request that can be ordered, or to its rejection.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use tollgate_policy::budget::{Budget, Budgets, Measure, Need, Needs, WhenSpent};
use tollgate_policy::estimate;
use tollgate_policy::hot::Hot;
use tollgate_policy::inputs::{Inputs, Vocabulary, text_alone};
use tollgate_policy::order::{Gate, Place};
use tollgate_policy::outputs::Outputs;
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::request::{Decoded, Delivered, Head, OnLimit, Request, decode};
use tollgate_protocol::{ErrorCode, Identity, Problem, Timestamp};

use crate::Context;
use crate::budget::Held;
use crate::holding::Holding;
use crate::permit::Permit;

/// Why a message of a lane is not a request to be ordered.
pub(crate) enum NotTaken {
    /// A request to be rejected.
    Rejected(Box<Head>, Problem),
    /// A request that may not be called before this time.
    NotBefore(Box<Job>, Timestamp),
    /// Nothing that anybody waits for.
    Drained,
}

/// A request in the router's hands, ready to be dispatched.
pub(crate) struct Item {
    /// The message it came with; its payload is dropped.
    pub(crate) message: Holding,
    /// Whose it is.
    pub(crate) identity: Identity,
    /// What was in force when it was made; its budgets are numbered as there.
    pub(crate) hot: Arc<Hot>,
    /// Where it goes.
    pub(crate) target: Target,
    /// Whether it is one of the calls that show whether its target is up again. Its message has the permit, or it takes one
    /// when it goes.
    pub(crate) is_probe: bool,
    /// Its place in the order.
    pub(crate) place: Place,
    /// Its deadline.
    pub(crate) deadline: Timestamp,
    /// JetStream's id of its dispatch message.
    pub(crate) message_id: String,
    /// The encoded job.
    pub(crate) payload: Bytes,
    /// The model that it asks for.
    pub(crate) model: String,
    /// Bytes of its text, if it has nothing else.
    pub(crate) text_bytes: u64,
    /// What it needs of its budgets.
    pub(crate) needs: Needs,
    /// How much that is, as known when it goes.
    pub(crate) amounts: Vec<Need>,
    /// Tries to reserve that found no room.
    pub(crate) waits: u32,
    /// The budgets that it got room in when it was last tried.
    pub(crate) passed: Vec<usize>,
    /// When the ledger last said what is reserved for it, and when last that nothing is.
    pub(crate) asked: Option<Timestamp>,
    pub(crate) has_nothing: Option<Timestamp>,
    /// What is reserved for it.
    pub(crate) reserved: Option<Vec<Held>>,
    /// When it may begin under limits of requests per minute that it has a number of.
    pub(crate) turns: Vec<(usize, Timestamp)>,
    /// Whether it is rejected rather than waits for a limit.
    pub(crate) rejects_on_limit: bool,
    /// The budget that has too little left for this request, and perhaps enough for smaller ones.
    pub(crate) too_large_for: Option<usize>,
    /// The attempt that comes next.
    pub(crate) attempt: u32,
    /// Since when it is in hand.
    pub(crate) since: Timestamp,
    /// Whether it has made room for others.
    pub(crate) is_aside: bool,
}

impl Item {
    /// Whether it is rejected when this has no room for it now.
    pub(crate) fn is_rejected_by(&self, limit: &Budget) -> bool {
        rejects(limit, self.rejects_on_limit)
    }

    /// Takes the permit that it goes with, or gives it back while it waits: its payload says which one it has.
    pub(crate) fn set_permit(&mut self, permit: Option<Permit>) {
        if permit.is_none() && self.message.permit.is_none() {
            return;
        }
        let probe = permit.as_ref().and_then(Permit::stage);
        self.message.permit = permit;
        match Job::decode(&self.payload).and_then(|job| Job { probe, ..job }.encode()) {
            Ok(payload) => self.payload = payload,
            Err(error) => tracing::error!(%error, "a request of our own cannot be read"),
        }
    }

    /// The budgets and limits at whose gates it waits with others.
    pub(crate) fn waits_behind(&self) -> Vec<usize> {
        let behind = gates_of(&self.needs, &self.hot.budgets, self.rejects_on_limit);
        // With everything reserved it must not wait behind those that have not; but for its turn.
        behind.filter(|budget| self.reserved.is_none() || self.hot.budgets.is_rate(*budget)).collect()
    }
}

fn rejects(limit: &Budget, on_limit: bool) -> bool {
    limit.measure != Measure::Money && (on_limit || limit.when_spent == WhenSpent::Reject)
}

/// Whoever is rejected where there is no room does not wait to find out.
fn gates_of<'a>(needs: &'a Needs, budgets: &'a Budgets, on_limit: bool) -> impl Iterator<Item = usize> + 'a {
    let waits = move |index: &usize| budgets.0.get(*index).is_some_and(|budget| !rejects(budget, on_limit));
    needs.budgets.iter().copied().filter(waits)
}

/// Reads a message of a request lane.
pub(crate) fn take_request(context: &Context, hot: &Hot, message: &Holding) -> Result<Job, NotTaken> {
    let subjects = context.bus.subjects();
    let Some((priority, team)) = subjects.parse_lane(&message.subject) else {
        tracing::error!(message = %message.source, "a message in the request stream has a foreign subject: dropped");
        return Err(NotTaken::Drained);
    };
    let delivered = Delivered {
        team,
        priority,
        sequence: message.source.sequence,
        accepted_at: message.stored_at,
        ttl_ms_default: context.settings.ttl_ms[priority.index()],
        headers: &message.header_view(),
        payload: &message.payload,
    };
    let request = match decode(&delivered) {
        Decoded::Request(request) => *request,
        Decoded::Rejected(head, problem) => return Err(NotTaken::Rejected(head, problem)),
        Decoded::Acknowledgement => return Err(NotTaken::Drained),
    };
    let not_before = request.not_before;
    let job = admit(hot, request).map_err(|(head, problem)| NotTaken::Rejected(head, problem))?;
    match not_before {
        Some(time) if time > tollgate_bus::now() => Err(NotTaken::NotBefore(Box::new(job), time)),
        _ => Ok(job),
    }
}

fn admit(hot: &Hot, request: Request) -> Result<Job, (Box<Head>, Problem)> {
    let Request { head, fallbacks, facts, body, on_limit, .. } = request;
    let resolved = hot.catalog.resolve_all(&hot.teams, &head.identity.team, &facts.model, &fallbacks);
    let (targets, typed) = match resolved {
        Ok(resolved) => resolved,
        Err(problem) => {
            let problem = if head.bare { problem.in_bare_body() } else { problem };
            return Err((Box::new(head), problem));
        }
    };
    // What its other targets count differs little.
    let vocabulary = targets.iter().find_map(|target| Vocabulary::of(&target.model));
    let input = tollgate_tokens::read(body.as_str(), vocabulary);
    let team = hot.teams.get(&head.identity.team);
    // The lower priority is the greater one.
    let priority_max = team.map_or(head.priority, |team| team.priority_max);
    Ok(Job {
        identity: head.identity,
        run: 0,
        digest: head.digest,
        sequence: head.sequence,
        priority: head.priority.max(priority_max),
        endpoint: head.endpoint,
        encoding: head.encoding,
        bare: head.bare,
        requested_model: facts.model,
        targets,
        typed,
        target: 0,
        probe: None,
        history: Vec::new(),
        accepted_at: head.accepted_at,
        deadline: head.deadline,
        meta: head.meta,
        reply_to: head.reply_to,
        traceparent: head.traceparent,
        reserved: None,
        rejects_on_limit: on_limit == OnLimit::Reject,
        reserved_prices: Vec::new(),
        output_tokens_max: facts.output_tokens_max,
        choices: facts.choices,
        input_tokens: input.tokens,
        media: input.media,
        media_bytes: input.media_bytes,
        model_at: facts.model_at,
        body: Bytes::from(body.as_str().to_owned()),
        body_digest: None,
        body_ref: None,
    })
}

/// Joins a job with its message, for the order.
pub(crate) fn item(
    hot: &Arc<Hot>,
    mut message: Holding,
    job: &mut Job,
    learnt: (&Inputs, &Outputs),
) -> Result<Item, Box<(Holding, Problem)>> {
    let (inputs, outputs) = learnt;
    let internal = |message, text: String| Box::new((message, Problem::new(ErrorCode::Internal, text)));
    let Some(target) = job.current_target().cloned() else {
        return Err(internal(message, "the request has no target".to_owned()));
    };
    let needs = hot.budgets.needs(job, &hot.catalog.prices, inputs);
    job.probe = message.permit.as_ref().and_then(Permit::stage);
    job.reserved.clone_from(&needs.covers);
    job.reserved_prices.clone_from(&needs.prices);
    let payload = match job.encode() {
        Ok(payload) => payload,
        Err(error) => return Err(internal(message, error.to_string())),
    };
    let expected = outputs.expected(&job.identity.team, &job.requested_model, job.output_tokens_max);
    let tokens = estimate::tokens_expected(inputs.tokens_now(job), job.output_tokens_max, expected);
    let weight = hot.teams.get(&job.identity.team).map_or(NonZeroU32::MIN, |team| team.weight);
    let place = Place {
        priority: job.priority,
        team: job.identity.team.clone(),
        weight,
        gate: Gate {
            provider: target.provider.clone(),
            budgets: gates_of(&needs, &hot.budgets, job.rejects_on_limit).collect(),
        },
        tokens,
    };
    message.payload = Bytes::new();
    Ok(Item {
        message_id: format!("{}/{}", job.identity, message.source),
        identity: job.identity.clone(),
        hot: Arc::clone(hot),
        target,
        is_probe: job.probe.is_some(),
        place,
        deadline: job.deadline,
        payload,
        message,
        model: job.requested_model.clone(),
        text_bytes: text_alone(job),
        needs,
        amounts: Vec::new(),
        waits: 0,
        passed: Vec::new(),
        asked: None,
        has_nothing: None,
        reserved: None,
        turns: Vec::new(),
        rejects_on_limit: job.rejects_on_limit,
        too_large_for: None,
        since: tollgate_bus::now(),
        is_aside: false,
        attempt: job.history.last().map_or(1, |attempt| attempt.number.saturating_add(1)),
    })
}
