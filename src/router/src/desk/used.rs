//! What calls used, as it is heard: order is put right by it, and what is expected of others is learnt.

use tollgate_bus::HeaderView;
use tollgate_protocol::Identity;
use tollgate_protocol::header::Headers;
use tollgate_protocol::job::Target;
use tollgate_protocol::response::Outcome;
use tollgate_protocol::usage::{Kind, UsageEvent};

use super::Desk;

impl Desk {
    /// A call has ended somewhere.
    pub(super) fn used(&mut self, message: &async_nats::Message) {
        let subject = HeaderView(message.headers.as_ref()).get("ce-subject").and_then(Identity::from_tokens);
        // Most are of other routers, or of nobody: not worth reading.
        if !subject.is_some_and(|identity| self.served.knows(&identity)) {
            return;
        }
        let Ok(event) = serde_json::from_slice::<UsageEvent>(&message.payload) else { return };
        // What a lost call used is not known; what ended without one used nothing.
        if !matches!(event.kind, Kind::Attempt | Kind::Unpaid) {
            return;
        }
        self.learn(&event);
        let tokens = event.usage.input_tokens.saturating_add(event.usage.output_tokens);
        if let Some(settlement) = self.served.used(&event.identity(), tokens) {
            self.queue.settle(&settlement);
        }
    }

    /// How long such answers are, and how many tokens such inputs have.
    fn learn(&mut self, event: &UsageEvent) {
        if event.outcome != Some(Outcome::Succeeded) {
            return;
        }
        // What a provider did not count is known from the answer's bytes: better than what the request allows.
        self.outputs.note(&event.team, &event.requested_model, event.usage.output_tokens);
        if let (Some(provider), Some(model), false) = (&event.provider, &event.model, event.estimated) {
            let target = Target { provider: provider.clone(), model: model.clone() };
            let bytes = self.served.text_bytes(&event.identity());
            self.inputs.note_bytes(&target, bytes, event.usage.input_tokens);
        }
    }
}
