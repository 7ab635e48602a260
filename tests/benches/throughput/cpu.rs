//! CPU time of processes, from `/proc`.

use std::collections::BTreeMap;
use std::fs;

/// `USER_HZ`, which Linux fixes at 100 for everything it tells user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds that processes have used, by the name they go by here.
pub(crate) type CpuSeconds = BTreeMap<String, f64>;

/// What each of these processes has used up to now.
pub(crate) fn cpu(processes: &[(String, u32)]) -> CpuSeconds {
    processes.iter().map(|(name, pid)| (name.clone(), cpu_of(*pid))).collect()
}

fn cpu_of(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may have spaces; counting begins behind it.
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}
