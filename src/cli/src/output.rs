//! What the user sees. The one place of the binary that prints.
//!
//! Results go to standard output and can be piped; everything that is said about them goes to standard
//! error. On a terminal there are colours (unless `NO_COLOR` is set) and a progress bar; elsewhere plain
//! text. With `--json` a result is one JSON document, and so is a failure.

use std::io::IsTerminal;
use std::sync::Once;

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// How to print; decided once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Whether results are JSON.
    pub(crate) json: bool,
    colours: bool,
    terminal_out: bool,
    terminal_error: bool,
}

/// A heading and rows of text. Columns named in `right` are numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// The names of the columns.
    pub(crate) header: Vec<String>,
    /// The rows, each as long as the header.
    pub(crate) rows: Vec<Vec<String>>,
    /// Columns that are aligned to the right.
    pub(crate) right: Vec<usize>,
}

/// The colour of a word.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tone {
    /// Well.
    Good,
    /// Worth a look.
    Warning,
    /// Not well.
    Bad,
}

impl Output {
    /// For this process: looks at its terminals and at `NO_COLOR`.
    #[expect(clippy::disallowed_methods, reason = "NO_COLOR is for the terminal, no setting of the program")]
    pub(crate) fn new(json: bool) -> Self {
        let colours = std::env::var("NO_COLOR").map_or(true, |value| value.is_empty());
        let terminal_out = std::io::stdout().is_terminal();
        Self { json, colours, terminal_out, terminal_error: std::io::stderr().is_terminal() }
    }

    /// One line of a result.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        print_or_stop(text.as_ref());
    }

    /// A whole result as JSON: over several lines on a terminal, on one line elsewhere.
    pub(crate) fn json<T: Serialize>(&self, value: &T) {
        let text = if self.terminal_out {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        match text {
            Ok(text) => print_or_stop(&text),
            Err(error) => print_error(&format!("cannot write the result as JSON: {error}")),
        }
    }

    /// A table.
    pub(crate) fn table(&self, table: &Table) {
        print_or_stop(&table.render(self.terminal_out, self.terminal_out && self.colours));
    }

    /// Something about the result, not part of it.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        print_error(text.as_ref());
    }

    /// Why a command failed.
    pub(crate) fn failure(&self, text: &str, exit_code: u8) {
        if self.json {
            let error = serde_json::json!({"error": {"message": text, "exit_code": exit_code}});
            print_error(&error.to_string());
        } else if self.colours && self.terminal_error {
            print_error(&format!("\u{1b}[31merror:\u{1b}[0m {text}"));
        } else {
            print_error(&format!("error: {text}"));
        }
    }

    /// A word for standard output, coloured where there are colours.
    pub(crate) fn paint(&self, text: &str, tone: Tone) -> String {
        if !(self.colours && self.terminal_out) {
            return text.to_owned();
        }
        let colour = match tone {
            Tone::Good => 32,
            Tone::Warning => 33,
            Tone::Bad => 31,
        };
        format!("\u{1b}[{colour}m{text}\u{1b}[0m")
    }

    /// A progress bar on standard error; invisible where nobody can see it move.
    pub(crate) fn progress(&self, total: u64) -> ProgressBar {
        if self.json || !self.terminal_error {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template(
            "{elapsed_precise} [{wide_bar}] {human_pos}/{human_len}  {per_sec}  ETA {eta}\n{msg}",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    }

    /// Whether somebody sees progress bars.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.json && self.terminal_error
    }
}

impl Table {
    /// A table with these columns and no rows yet; a name that begins with `>` is of a column of numbers.
    pub(crate) fn new(header: &[&str]) -> Self {
        let right = (0..header.len()).filter(|&column| header[column].starts_with('>')).collect();
        let header = header.iter().map(|name| name.trim_start_matches('>').to_owned()).collect();
        Self { header, rows: Vec::new(), right }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// As text: columns and spaces, nothing that a script would have to strip.
    pub(crate) fn render(&self, fit_terminal: bool, bold_header: bool) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        if fit_terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.force_no_tty();
        }
        let header = self.header.iter().map(|name| {
            let cell = Cell::new(name);
            if bold_header { cell.add_attribute(Attribute::Bold) } else { cell }
        });
        if self.header.iter().any(|name| !name.is_empty()) {
            table.set_header(header.collect::<Vec<_>>());
        }
        for row in &self.rows {
            table.add_row(row.iter().map(|text| clean(text)).collect::<Vec<_>>());
        }
        for &column in &self.right {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt()
    }
}

/// Text from elsewhere must not move the cursor or break a row.
fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// Prints a line. A reader that went away (`| head`) is no reason to panic.
fn print_or_stop(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        static SAID: Once = Once::new();
        SAID.call_once(|| print_error(&format!("cannot write to standard output: {error}")));
    }
}

/// Prints a line to standard error. Where nobody reads that there is nobody to be told.
fn print_error(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_columns_and_spaces() {
        let mut table = Table::new(&["team", ">requests", ">cost"]);
        table.row(["research", "12", "$0.0123"]);
        table.row(["a\u{1b}[31mb", "1234", "$0.00"]);
        insta::assert_snapshot!(table.render(false, false), @r"
        team      requests     cost
        research        12  $0.0123
        a [31mb       1234    $0.00
        ");
    }
}
