//! Budgets and limits that take nothing because of what is reserved in them.
//!
//! What fills one may be reserved for a request whose router died. That request goes on with it as soon as it is tried, and
//! nobody else does. But it can be behind all others in the order, which are tried again and again and find no room; or
//! outside of all hands, because they fill these. So where nothing passes for a while, the ledger is asked which of the
//! requests in hand something is reserved for, and they are tried out of turn: that takes no room from anybody. If it goes
//! on, some make way, where they fill a hand.

use std::collections::{BTreeMap, HashMap};

use chrono::TimeDelta;
use tollgate_protocol::budget::{Counter, OTHERS_MAX};
use tollgate_protocol::{Identity, Priority, Timestamp};

/// From then on the ledger is asked.
const ASKED_AFTER: TimeDelta = TimeDelta::seconds(1);
/// From then on some make way: most calls are over by then.
const MAKES_WAY_AFTER: TimeDelta = TimeDelta::seconds(10);
/// From then on it is not known any more: while somebody waits for a budget, it is tried much oftener than that.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::seconds(5);
/// Of fewer held requests none makes way: as many every team may have in hand.
const RELEASED_LEAST: usize = 4;

/// Since when nothing passed, and when somebody was last refused, by the number of the budget.
#[derive(Debug, Default)]
pub struct Stuck(HashMap<usize, (Timestamp, Timestamp)>);

/// What is to be done about requests that wait, by their place in a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// The ledger is to be asked about these.
    pub ask: Vec<usize>,
    /// These are to be handed back.
    pub make_way: Vec<usize>,
}

/// A request that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// What it needs room in.
    pub budgets: &'a [usize],
    /// Since when it is in hand.
    pub since: Timestamp,
    /// When the ledger last said what is reserved for it.
    pub asked: Option<Timestamp>,
    /// When it said so last, if it is nothing.
    pub has_nothing: Option<Timestamp>,
    /// In whose order it is: the provider, the team and the priority.
    pub flow: (&'a str, &'a str, Priority),
    /// Which it fills.
    pub hand: Hand<'a>,
}

/// What a request keeps others out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand<'a> {
    /// A lane of which a router has in hand as much as it may. What a dead router had is delivered before what is new: one
    /// place is enough for it.
    Lane(&'a str),
    /// Held requests, of which every team may have so many in hand. Who makes way comes last.
    Released,
    /// Nothing.
    None,
}

impl Stuck {
    /// A budget had no room, because of what is reserved in it.
    pub fn refused(&mut self, budget: usize, now: Timestamp) {
        self.0.entry(budget).or_insert((now, now)).1 = now;
    }

    /// A request got room in these, or found that they are full for another reason.
    pub fn passed(&mut self, budgets: &[usize]) {
        self.0.retain(|budget, _| !budgets.contains(budget));
    }

