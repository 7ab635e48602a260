//! The part of a configuration that changes while everything runs, as one document: teams, budgets, models and prices.
//!
//! It is what of a `tollgate.toml` may go to all processes at once. Addresses, keys, times and bounds stay in the file of
//! each process; a document with anything of that is refused, so that no key ever gets there.

use std::collections::BTreeMap;

use tollgate_policy::budget::{Budget, Measure};
use tollgate_protocol::NanoUsd;
use toml::de::DeTable;
use toml::{Table, Value};

use crate::read::Key;
use crate::report::{ConfigProblem, Findings, Place, Report};
use crate::settings::Settings;
use crate::zero::{DEMO_MODEL, DEMO_PRICE};
use crate::{Environment, load, raw, resolve};

/// The sections that are wholly part of it.
const SECTIONS: [&str; 4] = ["budgets", "limits", "models", "teams"];
const PROVIDERS: &str = "providers";
/// What is part of it of each provider: names of models and their prices.
const MODELS: &str = "models";
/// Longest text of a document, in bytes: it has to fit into one message.
const BYTES_MAX: usize = 512 * 1024;

/// The part of a configuration that changes while everything runs. Valid by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Document(Table);

impl Document {
    /// Of a whole file, or of a document by itself: one of whose providers nothing is said but their models. Everything
    /// that is wrong with it is named. Whether keys are there is not looked at: that is for each process to see.
    pub fn read(text: &str, file_name: &str) -> Result<Self, Report> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let table = toml::from_str::<Table>(text).unwrap_or_default();
        if is_whole(&table) {
            load(text, file_name, &|_: &str| Some("not-looked-at".to_owned()))?;
            return Self::bounded(reduced(&table), file_name);
        }
        Self::parse(text, file_name)
    }

    /// Reads a document by itself. What is not part of one is refused.
    pub fn parse(text: &str, name: &str) -> Result<Self, Report> {
        let mut findings = Findings::new(text, name);
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            findings.syntax(error.span().unwrap_or_default(), error.message());
        }
        refuse_the_rest(root.get_ref(), &mut findings);
        let file = raw::File::from_table(root.get_ref(), &Place::root(), &mut findings);
        resolve::settings(&file, &crate::EmptyEnvironment, &mut findings);
        findings.excuse(is_missing_kind);
        findings.finish()?;
        let document = Self::bounded(toml::from_str(text).unwrap_or_default(), name)?;
        // What a provider of no known kind offers is not known above, if it lists nothing.
        document.settings().map_err(|report| {
            let problems = report.problems.into_iter();
            let problems = problems.map(|problem| ConfigProblem { line: 1, column: 1, ..problem }).collect();
            Report { file_name: name.into(), problems }
        })?;
        Ok(document)
    }

    fn bounded(table: Table, name: &str) -> Result<Self, Report> {
        let document = Self(table);
        match document.text().len() {
            ..=BYTES_MAX => Ok(document),
            bytes => Err(document_problem(
                name,
                format!("teams, budgets, models and prices take {bytes} bytes; {BYTES_MAX} is the most"),
            )),
        }
    }

    /// The installation that a whole file is for: its `subject_prefix`. A document is for any.
    pub fn prefix_of(text: &str) -> Option<String> {
        let table = toml::from_str::<Table>(text.strip_prefix('\u{feff}').unwrap_or(text)).ok()?;
        let prefix = table.get("subject_prefix").and_then(Value::as_str).unwrap_or("llm");
        is_whole(&table).then(|| prefix.to_owned())
    }

    /// Its text, as TOML.
    pub fn text(&self) -> String {
        self.0.to_string()
    }

    /// What it says by itself, of providers of which nothing else is known.
    pub fn settings(&self) -> Result<Settings, Report> {
        let provider = |models: &Value| {
            let mut provider = Table::new();
            provider.insert("kind".into(), "compatible".into());
            provider.insert("base_url".into(), "http://nowhere".into());
            provider.insert(MODELS.into(), models.clone());
            Value::Table(provider)
        };
        let own: Table =
            providers(&self.0).iter().map(|(name, models)| (name.clone(), provider(models))).collect();
        let own = Table::from_iter([(PROVIDERS.to_owned(), Value::Table(own))]);
        load(&self.over(own).to_string(), "the document", &crate::EmptyEnvironment)
    }

    /// The settings of a process whose own file is `own`, with this in place of what stands there. `name` is only for
    /// messages; their lines are of no file.
    pub fn overlay(&self, own: &str, name: &str, environment: &dyn Environment) -> Result<Settings, Report> {
        let own = own.strip_prefix('\u{feff}').unwrap_or(own);
        let own: Table = toml::from_str(own).map_err(|error| {
            document_problem(name, format!("the own file is not TOML: {}", error.message()))
        })?;
        let known = own.get(PROVIDERS).and_then(Value::as_table);
        let mut problems: Vec<ConfigProblem> = providers(&self.0)
            .keys()
            .filter(|name| !known.is_some_and(|known| known.contains_key(*name)))
            .map(|name| ConfigProblem {
                path: Place::root().at_key(PROVIDERS).key(name),
                message: "this process's own file has no such provider".into(),
                ..ConfigProblem::default()
            })
            .collect();
        let text = self.over(own).to_string();
        match load(&text, name, environment) {
            Ok(settings) if problems.is_empty() => Ok(settings),
            loaded => {
                problems.extend(loaded.err().into_iter().flat_map(|report| report.problems));
                Err(Report { file_name: name.into(), problems })
            }
        }
    }

    /// A file with this in place of what stands there.
    fn over(&self, mut own: Table) -> Table {
        for section in SECTIONS {
            match self.0.get(section) {
                Some(value) => drop(own.insert(section.into(), value.clone())),
                None => drop(own.remove(section)),
            }
        }
        let mut models = providers(&self.0);
        for (name, provider) in own.get_mut(PROVIDERS).and_then(Value::as_table_mut).into_iter().flatten() {
            let Some(provider) = provider.as_table_mut() else { continue };
            match models.remove(name) {
                Some(models) => drop(provider.insert(MODELS.into(), models)),
                None => drop(provider.remove(MODELS)),
            }
        }
        own
    }

    /// What a budget's limit is; `None` if there is no budget of this name.
    pub fn limit(&self, budget: &str) -> Option<NanoUsd> {
        let settings = self.settings().ok()?;
        settings.budgets.named(budget).filter(|budget| is_money(budget)).map(|budget| NanoUsd(budget.limit))
    }

    /// The names of its budgets, in their order. Limits are none.
    pub fn budgets(&self) -> Vec<String> {
        let settings = self.settings().ok();
        let all = settings.iter().flat_map(|settings| settings.budgets.0.iter());
        all.filter(|budget| is_money(budget)).map(|budget| budget.name.clone()).collect()
    }

    /// The same with another limit of a budget; `None` if there is no budget of this name.
    pub fn with_limit(&self, budget: &str, limit: NanoUsd) -> Option<Self> {
        // Names may be made of scope and window, which is done in one place only.
        let index = self.budgets().iter().position(|name| name == budget)?;
        let mut table = self.0.clone();
        let entry = table.get_mut("budgets")?.as_array_mut()?.get_mut(index)?.as_table_mut()?;
        entry.insert("limit_usd".into(), usd(u64::try_from(limit.0).ok()?).into());
        Some(Self(table))
    }
}

