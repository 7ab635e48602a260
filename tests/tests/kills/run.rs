//! A run of requests with kills in it, and what must hold at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::task::JoinSet;
use tollgate_tests::check::Expected;
use tollgate_tests::client::{Client, Live, Stored};
use tollgate_tests::provider::{Behaviour, End};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::{Role, Running};
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, Stage, config, get};

/// Requests of a whole run.
pub(crate) const REQUESTS: usize = 5_000;

/// The least that must be in the hands of whoever is killed.
pub(crate) const IN_HAND_MIN: u64 = 100;

/// How long the provider holds its answers so that calls pile up.
pub(crate) const HOLD: Duration = Duration::from_secs(3);

/// How long an answer takes when nothing is awaited but the end.
const QUICK: Duration = Duration::from_millis(20);

/// Answers that show that work flows: calls end while others begin.
const FLOWING: usize = 50;

/// How soon the server hands out again what a dead process held.
const ACK_WAIT: Duration = Duration::from_secs(2);

/// Several, so that several lanes and priorities are busy.
const TEAMS: [&str; 4] = ["red", "green", "blue", "grey"];

/// Each of these tests keeps the whole machine busy: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// How many attempts may be on the ledger as lost.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lost {
    /// No worker was harmed: none, and every request was called exactly once.
    None,
    /// Some, and no more than this.
    UpTo(usize),
}

/// Requests on their way through a broker of several processes.
pub(crate) struct Run {
    pub(crate) stage: Stage,
    live: Vec<Live>,
    published: Vec<Request>,
    /// So many of the published are known to be answered.
    answered: usize,
    /// So many had been answered live before the last ones were published.
    before: usize,
    publishing: JoinSet<()>,
    server_was_killed: bool,
    _turn: MutexGuard<'static, ()>,
}