    /// Nothing is known of any: their numbers are others now.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether something passes everywhere.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whom to ask about, those first that were not asked about for longest, and who makes way, of those that nothing is
    /// reserved for: of each lane the youngest; of held ones all but one of each flow, which is the next of it. A flow that has
    /// nobody in hand would come behind what others were served meanwhile.
    pub fn next(&mut self, waiting: &[Waiting<'_>], now: Timestamp) -> Next {
        // What nobody in hand needs any more, or nobody tries because something else is full, was stuck at another time.
        self.0.retain(|budget, (_, last)| {
            now - *last < FORGOTTEN_AFTER && waiting.iter().any(|of| of.budgets.contains(budget))
        });
        let is_over =
            |budget: &usize, time| self.0.get(budget).is_some_and(|(since, _)| now - *since >= time);
        let of = |time| {
            let waits = move |at: &usize| waiting[*at].budgets.iter().any(|budget| is_over(budget, time));
            (0..waiting.len()).filter(waits)
        };
        let mut ask: Vec<usize> = of(ASKED_AFTER).collect();
        ask.sort_by_key(|at| (waiting[*at].asked.unwrap_or(waiting[*at].since), waiting[*at].since));
        ask.truncate(OTHERS_MAX);

        let (mut lanes, mut released) = (BTreeMap::<&str, usize>::new(), Vec::new());
        let mut stays = BTreeMap::<_, usize>::new();
        for at in (0..waiting.len()).filter(|at| waiting[*at].hand == Hand::Released) {
            let oldest = stays.entry(waiting[at].flow).or_insert(at);
            if waiting[at].since < waiting[*oldest].since {
                *oldest = at;
            }
        }
        for at in of(MAKES_WAY_AFTER).filter(|at| waiting[*at].has_nothing.is_some()) {
            match waiting[at].hand {
                Hand::Lane(lane) => {
                    let youngest = lanes.entry(lane).or_insert(at);
                    if waiting[at].since > waiting[*youngest].since {
                        *youngest = at;
                    }
                }
                Hand::Released if stays.get(&waiting[at].flow) != Some(&at) => released.push(at),
                Hand::Released | Hand::None => {}
            }
        }
        if released.len() < RELEASED_LEAST {
            released.clear();
        }
        let make_way: Vec<usize> = lanes.into_values().chain(released).collect();
        ask.retain(|at| !make_way.contains(at));
        Next { ask, make_way }
    }
}

/// What is reserved for each request that was asked about, from an answer that names only those with something. Several
/// copies of one can be in hand, and each is asked about.
pub fn by_request(
    asked: &[(Identity, u32)],
    found: Vec<(String, Counter)>,
) -> HashMap<&Identity, Vec<Counter>> {
    let mut counters = HashMap::<String, Vec<Counter>>::new();
    for (account, counter) in found {
        counters.entry(account).or_default().push(counter);
    }
    let of = |identity: &Identity| counters.get(&identity.to_string()).cloned().unwrap_or_default();
    asked.iter().map(|(identity, _)| (identity, of(identity))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_timestamp_millis(1_800_000_000_000 + ms).unwrap()
    }

    fn waiting(budgets: &[usize], since: i64, asked: Option<i64>) -> Waiting<'_> {
        let (since, asked) = (at(since), asked.map(at));
        let flow = ("p", "t", Priority::Normal);
        Waiting { budgets, since, asked, has_nothing: asked, flow, hand: Hand::None }
    }

    #[test]
    fn nobody_is_asked_about_while_something_passes() {
        let mut stuck = Stuck::default();
        let all = [waiting(&[0, 1], 0, None), waiting(&[1], 0, None), waiting(&[2], 0, None)];
        assert_eq!(stuck.next(&all, at(0)), Next::default());
        stuck.refused(1, at(0));
        stuck.refused(1, at(900));
        assert_eq!(stuck.next(&all, at(999)), Next::default());
        assert_eq!(stuck.next(&all, at(1_000)), Next { ask: vec![0, 1], make_way: Vec::new() });
        stuck.passed(&[0]);
        assert_eq!(stuck.next(&all, at(1_000)).ask, [0, 1]);
        stuck.passed(&[0, 1]);
        assert!(stuck.is_empty());
        stuck.refused(1, at(1_000));
        stuck.clear();
        assert_eq!(stuck.next(&all, at(5_000)), Next::default());
        stuck.refused(1, at(5_000));
        assert_eq!(stuck.next(&all[2..], at(7_000)), Next::default());
        stuck.refused(1, at(7_000));
        assert_eq!(stuck.next(&all, at(7_500)), Next::default(), "nobody waited for it meanwhile");
        assert_eq!(stuck.next(&all, at(11_999)).ask, [0, 1]);
        assert_eq!(stuck.next(&all, at(12_000)), Next::default(), "nobody tries it");
    }

