//! Any message of each kind, for properties.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::job::{BodyRef, Job, Target, Typed};
use crate::record::{Ended, Entry, Estimate, Next, Source, Started};
use crate::request::Endpoint;
use crate::response::{Attempt, Outcome, Response, Status, Timing};
use crate::usage::UsageEvent;
use crate::*;

/// Any instant that RFC 3339 can say, leap seconds among them.
pub(super) fn instant() -> impl Strategy<Value = Timestamp> {
    (-62_135_596_800_i64..253_402_300_799, 0_u32..1_000_000_000, any::<bool>()).prop_map(
        |(seconds, nanos, leap)| {
            let seconds = if leap { seconds - seconds.rem_euclid(60) + 59 } else { seconds };
            Timestamp::from_timestamp(seconds, nanos + if leap { 1_000_000_000 } else { 0 }).unwrap()
        },
    )
}

pub(super) fn status() -> impl Strategy<Value = Status> {
    select(vec![Status::Succeeded, Status::Failed, Status::Rejected, Status::Expired, Status::Cancelled])
}

pub(super) fn code() -> impl Strategy<Value = ErrorCode> {
    select(ErrorCode::ALL)
}

pub(super) fn identity() -> impl Strategy<Value = Identity> {
    ("[a-z?*]{1,9}", "[a-z_]{1,9}", "[a-z0-9-]{1,9}").prop_map(|(team, group, id)| {
        Identity::from_tokens(&format!("{}.{group}.{id}", Team::as_published(&team))).unwrap()
    })
}

pub(super) fn tokens() -> impl Strategy<Value = TokenUsage> {
    any::<[u64; 4]>().prop_map(|[input_tokens, cached_input_tokens, output_tokens, reasoning_tokens]| {
        TokenUsage { input_tokens, cached_input_tokens, output_tokens, reasoning_tokens }
    })
}

pub(super) fn attempt() -> impl Strategy<Value = Attempt> {
    let outcome = select(vec![Outcome::Succeeded, Outcome::Failed, Outcome::Lost]);
    let texts = (".{0,9}", ".{0,9}", ".{0,9}", option::of(".{0,9}"));
    let numbers = (any::<u32>(), any::<u64>(), any::<i64>(), any::<bool>());
    (texts, numbers, instant(), outcome, option::of(code()), tokens()).prop_map(
        |((provider, model, price_version, served_model), numbers, started_at, outcome, code, usage)| {
            let (number, duration_ms, cost, estimated) = numbers;
            let cost_nano_usd = NanoUsd(cost);
            Attempt {
                provider,
                model,
                number,
                started_at,
                duration_ms,
                outcome,
                code,
                cost_nano_usd,
                usage,
                price_version,
                estimated,
                served_model,
                excused: estimated,
            }
        },
    )
}

pub(super) fn meta() -> impl Strategy<Value = Meta> {
    let label = || option::of(".{0,9}");
    let tags = proptest::collection::btree_map(".{0,5}", ".{0,5}", 0..3);
    (label(), label(), label(), label(), tags).prop_map(|(project, user, task, key, tags)| Meta {
        project,
        user,
        task,
        tags,
        key,
    })
}

/// Answers whose numbers MessagePack can carry as they are.
pub(super) fn json_text() -> impl Strategy<Value = JsonText> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Into::into),
        ".{0,9}".prop_map(Into::into),
    ];
    let tree = leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(".{0,5}", inner, 0..4)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    });
    // An answer is an object.
    vec((".{0,5}", tree), 0..3)
        .prop_map(|fields| JsonText::from(serde_json::Value::Object(fields.into_iter().collect())))
}

pub(super) fn problem() -> impl Strategy<Value = Problem> {
    (code(), ".{0,20}", option::of("[a-z.]{1,9}"))
        .prop_map(|(code, text, field)| Problem { field, ..Problem::new(code, text) })
}

pub(super) fn response() -> impl Strategy<Value = Response> {
    let timing =
        (instant(), any::<[u64; 3]>()).prop_map(|(accepted_at, [queued_ms, provider_ms, total_ms])| Timing {
            accepted_at,
            queued_ms,
            provider_ms,
            total_ms,
        });
    let served = (".{0,9}", option::of(".{0,9}"), option::of(".{0,9}"), option::of("[a-z]{1,5}"));
    let ending = (status(), option::of(json_text()), option::of(problem()));
    (identity(), ending, served, tokens(), any::<i64>(), vec(attempt(), 0..3), timing).prop_map(
        |(identity, (status, body, error), served, usage, cost, attempts, timing)| {
            let Identity { team, group, id } = identity;
            let (requested_model, provider, model, cache) = served;
            let cost_nano_usd = NanoUsd(cost);
            Response {
                id,
                team,
                group,
                status,
                body,
                error,
                requested_model,
                provider,
                model,
                usage,
                cost_nano_usd,
                attempts,
                timing,
                cache,
            }
        },
    )
}

