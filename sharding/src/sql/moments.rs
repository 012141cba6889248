//! Strings that mean another time each time they are read as one.

const WORDS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Whether PostgreSQL takes the text, as a date or a time, for one that depends on when it is read: `now`, `today 10:00`.
pub fn is_moment(text: &str) -> bool {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let is_time = |part: &str| {
        part.eq_ignore_ascii_case("allballs")
            || part.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.' | b'+' | b'-'))
    };
    WORDS.iter().any(|known| word.eq_ignore_ascii_case(known)) && rest.split_whitespace().all(is_time)
}

#[cfg(test)]
mod tests {
    use super::is_moment;

    #[test]
    fn moments_are_told_from_words() {
        for text in ["now", " NOW ", "today 10:00", "tomorrow allballs", "yesterday 04:05:06.7+02"] {
            assert!(is_moment(text), "{text}");
        }
        for text in ["", "nowhere", "now or never", "epoch", "2024-02-29", "right now"] {
            assert!(!is_moment(text), "{text}");
        }
    }
}
