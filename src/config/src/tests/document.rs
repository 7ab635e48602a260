//! The part that changes while everything runs: what is in it, what is refused, and what a change is.

use tollgate_protocol::NanoUsd;

use super::*;

const EXAMPLE: &str = include_str!("../../../../tollgate.example.toml");

const FILE: &str = r#"
durability = "power-loss"
[providers.local]
kind = "compatible"
base_url = "http://127.0.0.1:1/v1"
api_key = "sk-literal"
models."a/b".price = { input_usd_per_mtok = "1.0", output_usd_per_mtok = "2" }
[providers.sim]
kind = "simulator"
[models.small]
targets = ["local/a/b", "sim/demo"]
[teams.research]
weight = 2
[[budgets]]
scope = { team = "research" }
limit_usd = "5"
per = "month"
timezone = "Europe/Berlin"
"#;

#[track_caller]
fn document(text: &str) -> Document {
    Document::read(text, "f").unwrap_or_else(|report| panic!("{report}"))
}

#[track_caller]
fn changes(from: &str, to: &str) -> Vec<String> {
    let hot = |text| document(text).settings().unwrap().hot(0);
    let shown = |Change { kind, name, what }| format!("{kind} {name} {what:?}");
    plan(&hot(from), &hot(to)).into_iter().map(shown).collect()
}

