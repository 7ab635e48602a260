//! What a call must cost, from the contract and not from the broker's code.

/// Prices of one model, in nano-dollars per million tokens ($0.15 is 150,000,000).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// For input tokens that were not read from the provider's cache.
    pub input: u64,
    /// For input tokens that were.
    pub cached_input: u64,
    /// For output tokens, reasoning included.
    pub output: u64,
}

/// Tokens of one call. `cached_input` is a part of `input`, not beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// All input tokens.
    pub input: u64,
    /// How many of them came from the provider's cache.
    pub cached_input: u64,
    /// All output tokens.
    pub output: u64,
}

impl Tokens {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            input: self.input + other.input,
            cached_input: self.cached_input + other.cached_input,
            output: self.output + other.output,
        }
    }
}

impl Price {
    /// A price without a discount for cached input.
    pub fn new(input: u64, output: u64) -> Self {
        Self { input, cached_input: input, output }
    }

    /// The cost of one attempt in nano-dollars: one sum over the kinds of tokens, rounded once, half up.
    pub fn cost(&self, tokens: Tokens) -> i128 {
        let fresh = i128::from(tokens.input) - i128::from(tokens.cached_input);
        let sum = fresh * i128::from(self.input)
            + i128::from(tokens.cached_input) * i128::from(self.cached_input)
            + i128::from(tokens.output) * i128::from(self.output);
        (sum + 500_000).div_euclid(1_000_000)
    }
}

/// Nano-dollars as the decimal string that a configuration takes, exactly: 150,000,000 is `0.150000000`.
pub fn usd(nano: u64) -> String {
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}
