use super::*;
use proptest::prelude::*;

const CHEAP: Price = Price { input: 1, cached_input: 1, output: 2 };

fn target(text: &str) -> Target {
    let (provider, model) = text.split_once('/').unwrap();
    Target { provider: provider.into(), model: model.into() }
}

fn catalog(aliases: &[(&str, &[&str])], priced: &[&str]) -> Catalog {
    Catalog {
        aliases: aliases
            .iter()
            .map(|(name, targets)| (name.to_string(), targets.iter().map(|text| target(text)).collect()))
            .collect(),
        prices: priced.iter().map(|text| (target(text), CHEAP)).collect(),
        typed: BTreeMap::new(),
    }
}

fn teams(list: &[(&str, &[&str])]) -> Teams {
    let settings = |patterns: &[&str]| TeamSettings {
        weight: NonZeroU32::MIN,
        priority_max: Priority::High,
        models: patterns.iter().map(|text| ModelPattern::parse(text).unwrap()).collect(),
    };
    list.iter().map(|(name, patterns)| (Team::parse(name).unwrap(), settings(patterns))).collect()
}

fn example() -> (Catalog, Teams) {
    let catalog = catalog(
        &[("small", &["openai/gpt-4o-mini", "eu/gpt-4o-mini"]), ("large", &["openai/gpt-4o"])],
        &["openai/gpt-4o", "openai/gpt-4o-mini", "eu/gpt-4o-mini", "hub/meta/llama-3"],
    );
    let teams = teams(&[("all", &["*"]), ("exact", &["small"]), ("prefix", &["openai/*"]), ("none", &[])]);
    (catalog, teams)
}

#[track_caller]
fn check(team: &str, model: &str, fallbacks: &[&str], expected: Result<&[&str], &str>) {
    let (catalog, teams) = example();
    let fallbacks: Vec<String> = fallbacks.iter().map(|name| name.to_string()).collect();
    let resolved = catalog.resolve(&teams, &Team::as_published(team), model, &fallbacks);
    let shown = resolved.map(|targets| targets.iter().map(Target::to_string).collect::<Vec<_>>());
    let expected = expected.map(|names| names.iter().map(|name| name.to_string()).collect());
    assert_eq!(shown.map_err(|problem| problem.to_string()), expected.map_err(str::to_owned));
}

#[test]
fn a_name_becomes_its_targets() {
    check("all", "small", &[], Ok(&["openai/gpt-4o-mini", "eu/gpt-4o-mini"]));
    check("all", "openai/gpt-4o", &[], Ok(&["openai/gpt-4o"]));
    check("all", "hub/meta/llama-3", &[], Ok(&["hub/meta/llama-3"]));
    check("exact", "small", &[], Ok(&["openai/gpt-4o-mini", "eu/gpt-4o-mini"]));
    check("prefix", "openai/gpt-4o", &[], Ok(&["openai/gpt-4o"]));
}

#[test]
fn fallbacks_come_after_and_repeats_are_dropped() {
    check(
        "all",
        "large",
        &["small", "openai/gpt-4o", "eu/gpt-4o-mini"],
        Ok(&["openai/gpt-4o", "openai/gpt-4o-mini", "eu/gpt-4o-mini"]),
    );
}

