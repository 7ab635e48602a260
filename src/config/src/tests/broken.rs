//! Files with problems: what the report says, and where.

use insta::assert_snapshot;

use super::*;

#[track_caller]
fn report(text: &str) -> String {
    match load(text, "tollgate.toml", &environment) {
        Ok(settings) => panic!("this was accepted: {settings:?}"),
        Err(report) => report.to_string(),
    }
}

/// The problems of a file that has one team and one simulator besides `text`.
#[track_caller]
fn besides(text: &str) -> String {
    report(&format!("{text}\n{SMALLEST}"))
}

#[test]
fn everything_is_reported_at_once() {
    assert_snapshot!(report(
        r#"subject_prefix = "LLM"
durability = "maybe"
retries = 3

[providers.openai]
kind = "openai"
api_key = "env:MISSING"
max_in_flight = -1
timeout = 5
first_token_ms = 10

[providers.openai.models."gpt-4o-mini"]
price = { input_usd_per_mtok = 0.15, output_usd_per_mtok = "0.60" }

[providers.openai.models."gpt-4.1"]
price = { input_usd_per_mtok = "2.00", cached_input_usd_per_mtok = "-1" }

[providers."my provider"]
kind = "anthropic"

[providers.local]
kind = "compatible"
api_key = "env:EMPTY"
timeouts = { connect_ms = 2_000, total_ms = 1_000 }

[providers.hub]
kind = "compatible"
base_url = "https://me:hunter2@hub.example/v1"

[providers.sim]
kind = "simulator"
base_url = "http://localhost"
fail = { rate = 1.5, status = 200 }
per_token_ms = "slow"

[models."a/b"]
targets = ["sim/demo"]

[models.small]
targets = ["openia/gpt-4o-mini", "openai/gpt-4o-mni", "openai/gpt-4o-mini", "openai/gpt-4o-mini", "gpt-4o"]

[models.empty]
targets = []

[teams."research.eu"]
weight = 0
models = "*"

[teams.b]
models = ["smal", "*x", "small", "small"]

[timing]
ack_wait_ms = 10
ttl_ms = { low = 999_999_999_999 }
lease = 5

[queue]
team_requests_max = 0

[retention]
usage_days = 1.5

[scheduling]
shares = { high = 0, urgent = 3 }

[[budgets]]
scope = { team = "research", tag = "application" }
limit_usd = 100.00
per = "year"

[[budgets]]
name = "a.b"
scope = { team = "nobody", provider = "nowhere", colour = "red" }
limit_usd = "0.0000000001"
per = "day"
timezone = "Europe/Atlantis"
when_spent = "cry"
reserve = "all"
alert_percent = [2000]

[[budgets]]
scope = {}
limit_usd = "1"
per = "day"
alert_percent = [50, 50]

[[budgets]]
scope = {}
limit_usd = "2"
per = "day"

[[limits]]
in_flight = 50
"#
    ));
}

