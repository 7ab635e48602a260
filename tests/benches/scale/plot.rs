//! A picture of distributions: for each curve, the part of all that is at most so long.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 60.0;
/// Legible on white and on black.
const COLOURS: [&str; 4] = ["#d62728", "#1f77b4", "#2ca02c", "#888888"];
/// The axis of time, in milliseconds, logarithmic.
const FROM: f64 = 1.0;
const STEPS: usize = 400;

/// An SVG of curves of sorted values in milliseconds.
pub(crate) fn distributions(what: &str, curves: &[(String, Vec<f64>)]) -> String {
    let most =
        curves.iter().filter_map(|(_, values)| values.last()).fold(10.0_f64, |most, value| most.max(*value));
    let to = 10.0_f64.powf(most.log10().ceil());
    let x =
        |value: f64| LEFT + (WIDTH - LEFT - 20.0) * (value.max(FROM) / FROM).log10() / (to / FROM).log10();
    let y = |part: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - part);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#666\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        writeln!(svg, "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"#ddd\"/>")
    };
    let decades: Vec<f64> = std::iter::successors(Some(FROM), |value| Some(value * 10.0))
        .take_while(|value| *value <= to)
        .collect();
    for value in &decades {
        line(x(*value), y(0.0), x(*value), y(1.0)).expect("a String takes everything");
    }
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        line(LEFT, y(part), x(to), y(part)).expect("a String takes everything");
    }
    let mut text = |at: (f64, f64), anchor: &str, text: &str| {
        writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>", at.0, at.1)
            .expect("a String takes everything");
    };
    for value in &decades {
        text((x(*value), y(0.0) + 16.0), "middle", &format!("{value} ms"));
    }
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        text((LEFT - 8.0, y(part) + 4.0), "end", &format!("{:.0} %", part * 100.0));
    }
    text((WIDTH / 2.0, HEIGHT - 24.0), "middle", &format!("{what} of at most"));
    for (n, (name, values)) in curves.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let mut path = String::new();
        for step in 0..=STEPS {
            let part = step as f64 / STEPS as f64;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a place in the list"
            )]
            let place = ((values.len().saturating_sub(1)) as f64 * part) as usize;
            let Some(value) = values.get(place) else { continue };
            let verb = if path.is_empty() { 'M' } else { 'L' };
            write!(path, "{verb}{:.1} {:.1}", x(*value), y(part)).expect("a String takes everything");
        }
        writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>")
            .expect("a String takes everything");
        let at = LEFT + [0.0, 70.0, 160.0, 230.0][n % 4];
        writeln!(svg, "<text x=\"{at}\" y=\"{}\" fill=\"{colour}\">{name}</text>", HEIGHT - 6.0)
            .expect("a String takes everything");
    }
    svg + "</svg>\n"
}
