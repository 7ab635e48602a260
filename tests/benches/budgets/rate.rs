//! How much of a limit of requests per minute is used under saturation, and whether it is passed.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{PATIENCE, Setting, TEAM, bar, requests};

const PER_MINUTE: u32 = 600;
const REQUESTS: usize = 400;
/// A tenth of a minute: ten of its windows fit into the run.
const WINDOW: Duration = Duration::from_secs(6);

pub(super) async fn measure(binary: &Path) -> bool {
    println!("{PER_MINUTE} requests a minute, {REQUESTS} at once, four routers, in windows of {WINDOW:?}");
    let limit = format!("[[limits]]\nscope = {{ team = \"{TEAM}\" }}\nrequests_per_minute = {PER_MINUTE}\n");
    let setting = Setting::start(binary, 64, &limit).await;
    setting.client.publish_all(&requests(REQUESTS, 2)).await;
    setting.live.await_answered(REQUESTS, PATIENCE).await;
    let mut times: Vec<SystemTime> = setting.provider.calls().iter().map(|call| call.arrived_at).collect();
    times.sort_unstable();
    let since = |at: &SystemTime| at.duration_since(times[0]).unwrap_or_default();
    let in_window = |first: usize| {
        times[first..].iter().take_while(|at| since(at) < since(&times[first]) + WINDOW).count()
    };
    let most = (0..times.len()).map(in_window).max().unwrap_or(0);
    let took = since(times.last().expect("calls"));
    let allowed = f64::from(PER_MINUTE) * WINDOW.as_secs_f64() / 60.0;
    let possible = f64::from(PER_MINUTE) * took.as_secs_f64() / 60.0 + 1.0;
    let used = REQUESTS as f64 / possible;
    println!(
        "  at most {most} of {allowed:.0} in any window; {:.1} % used in {:.1} s",
        used * 100.0,
        took.as_secs_f64()
    );
    let mut kept = bar("no window has more than the limit and one", most as f64 <= allowed + 1.0);
    kept &= bar("at least 95 % is used", used >= 0.95);
    kept
}
