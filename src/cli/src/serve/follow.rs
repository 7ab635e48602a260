//! Follows which teams, budgets, models and prices are in force: those of this process's own file, or, if a version was
//! applied, that one in their place. What does not fit this process changes nothing here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tollgate_bus::Bus;
use tollgate_bus::bucket::CONFIG;
use tollgate_bus::versions::Version;
use tollgate_config::{Document, Settings};
use tollgate_policy::hot::Hot;
use tollgate_protocol::Sequence;
use tollgate_protocol::applied::{Applied, InUse, KEY, Refused};
use tollgate_telemetry::{self as telemetry, Role};

use super::settings::{Own, variable};
use crate::failure::Failure;

/// What this process uses, and what it could not.
pub(super) struct Follower {
    bus: Bus,
    own: Own,
    roles: Vec<Role>,
    /// What its own file says.
    of_file: Arc<Hot>,
    hot: watch::Sender<Arc<Hot>>,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// The last version that was looked at.
    last: Sequence,
    refused: Option<Refused>,
}

impl Follower {
    /// Reads what is applied now, and puts it into the settings.
    pub(super) async fn begin(
        bus: &Bus,
        own: Own,
        roles: &[Role],
        settings: &mut Settings,
    ) -> Result<Self, Failure> {
        let of_file = Arc::new(settings.hot(0));
        let (hot, _) = watch::channel(Arc::clone(&of_file));
        let follower =
            Self { bus: bus.clone(), own, roles: roles.to_vec(), of_file, hot, heard: Mutex::default() };
        let applied = bus.version(CONFIG, KEY, None).await.map_err(|reason| {
            Failure::unreachable(format!("the configuration that is applied cannot be read: {reason}"))
        })?;
        follower.tell_version(0);
        let mut over = applied.and_then(|version| follower.hear(&version));
        if over.is_none() && follower.heard().refused.is_some() {
            over = follower.hear_earlier().await?;
        }
        if let Some(over) = over {
            *settings = over;
        }
        Ok(follower)
    }

    /// The last version cannot be used: the last one before it that can, which is what this process would have stayed with
    /// if it had not been started anew. Its own file may be without budgets.
    async fn hear_earlier(&self) -> Result<Option<Settings>, Failure> {
        let kept = self.bus.versions(CONFIG, KEY).await.map_err(|reason| {
            Failure::unreachable(format!("the configurations that were applied cannot be read: {reason}"))
        })?;
        let refused = self.heard().last;
        let earlier = kept.iter().rev().filter(|version| version.revision < refused);
        // Where it was deleted, the file counted.
        let applied = earlier.map_while(|version| Some((version.revision, version.value.as_ref()?)));
        for (version, value) in applied {
            if let Ok(settings) = self.lay_over(version, value) {
                self.replace(Arc::new(settings.hot(version)));
                tracing::warn!(
                    version,
                    refused,
                    "an earlier version is in use, as the last cannot be used here"
                );
                return Ok(Some(settings));
            }
        }
        tracing::warn!(refused, "no version that is kept can be used here: the own file's counts");
        Ok(None)
    }

    /// What is in force, now and from now on.
    pub(super) fn hot(&self) -> watch::Receiver<Arc<Hot>> {
        self.hot.subscribe()
    }

    /// The version in use; 0 is the own file's.
    pub(super) fn version(&self) -> Sequence {
        self.hot.borrow().version
    }

    /// Follows until `stop`.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let following = self.bus.follow(CONFIG, KEY, &stop, |version| drop(self.hear(&version)));
        tokio::join!(following, self.answer(&stop));
    }

    /// Looks at a version. `Some`: it is in use now, with everything else of this process.
    fn hear(&self, version: &Version) -> Option<Settings> {
        {
            let mut heard = self.heard();
            if heard.last == version.revision {
                return None;
            }
            heard.last = version.revision;
            heard.refused = None;
        }
        let Some(value) = &version.value else {
            tracing::warn!("the applied configuration was deleted: the own file's counts again");
            self.replace(Arc::clone(&self.of_file));
            return None;
        };
        match self.lay_over(version.revision, value) {
            Ok(settings) => {
                self.replace(Arc::new(settings.hot(version.revision)));
                tracing::info!(version = version.revision, "teams, budgets, models and prices are in use");
                Some(settings)
            }
            Err(problems) => {
                telemetry::count_config_refused();
                tracing::error!(
                    version = version.revision,
                    stays = self.version(),
                    problems = problems.join("; "),
                    "an applied configuration cannot be used here and changes nothing"
                );
                self.heard().refused = Some(Refused { version: version.revision, problems });
                None
            }
        }
    }

    fn lay_over(&self, version: Sequence, value: &[u8]) -> Result<Settings, Vec<String>> {
        let name = format!("version {version}");
        let applied: Applied = serde_json::from_slice(value)
            .map_err(|error| vec![format!("{name} is not what `tollgate config apply` writes: {error}")])?;
        let lines = |report: tollgate_config::Report| {
            // Lines are of no file that anybody has.
            report.problems.iter().map(|problem| problem.without_place()).collect::<Vec<_>>()
        };
        let document = Document::parse(&applied.toml, &name).map_err(lines)?;
        document.overlay(&self.own.text, &name, &|name: &str| variable(name)).map_err(lines)
    }

    fn replace(&self, hot: Arc<Hot>) {
        self.tell_version(hot.version);
        self.hot.send_replace(hot);
    }

    fn tell_version(&self, version: Sequence) {
        for role in &self.roles {
            telemetry::set_config_version(*role, version);
        }
    }

    /// Answers `llm.ctl.config.in_use`, as every process does.
    async fn answer(&self, stop: &CancellationToken) {
        let subject = self.bus.subjects().control("config", "in_use");
        let Ok(mut asked) = self.bus.client().subscribe(subject.clone()).await else {
            return tracing::warn!(subject, "nobody can ask which configuration is in use here");
        };
        loop {
            let message = tokio::select! {
                () = stop.cancelled() => return,
                message = asked.next() => message,
            };
            let Some(message) = message else { return };
            let Some(inbox) = message.reply else { continue };
            let Ok(said) = serde_json::to_vec(&self.in_use()) else { continue };
            if let Err(error) = self.bus.client().publish(inbox, said.into()).await {
                tracing::debug!(%error, "the configuration in use was not told");
            }
        }
    }

    fn in_use(&self) -> InUse {
        InUse {
            roles: self.roles.iter().map(|role| role.as_str().to_owned()).collect(),
            version: self.version(),
            refused: self.heard().refused.clone(),
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