fn is_money(budget: &Budget) -> bool {
    budget.measure == Measure::Money
}

/// Decimals without a sign, as a file has them.
pub(crate) fn usd(nanos: u64) -> String {
    NanoUsd(i64::try_from(nanos).unwrap_or(i64::MAX)).to_string().replace('$', "")
}

/// Whether a file says more than a document does.
fn is_whole(table: &Table) -> bool {
    let is_cold = |key: &String| key != PROVIDERS && !SECTIONS.contains(&key.as_str());
    let of_providers = table.get(PROVIDERS).and_then(Value::as_table).into_iter().flat_map(Table::values);
    let mut keys_of_providers = of_providers.filter_map(Value::as_table).flat_map(Table::keys);
    !table.contains_key(PROVIDERS) || table.keys().any(is_cold) || keys_of_providers.any(|key| key != MODELS)
}

/// A file without what stays in it.
fn reduced(file: &Table) -> Table {
    let mut table: Table = SECTIONS
        .iter()
        .filter_map(|section| Some(((*section).to_owned(), file.get(*section)?.clone())))
        .collect();
    let given = file.get(PROVIDERS).and_then(Value::as_table).into_iter().flatten();
    let kept: Table = given
        .map(|(name, provider)| {
            let models = provider.get(MODELS).and_then(Value::as_table).cloned().unwrap_or_default();
            let is_simulator = provider.get("kind").and_then(Value::as_str) == Some("simulator");
            let models = if models.is_empty() && is_simulator { demo() } else { models };
            (name.clone(), Value::Table(Table::from_iter([(MODELS.to_owned(), Value::Table(models))])))
        })
        .collect();
    if !kept.is_empty() {
        table.insert(PROVIDERS.into(), Value::Table(kept));
    }
    table
}

