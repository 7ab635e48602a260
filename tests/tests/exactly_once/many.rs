use std::collections::BTreeMap;

use futures_util::StreamExt;
use tollgate_tests::check::Expected;
use tollgate_tests::request::{Encoding, Identity, Request};
use tollgate_tests::roles::Role;

use crate::stage::{PATIENCE, Stage, config, scale};

/// Teams that use the same groups and ids.
const TEAMS: [&str; 2] = ["alpha", "beta"];

/// Every how many-th request is published twice.
const REPEATED: usize = 100;

fn requests(count: usize) -> Vec<Request> {
    let one = |n: usize| {
        let team = TEAMS[n % 2];
        let identity = Identity::new(team, "many", &format!("id-{}", n / 2));
        let encoding = if n % 4 < 2 { Encoding::Json } else { Encoding::MessagePack };
        let text = format!("question {} of {team}, \"quoted\" and ünïcode 🚀", n / 2);
        Request::chat(&identity, "small", &text).encoding(encoding)
    };
    (0..count).map(one).collect()
}

/// With what is published twice: half of it at the same priority, half at another.
fn with_repeats(requests: &[Request]) -> Vec<Request> {
    let mut all = Vec::with_capacity(requests.len() * 2);
    for (n, request) in requests.iter().enumerate() {
        all.push(request.clone());
        if n % REPEATED == 0 {
            let again = request.clone();
            all.push(if n % (2 * REPEATED) == 0 { again } else { again.priority("high") });
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_requests_are_each_answered_once_with_their_own_answer() {
    use Role::{Ledger, Router, Worker};
    let count = scale(2_500, 10_000);
    let roles = [Ledger, Worker, Worker, Router, Router];
    let stage = Stage::with(&roles, |provider| config(provider, 64, &TEAMS)).await;
    let live = (stage.client.watch(TEAMS[0]).await, stage.client.watch(TEAMS[1]).await);
    let requests = requests(count);

    stage.client.publish_all(&with_repeats(&requests)).await;
    live.0.await_answered(count / 2, PATIENCE).await;
    live.1.await_answered(count / 2, PATIENCE).await;
    stage.idle().await;

    assert_eq!(stage.provider.total(), count, "every identity is one call");
    let calls: BTreeMap<_, _> = stage.provider.call_counts().into_iter().filter(|(_, n)| *n != 1).collect();
    assert!(calls.is_empty(), "called more than once: {calls:?}");
    let expected: Vec<_> = requests.iter().map(Expected::answered).collect();
    stage.settled(&expected, &[&live.0, &live.1]).await.assert_clean();
    assert_eq!((live.0.duplicates(), live.1.duplicates()), (0, 0));
    each_can_be_read_in_its_own_encoding(&stage, &requests).await;
}

async fn each_can_be_read_in_its_own_encoding(stage: &Stage, requests: &[Request]) {
    let check = |request: &Request| {
        let (client, request) = (stage.client.clone(), request.clone());
        async move {
            let stored = client.response(&request.identity).await.expect("the response is stored");
            let expected = match request.encoding {
                Encoding::Json => "application/json",
                Encoding::MessagePack => "application/msgpack",
            };
            assert_eq!(stored.header("Content-Type"), Some(expected), "{}", request.identity);
            let value = stored.value();
            let whose = Identity::new(
                value["team"].as_str().unwrap(),
                value["group"].as_str().unwrap(),
                value["id"].as_str().unwrap(),
            );
            assert_eq!(whose, request.identity);
        }
    };
    futures_util::stream::iter(requests.iter().map(check)).buffer_unordered(64).collect::<()>().await;
}
