//! Where sums are kept: an hour, a team, and labels.
//!
//! Three tables. The main one has all labels whose values come from the configuration, and two that clients
//! choose (`project`, `requested_model`). `user` and tags are entirely the clients' and can have any number
//! of values, so they are apart, or their combinations would multiply the rows. Each table has a cap per
//! team and hour; beyond it a row named *other* takes what comes, so that sums stay exact.

use tollgate_protocol::Timestamp;
use tollgate_protocol::usage::UsageEvent;

use crate::store::Error;

/// Longest label, in bytes. What is longer is cut: a key must not grow with what a client sends.
const LABEL_LENGTH_MAX: usize = 256;

/// The value of one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// The event did not have it.
    Absent,
    /// Beyond the cap.
    Other,
    /// Its value.
    Text(String),
}

impl Label {
    /// A label of an event.
    pub fn of(value: Option<&str>) -> Self {
        value.map_or(Self::Absent, |text| Self::Text(cut(text, LABEL_LENGTH_MAX).into()))
    }
}

/// The labels of the main table besides the team, in the order of their keys.
pub const MAIN_LABELS: [&str; 7] =
    ["project", "key", "provider", "model", "endpoint", "priority", "requested_model"];

/// Positions in [`MAIN_LABELS`] of what clients choose freely.
const FREE_LABELS: [usize; 2] = [0, 6];

/// Which table, and the labels there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Labels {
    /// By [`MAIN_LABELS`]; every event is in exactly one row.
    Main(Box<[Label; 7]>),
    /// By user; every event is in exactly one row.
    User(Label),
    /// By one tag; an event is in as many rows as it has tags.
    Tag {
        /// The tag's name.
        name: String,
        /// Its value; never absent.
        value: Label,
    },
}

/// The first byte of every key of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// Rows by hour, team and tag.
    Tag = b'G',
    /// Rows by hour, team and [`MAIN_LABELS`].
    Main = b'T',
    /// Rows by hour, team and user.
    User = b'U',
}

/// The key of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Hours since 1970, UTC.
    pub hour: u32,
    /// The team.
    pub team: String,
    /// The rest.
    pub labels: Labels,
}

/// The beginning of `text`, at most `length_max` bytes of whole characters.
pub(crate) fn cut(text: &str, length_max: usize) -> &str {
    let end = (0..=text.len().min(length_max)).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or("")
}

/// The hour of an instant: whole hours since 1970, UTC; what is before is hour 0.
pub fn hour_of(time: Timestamp) -> u32 {
    u32::try_from(time.timestamp().div_euclid(3_600).max(0)).unwrap_or(u32::MAX)
}

/// When an hour begins.
pub fn start_of(hour: u32) -> Timestamp {
    Timestamp::from_timestamp(i64::from(hour) * 3_600, 0).unwrap_or(Timestamp::MAX_UTC)
}

impl Key {
    /// Every row that an event belongs to, before caps.
    pub fn of(event: &UsageEvent) -> Vec<Self> {
        let (hour, team) = (hour_of(event.time), event.team.as_str());
        let key = |labels| Self { hour, team: cut(team, LABEL_LENGTH_MAX).into(), labels };
        let main = [
            event.meta.project.as_deref(),
            event.meta.key.as_deref(),
            event.provider.as_deref(),
            event.model.as_deref(),
            Some(event.endpoint.as_str()),
            Some(event.priority.as_str()),
            Some(event.requested_model.as_str()),
        ];
        let mut keys = vec![
            key(Labels::Main(Box::new(main.map(Label::of)))),
            key(Labels::User(Label::of(event.meta.user.as_deref()))),
        ];
        keys.extend(event.meta.tags.iter().map(|(name, value)| {
            let name = cut(name, LABEL_LENGTH_MAX).into();
            key(Labels::Tag { name, value: Label::of(Some(value)) })
        }));
        keys
    }

    /// The row that takes what is beyond the cap, if there is one. No tag has one row for all names: what
    /// is beyond the cap of names is found as the difference to the main table.
    pub fn overflow(&self) -> Option<Self> {
        let labels = match &self.labels {
            Labels::Main(labels) => {
                let mut labels = labels.clone();
                for position in FREE_LABELS {
                    labels[position] = Label::Other;
                }
                Labels::Main(labels)
            }
            Labels::User(_) => Labels::User(Label::Other),
            Labels::Tag { name, .. } => Labels::Tag { name: name.clone(), value: Label::Other },
        };
        let overflow = Self { labels, ..self.clone() };
        (overflow != *self).then_some(overflow)
    }