/// What a simulator has that lists no models.
fn demo() -> Table {
    let price = Table::from_iter([
        ("input_usd_per_mtok".to_owned(), Value::String(usd(DEMO_PRICE.input))),
        ("output_usd_per_mtok".to_owned(), Value::String(usd(DEMO_PRICE.output))),
    ]);
    let model = Table::from_iter([("price".to_owned(), Value::Table(price))]);
    Table::from_iter([(DEMO_MODEL.to_owned(), Value::Table(model))])
}

/// The models of each provider of a document.
fn providers(document: &Table) -> BTreeMap<String, Value> {
    let given = document.get(PROVIDERS).and_then(Value::as_table).into_iter().flatten();
    given
        .map(|(name, provider)| {
            let models = provider.get(MODELS).cloned().unwrap_or_else(|| Value::Table(Table::new()));
            (name.clone(), models)
        })
        .collect()
}

/// Notes what is not part of a document. No value is shown: it may be a key.
fn refuse_the_rest(root: &DeTable<'_>, findings: &mut Findings<'_>) {
    const WHY: &str = "this stays in the file of each process: only teams, budgets, limits, models, and models and \
                       prices of providers change while everything runs";
    let place = Place::root();
    // What is no key at all is noted when it is read.
    let is_known = |keys: &[Key], name: &str| keys.iter().any(|key| key.name == name);
    for (key, node) in root {
        let name = key.get_ref().as_ref();
        if name == PROVIDERS {
            for (provider, node) in node.get_ref().as_table().into_iter().flatten() {
                let place = place.at_key(PROVIDERS).at_key(provider.get_ref());
                for key in node.get_ref().as_table().into_iter().flat_map(|provider| provider.keys()) {
                    let name = key.get_ref().as_ref();
                    if name != MODELS && is_known(raw::Provider::KEYS, name) {
                        findings.problem(&Place { span: key.span(), path: place.key(name) }, WHY);
                    }
                }
            }
        } else if !SECTIONS.contains(&name) && is_known(raw::File::KEYS, name) {
            findings.problem(&Place { span: key.span(), path: place.key(name) }, WHY);
        }
    }
}

/// A document does not say of what kind a provider is.
fn is_missing_kind(problem: &ConfigProblem) -> bool {
    let path = &problem.path;
    path.starts_with("providers.") && path.ends_with(".kind") && problem.message.ends_with("found nothing")
}

fn document_problem(name: &str, message: String) -> Report {
    let problem = ConfigProblem { line: 1, column: 1, message, ..ConfigProblem::default() };
    Report { file_name: name.into(), problems: vec![problem] }
}
