//! Any text is settings or a report with places inside the text, and never a panic.

use proptest::prelude::*;

use super::*;

const EXAMPLE: &str = include_str!("../../../../tollgate.example.toml");

fn check(text: &str) -> Result<(), TestCaseError> {
    let report = match load(text, "tollgate.toml", &environment) {
        Ok(settings) => {
            prop_assert!(!settings.teams.is_empty());
            for target in settings.catalog.aliases.values().flatten() {
                prop_assert!(settings.catalog.price(target).is_some(), "{} has no price", target);
            }
            return Ok(());
        }
        Err(report) => report,
    };
    prop_assert!(!report.problems.is_empty());
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in &report.problems {
        prop_assert!((1..=lines.len()).contains(&problem.line), "{}", problem);
        prop_assert!(
            (1..=lines[problem.line - 1].chars().count() + 1).contains(&problem.column),
            "{}",
            problem
        );
        prop_assert!(!problem.message.is_empty() && !problem.message.contains('\n'), "{}", problem);
    }
    Ok(())
}

/// Pieces of TOML, so that drawn texts get past the parser.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\[(providers|models|teams)\\.[a-c]{1,2}\\]\n",
        "\\[(timing|queue|retention|scheduling|budgets|limits|x)\\]\n",
        "(kind|base_url|api_key|weight|models|targets|fail|seed|lease_ms|shares) = ",
        r#"("openai"|"simulator"|"compatible"|"env:GOOD"|"sim/demo"|"\*"|\["a/b"\]|\{ rate = 1 \})\n"#,
        "(-?[0-9]{1,20}|0x[0-9a-f]{1,16}|[0-9]\\.[0-9]|nan|true|1979-05-27)\n",
        any::<String>(),
    ]
}

/// Cuts of the example at character boundaries.
fn cut(start: usize, length: usize) -> std::ops::Range<usize> {
    let boundary = |mut at: usize| {
        while !EXAMPLE.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = boundary(start % EXAMPLE.len());
    start..boundary((start + length).min(EXAMPLE.len())).max(start)
}

proptest! {
    #[test]
    fn any_text_is_read(text in ".{0,200}") {
        check(&text)?;
    }

    #[test]
    fn any_toml_is_read(pieces in prop::collection::vec(piece(), 0..20)) {
        check(&pieces.concat())?;
    }

    #[test]
    fn a_good_file_with_something_else_in_it_is_read(start: usize, length in 0_usize..40, put in piece()) {
        let mut text = EXAMPLE.to_owned();
        text.replace_range(cut(start, length), &put);
        check(&text)?;
    }

    /// The first line of a good file that is broken is the first that is reported.
    #[test]
    fn an_unknown_key_is_found_on_its_line(line: prop::sample::Index) {
        let mut lines: Vec<&str> = EXAMPLE.lines().collect();
        let at = line.index(lines.len() + 1);
        lines.insert(at, "surely_unknown = 1");
        let report = load(&lines.join("\n"), "tollgate.toml", &environment).unwrap_err();
        let found: Vec<_> = report.problems.iter().map(|problem| (problem.line, problem.column)).collect();
        // Inside an array over several lines it breaks the syntax, which may take more lines with it.
        prop_assert!(found.contains(&(at + 1, 1)), "line {}: {}", at + 1, report);
    }
}

#[test]
fn deep_and_long_texts_are_read() {
    for text in [
        "[".repeat(100_000),
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{a=".repeat(100_000)),
        format!("{}a = 1", "a.".repeat(100_000)),
        format!("[{}a]", "a.".repeat(100_000)),
        "x\n".repeat(100_000),
        format!("x = \"{}\"", "ü".repeat(100_000)),
    ] {
        assert!(load(&text, "f", &environment).is_err());
    }
}
