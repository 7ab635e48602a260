//! The text of a `tollgate.toml` for a test: short timings, scripted providers, prices to compute with.

use std::fmt::Write;
use std::time::Duration;

use crate::money::{Price, usd};

/// Collects the parts of a configuration; [`Config::text`] writes them in the documented form.
#[derive(Clone, Debug, Default)]
pub struct Config {
    text: String,
}

impl Config {
    /// A configuration without teams, models or providers, and the product's own timings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shortens what a killed process is waited for.
    #[must_use]
    pub fn timing(self, ack_wait: Duration, lease: Duration) -> Self {
        let (ack_wait_ms, lease_ms) = (ack_wait.as_millis(), lease.as_millis());
        self.raw(&format!("[timing]\nack_wait_ms = {ack_wait_ms}\nlease_ms = {lease_ms}\n"))
    }

    /// A team of weight 1 that may use every model.
    #[must_use]
    pub fn team(self, name: &str) -> Self {
        self.weighted_team(name, 1)
    }

    /// A team that may use every model.
    #[must_use]
    pub fn weighted_team(self, name: &str, weight: u32) -> Self {
        self.raw(&format!("[teams.{name}]\nweight = {weight}\nmodels = [\"*\"]\n"))
    }

    /// A provider of kind `compatible` at this base URL, and what its models cost.
    #[must_use]
    pub fn provider(self, name: &str, base_url: &str, max_in_flight: u32, models: &[(&str, Price)]) -> Self {
        let mut text = format!(
            "[providers.{name}]\nkind = \"compatible\"\nbase_url = \"{base_url}\"\napi_key = \"test-key\"\n\
             max_in_flight = {max_in_flight}\n"
        );
        for (model, price) in models {
            let (input, cached, output) = (usd(price.input), usd(price.cached_input), usd(price.output));
            write!(
                text,
                "[providers.{name}.models.\"{model}\"]\nprice = {{ input_usd_per_mtok = \"{input}\", \
                 cached_input_usd_per_mtok = \"{cached}\", output_usd_per_mtok = \"{output}\" }}\n"
            )
            .expect("a String takes everything");
        }
        self.raw(&text)
    }

    /// What clients ask for, and the `provider/model` targets it stands for, in order.
    #[must_use]
    pub fn model(self, name: &str, targets: &[&str]) -> Self {
        self.raw(&format!("[models.\"{name}\"]\ntargets = {targets:?}\n"))
    }

    /// A budget of a team, in nano-dollars per window. `per` and `when_spent` as documented.
    #[must_use]
    pub fn team_budget(self, team: &str, limit_nano_usd: u64, per: &str, when_spent: &str) -> Self {
        let limit = usd(limit_nano_usd);
        self.raw(&format!(
            "[[budgets]]\nscope = {{ team = \"{team}\" }}\nlimit_usd = \"{limit}\"\nper = \"{per}\"\n\
             when_spent = \"{when_spent}\"\n"
        ))
    }

    /// Anything else, as it is to stand in the file. Begin it with a table header.
    #[must_use]
    pub fn raw(mut self, toml: &str) -> Self {
        self.text.push_str(toml);
        self.text.push('\n');
        self
    }

    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }
}