pub(super) fn usage_event() -> impl Strategy<Value = UsageEvent> {
    let ended = option::of((status(), option::of(code()), any::<u64>(), instant()));
    (identity(), meta(), attempt(), instant(), ended, option::of("[a-z.]{1,9}")).prop_map(
        |(identity, meta, attempt, accepted_at, ended, corrects)| {
            let subject = usage::Subject {
                identity: &identity,
                meta: &meta,
                priority: Priority::Low,
                endpoint: Endpoint::Responses,
                requested_model: "small",
                accepted_at,
            };
            let event = match ended {
                Some((status, code, queued_ms, time)) => subject.unpaid(status, code, queued_ms, time),
                None => subject.attempt(&attempt, accepted_at, Some(Status::Failed)),
            };
            UsageEvent { corrects, first_token_ms: Some(3), ..event }
        },
    )
}

pub(super) fn source() -> impl Strategy<Value = Source> {
    ("[A-Z_:]{1,9}", any::<u64>()).prop_map(|(stream, sequence)| Source { stream, sequence })
}

pub(super) fn entry() -> impl Strategy<Value = Entry> {
    let next = prop_oneof![
        any::<u64>().prop_map(|delay_ms| Next::Retry { delay_ms }),
        any::<u32>().prop_map(|target| Next::Fallback { target: target as usize }),
        instant().prop_map(|at| Next::Later { at }),
        Just(Next::Hold),
    ];
    let digest = any::<[u8; 4]>().prop_map(|bytes| Digest::of(&bytes));
    (any::<bool>(), attempt(), source(), digest, instant(), next, vec(attempt(), 0..3)).prop_map(
        |(started, call, from, digest, deadline, next, history)| {
            if !started {
                let accepted_at = call.started_at;
                return Entry::Ended(Ended {
                    attempt: call.number,
                    from,
                    digest,
                    accepted_at,
                    deadline,
                    next,
                    history,
                });
            }
            let estimate = Estimate {
                input_tokens: call.usage.input_tokens,
                output_tokens: call.usage.output_tokens,
                cost_nano_usd: call.cost_nano_usd,
                price_version: call.price_version,
            };
            Entry::Started(Started {
                attempt: call.number,
                from,
                owner: "w1".into(),
                digest,
                accepted_at: deadline,
                deadline,
                provider: call.provider,
                model: call.model,
                estimate,
                started_at: call.started_at,
                history,
            })
        },
    )
}

pub(super) fn job() -> impl Strategy<Value = Job> {
    let numbers = (any::<u64>(), any::<u64>(), 0_usize..9, option::of(any::<u64>()));
    let texts = (".{0,9}", option::of(".{0,9}"), option::of(".{0,9}"));
    let targets = vec((".{0,5}", ".{0,5}"), 0..3);
    (
        identity(),
        numbers,
        texts,
        targets,
        vec(attempt(), 0..3),
        (instant(), instant()),
        meta(),
        vec(any::<u8>(), 0..99),
    )
        .prop_map(|(identity, numbers, texts, targets, history, (accepted_at, deadline), meta, body)| {
            Job {
                digest: Digest::of(&body),
                identity,
                run: numbers.0,
                sequence: numbers.1,
                priority: Priority::High,
                endpoint: Endpoint::Embeddings,
                encoding: Encoding::Msgpack,
                bare: body.len() % 2 == 0,
                requested_model: texts.0,
                targets: targets.into_iter().map(|(provider, model)| Target { provider, model }).collect(),
                typed: Typed {
                    context_too_long: numbers.3.map(|_| (numbers.2, numbers.2)),
                    content_policy: None,
                },
                target: numbers.2,
                probe: numbers.3,
                history,
                accepted_at,
                deadline,
                meta,
                reply_to: texts.1,
                traceparent: texts.2,
                reserved: numbers.3.map(|_| vec![0, 1]),
                reserved_prices: numbers
                    .3
                    .iter()
                    .map(|price| Price { input: *price, cached_input: 1, output: 2 })
                    .collect(),
                output_tokens_max: numbers.3,
                choices: numbers.3.unwrap_or(1),
                input_tokens: numbers.3,
                media: u32::try_from(numbers.2).unwrap(),
                media_bytes: numbers.2,
                rejects_on_limit: false,
                model_at: (numbers.2, body.len()),
                body_digest: numbers.3.map(|number| Digest::of(&number.to_be_bytes())),
                body_ref: numbers.3.map(|_| BodyRef { object: "object".into(), bytes: body.len() }),
                body: body.into(),
            }
        })
}
