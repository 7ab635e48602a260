//! What a person sees when `up` is ready: where everything is, and how to send a first request. Pure.

use std::path::Path;

use tollgate_config::Settings;
use tollgate_protocol::{Priority, Team};

use super::ready::Addresses;
use crate::args::NATS_URL;

/// What the banner tells of.
pub(super) struct Shown<'a> {
    pub(super) addresses: &'a Addresses,
    pub(super) settings: &'a Settings,
    pub(super) config: Option<&'a Path>,
    /// The version that was applied and is in use; 0 if the file's counts.
    pub(super) version: u64,
    /// The log of the own nats-server, if there is one.
    pub(super) nats_log: Option<&'a Path>,
}

/// The banner. `strong` makes a word stand out, where that can be seen.
pub(super) fn text(shown: &Shown<'_>, strong: impl Fn(&str) -> String) -> String {
    let Addresses { nats, http } = shown.addresses;
    let own = shown.nats_log.map(|log| format!("   (our own; log: {})", log.display())).unwrap_or_default();
    let config = shown
        .config
        .map_or_else(|| "none: settings to try things out".to_owned(), |path| path.display().to_string());
    let applied = match shown.version {
        0 => String::new(),
        version => format!("   (teams, budgets, models and prices: version {version} that was applied)"),
    };
    let teams = list(shown.settings.teams.keys().map(Team::as_str));
    let first = shown.settings.teams.keys().next();
    let models =
        first.map(|team| shown.settings.catalog.models_for(&shown.settings.teams, team)).unwrap_or_default();
    let plain: Vec<&str> = models.iter().map(String::as_str).filter(|model| !model.contains('/')).collect();
    let shown_models = if plain.is_empty() { list(models.iter().map(String::as_str)) } else { list(plain) };
    let mut text = format!(
        "{}\n\n  nats    {nats}{own}\n  http    {http}   (/metrics, /healthz)\n  config  {config}{applied}\n  teams   {teams}\n  models  {shown_models}\n",
        strong(concat!("Tollgate ", env!("CARGO_PKG_VERSION"), " is ready.")),
    );
    if let (Some(team), Some(model)) = (first, cheapest(&models)) {
        let server = if nats == NATS_URL { String::new() } else { format!(" --server {nats}") };
        let prefix = match shown.settings.subjects.prefix() {
            "llm" => String::new(),
            prefix => format!(" --prefix {prefix}"),
        };
        let team_option = if team.as_str() == "default" { String::new() } else { format!(" --team {team}") };
        let subject = shown.settings.subjects.under(&format!("ask.{team}.{}", Priority::Normal));
        let model_json = serde_json::Value::from(model.as_str());
        let body = format!(r#"{{"model":{model_json},"messages":[{{"role":"user","content":"Hello"}}]}}"#);
        text.push_str(&format!(
            "\nA first request, from another terminal:\n\n  tollgate ask{server}{prefix}{team_option} --model {model} \"Why is the sky blue?\"\n  nats request{server} {subject} '{body}'\n"
        ));
    }
    text.push_str("\nCtrl-C ends it; what was accepted is kept.");
    text
}

/// A model that costs nothing to try, if there is one.
fn cheapest(models: &[String]) -> Option<&String> {
    models.iter().find(|model| *model == "demo").or_else(|| models.first())
}

/// The first few, by comma.
fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 6;
    let names: Vec<&str> = names.into_iter().collect();
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_says_where_and_how() {
        let settings = tollgate_config::zero(&tollgate_config::EmptyEnvironment);
        let addresses =
            Addresses { nats: "nats://127.0.0.1:39001".into(), http: "http://127.0.0.1:8080".into() };
        let text = text(
            &Shown {
                addresses: &addresses,
                settings: &settings,
                config: None,
                version: 0,
                nats_log: Some(Path::new("/home/me/.tollgate/nats-server.log")),
            },
            str::to_owned,
        );
        insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(list(["a", "b"]), "a, b");
        assert_eq!(list(["1", "2", "3", "4", "5", "6", "7", "8"]), "1, 2, 3, 4, 5, 6 and 2 more");
        assert_eq!(list([]), "");
    }
}
