//! Logs: to standard error, for people or for machines. Never any content of a request.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterFn, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// What a process at work logs unless told otherwise. The NATS client tells of each reconnect itself, which we do too.
pub const FILTER: &str = "info,async_nats=warn";

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter cannot be read.
    #[error(
        "the log filter {filter:?} cannot be read; expected a level or a list such as info,async_nats=warn"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Somebody else has set up logging.
    #[error("logging was set up already")]
    Twice,
}

/// Sets up logging for this process. `filter` is what `--log` or `RUST_LOG` says. `color` only counts on a
/// terminal.
///
/// # Errors
/// When the filter cannot be read, or logging was set up before.
pub fn init_logging(format: Format, filter: &str, color: bool) -> Result<(), Error> {
    let parsed =
        EnvFilter::try_new(filter).map_err(|source| Error::Filter { filter: filter.to_owned(), source })?;
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Human => lines.with_ansi(color && std::io::stderr().is_terminal()).boxed(),
        Format::Json => {
            lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
        }
    };
    let done = tracing_subscriber::registry()
        .with(parsed)
        .with(FilterFn::new(has_no_content))
        .with(lines)
        .try_init();
    done.map_err(|_| Error::Twice)
}

/// Libraries may log whole messages at `trace`, and so prompts and answers; whatever the filter says, they do not.
fn has_no_content(metadata: &Metadata<'_>) -> bool {
    *metadata.level() < Level::TRACE || metadata.target().starts_with("tollgate")
}
