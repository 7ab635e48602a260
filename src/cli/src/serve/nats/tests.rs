//! A real nats-server that is killed, and one that outlives us. They need a nats-server (`make tools`, or
//! TOLLGATE_NATS_SERVER); without one there is nothing to test.

use super::*;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(30);

/// A data folder with a name that has to be quoted.
fn data(parent: &tempfile::TempDir) -> Data {
    Data::open(&parent.path().join("a \"b\" ü")).expect("a new folder")
}

fn options() -> Option<Options> {
    let program = std::env::var_os("TOLLGATE_NATS_SERVER").map(PathBuf::from);
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats-server");
    let program = program.or_else(|| tools.is_file().then_some(tools));
    if program.is_none() {
        println!("no nats-server, nothing tested: run `make tools`");
    }
    let options = |program| Options {
        program: Some(program),
        port: Some(0),
        store_max: "1GB".into(),
        durability: Durability::ProcessCrash,
    };
    program.map(options)
}

/// The process that is noted, once it is another one than `old` and lets clients in.
async fn next_pid(data: &Data, old: u32, port: u16) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "a real process takes real time")]
    let started = Instant::now();
    loop {
        let record =
            Record::read(&data.nats_record()).filter(|record| record.pid != old && record.port == port);
        if let Some(record) = record
            && tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        {
            return record.pid;
        }
        assert!(started.elapsed() < PATIENCE, "no nats-server came back");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn a_killed_server_comes_back_where_it_was_and_a_stopped_one_does_not() {
    let Some(options) = options() else { return };
    let parent = tempfile::tempdir().expect("a folder");
    let data = data(&parent);
    let server = NatsServer::start(&options, &data).await.expect("it starts");
    let first = Record::read(&data.nats_record()).expect("it is noted");
    assert_eq!(server.url(), first.url);

    orphan::signal(first.pid, orphan::Signal::SIGKILL);
    let second = next_pid(&data, first.pid, first.port).await;
    assert!(orphan::is_ours(&orphan::command(second), &render::config_path(&data.nats())));

    server.stop().await;
    // The process and not the port is looked at: somebody else may have the port by now. One that was still
    // starting is killed without waiting for it.
    let is_gone = async {
        while orphan::is_ours(&orphan::command(second), &render::config_path(&data.nats())) {
            tokio::time::sleep(POLL).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, is_gone).await.is_ok(), "it still runs");
}

#[tokio::test]
async fn a_server_that_outlived_us_is_replaced_at_its_port() {
    let Some(options) = options() else { return };
    let parent = tempfile::tempdir().expect("a folder");
    let data = data(&parent);
    let launch = Launch {
        program: options.program.clone().expect("it was found"),
        folder: data.nats(),
        log: data.nats_log(),
        record: data.nats_record(),
        store_max: options.store_max.clone(),
        durability: options.durability,
    };
    data::make(&launch.folder).expect("a folder");
    let lock = data::open_lock(&launch.folder.join("lock")).expect("a lock");
    assert!(try_lock(&lock).expect("a new lock is free"));
    let child = Child::start(&launch, &lock, 0).await.expect("it starts");
    let (pid, port) = (Record::read(&launch.record).expect("it is noted").pid, child.port);
    // As if we had been killed: nobody waits for it, nobody ends it, the lock is only its own.
    std::mem::forget(child);
    drop(lock);

    let server = NatsServer::start(&options, &data).await.expect("the next one starts");
    let next = Record::read(&launch.record).expect("it is noted");
    assert_ne!(next.pid, pid);
    assert_eq!(next.port, port, "clients of the old one find it");
    assert!(orphan::command(pid).is_empty(), "the old one is gone");
    server.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_refused_with_words() {
    let Some(options) = options() else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    let parent = tempfile::tempdir().expect("a folder");
    let refused = NatsServer::start(&Options { port: Some(port), ..options }, &data(&parent)).await;
    let failure = refused.err().expect("it is taken");
    assert!(failure.message.contains("--nats-port"), "{failure}");
}
