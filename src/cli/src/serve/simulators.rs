//! The built-in providers: one for each provider of kind `simulator`, and `tollgate simulator`.

use std::time::Duration;

use futures_util::StreamExt;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_bus::Bus;
use tollgate_config::{ProviderKind, Settings, SimulatorSettings};
use tollgate_workers::simulator::{self, Control, Failures, Simulator};

use crate::args;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::serve::{process, ready, signals::Signals};

/// Starts every simulator of the configuration on a free port of the loopback, and writes its address into the
/// settings: the workers reach it as they reach any provider.
pub(super) async fn start(
    settings: &mut Settings,
    bus: &Bus,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let running = start_all(settings, tracker, stop).await?;
    if !running.is_empty() {
        let (bus, stop) = (bus.clone(), stop.clone());
        tracker.spawn(async move { control(&bus, &running, &stop).await });
    }
    Ok(())
}

/// What may be asked of the simulators of this process.
#[derive(Deserialize)]
struct Outage {
    seconds: f64,
    status: u16,
    /// One of them; all, if absent.
    provider: Option<String>,
}

/// Answers `llm.ctl.simulator.outage`.
async fn control(bus: &Bus, running: &[(String, Simulator)], stop: &CancellationToken) {
    let subject = bus.subjects().control("simulator", "outage");
    let Ok(mut asked) = bus.client().subscribe(subject.clone()).await else {
        return tracing::warn!(subject, "the simulators cannot be controlled");
    };
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => return,
            message = asked.next() => message,
        };
        let Some(message) = message else { return };
        let Some(inbox) = message.reply else { continue };
        let reply = match begin(&message.payload, running) {
            Ok(names) => serde_json::json!({"providers": names}),
            Err(error) => serde_json::json!({"error": error}),
        };
        if let Err(error) = bus.client().publish(inbox, reply.to_string().into()).await {
            tracing::debug!(%error, "the answer about an outage was not sent");
        }
    }
}

fn begin(payload: &[u8], running: &[(String, Simulator)]) -> Result<Vec<String>, String> {
    let outage: Outage = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    let lasts = Duration::try_from_secs_f64(outage.seconds).map_err(|error| error.to_string())?;
    let is_meant = |name: &str| outage.provider.as_deref().is_none_or(|wanted| wanted == name);
    let mut names = Vec::new();
    for (name, simulator) in running.iter().filter(|(name, _)| is_meant(name)) {
        simulator.outage(lasts, outage.status).map_err(|error| error.to_string())?;
        names.push(name.clone());
    }
    match outage.provider {
        Some(wanted) if names.is_empty() => {
            let here: Vec<_> = running.iter().map(|(name, _)| name.as_str()).collect();
            Err(format!("no provider {wanted:?} is a simulator here; there are: {}", here.join(", ")))
        }
        _ => Ok(names),
    }
}

async fn start_all(
    settings: &mut Settings,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Vec<(String, Simulator)>, Failure> {
    let mut running = Vec::new();
    for (name, provider) in &mut settings.providers {
        let ProviderKind::Simulator(behaviour) = &provider.kind else { continue };
        // It serves every model, as models may be added while it runs; whether one may be asked for is the router's to say.
        let simulator = Simulator::new(built_in(behaviour))
            .map_err(|error| Failure::usage(format!("providers.{name}: {error}")))?;
        let listener = process::listen("127.0.0.1:0").await?;
        provider.base_url = Some(base_url(&listener)?);
        running.push((name.clone(), simulator.clone()));
        let (name, stop) = (name.clone(), stop.clone());
        tracker.spawn(async move {
            if let Err(error) = simulator.serve(listener, stop).await {
                tracing::error!(provider = name, %error, "the simulator ended");
            }
        });
    }
    Ok(running)
}

/// `tollgate simulator`.
pub(crate) async fn simulator(args: &args::Simulator, global: &Global) -> Result<(), Failure> {
    let simulator = Simulator::new(typed(args)?).map_err(|error| Failure::usage(error.to_string()))?;
    let listener = process::listen(&args.listen).await?;
    let base_url = base_url(&listener)?;
    let mut signals = Signals::new()?;
    let output = Output::new(global.json);
    if global.json {
        output.line(serde_json::json!({"ready": true, "base_url": base_url}).to_string());
    } else {
        output.line(format!("The simulator answers on {base_url} until Ctrl-C."));
    }
    let stop = CancellationToken::new();
    let serving = simulator.serve(listener, stop.clone());
    tokio::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = signals.next() => {
            stop.cancel();
            tokio::select! {
                served = &mut serving => served,
                () = signals.next() => return Err(Failure::failed("stopped before all calls had ended")),
            }
        }
    };
    served.map_err(|error| Failure::failed(error.to_string()))
}

fn base_url(listener: &TcpListener) -> Result<String, Failure> {
    let address =
        listener.local_addr().map_err(|error| Failure::failed(format!("no local address: {error}")))?;
    Ok(format!("{}/v1", ready::http_url(address)))
}

fn built_in(behaviour: &SimulatorSettings) -> simulator::Settings {
    simulator::Settings {
        first_token: Duration::from_millis(behaviour.first_token_ms),
        per_token: Duration::from_millis(behaviour.per_token_ms),
        fail: Failures { rate: behaviour.fail_rate, status: behaviour.fail_status, ..Failures::default() },
        seed: behaviour.seed,
        ..simulator::Settings::default()
    }
}

fn typed(args: &args::Simulator) -> Result<simulator::Settings, Failure> {
    let per_token = Duration::try_from_secs_f64(args.per_token_ms / 1_000.0)
        .map_err(|_| Failure::usage("--per-token-ms: a number that is not negative is expected"))?;
    Ok(simulator::Settings {
        first_token: Duration::from_millis(args.first_token_ms),
        per_token,
        fail: Failures { rate: args.fail_rate, status: args.fail_status, ..Failures::default() },
        seed: args.seed,
        control: if args.open_control { Control::Anywhere } else { Control::Loopback },
        ..simulator::Settings::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_simulator_gets_an_address() {
        let mut settings = tollgate_config::zero(&tollgate_config::EmptyEnvironment);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        start_all(&mut settings, &tracker, &stop).await.expect("they start");
        let url = settings.providers["sim"].base_url.clone().expect("an address");
        assert!(url.starts_with("http://127.0.0.1:") && url.ends_with("/v1"), "{url}");
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }

    #[test]
    fn what_is_configured_is_what_runs() {
        let behaviour = SimulatorSettings {
            first_token_ms: 2,
            per_token_ms: 3,
            fail_rate: 0.5,
            fail_status: 429,
            seed: 4,
        };
        let settings = built_in(&behaviour);
        assert_eq!(settings.first_token, Duration::from_millis(2));
        assert_eq!(settings.per_token, Duration::from_millis(3));
        assert_eq!((settings.fail.rate, settings.fail.status, settings.seed), (0.5, 429, 4));
    }
}
