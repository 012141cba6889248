//! What is wrong with a configuration.

use std::fmt;

/// One thing to repair: where, what, and how. Never holds a password.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// From 1; 0 when it belongs to no line.
    pub line: usize,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.text)
    }
}

/// The name that was probably meant: few changed letters, or the beginning of a known one.
pub(super) fn nearest<'n>(typed: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    known
        .into_iter()
        .map(|name| (if name.starts_with(typed) && typed.len() > 2 { 1 } else { distance(typed, name) }, name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's: insertions, deletions and replacements of single letters.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_name_is_near() {
        let known = ["size", "mode", "wait_timeout", "waiting_max"];
        assert_eq!(nearest("sise", known), Some("size"));
        assert_eq!(nearest("wait_timeut", known), Some("wait_timeout"));
        assert_eq!(nearest("waiting", known), Some("waiting_max"));
        assert_eq!(nearest("colour", known), None);
    }
}
