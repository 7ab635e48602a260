use std::time::Duration;

use tollgate_tests::wait::eventually;

#[tokio::test]
async fn it_looks_until_there_is_something() {
    let mut looks = 0;
    let found = eventually(Duration::from_secs(10), "the third look", async || {
        looks += 1;
        (looks == 3).then_some(looks)
    })
    .await;
    assert_eq!(found, 3);
}

#[tokio::test]
#[should_panic(expected = "for a full house; last seen, after")]
async fn it_gives_up_and_names_what_it_awaited() {
    eventually(Duration::from_millis(50), "a full house", async || Err::<(), _>("two pairs")).await;
}

#[tokio::test]
#[should_panic(expected = "for an answer; last seen, after 1 looks: no look that ended")]
async fn a_look_that_hangs_is_cut_off() {
    eventually(Duration::from_millis(50), "an answer", async || std::future::pending::<Option<()>>().await)
        .await;
}