#[test]
fn what_cannot_be_resolved_is_a_clear_problem() {
    for (team, model, fallbacks, problem) in [
        ("other", "small", &[][..], r#"unknown_team: the team "other" is not configured (field team)"#),
        ("all", "xyzzy", &[], r#"unknown_model: no model "xyzzy" is configured (field body.model)"#),
        ("all", "", &[], r#"unknown_model: no model "" is configured (field body.model)"#),
        (
            "all",
            "smal",
            &[],
            r#"unknown_model: no model "smal" is configured; did you mean "small"? (field body.model)"#,
        ),
        (
            "all",
            "gpt-4o-mini",
            &[],
            r#"unknown_model: no model "gpt-4o-mini" is configured; did you mean "eu/gpt-4o-mini" or "openai/gpt-4o-mini"? (field body.model)"#,
        ),
        ("none", "smal", &[], r#"unknown_model: no model "smal" is configured (field body.model)"#),
        (
            "prefix",
            "small",
            &[],
            r#"model_not_allowed: the team prefix may not use the model "small" (field body.model)"#,
        ),
        (
            "prefix",
            "openai/gpt-4o",
            &["small"],
            r#"model_not_allowed: the team prefix may not use the model "small" (field fallbacks)"#,
        ),
        ("all", "small", &["a\n"], r#"unknown_model: no model "a\n" is configured (field fallbacks)"#),
    ] {
        check(team, model, fallbacks, Err(problem));
    }
}

#[test]
fn targets_for_one_kind_of_failure_come_behind_the_others() {
    let (mut catalog, teams) = example();
    let typed = |context: &[&str], policy: &[&str]| TypedTargets {
        context_too_long: context.iter().map(|text| target(text)).collect(),
        content_policy: policy.iter().map(|text| target(text)).collect(),
    };
    catalog.typed.insert("small".into(), typed(&["openai/gpt-4o", "gone/x"], &[]));
    catalog.typed.insert("large".into(), typed(&["openai/gpt-4o", "hub/meta/llama-3"], &["eu/gpt-4o-mini"]));
    let team = Team::parse("all").unwrap();
    let resolve = |fallbacks: &[&str]| {
        let fallbacks: Vec<String> = fallbacks.iter().map(|name| name.to_string()).collect();
        catalog.resolve_all(&teams, &team, "small", &fallbacks).unwrap()
    };
    let (targets, found) = resolve(&[]);
    assert_eq!(targets.len(), 3);
    assert_eq!(found, Typed { context_too_long: Some((2, 3)), content_policy: None });
    let (targets, found) = resolve(&["large"]);
    let names: Vec<_> = targets.iter().map(Target::to_string).collect();
    assert_eq!(
        names,
        [
            "openai/gpt-4o-mini",
            "eu/gpt-4o-mini",
            "openai/gpt-4o",
            "openai/gpt-4o",
            "hub/meta/llama-3",
            "eu/gpt-4o-mini"
        ]
    );
    assert_eq!(found, Typed { context_too_long: Some((3, 5)), content_policy: Some((5, 6)) });
}

#[test]
fn a_huge_name_is_not_echoed() {
    let (catalog, teams) = example();
    let name = "ü".repeat(1 << 20);
    let problem = catalog.resolve(&teams, &Team::parse("all").unwrap(), &name, &[]).unwrap_err();
    assert!(problem.message.len() < 300, "{}", problem.message);
}

#[test]
fn too_many_targets_are_refused_not_cut() {
    let names: Vec<String> = (0..=TARGETS_MAX).map(|number| format!("p/m{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let catalog = catalog(&[("most", &names[..TARGETS_MAX])], &names);
    let (teams, team) = (teams(&[("t", &["*"])]), Team::parse("t").unwrap());
    let resolve = |fallback: &str| catalog.resolve(&teams, &team, "most", &[fallback.to_owned()]);
    assert_eq!(resolve(names[0]).map(|targets| targets.len()), Ok(TARGETS_MAX));
    let problem = resolve(names[TARGETS_MAX]).unwrap_err();
    assert_eq!((problem.code, problem.field.as_deref()), (ErrorCode::InvalidField, Some("fallbacks")));
}

#[test]
fn a_team_sees_what_it_may_use() {
    let (catalog, teams) = example();
    let models = |team: &str| catalog.models_for(&teams, &Team::as_published(team));
    assert_eq!(
        models("all"),
        ["eu/gpt-4o-mini", "hub/meta/llama-3", "large", "openai/gpt-4o", "openai/gpt-4o-mini", "small"]
    );
    assert_eq!(models("prefix"), ["openai/gpt-4o", "openai/gpt-4o-mini"]);
    assert_eq!(models("none"), [""; 0]);
    assert_eq!(models("unknown"), [""; 0]);
}

#[test]
fn patterns_are_a_name_or_a_beginning() {
    for (text, expected) in [
        ("*", Ok(ModelPattern::Any)),
        ("a/b", Ok(ModelPattern::Exact("a/b".into()))),
        ("a/*", Ok(ModelPattern::Prefix("a/".into()))),
        ("", Err(InvalidPattern)),
        ("**", Err(InvalidPattern)),
        ("*a", Err(InvalidPattern)),
        ("a\n", Err(InvalidPattern)),
    ] {
        assert_eq!(ModelPattern::parse(text), expected, "{text:?}");
    }
}

/// Few letters, so that drawn names often meet.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab]{1,2}", 4 => "[ab]/[ab]{1,2}", 1 => any::<String>()]
}

fn drawn_target() -> impl Strategy<Value = Target> {
    ("[ab]", "[ab]{1,2}").prop_map(|(provider, model)| Target { provider, model })
}

proptest! {
    #[test]
    fn what_is_resolved_is_priced_distinct_and_not_empty(
        // Not even a catalog that the configuration would have refused may break it.
        aliases in prop::collection::btree_map(name(), prop::collection::vec(drawn_target(), 0..20), 0..6),
        priced in prop::collection::btree_set(drawn_target(), 0..8),
        patterns in prop::collection::vec(prop_oneof![Just("*".to_owned()), "[ab]{1,2}", "[ab]/?\\*"], 0..3),
        model in name(),
        fallbacks in prop::collection::vec(name(), 0..4),
    ) {
        let catalog = Catalog { aliases, prices: priced.into_iter().map(|target| (target, CHEAP)).collect(), typed: BTreeMap::new() };
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let (teams, team) = (teams(&[("t", &patterns)]), Team::parse("t").unwrap());
        if let Ok(targets) = catalog.resolve(&teams, &team, &model, &fallbacks) {
            prop_assert!(!targets.is_empty() && targets.len() <= TARGETS_MAX);
            prop_assert_eq!(targets.iter().collect::<BTreeSet<_>>().len(), targets.len());
            prop_assert!(targets.iter().all(|target| catalog.price(target).is_some()));
            prop_assert!(teams[&team].allows(&model));
        }
        for listed in catalog.models_for(&teams, &team) {
            prop_assert!(teams[&team].allows(&listed));
        }
    }
}
