//! `tollgate ask`: one question, one answer, over plain NATS request/reply.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use clap::Args;
use serde_json::{Value, json};
use tollgate_bus::{HeaderView, headers};
use tollgate_protocol::header::{self, Headers};
use tollgate_protocol::{NanoUsd, Priority, RequestId};

use super::connect::{self, At};
use super::{duration, plan};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// The broker answers at the deadline at the latest; its last word may take this much longer to arrive.
const GRACE: Duration = Duration::from_secs(5);

/// Ask a model one question and print the answer
#[derive(Clone, Debug, Args)]
pub(crate) struct AskArgs {
    /// The question; - for standard input
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) team: plan::TeamArg,
    /// The model; `demo` is the built-in simulator's
    #[arg(short, long, env = "TOLLGATE_MODEL", default_value = "demo")]
    pub(crate) model: String,
    /// high, normal or low
    #[arg(long, default_value = "high", value_parser = plan::priority)]
    pub(crate) priority: Priority,
    /// How long the answer may take
    #[arg(long, default_value = "60s", value_parser = duration::parse)]
    pub(crate) timeout: Duration,
    /// The id of the request; the same id gives the same answer and is paid once [default: a new one]
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// What the model is told before the question
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Most tokens of the answer
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
}

/// The body of the question.
fn body(args: &AskArgs, prompt: &str) -> Value {
    let mut messages = Vec::new();
    if let Some(system) = &args.system {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.push(json!({"role": "user", "content": prompt}));
    let mut body = json!({"model": args.model, "messages": messages});
    if let Some(max_tokens) = args.max_tokens {
        body["max_tokens"] = max_tokens.into();
    }
    body
}

/// Runs the command.
pub(crate) async fn run(args: AskArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let team = args.team.parse()?;
    let id = match &args.id {
        Some(id) => RequestId::parse(id).map_err(|error| Failure::usage(format!("--id {id:?}: {error}")))?,
        None => RequestId::parse(&uuid::Uuid::now_v7().to_string())
            .map_err(|error| Failure::failed(error.to_string()))?,
    };
    let prompt = read_prompt(&args.prompt)?;
    let bus = connect::bus(global, &args.at).await?;
    let subject = bus.subjects().under(&format!("ask.{team}.{}", args.priority));
    let timeout_text = format!("{}ms", args.timeout.as_millis());
    let headers = headers::headers([
        (header::ID, id.as_str()),
        (header::TIMEOUT, timeout_text.as_str()),
        (header::CONTENT_TYPE, "application/json"),
    ]);
    let request = Request::new()
        .headers(headers)
        .payload(body(&args, &prompt).to_string().into())
        .timeout(Some(args.timeout + GRACE));
    let again = format!("ask again with --id {id} for the same answer, at no second cost");
    let asked = tokio::select! {
        asked = bus.client().send_request(subject, request) => asked,
        _ = tokio::signal::ctrl_c() => {
            output.note(format!("stopped waiting; {again}"));
            return Ok(ExitCode::from(super::EXIT_INTERRUPTED));
        }
    };
    let reply = asked.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => {
            Failure::unreachable("nobody takes questions: is `tollgate run ask` or `tollgate up` running?")
        }
        RequestErrorKind::TimedOut => Failure::failed(format!(
            "no answer within {}; {again}, or `tollgate show {id} --team {team}`",
            duration::show(args.timeout + GRACE)
        )),
        RequestErrorKind::MaxPayloadExceeded => {
            Failure::usage(format!("the question is larger than the nats-server takes: {error}"))
        }
        _ => Failure::unreachable(format!("asking failed: {error}")),
    })?;
    let view = HeaderView(reply.headers.as_ref());
    let answer: Value = serde_json::from_slice(&reply.payload).unwrap_or(Value::Null);
    if let Some(message) = refusal(&view, &answer) {
        return Err(Failure::failed(message));
    }
    if output.json {
        output.json(&answer);
    } else {
        output.line(text_of(&answer).unwrap_or_else(|| answer.to_string()));
    }
    output.note(facts(&view, &answer, &id));
    Ok(ExitCode::SUCCESS)
}