    /// Whether this is a row that takes what is beyond the cap.
    pub fn is_overflow(&self) -> bool {
        match &self.labels {
            Labels::Main(labels) => FREE_LABELS.iter().all(|position| labels[*position] == Label::Other),
            Labels::User(label) => *label == Label::Other,
            Labels::Tag { value, .. } => *value == Label::Other,
        }
    }

    /// The table.
    pub fn table(&self) -> Table {
        match self.labels {
            Labels::Main(_) => Table::Main,
            Labels::User(_) => Table::User,
            Labels::Tag { .. } => Table::Tag,
        }
    }

    /// As stored: keys of one table are in the order of their hours.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = hour_prefix(self.table(), self.hour);
        write_text(&mut bytes, &self.team);
        match &self.labels {
            Labels::Main(labels) => labels.iter().for_each(|label| write_label(&mut bytes, label)),
            Labels::User(label) => write_label(&mut bytes, label),
            Labels::Tag { name, value } => {
                write_text(&mut bytes, name);
                write_label(&mut bytes, value);
            }
        }
        bytes
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        Reader(bytes).key().ok_or(Error::Unreadable("a key"))
    }
}

/// The beginning of all keys of a table and hour.
pub fn hour_prefix(table: Table, hour: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96);
    bytes.push(table as u8);
    bytes.extend(hour.to_be_bytes());
    bytes
}

fn write_text(bytes: &mut Vec<u8>, text: &str) {
    // Every text was cut to LABEL_LENGTH_MAX, far below 64 KiB.
    bytes.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(text.as_bytes());
}

fn write_label(bytes: &mut Vec<u8>, label: &Label) {
    match label {
        Label::Absent => bytes.push(0),
        Label::Other => bytes.push(1),
        Label::Text(text) => {
            bytes.push(2);
            write_text(bytes, text);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(u16::from_be_bytes(self.take()?));
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).ok()
    }

    fn label(&mut self) -> Option<Label> {
        match self.take::<1>()? {
            [0] => Some(Label::Absent),
            [1] => Some(Label::Other),
            [2] => self.text().map(Label::Text),
            _ => None,
        }
    }

    fn key(&mut self) -> Option<Key> {
        let [table] = self.take()?;
        let hour = u32::from_be_bytes(self.take()?);
        let team = self.text()?;
        let labels = match table {
            table if table == Table::Main as u8 => {
                let mut labels = [const { Label::Absent }; 7];
                for label in &mut labels {
                    *label = self.label()?;
                }
                Labels::Main(Box::new(labels))
            }
            table if table == Table::User as u8 => Labels::User(self.label()?),
            table if table == Table::Tag as u8 => Labels::Tag { name: self.text()?, value: self.label()? },
            _ => return None,
        };
        self.0.is_empty().then_some(Key { hour, team, labels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn label() -> impl Strategy<Value = Label> {
        prop_oneof![Just(Label::Absent), Just(Label::Other), ".{0,8}".prop_map(Label::Text)]
    }

    fn labels() -> impl Strategy<Value = Labels> {
        prop_oneof![
            proptest::array::uniform7(label()).prop_map(|labels| Labels::Main(Box::new(labels))),
            label().prop_map(Labels::User),
            (".{0,8}", label()).prop_map(|(name, value)| Labels::Tag { name, value }),
        ]
    }

    proptest! {
        #[test]
        fn a_key_is_read_back(hour: u32, team in ".{0,8}", labels in labels()) {
            let key = Key { hour, team, labels };
            prop_assert_eq!(Key::decode(&key.encode()).unwrap(), key);
        }

        #[test]
        fn an_overflow_row_has_none_itself(hour: u32, labels in labels()) {
            let key = Key { hour, team: "t".into(), labels };
            prop_assert_eq!(key.overflow().is_none(), key.is_overflow());
            if let Some(overflow) = key.overflow() {
                prop_assert!(overflow.is_overflow());
                prop_assert_eq!(overflow.table(), key.table());
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Key::decode(&bytes);
        }
    }

    #[test]
    fn a_long_label_is_cut_between_characters() {
        let Label::Text(text) = Label::of(Some(&"ü".repeat(1_000))) else { panic!() };
        assert_eq!(text.len(), LABEL_LENGTH_MAX);
        assert!(
            matches!(Label::of(Some(&format!("x{}", "ü".repeat(500)))), Label::Text(text) if text.len() == 255)
        );
    }
}
