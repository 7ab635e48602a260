//! The scripted provider: an OpenAI-compatible server in the test's own process, which logs every call it gets and
//! answers or misbehaves as the test tells it.
//!
//! It runs on threads of its own, so a test that blocks does not slow it.

mod answer;
mod log;
mod serve;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use answer::{Answer, answer_to, key_of};
pub use log::{Call, End};

use crate::port::free_port;
use serve::{Run, Shared};

/// What the provider does with one call.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// The answer that [`answer_to`] gives, at once or after the default latency.
    Answer,
    /// The same after so much more.
    Delay(Duration),
    /// The same as soon as this is true, or its sender is gone.
    Until(watch::Receiver<bool>),
    /// This status, these headers, this body. From 400 on it counts as refused, and nobody pays for it.
    Status {
        /// The HTTP status.
        status: u16,
        /// Further headers, such as `retry-after`.
        headers: Vec<(String, String)>,
        /// The body, sent as `application/json` if no header says otherwise.
        body: String,
    },
    /// No answer ever; the call ends when the client leaves.
    Hang,
    /// The connection is cut after the request was read.
    CloseBeforeResponse,
    /// Status 200 and half of the promised body, then the connection is cut.
    TruncatedBody,
    /// Status 200 and a JSON body that ends in its middle.
    MalformedJson,
    /// A good answer whose text is one word of so many bytes.
    HugeAnswer(usize),
    /// A good answer in small pieces, over so much time.
    Drip(Duration),
    /// Status 200 and a page of HTML, as a proxy in between would send it.
    WrongContentType,
}

impl Behaviour {
    /// An error in OpenAI's form, with `retry-after` if seconds are given.
    pub fn error(status: u16, code: &str, retry_after_seconds: Option<u64>) -> Self {
        let body = serde_json::json!({
            "error": {"message": format!("scripted: {code}"), "type": code, "param": null, "code": code}
        });
        let headers = retry_after_seconds.map(|seconds| ("retry-after".to_owned(), seconds.to_string()));
        Self::Status { status, headers: headers.into_iter().collect(), body: body.to_string() }
    }
}

/// Chooses what to do with a call.
pub type Script = Arc<dyn Fn(&Call) -> Behaviour + Send + Sync>;

/// The provider. Dropping it cuts all connections.
pub struct Provider {
    port: u16,
    shared: Arc<Shared>,
    run: Option<(Run, JoinHandle<()>)>,
    runtime: Option<Runtime>,
}

impl Provider {
    /// Starts on a free port, answering everything at once.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start() -> Self {
        Self::start_on(free_port()).await
    }

    /// Starts on this port.
    ///
    /// # Panics
    /// When the port is taken.
    pub async fn start_on(port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("provider")
            .enable_all()
            .build()
            .expect("a runtime of its own can be built");
        let mut provider = Self { port, shared: Arc::default(), run: None, runtime: Some(runtime) };
        provider.restart().await;
        provider
    }

    /// Listens again on the same port after [`Provider::stop`], with the same log and script.
    ///
    /// # Panics
    /// When the port is taken.
    pub async fn restart(&mut self) {
        self.stop().await;
        let run = Run::new(self.shared.clone());
        let (serving, address) = (run.clone(), (Ipv4Addr::LOCALHOST, self.port));
        let runtime = self.runtime.as_ref().expect("it is there until the drop");
        // Bound inside that runtime, so that its threads do the reading.
        let bound = runtime.spawn(TcpListener::bind(address)).await.expect("binding does not panic");
        let listener = bound.unwrap_or_else(|error| panic!("the provider's port {}: {error}", self.port));
        self.run = Some((run, runtime.spawn(serving.serve(listener))));
    }

    /// Dies as a process would: every connection is cut, and further ones are refused.
    ///
    /// # Panics
    /// When the server had panicked.
    pub async fn stop(&mut self) {
        if let Some((run, serving)) = self.run.take() {
            run.end();
            serving.await.expect("the server ends without a panic");
        }
    }

    /// What a configuration calls `base_url`: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets the script choose from the next call on.
    pub fn script(&self, script: impl Fn(&Call) -> Behaviour + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(script));
    }

    /// Does the same with every call from the next one on.
    pub fn always(&self, behaviour: Behaviour) {
        self.script(move |_| behaviour.clone());
    }

    /// Waits this long before every reaction, from the next call on.
    pub fn latency(&self, latency: Duration) {
        *self.shared.latency.lock().unwrap_or_else(PoisonError::into_inner) = latency;
    }

    /// A copy of the log.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.log.calls()
    }

    /// The calls for one request, known by its first user message.
    pub fn calls_of(&self, key: &str) -> Vec<Call> {
        self.shared.log.calls_of(key)
    }

    /// How many calls there were for each request.
    pub fn call_counts(&self) -> BTreeMap<String, usize> {
        self.shared.log.counts()
    }

    /// How many calls there were.
    pub fn total(&self) -> usize {
        self.shared.log.total()
    }

    /// How many calls are in flight now.
    pub fn in_flight(&self) -> usize {
        self.shared.log.in_flight().0
    }

    /// The most calls that ever were in flight at once.
    pub fn peak(&self) -> usize {
        self.shared.log.in_flight().1
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if let Some((run, _)) = &self.run {
            run.end();
        }
        // A runtime must not be waited for inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("port", &self.port)
            .field("calls", &self.total())
            .finish_non_exhaustive()
    }
}
