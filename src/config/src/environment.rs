//! Where secrets come from. A trait, so that reading a configuration stays a pure function.

/// Looks up environment variables. The command line gives the real ones:
/// `&|name: &str| std::env::var(name).ok()`.
pub trait Environment {
    /// The value of a variable, `None` if it is not set or not text.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Environment for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// An environment without variables.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyEnvironment;

impl Environment for EmptyEnvironment {
    fn get(&self, _name: &str) -> Option<String> {
        None
    }
}