#[test]
fn no_problem_of_a_budget_or_a_limit_hides_another() {
    let text = r#"
[[budgets]]
name = "a"
alert_percent = [80, 50]

[[budgets]]
name = "a"
scope = { team = "nobody" }
limit_usd = "1"
alert_percent = [50, 50]

[[budgets]]
scope = {}
per = "day"

[[budgets]]
scope = {}
limit_usd = "1"
per = "day"

[[budgets]]
scope = { tag = 5 }
limit_usd = "1"
per = "day"

[[budgets]]
scope = {}
limit_usd = "1"
per = "day"
timezone = "Europe/Atlantis"

[[limits]]
name = "b"

[[limits]]
name = "b"
in_flight = 1
requests_per_minute = 0

[[limits]]
name = "b"
scope = { team = "nobody" }
in_flight = 1
"#;
    assert_snapshot!(besides(text), @r#"
    tollgate.toml:2:1: budgets[0].limit_usd: expected a decimal string of US dollars such as "100.00", found nothing
    tollgate.toml:2:1: budgets[0].per: expected one of "minute", "hour", "day", "week", "month", "total", found nothing
    tollgate.toml:2:1: budgets[0].scope: expected a table with keys of team, project, key, user, tag, provider, model, found nothing
    tollgate.toml:4:17: budgets[0].alert_percent: expected ascending numbers, each once
    tollgate.toml:6:1: budgets[1]: another budget has the name "a"; give this one a name of its own
    tollgate.toml:6:1: budgets[1].per: expected one of "minute", "hour", "day", "week", "month", "total", found nothing
    tollgate.toml:8:18: budgets[1].scope.team: no team "nobody" is configured
    tollgate.toml:10:17: budgets[1].alert_percent: expected ascending numbers, each once
    tollgate.toml:12:1: budgets[2].limit_usd: expected a decimal string of US dollars such as "100.00", found nothing
    tollgate.toml:16:1: budgets[3]: another budget has the name "all-day"; give this one a name of its own
    tollgate.toml:22:17: budgets[4].scope.tag: expected "name=value", found 5
    tollgate.toml:30:12: budgets[5].timezone: expected a time zone of the IANA database such as "Europe/Berlin", found "Europe/Atlantis"
    tollgate.toml:32:1: limits[0]: expected one of requests_per_minute, tokens_per_minute, in_flight, same_body_per_minute, found none
    tollgate.toml:32:1: limits[0].scope: expected a table with keys of team, project, key, user, tag, provider, model, found nothing
    tollgate.toml:35:1: limits[1].scope: expected a table with keys of team, project, key, user, tag, provider, model, found nothing
    tollgate.toml:38:23: limits[1].requests_per_minute: expected a whole number from 1 to 10000000, found 0
    tollgate.toml:40:1: limits[2]: another limit has the name "b-in-flight"; give this one a name of its own
    tollgate.toml:42:18: limits[2].scope.team: no team "nobody" is configured
    "#);
}

#[test]
fn no_file_is_a_file_without_a_team() {
    let none = "tollgate.toml:1:1: teams: expected at least one team, such as [teams.default]";
    assert_eq!(report(""), none);
    assert_eq!(report("[teams]"), none);
    assert_eq!(report("teams = 5"), "tollgate.toml:1:9: teams: expected a table of tables, found 5");
}

#[test]
fn text_that_is_not_toml_is_reported_with_the_rest() {
    assert_snapshot!(besides(
        "a = \n[queue\n\"\n[timing]\nlease_ms = 1\nlease_ms = 2\n[providers.x]\nkind = openai\n"
    ));
}

#[test]
fn a_section_of_the_wrong_type_is_one_problem() {
    assert_snapshot!(besides("providers.openai = 5\nmodels = []\ntiming = \"fast\"\nteams.b = []\n"));
}

#[test]
fn one_problem_is_not_repeated_where_its_owner_is_mentioned() {
    let text = r#"
[providers.a]
kind = "bedrock"
[providers.b]
kind = "openai"
api_key = "env:GOOD"
models.m.price.input_usd_per_mtok = "x"
models.m.price.output_usd_per_mtok = "1"
[models.x]
targets = ["a/anything", "b/m"]
[teams.x]
models = ["a/anything", "b/m"]
"#;
    assert_snapshot!(besides(text));
}

#[test]
fn keys_are_never_shown() {
    let text = r#"
[providers.a]
kind = "openai"
api_key = "hunter2 with spaces"
[providers.b]
kind = "openai"
api_key = "env:hunter2-key"
[providers.c]
kind = "openai"
api_key = ["hunter2"]
[providers.d]
kind = "openai"
api_key = "env:LINE_END"
[providers.e]
kind = "compatible"
base_url = "https://hunter2@x"
"#;
    let report = besides(text);
    assert_snapshot!(report);
    assert!(!report.contains("hunter2"));
}

#[test]
fn lines_and_columns_are_those_of_an_editor() {
    let place = |text: &str| {
        let report = load(text, "f", &environment).unwrap_err();
        let problem = report.problems.into_iter().find(|problem| problem.path == "x").unwrap();
        (problem.line, problem.column)
    };
    assert_eq!(place("x = 1"), (1, 1));
    assert_eq!(place("\u{feff}x = 1"), (1, 1));
    assert_eq!(place("# ü\r\n\r\n  x = 1"), (3, 3));
    assert_eq!(place("queue = { \"ü\" = 1 }\n\"x\" = 1"), (2, 1));
}
