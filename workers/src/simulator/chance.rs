//! Repeatable chance: a digest of what was asked, and dice thrown from it.
//!
//! Own arithmetic and not the standard hasher, because an answer must be the same in every build and on every
//! machine. Made for spreading, not for secrecy.

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// Folds fields into one number. The order of fields and the borders between them count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digest(u64);

impl Digest {
    pub(super) fn new(seed: u64) -> Self {
        Self(scramble(seed))
    }

    pub(super) fn number(self, number: u64) -> Self {
        Self(scramble(self.0.rotate_left(23) ^ number))
    }

    /// Takes eight bytes at a time, so that a long prompt costs little; its length keeps neighbours apart.
    pub(super) fn text(self, text: &str) -> Self {
        let mut state = self.number(text.len() as u64).0;
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        for word in words {
            state = fold(state, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        Self(scramble(fold(state, u64::from_le_bytes(last))))
    }

    pub(super) fn value(self) -> u64 {
        self.0
    }

    pub(super) fn dice(self) -> Dice {
        Dice(self.0)
    }
}

/// A stream of numbers that depends on its start only (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(MULTIPLIER);
        scramble(self.0)
    }

    /// A number below `bound`; 0 if there is none. The bias of the remainder is far below what a simulator
    /// shows.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.throw() % (bound.max(1) as u64)) as usize
    }

    /// A number from 0 up to, not including, 1.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.throw() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn fold(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ word) * u128::from(MULTIPLIER);
    ((product as u64) ^ ((product >> 64) as u64)).wrapping_add(state.rotate_left(29))
}

fn scramble(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn never_changes_between_builds() {
        let digest = Digest::new(7).text("small").number(3).text("a longer piece of text");
        assert_eq!(digest.value(), 5_434_538_678_825_768_081);
    }

    proptest! {
        #[test]
        fn borders_between_fields_count(a in ".{1,20}", b in ".{1,20}") {
            let joined = format!("{a}{b}");
            let (two, one) = (Digest::new(0).text(&a).text(&b), Digest::new(0).text(&joined).text(""));
            prop_assert_ne!(two.value(), one.value());
        }

        #[test]
        fn other_texts_have_other_digests(a in ".*", b in ".*") {
            prop_assert_eq!(a == b, Digest::new(0).text(&a).value() == Digest::new(0).text(&b).value());
        }

        #[test]
        fn dice_stay_in_bounds(seed: u64, bound in 1_usize..1000) {
            let mut dice = Digest::new(seed).dice();
            prop_assert!(dice.below(bound) < bound);
            prop_assert!((0.0..1.0).contains(&dice.fraction()));
        }
    }
}
