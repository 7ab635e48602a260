//! The provider's own paths: what each of them reads, and what it answers once the shell lets it.

use super::answer;
use super::decide;
use super::embeddings;
use super::problem::Problem;
use super::reply::{Head, Usage};
use super::request::{Chat, Delivery};
use super::server::{Prepared, Ready, Shell, to_json};
use super::stream::Events;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;

pub(super) fn routes() -> axum::Router<Shell> {
    axum::Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/embeddings", post(embed))
        .route("/v1/models", get(models))
        .route("/healthz", get(health))
        .fallback(unknown)
}

async fn chat(State(shell): State<Shell>, request: Request) -> Response {
    shell
        .call(request, |shell, settings, number, body| {
            let chat = Chat::parse(body)?;
            decide::serves(&settings.models, &chat.model)?;
            let digest = answer::digest(&chat);
            let choices = answer::write(&chat, digest);
            let usage = Usage::new(chat.prompt_tokens(), &choices);
            let head = Head {
                id: format!("chatcmpl-{:016x}{number:08x}", digest.value()),
                created: shell.created(),
                model: chat.model.clone().into_owned(),
            };
            let longest = choices.iter().map(|choice| choice.tokens).max().unwrap_or_default();
            let (wait, body) = match chat.delivery {
                Delivery::Stream { include_usage } => {
                    (settings.first_token, Prepared::Stream(Events::new(head, choices, usage, include_usage)))
                }
                Delivery::Whole => {
                    let completion_tokens = usage.completion_tokens;
                    let json = to_json(&head.whole(&choices, usage));
                    (decide::latency(settings, longest), Prepared::Whole { json, completion_tokens })
                }
            };
            Ok(Ready { wait, prompt_tokens: usage.prompt_tokens, body })
        })
        .await
}

async fn embed(State(shell): State<Shell>, request: Request) -> Response {
    shell
        .call(request, |_, settings, _, body| {
            let call = embeddings::Call::parse(body)?;
            decide::serves(&settings.models, &call.model)?;
            Ok(Ready {
                wait: decide::latency(settings, 0),
                prompt_tokens: call.prompt_tokens(),
                body: Prepared::Whole { json: to_json(&call.answer()), completion_tokens: 0 },
            })
        })
        .await
}

async fn models(State(shell): State<Shell>, headers: HeaderMap) -> Response {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Vec<Model<'a>>,
    }
    #[derive(Serialize)]
    struct Model<'a> {
        id: &'a str,
        object: &'static str,
        created: i64,
        owned_by: &'static str,
    }

    let settings = shell.simulator.settings();
    if let Err(problem) = shell.admit(&settings, &headers) {
        return shell.refuse(&problem);
    }
    let model = |id| Model { id, object: "model", created: 0, owned_by: "simulator" };
    let mut data: Vec<_> = settings.models.iter().map(|id| model(id.as_str())).collect();
    if data.is_empty() {
        // Every name is served; one is shown so that a list is never empty.
        data.push(model("simulator"));
    }
    shell.json(&List { object: "list", data })
}

async fn health(State(shell): State<Shell>) -> Response {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
    }

    shell.json(&Health { status: "ok" })
}

pub(super) async fn unknown(State(shell): State<Shell>, method: Method) -> Response {
    let message = format!("Invalid URL: nothing is served here for {method}.");
    shell.refuse(&Problem::new(404, Some("unknown_url"), message))
}
