//! OpenAI's chat completions, and everything that speaks the same.
//!
//! Wire format: OpenAI API reference, "Create chat completion" and "Error codes"; the classes of its 4xx
//! answers are told apart by `error.code`, then by status.

mod answer;
mod failure;

use bytes::{BufMut, Bytes, BytesMut};
use tollgate_protocol::job::Job;
use tollgate_protocol::{ErrorCode, Problem};

use crate::codec::{Answer, Call, Codec, Reading};

/// The codec of `openai` and `compatible` providers.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAi;

impl Codec for OpenAi {
    fn request(&self, job: &Job, model: &str) -> Result<Call, Problem> {
        let mut headers = Vec::new();
        headers.extend(job.traceparent.iter().map(|context| ("traceparent", context.clone())));
        Ok(Call { path: "/chat/completions", headers, body: with_model(job, model)? })
    }

    fn read(&self, reply: &Answer) -> Reading {
        match reply.status {
            200..=299 => answer::read(&reply.body),
            _ => Reading::Failed(failure::read(reply)),
        }
    }
}

/// The body as it was published, with the provider's name for the model. Everything else stays to the byte.
fn with_model(job: &Job, model: &str) -> Result<Bytes, Problem> {
    let (start, end) = job.model_at;
    let (Some(before), Some(after)) = (job.body.get(..start), job.body.get(end..)) else {
        return Err(Problem::new(ErrorCode::Internal, "the place of the model in the body is wrong"));
    };
    let name = serde_json::Value::from(model).to_string();
    let mut body = BytesMut::with_capacity(before.len() + name.len() + after.len());
    body.put_slice(before);
    body.put_slice(name.as_bytes());
    body.put_slice(after);
    Ok(body.freeze())
}

#[cfg(test)]
mod tests;
