//! One provider: which keys its kind needs and which it does not have, its key, its prices.

use std::collections::{BTreeMap, BTreeSet};

use tollgate_protocol::Price;

use super::{entries, secret};
use crate::raw::{self, DAY_MS, Kind};
use crate::read::{At, Named, Optional};
use crate::report::Findings;
use crate::scalar::Whole;
use crate::settings::{Provider, ProviderKind, SimulatorSettings, Timeouts};
use crate::zero::{DEMO_MODEL, DEMO_PRICE, MAX_IN_FLIGHT};
use crate::{Environment, OPENAI_BASE_URL, Secret};

const NAME_LENGTH_MAX: usize = 32;
const MODEL_LENGTH_MAX: usize = 256;

/// The models that the file offers, also those with a problem of their own, so that one problem is not
/// reported at every mention. `None` where a provider is too broken to know.
pub(super) struct Offered(pub(super) BTreeMap<String, Option<BTreeSet<String>>>);

impl Offered {
    pub(super) fn of(file: &raw::File) -> Self {
        let models = |named: &Named<raw::Provider>| {
            let provider = named.entry.as_ref()?;
            if matches!(provider.models, Optional::Broken) {
                return None;
            }
            let names: BTreeSet<_> =
                entries(&provider.models).iter().map(|model| model.name.value.clone()).collect();
            match provider.kind.0.as_ref() {
                None if names.is_empty() => None,
                Some(kind) if names.is_empty() && kind.value == Kind::Simulator => {
                    Some(BTreeSet::from([DEMO_MODEL.to_owned()]))
                }
                _ => Some(names),
            }
        };
        let offered = entries(&file.providers).iter().map(|named| (named.name.value.clone(), models(named)));
        Self(offered.collect())
    }

    /// Every `provider/model`.
    pub(super) fn names(&self) -> Vec<String> {
        let providers = self.0.iter().filter_map(|(provider, models)| Some((provider, models.as_ref()?)));
        providers
            .flat_map(|(provider, models)| models.iter().map(move |model| format!("{provider}/{model}")))
            .collect()
    }
}

pub(super) fn resolve(
    named: &Named<raw::Provider>,
    environment: &dyn Environment,
    findings: &mut Findings<'_>,
) -> Option<(String, Provider)> {
    check_name(&named.name, findings);
    let raw = named.entry.as_ref()?;
    let (models, timeouts) = (models(raw, findings), timeouts(raw, findings));
    let api_keys = api_keys(raw, environment, findings);
    let kind = raw.kind.0.as_ref()?.value;
    check_keys(kind, raw, findings);
    let base_url = raw.base_url.given().map(|url| url.value.0.clone());
    let (kind, base_url, models) = match kind {
        Kind::OpenAi => (ProviderKind::OpenAi, base_url.or(Some(OPENAI_BASE_URL.into())), models),
        Kind::Compatible => (ProviderKind::Compatible, base_url, models),
        Kind::Simulator if models.is_empty() => {
            let demo = BTreeMap::from([(DEMO_MODEL.into(), DEMO_PRICE)]);
            (ProviderKind::Simulator(simulator(raw)), None, demo)
        }
        Kind::Simulator => (ProviderKind::Simulator(simulator(raw)), None, models),
    };
    let max_in_flight = raw.max_in_flight.or_u32(MAX_IN_FLIGHT);
    let provider = Provider { kind, base_url, api_keys, max_in_flight, timeouts, models };
    Some((named.name.value.clone(), provider))
}

/// Whether the provider has the keys that its kind needs, and none that its kind does not act on.
fn check_keys(kind: Kind, raw: &At<raw::Provider>, findings: &mut Findings<'_>) {
    if kind == Kind::Simulator {
        let elsewhere = "a simulator has no address, it runs inside the binary; one that runs elsewhere is \
                         called as a provider of the kind \"compatible\"";
        refuse(&raw.base_url, elsewhere, findings);
        refuse(&raw.api_keys, "a simulator needs no key", findings);
        return refuse(&raw.api_key, "a simulator needs no key", findings);
    }
    const SIMULATOR_ONLY: &str = "only a provider of the kind \"simulator\" has this key";
    refuse(&raw.first_token_ms, SIMULATOR_ONLY, findings);
    refuse(&raw.per_token_ms, SIMULATOR_ONLY, findings);
    refuse(&raw.fail, SIMULATOR_ONLY, findings);
    refuse(&raw.seed, SIMULATOR_ONLY, findings);
    if entries(&raw.models).is_empty() && !matches!(raw.models, Optional::Broken) {
        let place = raw.place.at_key("models");
        findings.warning(&place, "there is none, so that nothing can be asked of this provider");
    }
    if kind == Kind::Compatible && matches!(raw.base_url, Optional::Absent) {
        let message = "expected the address of its API, such as \"http://localhost:8000/v1\", found nothing; \
                       the kind \"compatible\" needs one";
        findings.problem(&raw.place.at_key("base_url"), message);
    }
    if kind == Kind::OpenAi && matches!((&raw.api_key, &raw.api_keys), (Optional::Absent, Optional::Absent)) {
        let message = "expected a key, such as \"env:OPENAI_API_KEY\", found nothing; a server without keys \
                       is of the kind \"compatible\"";
        findings.problem(&raw.place.at_key("api_key"), message);
    }
}

