//! From what a file says to what the program uses: fills in what is absent, and checks what only shows
//! when parts are compared. Every `None` here has its reason among the findings.

mod budgets;
mod limits;
mod models;
mod provider;
mod secret;
mod teams;

use std::collections::BTreeMap;

use tollgate_policy::catalog::{Catalog, TypedTargets};
use tollgate_policy::retry::Rules;
use tollgate_protocol::subject::Subjects;

use crate::Environment;
use crate::raw;
use crate::read::{At, Map, Named, Optional};
use crate::report::{Findings, Place};
use crate::scalar::Whole;
use crate::settings::{Queue, Retention, SHARES, Settings, Timing};
use crate::zero::prices;

/// The settings of a file. What is broken in it is noted, and has a default here that nobody will see.
pub(crate) fn settings(
    file: &raw::File,
    environment: &dyn Environment,
    findings: &mut Findings<'_>,
) -> Settings {
    let offered = provider::Offered::of(file);
    let providers = entries(&file.providers)
        .iter()
        .filter_map(|named| provider::resolve(named, environment, findings))
        .collect();
    if entries(&file.providers).is_empty() && !matches!(file.providers, Optional::Broken) {
        findings
            .warning(&Place::root().at_key("providers"), "there is none, so that every request is rejected");
    }
    let (mut aliases, mut typed) = (BTreeMap::new(), BTreeMap::new());
    for named in entries(&file.models) {
        let Some((name, targets, for_failures)) = models::resolve(named, &offered, findings) else {
            continue;
        };
        aliases.insert(name.clone(), targets);
        if for_failures != TypedTargets::default() {
            typed.insert(name, for_failures);
        }
    }
    let teams = teams::resolve(file, &offered, findings);
    let budgets = budgets::resolve(file, &teams, &offered, findings);
    Settings {
        subjects: file.subject_prefix.given().map_or_else(Subjects::default, |prefix| prefix.value.clone()),
        durability: file.durability.given().map(|durability| durability.value).unwrap_or_default(),
        catalog: Catalog { aliases, prices: prices(&providers), typed },
        providers,
        teams,
        budgets,
        timing: timing(file.timing.given()),
        retry: retry(file.retry.given()),
        queue: queue(file.queue.given()),
        retention: retention(file.retention.given()),
        shares: shares(file.scheduling.given()),
        warnings: Vec::new(),
    }
}

/// The entries of a map that may be absent.
fn entries<T>(map: &Optional<Map<T>>) -> &[Named<T>] {
    map.given().map_or(&[], |map| &map.0)
}

fn timing(given: Option<&At<raw::Timing>>) -> Timing {
    let default = Timing::default();
    let Some(given) = given else { return default };
    let [mut high, mut normal, mut low] = default.ttl_ms;
    if let Some(ttl) = given.ttl_ms.given() {
        (high, normal, low) = (ttl.high.or(high), ttl.normal.or(normal), ttl.low.or(low));
    }
    Timing {
        ack_wait_ms: given.ack_wait_ms.or(default.ack_wait_ms),
        lease_ms: given.lease_ms.or(default.lease_ms),
        ttl_ms: [high, normal, low],
        ask_timeout_ms: given.ask_timeout_ms.or(default.ask_timeout_ms),
        drain_ms: given.drain_ms.or(default.drain_ms),
    }
}

fn retry(given: Option<&At<raw::Retry>>) -> Rules {
    let default = Rules::default();
    given.map_or(default, |given| Rules {
        retry_after_ms_max: given.retry_after_max_ms.or(default.retry_after_ms_max),
        backoff_ms_max: given.backoff_max_ms.or(default.backoff_ms_max),
    })
}

fn queue(given: Option<&At<raw::Queue>>) -> Queue {
    let default = Queue::default();
    given.map_or(default, |given| Queue {
        team_requests_max: given.team_requests_max.or(default.team_requests_max),
        total_bytes_max: given
            .total_bytes_max
            .given()
            .map(|bytes| bytes.value.get())
            .filter(|bytes| *bytes > 0),
    })
}

fn retention(given: Option<&At<raw::Retention>>) -> Retention {
    let default = Retention::default();
    given.map_or(default, |given| Retention {
        response_ms: given.response_ms.or(default.response_ms),
        record_after_deadline_ms: given.record_after_deadline_ms.or(default.record_after_deadline_ms),
        usage_days: given.usage_days.or_u32(default.usage_days),
    })
}

fn shares(given: Option<&At<raw::Scheduling>>) -> [u32; 3] {
    let [high, normal, low] = SHARES;
    given.and_then(|given| given.shares.given()).map_or(SHARES, |shares| {
        [shares.high.or_u32(high), shares.normal.or_u32(normal), shares.low.or_u32(low)]
    })
}

impl<const MIN: u64, const MAX: u64> Optional<Whole<MIN, MAX>> {
    fn or(&self, default: u64) -> u64 {
        self.given().map_or(default, |number| number.get())
    }

    fn or_u32(&self, default: u32) -> u32 {
        self.given().map_or(default, |number| number.get_u32())
    }
}
