//! Adding up rows for a query.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::{Bucket, Dimension, OTHER, Query, Source};
use crate::key::{Key, Label, Labels, Table, hour_prefix};
use crate::row::Row;
use crate::store::{Error, Store};

/// What one row of an answer is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// When its hour or day begins, in hours since 1970; 0 if not divided by time.
    pub hour: u32,
    /// A label for everything that is divided by.
    pub labels: Vec<Label>,
}

/// What a query adds up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// By group, the first ones in order if there are too many.
    pub groups: BTreeMap<Group, Row>,
    /// Over all groups, cut ones included.
    pub total: Row,
    /// Whether groups were cut.
    pub truncated: bool,
}

/// Reads the rows of `query` and adds them up. Needs memory for the rows of the answer, not for what it
/// reads.
pub fn answer(store: &dyn Store, query: &Query) -> Result<Sums, Error> {
    let mut sums = Sums::default();
    match &query.source {
        Source::Main => each_row(store, query, Table::Main, |key, row| sums.take(query, &key, &row))?,
        Source::Users => each_row(store, query, Table::User, |key, row| sums.take(query, &key, &row))?,
        // The table of tags knows only events that have the tag. What has not is the difference to all.
        Source::Tag(wanted) => {
            let labels = |value| Labels::Tag { name: wanted.clone(), value };
            each_row(store, query, Table::Main, |key, row| {
                sums.take(query, &Key { labels: labels(Label::Absent), ..key }, &row);
            })?;
            each_row(store, query, Table::Tag, |key, row| {
                if !matches!(&key.labels, Labels::Tag { name, .. } if name == wanted) {
                    return;
                }
                sums.take(query, &key, &row);
                let mut negative = Row::default();
                negative.subtract(&row);
                sums.take(query, &Key { labels: labels(Label::Absent), ..key }, &negative);
            })?;
        }
    }
    sums.groups.retain(|_, row| !row.is_zero());
    Ok(sums)
}

fn each_row(
    store: &dyn Store,
    query: &Query,
    table: Table,
    mut each: impl FnMut(Key, Row),
) -> Result<(), Error> {
    let mut outcome = Ok(());
    let (start, end) = (hour_prefix(table, query.hours.0), hour_prefix(table, query.hours.1));
    store.scan(&start, &end, &mut |key, value| match Key::decode(key)
        .and_then(|key| Ok((key, Row::decode(value)?)))
    {
        Ok((key, row)) => {
            each(key, row);
            ControlFlow::Continue(())
        }
        Err(error) => {
            outcome = Err(error);
            ControlFlow::Break(())
        }
    })?;
    outcome
}

impl Sums {
    fn take(&mut self, query: &Query, key: &Key, row: &Row) {
        if !query.only.iter().all(|(dimension, wanted)| is(&label(key, dimension), wanted.as_deref())) {
            return;
        }
        self.total.add(row);
        let hour = match query.bucket {
            Bucket::Hour => key.hour,
            Bucket::Day => key.hour - key.hour % 24,
            Bucket::Total => 0,
        };
        let group = Group { hour, labels: query.by.iter().map(|dimension| label(key, dimension)).collect() };
        if let Some(sums) = self.groups.get_mut(&group) {
            sums.add(row);
            return;
        }
        // Only the first groups are kept. A group that was cut cannot come back, because from then on it
        // is after the last one that is kept; so every kept group is complete.
        if self.groups.len() >= query.rows_max {
            self.truncated = true;
            if self.groups.last_key_value().is_none_or(|(last, _)| group > *last) {
                return;
            }
            self.groups.pop_last();
        }
        self.groups.insert(group, row.clone());
    }
}

fn label(key: &Key, dimension: &Dimension) -> Label {
    match (dimension, &key.labels) {
        (Dimension::Team, _) => Label::Text(key.team.clone()),
        (Dimension::Main(position), Labels::Main(labels)) => labels[*position].clone(),
        (Dimension::User, Labels::User(label)) => label.clone(),
        (Dimension::Tag(_), Labels::Tag { value, .. }) => value.clone(),
        // A query is checked to ask only for what its table has.
        _ => Label::Absent,
    }
}

fn is(label: &Label, wanted: Option<&str>) -> bool {
    match (label, wanted) {
        (Label::Absent, None) => true,
        (Label::Other, Some(wanted)) => wanted == OTHER,
        (Label::Text(text), Some(wanted)) => text == wanted,
        _ => false,
    }
}
