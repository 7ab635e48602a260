//! A stored message in this router's hands, whichever way it came there.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::sync::mpsc;
use tollgate_bus::pull::Held;
use tollgate_bus::scan::Stored;
use tollgate_bus::{Bus, HeaderView};
use tollgate_protocol::Timestamp;
use tollgate_protocol::record::Source;

use crate::permit::Permit;
use crate::tally::{self, Counted, Tally};

/// A message in hand.
pub(crate) struct Holding {
    /// Where it is stored.
    pub(crate) subject: String,
    /// Its headers.
    pub(crate) headers: Option<HeaderMap>,
    /// Its bytes.
    pub(crate) payload: Bytes,
    /// Which stored message it is.
    pub(crate) source: Source,
    /// When it was stored.
    pub(crate) stored_at: Timestamp,
    /// The permit to call a target that is not known to be up, if it has one.
    pub(crate) permit: Option<Permit>,
    counted: Option<Counted>,
    way: Way,
}

/// How a message came into hand.
enum Way {
    /// A consumer delivered it.
    Pulled(Box<Held>),
    /// The index found it; nobody waits for an acknowledgement, so it is removed when it is done with.
    Found(Box<Bus>, Ticket),
}

/// Tells the index what became of a message that it gave away.
#[derive(Debug)]
pub(crate) struct Ticket {
    source: Source,
    is_done: bool,
    delay: Duration,
    /// Whether it is told that the message steps aside.
    hears_aside: bool,
    back: mpsc::UnboundedSender<Back>,
}

/// What became of a message of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Back {
    /// The message.
    pub(crate) source: Source,
    /// Whether it is done with; else it is to be looked at again.
    pub(crate) is_done: bool,
    /// How soon.
    pub(crate) delay: Duration,
    /// Whether it is still in hand after all, and has only stepped aside.
    pub(crate) is_aside: bool,
}

impl Back {
    /// Of a message that is not in hand any more.
    pub(crate) fn at_once(source: Source, is_done: bool) -> Self {
        Self { source, is_done, delay: Duration::ZERO, is_aside: false }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let back = Back { delay: self.delay, ..Back::at_once(self.source.clone(), self.is_done) };
        // Without an index there is nobody to tell; the next one finds the message by itself.
        let _ = self.back.send(back);
    }
}

impl From<Held> for Holding {
    fn from(mut held: Held) -> Self {
        Self {
            subject: std::mem::take(&mut held.subject),
            headers: held.headers.take(),
            payload: std::mem::take(&mut held.payload),
            source: held.source.clone(),
            stored_at: held.stored_at,
            permit: None,
            counted: None,
            way: Way::Pulled(Box::new(held)),
        }
    }
}

impl Holding {
    /// A message that the index found.
    pub(crate) fn found(bus: &Bus, stored: Stored, back: mpsc::UnboundedSender<Back>) -> Self {
        let source = stored.source.clone();
        let ticket = Ticket { source, is_done: false, delay: Duration::ZERO, hears_aside: false, back };
        Self {
            subject: stored.subject,
            headers: Some(stored.headers),
            payload: stored.payload,
            source: stored.source,
            stored_at: stored.stored_at,
            permit: None,
            counted: None,
            way: Way::Found(Box::new(bus.clone()), ticket),
        }
    }

    /// The same where it counts among what is released, until it steps aside.
    pub(crate) fn released(bus: &Bus, stored: Stored, back: mpsc::UnboundedSender<Back>) -> Self {
        let mut message = Self::found(bus, stored, back);
        if let Way::Found(_, ticket) = &mut message.way {
            ticket.hears_aside = true;
        }
        message
    }

    /// Counts it among what is in hand of its lane, until it is let go.
    pub(crate) fn count(&mut self, tally: &Tally, way: tally::Way) {
        self.counted = Some(tally.count(&self.subject, way));
    }

    /// Makes room for the next one of its lane, and stays in hand.
    pub(crate) fn step_aside(&mut self) {
        // What is aside feeds nobody: its team may have to be looked for behind a flood.
        self.counted = None;
        match &mut self.way {
            Way::Pulled(held) => held.free_place(),
            Way::Found(_, ticket) if ticket.hears_aside => {
                let back = Back { is_aside: true, ..Back::at_once(self.source.clone(), false) };
                let _ = ticket.back.send(back);
            }
            Way::Found(..) => {}
        }
    }

    /// The lane that it has a place in hand of.
    pub(crate) fn lane(&self) -> Option<&str> {
        self.counted.as_ref().and_then(Counted::lane)
    }

    /// Whether it is one of those that the index releases so many of.
    pub(crate) fn is_released(&self) -> bool {
        matches!(&self.way, Way::Found(_, ticket) if ticket.hears_aside)
    }

    /// Its headers, as the protocol reads them.
    pub(crate) fn header_view(&self) -> HeaderView<'_> {
        HeaderView(self.headers.as_ref())
    }

    /// Done with: the server may forget it. Losing that costs a copy, and a copy finds everything done.
    pub(crate) async fn ack(self) {
        match self.way {
            Way::Pulled(held) => held.ack().await,
            Way::Found(bus, mut ticket) => match bus.remove(&self.source).await {
                Ok(()) => {
                    tollgate_bus::point("router.removed");
                    ticket.is_done = true;
                }
                Err(error) => {
                    tracing::debug!(%error, message = %self.source, "a message that is done with was not removed");
                }
            },
        }
    }

    /// To be looked at again after `delay`, here or elsewhere.
    pub(crate) async fn hand_back(self, delay: Duration) {
        match self.way {
            Way::Pulled(held) => held.hand_back(delay).await,
            Way::Found(_, mut ticket) => ticket.delay = delay,
        }
    }
}
