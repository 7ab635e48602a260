//! The JSON Schemas of the public contract, generated from the types that are really used.

use schemars::generate::SchemaSettings;

use crate::event::{BudgetEvent, LifecycleEvent, ProviderEvent};
use crate::request::RequestEnvelope;
use crate::response::Response;
use crate::usage::UsageEvent;

/// Every published schema: file name and content.
pub fn all() -> Vec<(&'static str, serde_json::Value)> {
    vec![
        ("request.v1.json", schema::<RequestEnvelope>("Tollgate request v1")),
        ("response.v1.json", schema::<Response>("Tollgate response v1")),
        ("usage.v1.json", schema::<UsageEvent>("Tollgate usage event v1")),
        ("event.v1.json", schema::<LifecycleEvent>("Tollgate lifecycle event v1")),
        ("provider_event.v1.json", schema::<ProviderEvent>("Tollgate provider event v1")),
        ("budget_event.v1.json", schema::<BudgetEvent>("Tollgate budget event v1")),
    ]
}

fn schema<T: schemars::JsonSchema>(title: &str) -> serde_json::Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    schema.insert("title".into(), title.into());
    schema.to_value()
}

#[cfg(test)]
mod tests;