/// One key, or several.
fn api_keys(
    raw: &At<raw::Provider>,
    environment: &dyn Environment,
    findings: &mut Findings<'_>,
) -> Vec<Secret> {
    if let (Some(_), Some(keys)) = (raw.api_key.given(), raw.api_keys.given()) {
        findings.problem(&keys.place, "api_key and api_keys are both given: keep one of them");
    }
    let one = raw.api_key.given().into_iter();
    let several = raw.api_keys.given().into_iter().flat_map(|keys| &keys.value.0);
    one.chain(several).filter_map(|key| secret::resolve(key, environment, findings)).collect()
}

/// The name becomes a part of a stream's name.
fn check_name(name: &At<String>, findings: &mut Findings<'_>) {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !(1..=NAME_LENGTH_MAX).contains(&name.len()) || !name.bytes().all(allowed) {
        let message =
            format!("expected a provider name of 1 to {NAME_LENGTH_MAX} characters of A-Z a-z 0-9 _ -");
        findings.problem(&name.place, message);
    }
}

fn refuse<T>(key: &Optional<T>, why: &str, findings: &mut Findings<'_>) {
    if let Some(given) = key.given() {
        findings.problem(&given.place, why);
    }
}

fn models(raw: &raw::Provider, findings: &mut Findings<'_>) -> BTreeMap<String, Price> {
    let price = |price: &raw::Price| {
        let input = price.input_usd_per_mtok.0.as_ref()?.0;
        let cached_input = price.cached_input_usd_per_mtok.given().map_or(input, |cached| cached.0);
        Some(Price { input, cached_input, output: price.output_usd_per_mtok.0.as_ref()?.0 })
    };
    let mut models = BTreeMap::new();
    for named in entries(&raw.models) {
        let name = &named.name;
        if !(1..=MODEL_LENGTH_MAX).contains(&name.len()) || name.chars().any(char::is_control) {
            let message =
                format!("expected a model name of 1 to {MODEL_LENGTH_MAX} bytes without control characters");
            findings.problem(&name.place, message);
        }
        let given = named.entry.as_ref().and_then(|model| model.price.0.as_ref());
        if let Some(price) = given.and_then(|given| price(given)) {
            models.insert(name.value.clone(), price);
        }
    }
    models
}

/// Where only the total is given and is short, it bounds the connecting too.
fn timeouts(raw: &raw::Provider, findings: &mut Findings<'_>) -> Timeouts {
    let default = Timeouts::default();
    let Some(given) = raw.timeouts.given() else { return default };
    let total_ms = given.total_ms.or(default.total_ms);
    let connect_ms = given.connect_ms.or(default.connect_ms.min(total_ms));
    if let Some(connect) = given.connect_ms.given().filter(|_| connect_ms > total_ms) {
        let message = format!("expected at most total_ms, which is {total_ms}, found {connect_ms}");
        findings.problem(&connect.place, message);
    }
    let within = |key: &Optional<Whole<1, DAY_MS>>, default: u64, findings: &mut Findings<'_>| {
        let value = key.or(default.min(total_ms));
        if let Some(given) = key.given().filter(|_| value > total_ms) {
            let message = format!("expected at most total_ms, which is {total_ms}, found {value}");
            findings.problem(&given.place, message);
        }
        value
    };
    let first_byte_ms = within(&given.first_byte_ms, default.first_byte_ms, findings);
    let idle_ms = within(&given.idle_ms, default.idle_ms, findings);
    Timeouts { connect_ms, first_byte_ms, idle_ms, total_ms }
}

fn simulator(raw: &raw::Provider) -> SimulatorSettings {
    let default = SimulatorSettings::default();
    let fail = raw.fail.given();
    SimulatorSettings {
        first_token_ms: raw.first_token_ms.or(default.first_token_ms),
        per_token_ms: raw.per_token_ms.or(default.per_token_ms),
        fail_rate: fail.and_then(|fail| fail.rate.given()).map_or(default.fail_rate, |rate| rate.0),
        fail_status: fail
            .and_then(|fail| fail.status.given())
            .map_or(default.fail_status, |status| status.get_u32() as u16),
        seed: raw.seed.or(default.seed),
    }
}