/// Why there is no answer, if there is none.
fn refusal(headers: &impl Headers, answer: &Value) -> Option<String> {
    let service = headers.get(header::SERVICE_ERROR);
    let error = answer.get("error").filter(|error| !error.is_null());
    if service.is_none() && error.is_none() {
        return None;
    }
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let message = text(error.and_then(|error| error.get("message")))
        .or(service.map(str::to_owned))
        .unwrap_or_else(|| answer.to_string());
    let code = text(error.and_then(|error| error.get("code")));
    let field = text(error.and_then(|error| error.get("param")));
    Some(match (code, field) {
        (Some(code), Some(field)) => format!("{code}: {message} (field {field})"),
        (Some(code), None) => format!("{code}: {message}"),
        (None, _) => message,
    })
}

/// The text of a chat completion.
fn text_of(answer: &Value) -> Option<String> {
    let message = answer.pointer("/choices/0/message")?;
    match message.get("content") {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// What it cost, for whoever reads along.
fn facts(headers: &impl Headers, answer: &Value, id: &RequestId) -> String {
    let mut facts = Vec::new();
    let model = headers.get(header::MODEL).or_else(|| answer.get("model").and_then(Value::as_str));
    match (headers.get(header::PROVIDER), model) {
        (Some(provider), Some(model)) => facts.push(format!("{provider}/{model}")),
        (None, Some(model)) => facts.push(model.to_owned()),
        _ => {}
    }
    let tokens = |name: &str| answer.pointer(&format!("/usage/{name}")).and_then(Value::as_u64);
    if let (Some(input), Some(output)) = (tokens("prompt_tokens"), tokens("completion_tokens")) {
        facts.push(format!("{input} tokens in, {output} out"));
    }
    if let Some(cost) = headers.get(header::COST).and_then(|cost| cost.parse().ok()) {
        facts.push(NanoUsd(cost).to_string());
    }
    facts.push(format!("id {id}"));
    facts.join("  ")
}

fn read_prompt(prompt: &str) -> Result<String, Failure> {
    if prompt != "-" {
        return Ok(prompt.to_owned());
    }
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("cannot read the question from standard input: {error}")))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_shown_with_its_cost() {
        let answer = json!({
            "model": "m", "choices": [{"message": {"role": "assistant", "content": "Hello."}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        });
        let headers: &[(&str, &str)] =
            &[("Tollgate-Cost-Nano-Usd", "1500"), ("Tollgate-Provider", "sim"), ("Tollgate-Model", "demo")];
        let id = RequestId::parse("a").unwrap();
        assert_eq!(refusal(&Slice(headers), &answer), None);
        assert_eq!(text_of(&answer).as_deref(), Some("Hello."));
        assert_eq!(facts(&Slice(headers), &answer, &id), "sim/demo  3 tokens in, 2 out  $0.0000015  id a");
        assert_eq!(facts(&(), &Value::Null, &id), "id a");
        assert_eq!(text_of(&json!({"choices": []})), None);
    }

    #[test]
    fn a_refusal_is_told_apart_from_an_answer() {
        for (headers, answer, expected) in [
            (vec![], json!({"error": null}), None),
            (
                vec![],
                json!({"error": {"message": "no", "code": "unknown_model", "param": "model"}}),
                Some("unknown_model: no (field model)"),
            ),
            (vec![("Nats-Service-Error", "full")], json!({}), Some("full")),
            (
                vec![("Nats-Service-Error", "x")],
                json!({"error": {"message": "no", "code": "queue_full"}}),
                Some("queue_full: no"),
            ),
        ] {
            assert_eq!(refusal(&Slice(&headers), &answer).as_deref(), expected, "{answer}");
        }
    }

    struct Slice<'a>(&'a [(&'a str, &'a str)]);

    impl Headers for Slice<'_> {
        fn get(&self, name: &str) -> Option<&str> {
            Headers::get(self.0, name)
        }
    }
}
