//! What is broken, with examples.

use std::collections::BTreeMap;
use std::fmt;

/// Examples kept and shown of each broken rule; all are counted.
const EXAMPLES: usize = 5;

/// The equalities, each named by how it can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The evidence itself is faulty: two requests cannot be told apart, or a message cannot be read.
    Evidence,
    /// A published request has no stored response.
    Unanswered,
    /// A request has more than one response, or had one that was replaced.
    AnsweredTwice,
    /// A response that belongs to no published request.
    UnknownResponse,
    /// Another status than expected.
    WrongStatus,
    /// The answer is not this request's own.
    WrongAnswer,
    /// Other token counts than the provider reported.
    WrongTokens,
    /// A cost that is not tokens × price, rounded once.
    WrongCost,
    /// A response's cost is not the sum of its attempts.
    ResponseSum,
    /// An attempt that a response names has no usage event.
    UsageMissing,
    /// A usage event that no response names.
    UsageUnknown,
    /// Two usage events of one id and kind say different things, or a response's attempt and its event do.
    UsageContradicts,
    /// Not exactly one usage event counts the request.
    CountedOnce,
    /// The sums over usage events, responses and ledger are not equal.
    SumsDiffer,
    /// A call that no usage event tells of.
    CallNotOnLedger,
    /// A request was paid for more than once without a lost attempt.
    PaidTwice,
}

/// Every broken rule, how often, and some examples.
#[derive(Clone, Debug, Default)]
pub struct Report {
    broken: BTreeMap<Rule, (usize, Vec<String>)>,
}

impl Report {
    pub(super) fn add(&mut self, rule: Rule, example: impl fmt::Display) {
        let (count, examples) = self.broken.entry(rule).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(example.to_string());
        }
    }

    /// Adds the example if the two differ.
    pub(super) fn equal<T: PartialEq + fmt::Debug>(
        &mut self,
        rule: Rule,
        what: impl fmt::Display,
        found: T,
        expected: T,
    ) {
        if found != expected {
            self.add(rule, format_args!("{what}: found {found:?}, expected {expected:?}"));
        }
    }

    /// Whether every equality holds.
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty()
    }

    /// How often a rule is broken.
    pub fn count(&self, rule: Rule) -> usize {
        self.broken.get(&rule).map_or(0, |(count, _)| *count)
    }

    /// The rules that are broken.
    pub fn rules(&self) -> Vec<Rule> {
        self.broken.keys().copied().collect()
    }

    /// Fails the test if anything is broken.
    ///
    /// # Panics
    /// When an equality is broken, with all of them and examples.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("every equality holds");
        }
        writeln!(f, "{} equalities are broken:", self.broken.len())?;
        for (rule, (count, examples)) in &self.broken {
            writeln!(f, "- {rule:?}, {count} times, such as")?;
            for example in examples {
                writeln!(f, "    {example}")?;
            }
        }
        Ok(())
    }
}
