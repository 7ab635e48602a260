//! The names that somebody who mistyped one probably meant.

/// Longer names get no suggestion, so that a hostile one costs nothing.
const LENGTH_MAX: usize = 64;

/// Shorter beginnings say too little.
const BEGINNING_MIN: usize = 4;

/// Up to `count` of `candidates` that differ from `typed` by few letters or begin with it, the nearest first.
/// A candidate `provider/model` is as near as its `model` alone, so that a forgotten provider is found.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    let name: Vec<char> = typed.chars().take(LENGTH_MAX + 1).flat_map(char::to_lowercase).collect();
    if name.is_empty() || name.len() > LENGTH_MAX {
        return Vec::new();
    }
    let far = 1 + name.len() / 4;
    let mut near: Vec<_> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let bare = candidate.split_once('/').map_or(candidate, |(_, model)| model);
            let distance = edits(&name, candidate, far).min(edits(&name, bare, far));
            let begun = name.len() >= BEGINNING_MIN && candidate.starts_with(typed);
            let distance = if begun { distance.min(far) } else { distance };
            (distance <= far).then_some((distance, candidate))
        })
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().take(count).map(|(_, candidate)| candidate).collect()
}

/// Letters to insert, remove or replace to come from one to the other (Levenshtein); any number above
/// `far` where it is larger than that.
fn edits(name: &[char], candidate: &str, far: usize) -> usize {
    let candidate: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
    if candidate.len().abs_diff(name.len()) > far {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=candidate.len()).collect();
    for (index, letter) in name.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, other) in candidate.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[candidate.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_found() {
        let names = ["providers", "models", "teams", "openai/gpt-4o", "openai/gpt-4o-mini"];
        for (typed, expected) in [
            ("provdiers", &["providers"][..]),
            ("Model", &["models"]),
            ("gpt-4o", &["openai/gpt-4o"]),
            ("openai/gpt4o", &["openai/gpt-4o"]),
            ("openai/", &["openai/gpt-4o", "openai/gpt-4o-mini"]),
            ("azure", &[]),
            ("", &[]),
        ] {
            assert_eq!(nearest(typed, names, 3), expected, "{typed}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), names, 3), [""; 0]);
        assert_eq!(nearest("aa", ["ab", "ac", "ad"], 2), ["ab", "ac"]);
    }
}