impl Run {
    /// These roles run, each in a process of its own, and a provider that is called `max_in_flight` times at once.
    pub(crate) async fn start(max_in_flight: u32, lease: Duration, roles: &[Role]) -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let stage =
            Stage::with(roles, |provider| config(provider, max_in_flight, &TEAMS).timing(ACK_WAIT, lease))
                .await;
        let mut live = Vec::new();
        for team in TEAMS {
            live.push(stage.client.watch(team).await);
        }
        let (published, publishing) = (Vec::new(), JoinSet::new());
        let run = Self {
            stage,
            live,
            published,
            answered: 0,
            before: 0,
            publishing,
            server_was_killed: false,
            _turn: turn,
        };
        run.quick();
        run
    }

    /// From the next call on, answers come soon.
    pub(crate) fn quick(&self) {
        self.stage.provider.always(Behaviour::Delay(QUICK));
    }

    /// From the next call on, answers come after so long.
    pub(crate) fn hold(&self, time: Duration) {
        self.stage.provider.always(Behaviour::Delay(time));
    }

    /// From the next call on, nothing is answered before `true` is sent.
    pub(crate) fn gate(&self) -> watch::Sender<bool> {
        let (opens, open) = watch::channel(false);
        self.stage.provider.always(Behaviour::Until(open));
        opens
    }

    /// From the next call on, each answer takes a time of its own, up to `most`: calls end all the time.
    pub(crate) fn spread(&self, most: Duration) {
        let step = most / 100;
        self.stage.provider.script(move |call| Behaviour::Delay(step * (call.number as u32 * 37 % 100 + 1)));
    }

    /// Waits until some of what was published last is answered.
    pub(crate) async fn flowing(&self) {
        eventually(PATIENCE, "answers to flow", async || {
            let answered = self.live_answered();
            if answered >= self.before + FLOWING { Ok(()) } else { Err(answered - self.before) }
        })
        .await;
    }

    fn live_answered(&self) -> usize {
        self.live.iter().map(Live::answered).sum()
    }

    /// Publishes so many more in the background, each again and again until it is acknowledged.
    pub(crate) fn publish(&mut self, count: usize) {
        let first = self.published.len();
        self.before = self.live_answered();
        let requests: Vec<_> = (first..first + count).map(request).collect();
        self.published.extend(requests.iter().cloned());
        let client = self.stage.client.clone();
        self.publishing.spawn(async move {
            let publishes = futures_util::stream::iter(requests);
            publishes.for_each_concurrent(256, |request| publish_until_stored(client.clone(), request)).await;
        });
    }

    /// Waits until everything published so far is acknowledged and has a stored answer.
    pub(crate) async fn answered(&mut self) {
        let publishing = std::mem::take(&mut self.publishing);
        tokio::time::timeout(PATIENCE, publishing.join_all()).await.expect("every publish is acknowledged");
        eventually(PATIENCE, "an answer to every request", async || {
            let live = self.live_answered();
            if live >= self.published.len() {
                return Ok(());
            }
            if !self.server_was_killed {
                return Err(live);
            }
            match self.missing().await {
                0 => Ok(()),
                missing => Err(self.published.len() - missing),
            }
        })
        .await;
        self.answered = self.published.len();
    }

    /// How many have no stored response. What was sent live while the server died was seen by nobody.
    async fn missing(&self) -> usize {
        let unseen =
            self.published[self.answered..].iter().filter(|request| !self.is_seen(&request.identity));
        let looks = unseen.map(|request| self.stage.client.response(&request.identity));
        let found = futures_util::stream::iter(looks).buffered(64);
        found.filter(|response| std::future::ready(response.is_none())).count().await
    }

    fn is_seen(&self, identity: &Identity) -> bool {
        self.live_of(identity).is_some()
    }

    fn live_of(&self, identity: &Identity) -> Option<Stored> {
        let team = TEAMS.iter().position(|team| *team == identity.team)?;
        self.live[team].response(identity)
    }

    /// The running processes of a role, by their index in the stage.
    pub(crate) fn of(&self, role: Role) -> Vec<usize> {
        let pids: Vec<usize> = (0..self.stage.running.len()).collect();
        pids.into_iter().filter(|index| name(&self.stage.running[*index]) == role.name()).collect()
    }

    /// Waits until one of these processes shows so much of a metric, and returns it with what it shows.
    pub(crate) async fn busy(&self, processes: &[usize], metric: &str) -> (usize, u64) {
        let what = format!("a process whose {metric} is {IN_HAND_MIN} or more");
        eventually(PATIENCE, &what, async || {
            let mut seen = Vec::new();
            for index in processes {
                let value = metric_of(&self.stage.running[*index], metric).await;
                if value >= IN_HAND_MIN {
                    return Ok((*index, value));
                }
                seen.push(value);
            }
            Err(seen)
        })
        .await
    }

    /// Waits until one of these workers has so many calls at the provider, none of which ends by itself, and returns
    /// it with how many it has at least.
    pub(crate) async fn calling(&self, workers: &[usize]) -> (usize, u64) {
        eventually(PATIENCE, &format!("a worker with {IN_HAND_MIN} calls under way"), async || {
            let under_way = self.stage.provider.in_flight() as u64;
            let mut places = Vec::new();
            for index in workers {
                places.push((*index, metric_of(&self.stage.running[*index], "tollgate_in_flight").await));
            }
            // A call has its place before it is made: whoever else has places has no more calls than these.
            let all: u64 = places.iter().map(|(_, taken)| taken).sum();
            let sure = |taken: u64| under_way.saturating_sub(all - taken);
            let most = places.iter().copied().max_by_key(|(_, taken)| *taken);
            match most.map(|(index, taken)| (index, sure(taken))) {
                Some((index, calls)) if calls >= IN_HAND_MIN => Ok((index, calls)),
                _ => Err((under_way, places)),
            }
        })
        .await
    }

    /// Waits until so many messages are delivered and not acknowledged.
    pub(crate) async fn pending(&self, stream: &str) -> u64 {
        eventually(PATIENCE, &format!("{IN_HAND_MIN} messages of {stream} in hand"), async || {
            let pending = self.stage.client.ack_pending(stream).await as u64;
            if pending >= IN_HAND_MIN { Ok(pending) } else { Err(pending) }
        })
        .await
    }

    /// Waits until so many requests are stored and not answered.
    pub(crate) async fn stored(&self) -> u64 {
        eventually(PATIENCE, &format!("{IN_HAND_MIN} requests stored and not answered"), async || {
            let client = &self.stage.client;
            let waiting = client.message_count("LLM_REQ").await;
            // The same request may be in both for an instant: only the larger is sure.
            let stored = waiting.max(client.message_count("LLM_DISPATCH_sim").await);
            if stored >= IN_HAND_MIN { Ok(stored) } else { Err(stored) }
        })
        .await
    }

    /// Kills the server.
    pub(crate) fn kill_server(&mut self) {
        self.server_was_killed = true;
        self.stage.nats.kill9();
    }

    /// Kills a worker whose calls are held, and waits until the provider has seen at least so many break off; returns how
    /// many.
    pub(crate) async fn kill_worker(&self, index: usize, least: u64) -> u64 {
        let before = self.broken_off();
        self.stage.running[index].kill9();
        eventually(PATIENCE, "the calls of the killed worker to break off", async || {
            let broken = self.broken_off() - before;
            if broken >= least { Ok(broken) } else { Err(broken) }
        })
        .await
    }

    /// Calls whose caller was gone before the answer.
    fn broken_off(&self) -> u64 {
        self.stage.provider.calls().iter().filter(|call| call.end == End::ClientLeft).count() as u64
    }

    /// Everything is answered, once, with its own answer; the money agrees; nothing is left in a queue; and no
    /// request was called more often than it was lost. Returns how many attempts were lost.
    pub(crate) async fn finish(mut self, what: &str, kills: &[u64], lost_allowed: Lost) -> usize {
        self.answered().await;
        self.drained().await;
        let expected: Vec<_> = self.published.iter().map(Expected::answered).collect();
        let doubles: usize = self.live.iter().map(Live::duplicates).sum();
        assert_eq!(doubles, 0, "responses beyond the first of their request");
        let (calls, lost) = self.called_once_or_lost(&expected).await;
        match lost_allowed {
            Lost::None => {
                assert_eq!(lost, 0, "no worker was harmed");
                assert_eq!(calls, self.published.len(), "every request is called once");
            }
            Lost::UpTo(most) => assert!((1..=most).contains(&lost), "{lost} lost, at most {most} expected"),
        }
        self.the_same_live_and_stored().await;
        let lives: Vec<&Live> = self.live.iter().collect();
        self.stage.settled(&expected, &lives).await.assert_clean();
        let requests = self.published.len();
        eprintln!("{what}: {requests} requests, in hand at each kill {kills:?}, {calls} calls, {lost} lost");
        lost
    }

    /// Waits until no work is left anywhere; else shows where it is and what the consumers think of it.
    ///
    /// A nats-server that is killed between noting an acknowledgement and removing its message keeps the message
    /// for good: no consumer will ever deliver it again. Such a remainder is no work, and its request is
    /// answered: that was waited for before. It may only be there where a server was killed.
    async fn drained(&self) {
        let client = &self.stage.client;
        eventually(PATIENCE, "streams without work", async || {
            let mut left = Vec::new();
            let mut work = 0;
            for stream in ["LLM_REQ", "LLM_DISPATCH_sim", "LLM_RETRY"] {
                for stored in client.read_stream(stream).await {
                    left.push(format!("{stream} {} {}", stored.sequence, stored.subject));
                }
                if left.is_empty() {
                    continue;
                }
                for consumer in client.consumers(stream).await {
                    let (delivered, acked) = (consumer.delivered, consumer.ack_floor);
                    let (pending, ahead) = (consumer.num_ack_pending, consumer.num_pending);
                    work += pending as u64 + ahead;
                    left.push(format!("{}: {pending} {ahead} {delivered:?} {acked:?}", consumer.name));
                }
            }
            let is_remainder = self.server_was_killed && work == 0;
            if left.is_empty() || is_remainder { Ok(()) } else { Err(left) }
        })
        .await;
    }

    /// Returns how many calls there were and how many attempts were lost.
    async fn called_once_or_lost(&self, expected: &[Expected]) -> (usize, usize) {
        let lost = lost(&self.stage.client).await;
        let counts = self.stage.provider.call_counts();
        for expected in expected {
            let calls = counts.get(&expected.key).copied().unwrap_or_default();
            let lost = lost.get(&expected.identity.to_string()).map_or(0, BTreeSet::len);
            assert!(calls <= 1 + lost, "{}: {calls} calls, {lost} lost", expected.identity);
        }
        (self.stage.provider.total(), lost.values().map(BTreeSet::len).sum())
    }

    async fn the_same_live_and_stored(&self) {
        if !self.server_was_killed {
            let unseen = self.published.iter().find(|request| !self.is_seen(&request.identity));
            assert!(unseen.is_none(), "not seen live: {unseen:?}");
        }
        let client = &self.stage.client;
        let reads = self
            .published
            .iter()
            .map(|Request { identity, .. }| async move { (identity, client.response(identity).await) });
        let mut reads = futures_util::stream::iter(reads).buffered(64);
        while let Some((identity, stored)) = reads.next().await {
            let stored = stored.unwrap_or_else(|| panic!("{identity} has no stored response"));
            if let Some(live) = self.live_of(identity) {
                assert_eq!(live.payload, stored.payload, "{identity}: live and stored");
            }
        }
    }
}

