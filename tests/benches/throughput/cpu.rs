//! CPU time of processes, from `/proc`.

use std::collections::BTreeMap;

use crate::support::machine;

/// CPU seconds that processes have used, by the name they go by here.
pub(crate) type CpuSeconds = BTreeMap<String, f64>;

/// What each of these processes has used up to now.
pub(crate) fn cpu(processes: &[(String, u32)]) -> CpuSeconds {
    processes.iter().map(|(name, pid)| (name.clone(), machine::cpu_seconds(*pid))).collect()
}
