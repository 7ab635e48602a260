use proptest::prelude::*;
use tollgate_protocol::job::Typed;
use tollgate_protocol::request::Endpoint;
use tollgate_protocol::response::Outcome;
use tollgate_protocol::usage::Kind;
use tollgate_protocol::{Digest, Encoding, Identity, Priority, TokenUsage, money};

use super::*;
use crate::inputs::Inputs;

pub(crate) fn at(seconds: i64) -> Timestamp {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

pub(crate) fn budget(name: &str, limit: &str) -> Budget {
    Budget {
        name: name.into(),
        measure: Measure::Money,
        scope: Scope { team: Some("team".into()), ..Scope::default() },
        limit: money::parse_usd(limit).unwrap().0,
        per: Per::Month,
        timezone: Tz::UTC,
        when_spent: WhenSpent::Hold,
        reserve: Reserve::Strict,
        alerts: vec![50, 80, 100],
    }
}

pub(crate) fn event() -> UsageEvent {
    let identity = Identity::from_tokens("team._.r1").unwrap();
    UsageEvent {
        kind: Kind::Attempt,
        is_final: false,
        status: None,
        outcome: Some(Outcome::Succeeded),
        code: None,
        team: identity.team,
        group: identity.group,
        id: identity.id,
        attempt: 1,
        meta: Meta::default(),
        priority: Priority::Normal,
        endpoint: Endpoint::ChatCompletions,
        requested_model: "small".into(),
        provider: Some("sim".into()),
        model: Some("m-1".into()),
        served_model: None,
        usage: TokenUsage::default(),
        cost_nano_usd: NanoUsd(100),
        price_version: String::new(),
        estimated: false,
        queued_ms: 0,
        first_token_ms: None,
        latency_ms: 0,
        accepted_at: Some(at(0)),
        time: at(0),
        corrects: None,
        requeued: false,
    }
}

pub(crate) fn job(targets: Vec<Target>) -> Job {
    Job {
        identity: Identity::from_tokens("team._.r1").unwrap(),
        run: 0,
        digest: Digest::of(b"body"),
        sequence: 1,
        priority: Priority::Normal,
        endpoint: Endpoint::ChatCompletions,
        encoding: Encoding::Json,
        bare: false,
        requested_model: "small".into(),
        targets,
        typed: Typed::default(),
        target: 0,
        probe: None,
        history: Vec::new(),
        accepted_at: at(0),
        deadline: at(600),
        meta: Meta::default(),
        reply_to: None,
        traceparent: None,
        reserved: None,
        rejects_on_limit: false,
        reserved_prices: Vec::new(),
        output_tokens_max: None,
        choices: 1,
        input_tokens: None,
        media: 0,
        media_bytes: 0,
        model_at: (0, 0),
        body: Vec::new().into(),
        body_digest: None,
        body_ref: None,
    }
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn windows_are_those_of_the_calendar_and_the_time_zone() {
    let berlin = Tz::Europe__Berlin;
    let kathmandu = Tz::Asia__Kathmandu;
    for (per, zone, now, start, end) in [
        (Per::Minute, berlin, "2026-11-28T21:34:59.5Z", "2026-11-28T21:34:00Z", "2026-11-28T21:35:00Z"),
        (Per::Hour, berlin, "2026-11-28T21:34:59Z", "2026-11-28T21:00:00Z", "2026-11-28T22:00:00Z"),
        (Per::Hour, kathmandu, "2026-11-28T21:34:59Z", "2026-11-28T21:15:00Z", "2026-11-28T22:15:00Z"),
        (Per::Day, berlin, "2026-11-28T23:30:00Z", "2026-11-28T23:00:00Z", "2026-11-29T23:00:00Z"),
        // The clock goes back: a day of 25 hours.
        (Per::Day, berlin, "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        (Per::Week, berlin, "2026-11-28T21:00:00Z", "2026-11-22T23:00:00Z", "2026-11-29T23:00:00Z"),
        (Per::Month, berlin, "2026-10-31T23:30:00Z", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"),
        (Per::Month, Tz::UTC, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        // Midnight does not exist there: the clock goes from 23:59:59 to 01:00.
        (Per::Day, Tz::Africa__Cairo, "2026-04-24T09:00:00Z", "2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"),
    ] {
        let budget = Budget { per, timezone: zone, ..budget("b", "1") };
        let window = budget.window(time(now));
        assert_eq!((window.start, window.end), (Some(time(start)), Some(time(end))), "{per:?} {zone} {now}");
        assert_eq!(window_start(&window.name), Some(time(start)));
    }
    let total = Budget { per: Per::Total, ..budget("b", "1") }.window(at(0));
    assert_eq!((total.name.as_str(), total.start, total.end), ("total", None, None));
}

#[test]
fn a_scope_is_for_those_that_have_all_of_it() {
    let mut meta = Meta { user: Some("ann".into()), ..Meta::default() };
    meta.tags.insert("application".into(), "search".into());
    let scope = Scope {
        team: Some("team".into()),
        user: Some("ann".into()),
        tag: Some(("application".into(), "search".into())),
        ..Scope::default()
    };
    assert!(scope.has("team", &meta));
    assert!(!scope.has("other", &meta));
    assert!(!scope.has("team", &Meta::default()));
    assert!(Scope::default().has("any", &Meta::default()));
    let of_model = |model: &str| Scope { model: Some(model.into()), ..Scope::default() };
    assert!(of_model("m-1").has_target("sim", "m-1") && of_model("sim/m-1").has_target("sim", "m-1"));
    assert!(!of_model("other/m-1").has_target("sim", "m-1") && !of_model("m-2").has_target("sim", "m-1"));
    assert!(!Scope { provider: Some("other".into()), ..Scope::default() }.has_target("sim", "m-1"));
}

#[test]
fn a_try_holds_only_within_the_limit() {
    let strict = budget("b", "0.000001");
    let estimate = Budget { reserve: Reserve::Estimate, ..strict.clone() };
    let spent = |nanos| Some(Spent { spent_nano_usd: nanos, ..Spent::default() });
    for (budget, amount, total, spent, expected) in [
        (&strict, 100, 1_000, None, Verdict::Reserved),
        (&strict, 100, 1_001, None, Verdict::Wait),
        (&strict, 100, 1_001, spent(900), Verdict::Wait),
        (&strict, 100, 1_001, spent(901), Verdict::Spent),
        (&strict, 1_001, 1_001, spent(0), Verdict::TooSmall),
        (&estimate, 100, 1_000, None, Verdict::Reserved),
        (&estimate, 100, 1_001, None, Verdict::Wait),
        (&estimate, 100, 1_050, spent(999), Verdict::Wait),
        (&estimate, 100, 1_050, spent(950), Verdict::Less(50)),
        (&estimate, 5_000, 5_000, spent(0), Verdict::Less(1_000)),
        (&estimate, 100, 1_100, spent(1_000), Verdict::Spent),
        (&estimate, 100, 1_300, spent(1_200), Verdict::Spent),
    ] {
        assert_eq!(judge(budget, amount, total, spent.as_ref()), expected, "{amount} {total} {spent:?}");
    }
}

#[test]
fn a_request_needs_room_in_every_budget_and_covers_what_they_cover() {
    let target = |provider: &str| Target { provider: provider.into(), model: "m".into() };
    let prices: BTreeMap<_, _> = [("cheap", 1_000_000), ("dear", 3_000_000), ("apart", 9_000_000)]
        .map(|(name, output)| (target(name), Price { input: 0, cached_input: 0, output }))
        .into();
    let job = job(vec![target("cheap"), target("dear"), target("apart")]);
    let job = Job { output_tokens_max: Some(50), ..job };
    let inputs = Inputs::default();
    let of = |scope: Scope, name: &str| Budget { scope, ..budget(name, "1") };
    let budgets = Budgets(
        [
            of(Scope { team: Some("team".into()), ..Scope::default() }, "team"),
            of(Scope { provider: Some("apart".into()), ..Scope::default() }, "apart"),
            of(Scope { team: Some("other".into()), ..Scope::default() }, "other"),
        ]
        .into(),
    );
    let needs = budgets.needs(&job, &prices, &inputs);
    let of_team = [Need { budget: 0, amount: 150 }];
    assert_eq!(needs.amounts(&budgets, None), of_team, "at the dearest that is covered");
    assert_eq!(needs.covers, Some(vec![0, 1]));
    assert_eq!(needs.prices.iter().map(|price| price.output).collect::<Vec<_>>(), [1_000_000, 3_000_000]);
    let mut without = prices.clone();
    without.remove(&target("dear"));
    let needs = budgets.needs(&job, &without, &inputs);
    assert_eq!(needs.covers, Some(vec![0]), "nothing is reserved for what has no price any more");
    assert_eq!(needs.amounts(&budgets, None)[0].amount, 50);
    let there = budgets.needs(&Job { target: 2, ..job.clone() }, &prices, &inputs);
    assert_eq!((there.budgets, there.covers), (vec![0, 1], Some(vec![2])));
    assert_eq!(Budgets::default().needs(&job, &prices, &inputs), Needs::default());
    let estimated = Budgets([Budget { reserve: Reserve::Estimate, ..budget("team", "1") }].into());
    let needs = estimated.needs(&job, &prices, &inputs);
    assert_eq!(needs.amounts(&estimated, Some(10))[0].amount, 90, "all three are covered");
    assert_eq!(needs.amounts(&estimated, None)[0].amount, 450, "nothing is known");
}

#[test]
fn under_a_budget_that_downgrades_nothing_dearer_is_covered() {
    let target = |provider: &str| Target { provider: provider.into(), model: "m".into() };
    let prices: BTreeMap<_, _> = [("dear", 3_000_000), ("cheap", 1_000_000), ("dearest", 9_000_000)]
        .map(|(name, output)| (target(name), Price { input: 0, cached_input: 0, output }))
        .into();
    let job = job(vec![target("dear"), target("cheap"), target("dearest")]);
    let job = Job { output_tokens_max: Some(50), ..job };
    let budgets = |when_spent| Budgets([Budget { when_spent, ..budget("all", "1") }].into());
    let covered = |when_spent, at| {
        let budgets = budgets(when_spent);
        let needs = budgets.needs(&Job { target: at, ..job.clone() }, &prices, &Inputs::default());
        let amount = needs.amounts(&budgets, None)[0].amount;
        (needs.covers.unwrap(), amount)
    };
    assert_eq!(covered(WhenSpent::Downgrade, 0), (vec![0, 1], 150));
    assert_eq!(covered(WhenSpent::Downgrade, 1), (vec![1], 50), "what it was sent to costs less");
    assert_eq!(covered(WhenSpent::Hold, 1), (vec![0, 1, 2], 450));
}

#[test]
fn limits_are_needs_in_their_own_units() {
    let target = Target { provider: "p".into(), model: "m".into() };
    let prices = BTreeMap::from([(target.clone(), Price { input: 0, cached_input: 0, output: 1 })]);
    let job = Job { output_tokens_max: Some(50), body: vec![b'x'; 40].into(), ..job(vec![target]) };
    let of = |measure, reserve| Budget { measure, reserve, ..budget("l", "1") };
    let provider = Scope { provider: Some("p".into()), ..Scope::default() };
    let budgets = Budgets(
        [
            of(Measure::Tokens, Reserve::Estimate),
            of(Measure::InFlight, Reserve::Strict),
            of(Measure::Rate, Reserve::Strict),
            Budget { scope: provider, ..of(Measure::Rate, Reserve::Strict) },
        ]
        .into(),
    );
    let amounts = |most| -> Vec<i64> {
        budgets
            .needs(&job, &prices, &Inputs::default())
            .amounts(&budgets, most)
            .iter()
            .map(|need| need.amount)
            .collect()
    };
    assert_eq!(amounts(None), [60, 1, 1], "the last is seen to by the provider's workers");
    assert_eq!(amounts(Some(7)), [17, 1, 1]);
    let is_for = |provider| budgets.0[3].is_for_call("team", &Meta::default(), provider, "m");
    assert!(is_for("p") && !is_for("q"));
    assert_eq!(budgets.of_event(&event()).count(), 2, "numbers are not settled");
    let full = judge(&budgets.0[1], 1, budgets.0[1].limit + 1, Some(&Spent::default()));
    assert_eq!(full, Verdict::Wait, "what is in flight will end");
}

#[test]
fn the_next_cheaper_target_is_found() {
    let target = |model: &str| Target { provider: "p".into(), model: model.into() };
    let prices: BTreeMap<_, _> = [("big", 9), ("bigger", 10), ("small", 1)]
        .map(|(name, output)| (target(name), Price { input: 0, cached_input: 0, output: output * 1_000_000 }))
        .into();
    let job = job(vec![target("big"), target("bigger"), target("small")]);
    assert_eq!(cheaper(&job, &prices, |_| true), Some(2));
    assert_eq!(cheaper(&job, &prices, |index| index != 2), None, "it would come back at once");
    assert_eq!(cheaper(&Job { target: 2, ..job }, &prices, |_| true), None);
}

/// Routers died with tries of theirs in a counter: some that were within the limit, and some that were not. Those hold and these
/// are ended, or nobody would ever go on: the total is above the limit for as long as none of these requests ends.
#[test]
fn what_was_within_the_limit_holds_and_what_was_refused_is_ended() {
    let known =
        |total, is_taken| Some(Try { total, limit: 3, stored_ms: at(0).timestamp_millis(), is_taken });
    for (of, seconds, becomes) in [
        (known(3, false), 0, Orphan::Holds),
        (known(3, true), 60, Orphan::Holds),
        (known(4, false), 10, Orphan::Open),
        (known(4, false), 11, Orphan::Refused),
        // Somebody may rely on it: the counter was within the limit when that was found.
        (known(4, true), 60, Orphan::Open),
        // An older ledger or router says nothing of it.
        (None, 60, Orphan::Open),
    ] {
        assert_eq!(orphan(of.as_ref(), at(seconds)), becomes, "{of:?} after {seconds} s");
    }
}

#[test]
fn what_is_told_of_a_full_counter_is_no_reason_to_try() {
    let budget = Budget { limit: 10, ..budget("b", "1.00") };
    let told = |spent_nano_usd, total_nano_usd| Spent { spent_nano_usd, total_nano_usd, ..Spent::default() };
    for (spent, total, full) in
        [(4, 9, false), (4, 10, true), (4, 12, true), (10, 10, false), (11, 12, false)]
    {
        assert_eq!(is_full(&budget, &told(spent, total)), full, "{spent} of {total}");
    }
}

proptest! {
    #[test]
    fn a_window_holds_its_instant_and_ends_where_the_next_begins(
        seconds in 0_i64..400_000_000,
        per in proptest::sample::select(vec![Per::Minute, Per::Hour, Per::Day, Per::Week, Per::Month]),
        zone in proptest::sample::select(vec![Tz::UTC, Tz::Europe__Berlin, Tz::America__St_Johns, Tz::Australia__Lord_Howe]),
    ) {
        let budget = Budget { per, timezone: zone, ..budget("b", "1") };
        let now = at(seconds);
        let window = budget.window(now);
        let (start, end) = (window.start.unwrap(), window.end.unwrap());
        prop_assert!(start <= now && now < end, "{start} {now} {end}");
        prop_assert_eq!(budget.window(start).name, window.name.clone());
        prop_assert_eq!(budget.window(end - TimeDelta::seconds(1)).name, window.name);
        prop_assert_eq!(budget.window(end).start, Some(end));
    }
}
