//! Answers embedding calls: unit vectors that depend on the words of a text, so that texts with words in
//! common are near each other and a search over them can be tried out.
//!
//! Each word adds to four coordinates that its digest picks; a little of the whole text's digest is added so
//! that the order of words counts as well.

use super::chance::Digest;
use super::fields::{self, Raw};
use super::problem::Problem;
use super::request;
use super::tokenizer::count_tokens;
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

const DIMENSIONS_DEFAULT: i64 = 16;
const DIMENSIONS_MAX: i64 = 4_096;
const INPUTS_MAX: usize = 2_048;
const COORDINATES_PER_WORD: usize = 4;
/// How much of a vector comes from its text as a whole.
const WHOLE_TEXT_SHARE: f64 = 0.05;

/// An embedding call that is valid.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) model: Cow<'a, str>,
    inputs: Vec<Input<'a>>,
    dimensions: usize,
    base64: bool,
}

/// A text, or token numbers of a vocabulary that the simulator does not have: they count, and are words by
/// themselves.
#[derive(Debug)]
enum Input<'a> {
    Text(Cow<'a, str>),
    Numbers(Vec<i64>),
}

/// The `list` of embeddings that is answered.
#[derive(Serialize)]
pub(super) struct List<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

#[derive(Clone, Copy, Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

impl<'a> Call<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        #[derive(serde::Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            model: Raw<'a>,
            input: Raw<'a>,
            dimensions: Raw<'a>,
            encoding_format: Raw<'a>,
        }

        let body: Body<'a> = fields::object(body)?;
        let model = request::model(body.model)?;
        let inputs = inputs(body.input.ok_or_else(|| Problem::missing("input"))?)?;
        let range = 1..=DIMENSIONS_MAX;
        let dimensions = body
            .dimensions
            .map_or(Ok(DIMENSIONS_DEFAULT), |raw| fields::integer("dimensions", raw, &range))?;
        let base64 = match body
            .encoding_format
            .map(|raw| fields::text("encoding_format", raw))
            .transpose()?
            .as_deref()
        {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => {
                let message = "Invalid 'encoding_format': expected float or base64.";
                return Err(Problem::field("encoding_format", Some("invalid_value"), message));
            }
        };
        Ok(Self { model, inputs, dimensions: usize::try_from(dimensions).unwrap_or(1), base64 })
    }

    pub(super) fn prompt_tokens(&self) -> u64 {
        let tokens = |input: &Input<'_>| match input {
            Input::Text(text) => count_tokens(text),
            Input::Numbers(numbers) => numbers.len() as u64,
        };
        self.inputs.iter().map(tokens).sum()
    }

    pub(super) fn answer(&self) -> List<'_> {
        let tokens = self.prompt_tokens();
        let embedding = |(index, input)| {
            let vector = vector(&self.model, input, self.dimensions);
            let embedding =
                if self.base64 { Vector::Base64(base64(&vector)) } else { Vector::Numbers(vector) };
            Embedding { object: "embedding", index, embedding }
        };
        List {
            object: "list",
            data: self.inputs.iter().enumerate().map(embedding).collect(),
            model: &self.model,
            usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
        }
    }
}

fn inputs(raw: &RawValue) -> Result<Vec<Input<'_>>, Problem> {
    let expected = "a string, or an array of strings, of token numbers or of arrays of these";
    let wrong = |raw| fields::wrong_type("input", expected, raw);
    let inputs = match fields::kind(raw) {
        "a string" => vec![Input::Text(fields::text("input", raw)?)],
        "an array" => {
            let list = fields::list("input", raw)?;
            match list.first().map(|first| fields::kind(first)) {
                Some("an integer") => vec![Input::Numbers(numbers(&list)?)],
                _ => list
                    .into_iter()
                    .map(|raw| match fields::kind(raw) {
                        "a string" => fields::text("input", raw).map(Input::Text),
                        "an array" => numbers(&fields::list("input", raw)?).map(Input::Numbers),
                        _ => Err(wrong(raw)),
                    })
                    .collect::<Result<_, _>>()?,
            }
        }
        _ => return Err(wrong(raw)),
    };
    let empty = |input: &Input<'_>| match input {
        Input::Text(text) => text.is_empty(),
        Input::Numbers(numbers) => numbers.is_empty(),
    };
    if inputs.is_empty() || inputs.iter().any(empty) {
        return Err(Problem::field(
            "input",
            Some("empty_input"),
            "Invalid 'input': it, or an entry of it, is empty.",
        ));
    }
    if inputs.len() > INPUTS_MAX {
        let message = format!("Invalid 'input': array too long. Expected at most {INPUTS_MAX} entries.");
        return Err(Problem::field("input", Some("array_above_max_length"), message));
    }
    Ok(inputs)
}

fn numbers(list: &[&RawValue]) -> Result<Vec<i64>, Problem> {
    list.iter().map(|raw| fields::integer("input", raw, &(0..=i64::MAX))).collect()
}

fn vector(model: &str, input: &Input<'_>, dimensions: usize) -> Vec<f32> {
    let start = Digest::new(0).text(model);
    let mut sums = vec![0.0_f64; dimensions];
    let mut add = |word: Digest| {
        let mut dice = word.dice();
        for _ in 0..COORDINATES_PER_WORD {
            let coordinate = dice.below(dimensions);
            sums[coordinate] += if dice.throw() & 1 == 0 { 1.0 } else { -1.0 };
        }
    };
    let whole = match input {
        Input::Text(text) => {
            let words =
                text.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty());
            words.for_each(|word| add(start.text(&word.to_lowercase())));
            start.text(text)
        }
        Input::Numbers(numbers) => {
            numbers.iter().for_each(|number| add(start.number(number.cast_unsigned())));
            numbers.iter().fold(start, |digest, number| digest.number(number.cast_unsigned()))
        }
    };
    // As an angle from its words' direction, the whole text weighs the same however many words there are.
    let weight = WHOLE_TEXT_SHARE * length(&sums).max(1.0);
    let mut dice = whole.dice();
    sums.iter_mut().for_each(|sum| *sum += weight * (dice.fraction() - 0.5));
    let length = length(&sums).max(f64::MIN_POSITIVE);
    sums.iter().map(|sum| (sum / length) as f32).collect()
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// The vector as little-endian 32-bit floats in base64, which OpenAI's own clients ask for.
fn base64(vector: &[f32]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at > group.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[cfg(test)]
mod tests;
