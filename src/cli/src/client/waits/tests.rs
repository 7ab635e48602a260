use super::*;

const PRICE: Price = Price { input: 0, cached_input: 0, output: 1_000_000_000_000 };

/// At most ten tokens of output, of a model that is known.
fn asks() -> Asks {
    let target = Target { provider: "sim".into(), model: "m-1".into() };
    Asks {
        team: Team::parse("red").unwrap(),
        meta: Meta { project: Some("p".into()), tags: [("a".into(), "b".into())].into(), ..Meta::default() },
        targets: vec![target.clone()],
        prices: [(target, PRICE)].into(),
        body_bytes: 100,
        allowed: Some(10),
        not_before: None,
        rejects_on_limit: false,
    }
}

/// The same of a model of which nothing is known here.
fn unknown() -> Asks {
    Asks { targets: Vec::new(), prices: BTreeMap::new(), ..asks() }
}

/// A budget of one dollar a day.
fn state(spent: i64, reserved: i64, reserve: Reserve) -> BudgetState {
    BudgetState {
        name: "red-day".into(),
        limit_nano_usd: 1_000_000_000,
        spent_nano_usd: spent,
        reserved_nano_usd: reserved,
        when_spent: "hold".into(),
        reserve: reserve.as_str().into(),
        is_open: true,
        scope: [("team".to_owned(), "red".to_owned())].into(),
        per: "day".into(),
        ..BudgetState::default()
    }
}

fn said(asks: &Asks, state: &BudgetState) -> String {
    asks.short_of(state).map_or_else(|| "-".to_owned(), |reason| reason.text)
}

#[test]
fn a_budget_is_named_if_what_is_left_may_be_too_little() {
    let (strict, estimate) = (Reserve::Strict, Reserve::Estimate);
    let spent = "for budget red-day: $0.00 left of $1.00 this day";
    assert_eq!(said(&asks(), &state(1_000_000_000, 0, strict)), spent);
    assert_eq!(said(&unknown(), &state(1_200_000_000, 0, estimate)), spent);
    let reserved = "for budget red-day: $0.00 left of $1.00 this day, $0.40 is reserved";
    assert_eq!(said(&asks(), &state(600_000_000, 400_000_000, estimate)), reserved);
    // It costs $0.01 at most.
    assert_eq!(said(&asks(), &state(990_000_000, 0, strict)), "-");
    let little = "for budget red-day: $0.009999999 left of $1.00 this day";
    assert_eq!(said(&asks(), &state(990_000_001, 0, strict)), little);
    // The rest is enough for an estimate, if nobody gives anything back.
    assert_eq!(said(&asks(), &state(990_000_001, 0, estimate)), "-");
    assert_ne!(said(&asks(), &state(990_000_000, 1, estimate)), "-");
    // What it costs is not known.
    assert_eq!(said(&unknown(), &state(900_000_000, 0, strict)), "-");
    assert_ne!(said(&unknown(), &state(900_000_001, 0, strict)), "-");
    let closed = BudgetState { is_open: false, ..state(0, 0, strict) };
    assert!(said(&asks(), &closed).contains("not counted yet"));
}

#[test]
fn whoever_would_be_rejected_does_not_wait() {
    let rejects = |state| BudgetState { when_spent: "reject".into(), ..state };
    assert_eq!(said(&asks(), &rejects(state(1_000_000_000, 0, Reserve::Strict))), "-");
    assert_ne!(said(&asks(), &rejects(state(0, 1_000_000_000, Reserve::Strict))), "-");
    let limit = BudgetState {
        unit: Unit::InFlight,
        name: "at-once".into(),
        limit_nano_usd: 8,
        per: TOTAL.into(),
        ..state(0, 8, Reserve::Strict)
    };
    assert_eq!(said(&asks(), &limit), "for limit at-once: 0 in flight left of 8 in flight");
    assert_eq!(said(&asks(), &BudgetState { reserved_nano_usd: 7, ..limit.clone() }), "-");
    assert_eq!(said(&asks(), &rejects(limit.clone())), "-");
    assert_eq!(said(&Asks { rejects_on_limit: true, ..asks() }, &limit), "-");
}

#[test]
fn only_what_is_for_the_request_is_named() {
    let of = |name: &str, value: &str| BudgetState {
        scope: [(name.to_owned(), value.to_owned())].into(),
        ..state(1_000_000_000, 0, Reserve::Strict)
    };
    for (name, value) in
        [("team", "red"), ("project", "p"), ("tag", "a=b"), ("provider", "sim"), ("model", "m-1")]
    {
        assert_ne!(said(&asks(), &of(name, value)), "-", "{name} = {value}");
    }
    for (name, value) in [
        ("team", "blue"),
        ("project", "q"),
        ("user", "u"),
        ("key", "k"),
        ("tag", "a=c"),
        ("model", "m-2"),
        ("shape", "x"),
    ] {
        assert_eq!(said(&asks(), &of(name, value)), "-", "{name} = {value}");
    }
    assert_eq!(said(&unknown(), &of("provider", "sim")), "-", "where it goes is not known");
}

#[test]
fn what_is_not_to_be_called_yet_is_said_until_then() {
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let (now, later) = (time("2026-11-29T10:00:00Z"), time("2026-11-29T10:00:01Z"));
    let reason = too_early(later, now).unwrap();
    assert_eq!(reason.text, "until 2026-11-29T10:00:01+00:00, as it asked for (not_before)");
    assert_eq!(too_early(now, now), None);
}
