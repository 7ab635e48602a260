//! Dead letters: requests that ended so that a person may want to look at them, and to send them again.

use tollgate_protocol::header::{self, ascii_json};
use tollgate_protocol::job::Job;
use tollgate_protocol::record::Dead;
use tollgate_protocol::response::Response;

use crate::publish::PublishError;
use crate::retry::Patience;
use crate::{Bus, headers};

impl Bus {
    /// Stores a dead letter: the request with its whole history, and in its headers why it is one. A request has one;
    /// storing it again changes nothing.
    pub async fn bury(&self, job: &Job, dead: Dead, response: &Response) -> Result<(), PublishError> {
        let refused = |description: String| PublishError::Refused { code: 0, description };
        let mut job = Job { history: response.attempts.clone(), ..job.clone() };
        // A letter has its body with it: what is put aside is kept for a week only. A store that does not answer is not
        // taken for one that has lost it.
        if let Some(body) = job.body_ref.as_ref().filter(|_| job.body.is_empty())
            && let Some(body) = self.fetch(body).await.map_err(refused)?
        {
            job.body = body;
        }
        let aside = if job.body.is_empty() { None } else { job.body_ref.take() };
        let payload = job.encode().map_err(|error| refused(error.to_string()))?;
        let mut map = headers::headers([
            (header::DEAD, dead.as_str()),
            (header::STATUS, response.status.as_str()),
            (header::ATTEMPT, response.attempts.len().to_string().as_str()),
        ]);
        if let Some(last) = response.attempts.last() {
            headers::put(&mut map, header::PROVIDER, &printable(&last.provider));
            headers::put(&mut map, header::MODEL, &printable(&last.model));
        }
        if let Some(problem) = &response.error {
            headers::put(&mut map, header::ERROR_CODE, problem.code.as_str());
            headers::put(&mut map, header::ERROR_MESSAGE, &printable(&problem.message));
        }
        let subject = self.subjects().dead(&job.identity);
        let id = format!("{}/dead/{}", job.identity, job.accepted_at.timestamp_micros());
        let with_body = self.publish(&subject, map.clone(), Some(&id), payload, Patience::PAID).await;
        match (with_body, aside) {
            // A letter without its body is better than none, and than a message that comes again for ever.
            (Err(PublishError::TooLarge { .. }), Some(aside)) => {
                (job.body, job.body_ref) = (bytes::Bytes::new(), Some(aside));
                let payload = job.encode().map_err(|error| refused(error.to_string()))?;
                // Rare: it takes no room in the futures of all who bury.
                let without = self.publish(&subject, map, Some(&id), payload, Patience::PAID);
                Box::pin(without).await.map(|_| ())
            }
            (published, _) => published.map(|_| ()),
        }
    }
}

/// As a JSON string, which a header can carry whatever is in it.
fn printable(text: &str) -> String {
    ascii_json(text).unwrap_or_default()
}
