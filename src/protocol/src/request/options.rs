//! What an envelope asks of the broker besides the call itself.

use serde_json::value::RawValue;

use super::decode::Top;
use super::fields::{self, Raw, invalid};
use super::{FALLBACKS_MAX, MODEL_LENGTH_MAX, OnLimit};
use crate::{ErrorCode, Problem, meta, money};

/// Models to try after the one of the body, and what to do at a limit.
pub(super) fn read(top: &Top<'_>) -> Result<(Vec<String>, OnLimit), Problem> {
    if let Some(cost) = fields::text(top.max_cost_usd, "max_cost_usd")? {
        money::parse_usd(&cost).map_err(|error| {
            Problem::at(ErrorCode::InvalidField, "max_cost_usd", format!("max_cost_usd: {error}"))
        })?;
    }
    let unserved = [("callback", top.callback), ("max_cost_usd", top.max_cost_usd)];
    for (field, raw) in unserved {
        if raw.is_some() {
            return Err(unserved_field(field));
        }
    }
    if top.cache.is_some_and(|cache| cache.get() != "false") {
        return Err(unserved_field("cache"));
    }
    let on_limit = match fields::text(top.on_limit, "on_limit")?.as_deref() {
        None | Some("wait") => OnLimit::Wait,
        Some("reject") => OnLimit::Reject,
        Some(_) => return Err(invalid("on_limit", "\"wait\" or \"reject\"")),
    };
    Ok((fallbacks(top.fallbacks)?, on_limit))
}

fn fallbacks(raw: Raw<'_>) -> Result<Vec<String>, Problem> {
    let mut models = Vec::new();
    let mut add = |raw: &RawValue| {
        if models.len() == FALLBACKS_MAX {
            return Err(invalid("fallbacks", format!("at most {FALLBACKS_MAX} models")));
        }
        let model = fields::read::<String>(raw, "fallbacks", "an array of model names")?;
        if !meta::is_label(&model, MODEL_LENGTH_MAX) {
            let names = format!("names of 1 to {MODEL_LENGTH_MAX} bytes without control characters");
            return Err(invalid("fallbacks", names));
        }
        models.push(model);
        Ok(())
    };
    if let Some(raw) = raw {
        fields::each(raw, "fallbacks", "an array of model names", &mut add)?;
    }
    Ok(models)
}

fn unserved_field(field: &str) -> Problem {
    let text = format!("{field}: not served yet; send the request without it");
    Problem::at(ErrorCode::UnsupportedFeature, field, text)
}
