//! A short run of drawn faults. Long ones are `make chaos`.

use tollgate_tests::chaos::{Options, run};

/// Always the same, so that what it finds is found again.
const SEED: u64 = 7;

#[tokio::test(flavor = "multi_thread")]
async fn a_short_run_of_faults_breaks_no_promise() {
    // Whether answers are in time depends on the machine; that they come does not.
    let options =
        Options { seed: SEED, requests: 400, per_second: 40, faults: 16, timely: false, loud: false };
    let outcome = Box::pin(run(&options)).await;
    eprintln!("{outcome}\n{}", outcome.table);
    assert!(outcome.violations.is_empty(), "{outcome}\n{}", outcome.logs);
    assert_eq!(outcome.requests, 400);
}
