//! Three nats-servers as one cluster, each with a store of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::nats::binary;
use crate::port::free_port;
use crate::process::Process;
use crate::wait::eventually;

const SERVERS: usize = 3;
/// An election and the catching up of a server that was away take seconds, on a busy machine many.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// A cluster. Dropping it kills its servers.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
    dir: TempDir,
}

#[derive(Debug)]
struct Server {
    name: String,
    port: u16,
    process: Process,
}

impl Cluster {
    /// Starts three servers and waits until they have a leader and take streams of three copies.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start() -> Self {
        let dir =
            tempfile::Builder::new().prefix("cluster-").tempdir().expect("a temporary folder can be made");
        let ports: Vec<(u16, u16)> = (0..SERVERS).map(|_| (free_port(), free_port())).collect();
        let routes: Vec<String> =
            ports.iter().map(|(_, route)| format!("nats://127.0.0.1:{route}")).collect();
        let servers = ports.iter().enumerate().map(|(index, (port, route))| {
            let name = format!("n{index}");
            let home = dir.path().join(&name);
            std::fs::create_dir_all(&home).expect("a folder can be made");
            let text = format!(
                "server_name: {name}\nlisten: \"127.0.0.1:{port}\"\nmax_payload: 8388608\n\
                 jetstream {{ store_dir: {:?} }}\n\
                 cluster {{ name: tests, listen: \"127.0.0.1:{route}\", routes: {routes:?} }}\n",
                home.join("store"),
            );
            std::fs::write(home.join("nats.conf"), text).expect("the server's configuration can be written");
            Server { process: spawn(&home, &name), name, port: *port }
        });
        let cluster = Self { servers: servers.collect(), dir };
        cluster.ready(SERVERS).await;
        cluster
    }

    /// All addresses, with commas.
    pub fn urls(&self) -> String {
        let url = |server: &Server| format!("nats://127.0.0.1:{}", server.port);
        self.servers.iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// The address of one of them.
    pub fn url(&self, index: usize) -> String {
        format!("nats://127.0.0.1:{}", self.servers[index].port)
    }

    /// SIGKILL to the server of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn kill9(&self, name: &str) {
        self.servers
            .iter()
            .find(|server| server.name == name)
            .expect("a server of that name")
            .process
            .kill9();
    }

    /// Starts a killed server again on its ports and store, and waits until the cluster has all of them again.
    ///
    /// # Panics
    /// When there is none of this name, or the cluster does not become whole.
    pub async fn restart(&mut self, name: &str) {
        let home = self.dir.path().join(name);
        let server =
            self.servers.iter_mut().find(|server| server.name == name).expect("a server of that name");
        server.process = spawn(&home, name);
        self.ready(SERVERS).await;
    }

    /// Waits until a stream of so many copies can be made.
    async fn ready(&self, copies: usize) {
        eventually(READY_WITHIN, "a cluster that takes streams", async || {
            let client = async_nats::connect(self.url(0)).await.map_err(|error| error.to_string())?;
            let jetstream = async_nats::jetstream::new(client);
            let config = async_nats::jetstream::stream::Config {
                name: "READY".into(),
                subjects: vec!["ready".into()],
                num_replicas: copies,
                ..Default::default()
            };
            let mut stream =
                jetstream.get_or_create_stream(config).await.map_err(|error| error.to_string())?;
            let info = stream.info().await.map_err(|error| error.to_string())?;
            let whole = info.cluster.as_ref().is_some_and(|cluster| {
                cluster.leader.is_some()
                    && cluster.replicas.iter().all(|replica| replica.current && !replica.offline)
            });
            if whole { Ok(()) } else { Err(format!("{:?}", info.cluster)) }
        })
        .await;
    }
}

fn spawn(home: &Path, name: &str) -> Process {
    let mut command = Command::new(binary());
    command.arg("-c").arg(home.join("nats.conf"));
    Process::spawn(name, command, home)
}