#[test]
fn what_stays_in_the_file_is_not_in_it() {
    insta::assert_snapshot!(document(FILE).text(), @r#"
    [[budgets]]
    limit_usd = "5"
    per = "month"
    timezone = "Europe/Berlin"

    [budgets.scope]
    team = "research"

    [models.small]
    targets = ["local/a/b", "sim/demo"]

    [providers.local.models."a/b".price]
    input_usd_per_mtok = "1.0"
    output_usd_per_mtok = "2"

    [providers.sim.models.demo.price]
    input_usd_per_mtok = "0.10"
    output_usd_per_mtok = "0.20"

    [teams.research]
    weight = 2
    "#);
}

#[test]
fn it_can_be_written_and_read_back_and_laid_over_its_own_file() {
    for text in [FILE, EXAMPLE, SMALLEST, &zero_text(&environment)] {
        let document = document(text);
        assert_eq!(Document::parse(&document.text(), "d").unwrap(), document);
        assert_eq!(Document::read(&document.text(), "d").unwrap(), document, "as a file of its own");
        let (own, over) = (good(text), document.overlay(text, "v", &environment).unwrap());
        assert_eq!(own.hot(0), over.hot(0));
        assert_eq!(own.providers, over.providers);
        assert_eq!(document.settings().unwrap().hot(0), own.hot(0), "also without the rest of the file");
    }
}

#[test]
fn the_text_of_a_start_without_a_file_is_that_start() {
    for environment in [&environment as &dyn Environment, &EmptyEnvironment] {
        assert_eq!(good_with(&zero_text(environment), environment), zero(environment));
    }
}

fn good_with(text: &str, environment: &dyn Environment) -> Settings {
    load(text, "f", environment).unwrap()
}

#[test]
fn another_version_counts_in_place_of_the_file_and_the_rest_stays() {
    let other = FILE.replace("\"5\"", "\"7\"").replace("\"1.0\"", "\"3\"").replace("research", "finance");
    let over = document(&other).overlay(FILE, "v", &environment).unwrap();
    assert_eq!(over.budgets.0[0].limit, 7_000_000_000);
    assert_eq!(over.teams.keys().map(Team::as_str).collect::<Vec<_>>(), ["finance"]);
    assert_eq!(over.providers["local"].models["a/b"].input, 3_000_000_000);
    assert_eq!(over.providers["local"].api_keys, [Secret::parse("sk-literal").unwrap()]);
    assert_eq!(over.durability, Durability::PowerLoss);
    let none = document("[teams.t]\n[providers.sim.models]\n").overlay(FILE, "v", &environment).unwrap();
    assert!(none.budgets.is_empty() && none.catalog.aliases.is_empty(), "what it does not have is gone");
    assert!(none.providers["local"].models.is_empty());
}

#[track_caller]
fn refused(text: &str) -> String {
    Document::parse(text, "d").map(|document| document.text()).expect_err("this was accepted").to_string()
}

#[test]
fn what_is_not_part_of_it_is_refused_and_not_shown() {
    let said = refused(FILE);
    insta::assert_snapshot!(said, @r"
    d:2:1: durability: this stays in the file of each process: only teams, budgets, limits, models, and models and prices of providers change while everything runs
    d:4:1: providers.local.kind: this stays in the file of each process: only teams, budgets, limits, models, and models and prices of providers change while everything runs
    d:5:1: providers.local.base_url: this stays in the file of each process: only teams, budgets, limits, models, and models and prices of providers change while everything runs
    d:6:1: providers.local.api_key: this stays in the file of each process: only teams, budgets, limits, models, and models and prices of providers change while everything runs
    d:9:1: providers.sim.kind: this stays in the file of each process: only teams, budgets, limits, models, and models and prices of providers change while everything runs
    ");
}

#[test]
fn everything_that_is_wrong_is_named() {
    insta::assert_snapshot!(refused(
        r#"retries = 3
[providers.sim.models.m]
price = { input_usd_per_mtok = 0.1, output_usd_per_mtok = "1" }
[models.small]
targets = ["sim/n", "other/m"]
[teams.t]
weight = 0
[[budgets]]
scope = { team = "nobody" }
limit_usd = "-1"
per = "month"
"#
    ), @r#"
    d:1:1: retries: unknown key; expected one of subject_prefix, durability, providers, models, teams, timing, retry, queue, retention, scheduling, budgets, limits
    d:3:32: providers.sim.models.m.price.input_usd_per_mtok: expected a decimal string of US dollars per million tokens such as "0.15", found the number 0.1; write it in quotes, since binary fractions cannot hold most decimal prices exactly and money is exact here
    d:5:12: models.small.targets[0]: the provider sim has no model "n"; did you mean "m"?
    d:5:21: models.small.targets[1]: no provider "other" is configured
    d:7:10: teams.t.weight: expected a whole number from 1 to 1000, found 0
    d:9:18: budgets[0].scope.team: no team "nobody" is configured
    d:10:13: budgets[0].limit_usd: expected a decimal string of US dollars such as "100.00", found "-1"
    "#);
    let nothing_offered = "[teams.t]\n[providers.sim.models]\n[models.small]\ntargets = [\"sim/m\"]";
    assert_eq!(
        refused(nothing_offered),
        "d:1:1: models.small.targets[0]: the provider sim has no model \"m\""
    );
    assert!(refused("[teams.t").contains("this is not TOML"));
    assert!(refused("[providers.sim.models]").contains("at least one team"));
    let long = format!("[providers.sim.models]\n[teams.t]\nmodels = [\"{}*\"]", "x".repeat(600_000));
    assert!(refused(&long).contains("is the most"), "{}", refused(&long));
}

/// A whole file is checked as one, but for keys: whoever applies it need not have them.
#[test]
fn a_file_is_checked_as_a_whole_without_its_keys() {
    let file = FILE.replace("sk-literal", "env:NOBODY_HAS_IT");
    assert_eq!(document(&file), document(FILE));
    let broken = FILE.replace("compatible", "compatibel").replace("\"5\"", "5");
    let said = Document::read(&broken, "f").unwrap_err().to_string();
    assert!(said.contains("f:4:8: providers.local.kind") && said.contains("budgets[0].limit_usd"), "{said}");
}

#[test]
fn a_process_that_lacks_a_provider_says_so_with_all_else() {
    let document = document(FILE);
    let report = document.overlay(SMALLEST, "version 3", &environment).unwrap_err();
    let said: Vec<_> =
        report.problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect();
    assert_eq!(
        said,
        [
            "providers.local: this process's own file has no such provider",
            "models.small.targets[0]: no provider \"local\" is configured",
        ]
    );
}

#[test]
fn a_change_is_named_by_thing_and_key() {
    assert!(changes(FILE, FILE).is_empty());
    assert!(changes(FILE, &FILE.replace("\"1.0\"", "\"1\"")).is_empty(), "the same price");
    let defaults = FILE.replace("weight = 2", "weight = 2\npriority_max = \"high\"");
    assert!(changes(FILE, &defaults).is_empty(), "the default, said aloud");
    assert!(changes(FILE, &FILE.replace("power-loss", "process-crash")).is_empty(), "not part of it");
    let other = FILE
        .replace("weight = 2", "weight = 3")
        .replace("\"5\"", "\"7\"")
        .replace("output_usd_per_mtok = \"2\"", "output_usd_per_mtok = \"2.5\"")
        .replace("[models.small]", "[models.large]");
    insta::assert_snapshot!(changes(FILE, &other).join("\n"), @r#"
    budget team-research-month-4e744df7 Changed { key: "limit_usd", from: "$5.00", to: "$7.00" }
    model large Added([("targets", "local/a/b, sim/demo")])
    model small Removed
    price local/a/b Changed { key: "output_usd_per_mtok", from: "2.00", to: "2.50" }
    team research Changed { key: "weight", from: "2", to: "3" }
    "#);
    for (given, to) in [("50, 100", "50, 100"), ("", "")] {
        let alerts = FILE.replace("limit_usd", &format!("alert_percent = [{given}]\nlimit_usd"));
        assert_eq!(
            changes(FILE, &alerts),
            [format!(
                "budget team-research-month-4e744df7 \
                 Changed {{ key: \"alert_percent\", from: \"50, 80, 100\", to: {to:?} }}"
            )]
        );
    }
    let limited =
        |limit: u32| format!("{FILE}[[limits]]\nscope = {{ team = \"research\" }}\nin_flight = {limit}\n");
    assert_eq!(
        changes(&limited(5), &limited(6)),
        [r#"limit team-research-limit-in-flight Changed { key: "in_flight", from: "5", to: "6" }"#]
    );
    assert_eq!(document(&limited(5)).budgets(), document(FILE).budgets(), "a limit is no budget");
    let typed = FILE.replace("\"sim/demo\"]", "\"sim/demo\"]\non_content_policy = [\"sim/demo\"]");
    assert_eq!(
        changes(FILE, &typed),
        ["model small Changed { key: \"on_content_policy\", from: \"\", to: \"sim/demo\" }"]
    );
}

#[test]
fn the_limit_of_a_budget_is_changed_by_its_name() {
    let document = document(FILE);
    let [name] = &document.budgets()[..] else { panic!("one budget") };
    assert_eq!(document.limit(name), Some(NanoUsd(5_000_000_000)));
    let raised = document.with_limit(name, NanoUsd(7_500_000_001)).unwrap();
    assert_eq!(raised.limit(name), Some(NanoUsd(7_500_000_001)));
    assert_eq!(Document::parse(&raised.text(), "d").unwrap(), raised);
    assert_eq!(document.with_limit("nobody's", NanoUsd(1)), None);
    assert_eq!(document.with_limit(name, NanoUsd(-1)), None);
}
