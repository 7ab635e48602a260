//! The settings of a start without a file: everything can be tried at once, with money in it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use tollgate_policy::budget::Budgets;
use tollgate_policy::catalog::{Catalog, ModelPattern, TeamSettings};
use tollgate_policy::retry::Rules;
use tollgate_protocol::job::Target;
use tollgate_protocol::{Price, Priority, Team, subject::Subjects};

use crate::document::usd;
use crate::settings::{
    Durability, Provider, ProviderKind, Queue, Retention, SHARES, Settings, SimulatorSettings, Timeouts,
    Timing,
};
use crate::{Environment, OPENAI_BASE_URL, Secret};

/// Calls at a time of a provider that does not say.
pub(crate) const MAX_IN_FLIGHT: u32 = 64;

/// The model of a simulator that lists none.
pub(crate) const DEMO_MODEL: &str = "demo";

/// What it costs: 0.10 USD per million input tokens and 0.20 per million output tokens, so that a demo
/// shows money.
pub(crate) const DEMO_PRICE: Price =
    Price { input: 100_000_000, cached_input: 100_000_000, output: 200_000_000 };

/// OpenAI's list prices of November 2026 in nano-dollars per million tokens: model, input, cached input,
/// output. For trying things out; a file with real money in it states its own.
const OPENAI_PRICES: [(&str, u64, u64, u64); 10] = [
    ("gpt-4.1", 2_000_000_000, 500_000_000, 8_000_000_000),
    ("gpt-4.1-mini", 400_000_000, 100_000_000, 1_600_000_000),
    ("gpt-4o", 2_500_000_000, 1_250_000_000, 10_000_000_000),
    ("gpt-4o-mini", 150_000_000, 75_000_000, 600_000_000),
    ("gpt-5.4", 2_500_000_000, 250_000_000, 15_000_000_000),
    ("gpt-5.4-mini", 750_000_000, 75_000_000, 4_500_000_000),
    ("gpt-5.4-nano", 200_000_000, 20_000_000, 1_250_000_000),
    ("gpt-5.5", 5_000_000_000, 500_000_000, 30_000_000_000),
    ("gpt-5.6", 4_000_000_000, 400_000_000, 20_000_000_000),
    ("o3", 2_000_000_000, 500_000_000, 8_000_000_000),
];

/// The settings of a start without a file: the team `default`, which may use everything; the simulator
/// `sim` with its model `demo`, also under that plain name; and OpenAI with its current chat models, also
/// under their plain names, if `OPENAI_API_KEY` is set.
pub fn zero(environment: &dyn Environment) -> Settings {
    let mut providers = BTreeMap::from([("sim".to_owned(), simulator())]);
    let mut warnings = Vec::new();
    match environment.get("OPENAI_API_KEY").filter(|key| !key.is_empty()).map(|key| Secret::parse(&key)) {
        Some(Ok(key)) => {
            providers.insert("openai".into(), openai(key));
        }
        Some(Err(_)) => warnings.push(
            "OPENAI_API_KEY is set, but not a key: it holds spaces, line ends or other characters that no \
             HTTP header can carry; OpenAI is left out"
                .to_owned(),
        ),
        None => {}
    }
    Settings {
        subjects: Subjects::default(),
        durability: Durability::default(),
        catalog: catalog(&providers),
        providers,
        teams: default_team().into_iter().collect(),
        budgets: Budgets::default(),
        timing: Timing::default(),
        retry: Rules::default(),
        queue: Queue::default(),
        retention: Retention::default(),
        shares: SHARES,
        warnings,
    }
}

/// The same as the text of a file, which is what a document is laid over.
pub fn zero_text(environment: &dyn Environment) -> String {
    let settings = zero(environment);
    let mut text = String::from("[teams.default]\n[providers.sim]\nkind = \"simulator\"\n");
    if let Some(openai) = settings.providers.get("openai") {
        text.push_str("[providers.openai]\nkind = \"openai\"\napi_key = \"env:OPENAI_API_KEY\"\n");
        for (model, Price { input, cached_input, output }) in &openai.models {
            let (input, cached_input, output) = (usd(*input), usd(*cached_input), usd(*output));
            text.push_str(&format!(
                "[providers.openai.models.\"{model}\"]\nprice = {{ input_usd_per_mtok = \"{input}\", \
                 cached_input_usd_per_mtok = \"{cached_input}\", output_usd_per_mtok = \"{output}\" }}\n"
            ));
        }
    }
    for (name, targets) in &settings.catalog.aliases {
        let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
        text.push_str(&format!("[models.\"{name}\"]\ntargets = {targets:?}\n"));
    }
    text
}

fn default_team() -> Option<(Team, TeamSettings)> {
    let settings = TeamSettings {
        weight: NonZeroU32::MIN,
        priority_max: Priority::High,
        models: vec![ModelPattern::Any],
    };
    Team::parse("default").ok().map(|team| (team, settings))
}

fn simulator() -> Provider {
    Provider {
        kind: ProviderKind::Simulator(SimulatorSettings::default()),
        base_url: None,
        api_keys: Vec::new(),
        max_in_flight: MAX_IN_FLIGHT,
        timeouts: Timeouts::default(),
        models: BTreeMap::from([(DEMO_MODEL.into(), DEMO_PRICE)]),
    }
}

fn openai(key: Secret) -> Provider {
    Provider {
        kind: ProviderKind::OpenAi,
        base_url: Some(OPENAI_BASE_URL.into()),
        api_keys: vec![key],
        max_in_flight: MAX_IN_FLIGHT,
        timeouts: Timeouts::default(),
        models: OPENAI_PRICES
            .iter()
            .map(|&(model, input, cached_input, output)| {
                (model.to_owned(), Price { input, cached_input, output })
            })
            .collect(),
    }
}

/// Every model under its full name, and under its plain name.
fn catalog(providers: &BTreeMap<String, Provider>) -> Catalog {
    let prices = prices(providers);
    let aliases = prices.keys().map(|target| (target.model.clone(), vec![target.clone()])).collect();
    Catalog { aliases, prices, typed: BTreeMap::new() }
}

pub(crate) fn prices(providers: &BTreeMap<String, Provider>) -> BTreeMap<Target, Price> {
    providers
        .iter()
        .flat_map(|(name, provider)| {
            provider
                .models
                .iter()
                .map(move |(model, price)| (Target { provider: name.clone(), model: model.clone() }, *price))
        })
        .collect()
}
