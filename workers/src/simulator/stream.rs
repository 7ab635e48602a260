//! Cuts an answer into server-sent events, one token each, and says when each of them is due.
//!
//! All choices go forward together, a token of each per round, as they would at a provider that writes them
//! at the same time. Knows nothing of clocks and sockets: the shell asks what is due next, waits, and sends.

use super::answer::Text;
use super::problem::Problem;
use super::reply::{ChunkChoice, Head, Usage};
use super::tokenizer::first_tokens;

/// An answer that is being streamed.
pub(super) struct Events {
    head: Head,
    choices: Vec<Progress>,
    usage: Usage,
    include_usage: bool,
    round: u64,
}

struct Progress {
    text: Text,
    sent: usize,
}

/// What [`Events::write`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// A round; so many tokens were in it.
    Tokens(u64),
    /// The end of the stream.
    End,
}

impl Events {
    pub(super) fn new(head: Head, choices: Vec<Text>, usage: Usage, include_usage: bool) -> Self {
        let choices = choices.into_iter().map(|text| Progress { text, sent: 0 }).collect();
        Self { head, choices, usage, include_usage, round: 0 }
    }

    /// How many tokens of every choice will have been sent after the next [`Events::write`], which is what
    /// decides when it is due.
    pub(super) fn tokens_due(&self) -> u64 {
        let longest = self.choices.iter().map(|choice| choice.text.tokens).max().unwrap_or_default();
        self.round.min(longest)
    }

    /// Appends the events that are next: the roles, then a token of each choice, then the ends, then the
    /// usage.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) -> Written {
        let round = self.round;
        self.round += 1;
        let mut tokens = 0;
        let mut open = false;
        for index in 0..self.choices.len() {
            if round == 0 {
                self.event(out, &[ChunkChoice::begin(index)], None);
                open = true;
                continue;
            }
            let choice = &self.choices[index];
            let piece = first_tokens(&choice.text.content[choice.sent..], 1);
            if !piece.is_empty() {
                let length = piece.len();
                self.event(out, &[ChunkChoice::piece(index, piece)], None);
                self.choices[index].sent += length;
                tokens += 1;
                open = true;
            }
            let choice = &self.choices[index];
            if round == choice.text.tokens.max(1) {
                self.event(out, &[ChunkChoice::end(index, choice.text.finish)], None);
            }
        }
        if open {
            return Written::Tokens(tokens);
        }
        if self.include_usage {
            self.event(out, &[], Some(self.usage));
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
        Written::End
    }

    /// Appends a failure in the middle of the stream; the caller ends it without `[DONE]`.
    pub(super) fn write_problem(out: &mut Vec<u8>, problem: &Problem) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&problem.to_json());
        out.extend_from_slice(b"\n\n");
    }

    fn event(&self, out: &mut Vec<u8>, choices: &[ChunkChoice<'_>], usage: Option<Usage>) {
        out.extend_from_slice(b"data: ");
        let chunk = self.head.chunk(choices, self.include_usage.then_some(usage));
        // Writing plain strings and numbers to memory cannot fail.
        serde_json::to_writer(&mut *out, &chunk).unwrap_or_default();
        out.extend_from_slice(b"\n\n");
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Finish;
    use super::super::tokenizer::count_tokens;
    use super::*;

    fn text(content: &str, finish: Finish) -> Text {
        Text { content: content.to_owned(), tokens: count_tokens(content), finish }
    }

    fn stream(choices: Vec<Text>, include_usage: bool) -> (String, Vec<u64>) {
        let head = Head { id: "chatcmpl-1".to_owned(), created: 5, model: "m".to_owned() };
        let usage = Usage::new(7, &choices);
        let mut events = Events::new(head, choices, usage, include_usage);
        let (mut out, mut due) = (Vec::new(), vec![events.tokens_due()]);
        while events.write(&mut out) != Written::End {
            due.push(events.tokens_due());
        }
        (String::from_utf8(out).expect("UTF-8"), due)
    }

    #[test]
    fn a_stream_is_roles_tokens_ends_usage_done() {
        let (events, due) =
            stream(vec![text("Plain words.", Finish::Stop), text("Hm", Finish::Length)], true);
        assert_eq!(due, [0, 1, 2, 3, 4, 5, 5]);
        insta::assert_snapshot!(events);
    }

    #[test]
    fn usage_is_not_mentioned_unless_asked_for() {
        let (events, _) = stream(vec![text("Hm", Finish::Stop)], false);
        assert!(!events.contains("usage"), "{events}");
        assert!(events.ends_with("data: [DONE]\n\n"));
    }

    #[test]
    fn an_empty_text_still_ends() {
        let (events, due) = stream(vec![text("", Finish::Stop)], false);
        assert_eq!(events.matches("\"finish_reason\":\"stop\"").count(), 1, "{events}");
        assert_eq!(due, [0, 0]);
    }
}