    #[test]
    fn all_have_their_turn_to_be_asked_about() {
        let mut stuck = Stuck::default();
        stuck.refused(0, at(0));
        let mut all: Vec<_> = (0..600).map(|since| waiting(&[0], since, None)).collect();
        let mut asked = Vec::new();
        for second in 1..=3 {
            let next = stuck.next(&all, at(second * 1_000));
            for index in next.ask {
                all[index].asked = Some(at(second * 1_000));
                asked.push(index);
            }
        }
        assert_eq!(asked.len(), 3 * OTHERS_MAX);
        assert_eq!(asked[..600], (0..600).collect::<Vec<_>>()[..]);
        assert_eq!(asked[600..], (0..3 * OTHERS_MAX - 600).collect::<Vec<_>>()[..], "and again");
    }

    #[test]
    fn of_each_full_lane_the_youngest_makes_way_that_was_asked_about() {
        let mut stuck = Stuck::default();
        stuck.refused(0, at(0));
        stuck.refused(0, at(9_000));
        let of = |lane, since, asked| Waiting { hand: Hand::Lane(lane), ..waiting(&[0], since, asked) };
        let all = [
            of("a", 1, Some(9_000)),
            of("a", 2, Some(9_000)),
            of("a", 3, None),
            of("b", 4, Some(9_000)),
            waiting(&[0], 5, Some(9_000)),
            Waiting { hand: Hand::Lane("c"), ..waiting(&[1], 6, Some(9_000)) },
            Waiting { has_nothing: None, ..of("a", 7, Some(9_500)) },
        ];
        assert_eq!(stuck.next(&all, at(9_999)), Next { ask: vec![2, 0, 1, 3, 4, 6], make_way: Vec::new() });
        assert_eq!(stuck.next(&all, at(10_000)), Next { ask: vec![2, 0, 4, 6], make_way: vec![1, 3] });
    }

    #[test]
    fn copies_of_a_request_have_what_is_reserved_for_it() {
        let of = |id: &str| Identity::from_tokens(&format!("t.g.{id}")).unwrap();
        let counter = |budget: &str| Counter { budget: budget.into(), window: "w".into() };
        let asked = [(of("a"), 1), (of("b"), 1), (of("a"), 1), (of("a"), 2)];
        let found = vec![("t.g.a".to_owned(), counter("x")), ("t.g.a".to_owned(), counter("y"))];
        let reserved = by_request(&asked, found);
        assert_eq!(reserved[&of("a")], [counter("x"), counter("y")]);
        assert_eq!(reserved[&of("b")], []);
    }

    #[test]
    fn of_held_ones_all_make_way_that_were_asked_about() {
        let mut stuck = Stuck::default();
        stuck.refused(0, at(0));
        stuck.refused(0, at(9_000));
        let of = |since| Waiting { hand: Hand::Released, ..waiting(&[0], since, Some(9_000)) };
        let mut all: Vec<_> = (0..7).rev().map(of).collect();
        all[2].has_nothing = None;
        assert_eq!(stuck.next(&all, at(9_999)).make_way.len(), 0);
        assert_eq!(stuck.next(&all, at(10_000)).make_way, [0, 1, 3, 4, 5], "the oldest stays");
        assert_eq!(stuck.next(&all[..RELEASED_LEAST + 2], at(10_000)).make_way, [0, 1, 3, 4]);
        all[4].flow = ("p", "t", Priority::Low);
        assert_eq!(stuck.next(&all, at(10_000)).make_way, [0, 1, 3, 5], "the only one of its priority");
        (all[3].flow, all[0].flow) = (("q", "t", Priority::Normal), ("q", "t", Priority::Normal));
        assert_eq!(stuck.next(&all, at(10_000)).make_way.len(), 0, "three only");
        all[2].has_nothing = all[1].has_nothing;
        assert_eq!(stuck.next(&all[..RELEASED_LEAST - 1], at(10_000)).make_way.len(), 0, "there is room");
    }
}
