//! What a caller that waits on an inbox gets: a bare answer to a bare request, an envelope to an envelope.

use crate::header;
use crate::response::{Response, Status};
use crate::{Encoding, encoding};

/// A reply, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// The reply that a response gives. NATS micro services' error headers say that something went wrong, in
/// both forms.
pub fn reply(response: &Response, bare: bool, encoding: Encoding) -> Result<Reply, encoding::Error> {
    let mut headers = vec![
        (header::CONTENT_TYPE, encoding.content_type().to_owned()),
        (header::ID, response.id.to_string()),
        (header::GROUP, response.group.to_string()),
        (header::STATUS, response.status.as_str().to_owned()),
        (header::COST, response.cost_nano_usd.0.to_string()),
    ];
    headers.extend(response.provider.iter().map(|provider| (header::PROVIDER, provider.clone())));
    headers.extend(response.model.iter().map(|model| (header::MODEL, model.clone())));
    if response.status != Status::Succeeded {
        let (code, status) = response
            .error
            .as_ref()
            .map_or(("internal", 500), |problem| (problem.code.as_str(), problem.http_status));
        headers.push((header::SERVICE_ERROR, code.to_owned()));
        headers.push((header::SERVICE_ERROR_CODE, status.to_string()));
    }
    let payload = match (bare, &response.body, &response.error) {
        (false, ..) => encoding.encode(response)?,
        (true, Some(body), _) => encoding.encode(body)?,
        (true, None, Some(problem)) => encoding.encode(&problem.to_openai())?,
        (true, None, None) => Vec::new(),
    };
    Ok(Reply { headers, payload })
}