/// The same request again is the same request, so whoever got no acknowledgement publishes it again.
async fn publish_until_stored(client: Client, request: Request) {
    while client.try_publish(&request).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn request(number: usize) -> Request {
    let team = TEAMS[number % TEAMS.len()];
    let priority = ["high", "normal", "low"][number / TEAMS.len() % 3];
    let identity = Identity::new(team, "kills", &format!("r{number}"));
    Request::chat(&identity, "small", &format!("request {number}")).priority(priority)
}

fn name(running: &Running) -> &str {
    running.ready()["role"].as_str().unwrap_or_default()
}

/// The sum of a metric's samples; 0 if it has none yet.
pub(crate) async fn metric_of(running: &Running, metric: &str) -> u64 {
    let text = get(&format!("{}/metrics", running.http())).await;
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    });
    samples.sum::<f64>() as u64
}

/// The attempts that were ever on the ledger as lost, by request.
async fn lost(client: &Client) -> BTreeMap<String, BTreeSet<String>> {
    let mut lost = BTreeMap::<String, BTreeSet<String>>::new();
    for stored in client.read_stream("LLM_USAGE").await {
        if stored.value()["kind"] == "lost" {
            let id = stored.header("ce-id").unwrap();
            let (identity, attempt) = id.rsplit_once('.').unwrap();
            lost.entry(identity.to_owned()).or_default().insert(attempt.to_owned());
        }
    }
    lost
}
