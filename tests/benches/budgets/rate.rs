//! How much of a limit of requests per minute is used under saturation, and whether it is passed.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use super::{PATIENCE, Setting, TEAM, requests};
use crate::bar::bar;

const PER_MINUTE: u32 = 600;
const REQUESTS: usize = 400;
/// A tenth of a minute: ten of its windows fit into the run.
const WINDOW: Duration = Duration::from_secs(6);

pub(super) async fn measure(binary: &Path) -> bool {
    println!("{PER_MINUTE} requests a minute, {REQUESTS} at once, four routers, in windows of {WINDOW:?}");
    let limit = format!("[[limits]]\nscope = {{ team = \"{TEAM}\" }}\nrequests_per_minute = {PER_MINUTE}\n");
    let setting = Setting::start(binary, 64, &limit).await;
    let dispatched = Dispatched::watch(&setting.nats.url()).await;
    setting.client.publish_all(&requests(REQUESTS, 2)).await;
    setting.live.await_answered(REQUESTS, PATIENCE).await;
    let calls: Vec<SystemTime> = setting.provider.calls().iter().map(|call| call.arrived_at).collect();
    // A request begins when a router dispatches it. What the queue and the network do to the distance between two of
    // them is seen at the provider.
    let begun = Paced::of(&dispatched.times());
    let arrived = Paced::of(&calls);
    begun.print("dispatched");
    arrived.print("arrived   ");
    let allowed = f64::from(PER_MINUTE) * WINDOW.as_secs_f64() / 60.0;
    let possible = f64::from(PER_MINUTE) * begun.took.as_secs_f64() / 60.0 + 1.0;
    let used = REQUESTS as f64 / possible;
    println!("  {:.1} % of the limit used", used * 100.0);
    let is_kept = |paced: &Paced| paced.most as f64 <= allowed + 1.0;
    let mut kept = bar("each request is dispatched once", begun.count == REQUESTS);
    kept &= bar("no window has more than the limit and one, dispatched", is_kept(&begun));
    kept &= bar("no window has more than the limit and one, at the provider", is_kept(&arrived));
    kept &= bar("at least 95 % is used", used >= 0.95);
    kept
}

/// When messages for workers were stored, as somebody sees it who reads along.
struct Dispatched {
    times: Arc<Mutex<Vec<SystemTime>>>,
    _reader: AbortOnDropHandle<()>,
}

impl Dispatched {
    async fn watch(url: &str) -> Self {
        let nats = async_nats::connect(url).await.expect("the nats-server takes a connection");
        let mut messages = nats.subscribe("llm.dispatch.>").await.expect("a subscription is taken");
        nats.flush().await.expect("the nats-server answers");
        let times = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&times);
        let reader = tokio::spawn(async move {
            // The connection lives as long as its subscription is read.
            let _nats = nats;
            while messages.next().await.is_some() {
                noted.lock().expect("no holder panics").push(SystemTime::now());
            }
        });
        Self { times, _reader: AbortOnDropHandle::new(reader) }
    }

    fn times(&self) -> Vec<SystemTime> {
        self.times.lock().expect("no holder panics").clone()
    }
}

/// How many there were in the fullest window, and where that was.
struct Paced {
    count: usize,
    most: usize,
    at: Duration,
    took: Duration,
}

impl Paced {
    fn of(times: &[SystemTime]) -> Self {
        let mut times = times.to_vec();
        times.sort_unstable();
        let since: Vec<Duration> =
            times.iter().map(|at| at.duration_since(times[0]).unwrap_or_default()).collect();
        let in_window = |first: &Duration| {
            let from = since.partition_point(|at| at < first);
            since.partition_point(|at| *at < *first + WINDOW) - from
        };
        let fullest = since.iter().map(|first| (in_window(first), *first)).max().unwrap_or_default();
        let took = since.last().copied().unwrap_or_default();
        Self { count: times.len(), most: fullest.0, at: fullest.1, took }
    }

    fn print(&self, what: &str) {
        println!(
            "  {what}: at most {} in a window, from {:.1?} on, of {:.1?}",
            self.most, self.at, self.took
        );
    }
}
