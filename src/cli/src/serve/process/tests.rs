//! The topology that is asked for, and how a process ends.

use super::*;

#[test]
fn a_cluster_keeps_three_copies() {
    assert_eq!(replicas(None), 1);
    assert_eq!(replicas(Some("")), 1);
    assert_eq!(replicas(Some("tollgate")), 3);
}

#[test]
fn the_topology_is_made_for_the_configuration() {
    let settings = tollgate_config::zero(&tollgate_config::EmptyEnvironment);
    let plan = plan(&settings, 1);
    assert_eq!(plan.providers, [("sim".to_owned(), settings.providers["sim"].max_in_flight)]);
    assert_eq!(plan.usage_max_age, DAY * settings.retention.usage_days);
}

#[tokio::test]
async fn a_role_that_ends_by_itself_is_a_failure() {
    let mut roles = JoinSet::new();
    roles.spawn(async { (Role::Ask, Ok(())) });
    assert_eq!(first_end(&mut roles).await, Failure::failed("the ask ended by itself"));
    roles.spawn(async { (Role::Ledger, Err(Failure::usage("its folder is in use"))) });
    assert_eq!(first_end(&mut roles).await, Failure::usage("the ledger failed: its folder is in use"));
}

/// A role that never ends, asked to end.
async fn drain_forever(limit: Duration) -> (Result<(), Failure>, watch::Receiver<Health>) {
    let mut roles = JoinSet::new();
    roles.spawn(std::future::pending());
    let (health, seen) = watch::channel(Health::starting(&[Role::Worker]));
    let (_said, ready) = mpsc::unbounded_channel();
    let mut running = Running { roles, ready, health, stop: CancellationToken::new(), limit };
    let mut signals = Signals::new().expect("signals can be waited for");
    (running.drain(&mut signals).await, seen)
}

#[tokio::test]
async fn draining_ends_at_the_limit() {
    let (drained, health) = drain_forever(Duration::from_millis(10)).await;
    let failure = drained.expect_err("it did not finish");
    assert!(failure.message.contains("drain_ms"), "{failure}");
    assert_eq!(failure.exit, Exit::Failed);
    assert_eq!(health.borrow().reasons().last().map(String::as_str), Some("the worker is draining"));
}
