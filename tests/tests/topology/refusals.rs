//! Servers that cannot be used, each with its exit code and a sentence that says what to do.

use std::process::Command;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tollgate_tests::config::Config;
use tollgate_tests::nats::{NatsServer, binary};
use tollgate_tests::port::free_port;
use tollgate_tests::process::Process;
use tollgate_tests::roles::Broker;
use tollgate_tests::wait::eventually;

use crate::stage::PATIENCE;

fn broker(url: &str) -> Broker {
    let config = Config::new().team("research").raw("[providers.sim]\nkind = \"simulator\"");
    Broker::new(&config.model("small", &["sim/demo"]), url)
}

/// Starts each role at this server, in vain.
async fn refused(url: &str, more: &[&str], exit: i32, parts: &[&str]) {
    let broker = broker(url);
    let config = broker.config_path().display().to_string();
    let (dir, data) = (tempfile::tempdir().unwrap(), broker.data_path().display().to_string());
    let common = ["--config", &config, "--server", url, "--listen", "127.0.0.1:0", "--data", &data];
    let commands: [&[&str]; 3] = [&["run", "router"], &["run", "ledger"], &["up", "--json"]];
    for command in commands {
        let arguments: Vec<&str> = [command, &common, more].concat();
        let process = Process::spawn("refused", broker.command(&arguments), dir.path());
        let code = process.ended(PATIENCE).await;
        let said = process.stderr();
        assert_eq!(code, Some(exit), "{command:?}: {said}");
        assert_eq!(process.stdout(), "", "{command:?} called itself ready");
        for part in parts {
            assert!(said.contains(part), "{command:?} does not say {part:?}:\n{said}");
        }
        assert!(!said.contains("panicked") && !said.contains("sesame"), "{said}");
    }
}

/// A server of a version of long ago, as far as a client sees it.
async fn old_server() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let info = format!(
        "INFO {{\"server_id\":\"OLD\",\"server_name\":\"old\",\"version\":\"2.9.10\",\"go\":\"go1.19\",\
         \"host\":\"127.0.0.1\",\"port\":{port},\"headers\":true,\"max_payload\":1048576,\"proto\":1,\
         \"jetstream\":true}}\r\n"
    );
    let serving = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (read, mut write) = socket.into_split();
            let info = info.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(read).lines();
                write.write_all(info.as_bytes()).await?;
                while let Some(line) = lines.next_line().await? {
                    if line.starts_with("PING") {
                        write.write_all(b"PONG\r\n").await?;
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    (port, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_refused() {
    let (port, serving) = old_server().await;
    let url = format!("nats://127.0.0.1:{port}");
    refused(&url, &[], 2, &["2.9.10", "too old", "2.12"]).await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_jetstream_is_refused() {
    let (dir, port) = (TempDir::new().unwrap(), free_port());
    let mut command = Command::new(binary());
    command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
    let server = Process::spawn("nats-server", command, dir.path());
    let url = format!("nats://127.0.0.1:{port}");
    eventually(PATIENCE, "a server", async || async_nats::connect(&url).await.ok()).await;
    refused(&url, &[], 2, &["JetStream switched off", "-js"]).await;
    assert!(server.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_the_address_is_exit_code_3() {
    let url = format!("nats://127.0.0.1:{}", free_port());
    refused(&url, &[], 3, &["cannot connect", &url, "tollgate up"]).await;
    refused("nats://u:sesame@127.0.0.1:1", &[], 3, &["cannot connect", "nats://127.0.0.1:1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_is_exit_code_2() {
    refused("http://127.0.0.1:4222:x", &[], 2, &["--server"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_exit_code_3() {
    let users = "accounts { APP: { jetstream: enabled, users: [{ user: operator, password: right }] } }\n\
                 no_auth_user: operator";
    let server = NatsServer::start_with(users).await;
    let wrong = ["--user", "operator", "--password", "open-sesame"];
    refused(&server.url(), &wrong, 3, &["refused our credentials", "--user"]).await;
    let missing = ["--creds", "/no/such/file.creds"];
    refused(&server.url(), &missing, 2, &["--creds", "/no/such/file.creds"]).await;
}
