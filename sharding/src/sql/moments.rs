//! Strings that mean another time each time they are read as one.

use memchr::memchr2;

const WORDS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// What may stand beside such a word. Months, days of the week and parts of the day; others are names of time zones.
const KEYWORDS: [&str; 44] = [
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "sept",
    "oct",
    "nov",
    "dec",
    "january",
    "february",
    "march",
    "april",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
    "sun",
    "mon",
    "tue",
    "tues",
    "wed",
    "weds",
    "thu",
    "thur",
    "thurs",
    "fri",
    "sat",
    "am",
    "pm",
    "ad",
    "bc",
    "at",
    "on",
    "allballs",
    "t",
    "z",
];

/// Longer texts are no dates to PostgreSQL.
const BYTES_MAX: usize = 128;

/// Abbreviations of time zones are not longer.
const ABBREVIATION_MAX: usize = 6;

/// A text that is such a word, or the day of one with a time of day behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment<'t> {
    pub word: Word,
    /// The time of day, in digits; empty for none.
    pub time: &'t str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Now,
    Today,
    Tomorrow,
    Yesterday,
}

impl<'t> Moment<'t> {
    /// Reads the forms that PostgreSQL surely takes for a date and time: `now`, `today`, `today 10:00`, `Tomorrow 04:05:06.7+02`.
    pub fn read(text: &'t str) -> Option<Self> {
        let text = text.trim_matches(is_space);
        let (word, rest) = text.split_at(text.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(text.len()));
        let word = match WORDS.iter().position(|known| known.eq_ignore_ascii_case(word))? {
            0 => Word::Now,
            1 => Word::Today,
            2 => Word::Tomorrow,
            _ => Word::Yesterday,
        };
        let time = rest.trim_start_matches(is_space);
        let is_apart = time.len() < rest.len() && word != Word::Now && is_time_of_day(time);
        (rest.is_empty() || is_apart).then_some(Self { word, time })
    }
}

/// Whether PostgreSQL may take the text, as a date or a time, for one that depends on when it is read: `now`, `today 10:00`,
/// `04:05 tomorrow`, `today Europe/Berlin`.
pub fn is_moment(text: &str) -> bool {
    if text.len() > BYTES_MAX || !has_letters(text.as_bytes()) {
        return false;
    }
    let (mut moments, mut zones, mut now) = (0, 0, false);
    let named_zone = text.contains('/');
    for run in text.split(|letter: char| !letter.is_ascii_alphabetic()).filter(|run| !run.is_empty()) {
        let is_among = |words: &[&str]| words.iter().any(|word| run.eq_ignore_ascii_case(word));
        if is_among(&WORDS) {
            now |= is_among(&WORDS[..1]);
            moments += 1;
        } else if !is_among(&KEYWORDS) && !run.to_ascii_lowercase().ends_with("day") {
            zones += 1;
            if !named_zone && !(3..=ABBREVIATION_MAX).contains(&run.len()) {
                return false;
            }
        }
    }
    // What is now has its time and zone already; a zone without a name is one word.
    let fits = match now {
        true => zones == 0 && !text.bytes().any(|byte| byte.is_ascii_digit()),
        false => zones <= if named_zone { 4 } else { 1 },
    };
    moments == 1 && fits
}

/// Whether a part of an array, a range or a row in its text form is such a text.
pub fn holds_moment(text: &str) -> bool {
    has_letters(text.as_bytes())
        && text
            .replace(['"', '\\'], "")
            .split(['{', '}', '[', ']', '(', ')', ',', ';'])
            .any(|part| is_moment(part.trim_matches(is_space)))
}

/// Whether bytes have what each of the words has: `ow` or `ay`.
pub fn has_letters(bytes: &[u8]) -> bool {
    bytes.windows(2).fold(false, |found, pair| found | is_mark(pair[0], pair[1]))
}

/// Whether two letters are such as each of the words has.
#[inline]
pub(crate) fn is_mark(first: u8, second: u8) -> bool {
    let (first, second) = (first | 0x20, second | 0x20);
    (first == b'o') & (second == b'w') | (first == b'a') & (second == b'y')
}

/// As PostgreSQL passes over it in dates.
fn is_space(letter: char) -> bool {
    letter.is_ascii_whitespace() || letter == '\x0b'
}

/// `10:00`, `04:05:06.7`, `23:59+02`, `9:30-03:30`.
fn is_time_of_day(text: &str) -> bool {
    let (time, zone) = text.split_at(memchr2(b'+', b'-', text.as_bytes()).unwrap_or(text.len()));
    let number = |part: &str, below: u32, digits: &[usize]| {
        let is_number = digits.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number && part.parse::<u32>().is_ok_and(|number| number < below)
    };
    let is_fraction = |part: &str| (1..=6).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = time.split(':').collect();
    let is_time = match parts[..] {
        [hour, minute] => number(hour, 24, &[1, 2]) && number(minute, 60, &[2]),
        [hour, minute, second] => {
            let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
            number(hour, 24, &[1, 2]) && number(minute, 60, &[2]) && number(second, 60, &[2]) && is_fraction(fraction)
        }
        _ => false,
    };
    let is_zone = match zone.get(1..).unwrap_or_default().split_once(':') {
        _ if zone.is_empty() => true,
        Some((hours, minutes)) => number(hours, 15, &[2]) && number(minutes, 60, &[2]),
        None => number(&zone[1..], 15, &[2]),
    };
    is_time && is_zone
}

#[cfg(test)]
mod tests {
    use super::{Moment, Word, holds_moment, is_moment};

    #[test]
    fn moments_are_told_from_words() {
        for text in [
            "now",
            " NOW ",
            "today 10:00",
            "tomorrow allballs",
            "yesterday 04:05:06.7+02",
            "10:00 Today",
            "Monday now",
            "today,10:00 PM",
            "tomorrow Europe/Berlin",
            "today 10:00 America/Argentina/Buenos_Aires",
            "yesterday pst",
            "10:00today",
        ] {
            assert!(is_moment(text), "{text}");
        }
        for text in [
            "",
            "nowhere",
            "now or never",
            "now 10:00",
            "epoch",
            "2024-02-29",
            "right now",
            "the day after today",
            "today now",
        ] {
            assert!(!is_moment(text), "{text}");
        }
    }

    #[test]
    fn moments_are_found_in_parts() {
        for text in ["{now}", "[2024-01-01,Tomorrow)", "(1,\"to\\day 10:00\")", "{NULL,\"yesterday\"}", "{[now,),[,)}"]
        {
            assert!(holds_moment(text), "{text}");
        }
        for text in ["{}", "{nowhere,2024-01-01}", "(1,\"now or never\")"] {
            assert!(!holds_moment(text), "{text}");
        }
    }

    #[test]
    fn what_is_surely_one_is_read() {
        let read = |text| Moment::read(text).map(|moment| (moment.word, moment.time));
        assert_eq!(read("\tNow "), Some((Word::Now, "")));
        assert_eq!(read("today"), Some((Word::Today, "")));
        assert_eq!(read("tomorrow  4:05:06.789-03:30 "), Some((Word::Tomorrow, "4:05:06.789-03:30")));
        assert_eq!(read("yesterday 23:59+14"), Some((Word::Yesterday, "23:59+14")));
        for text in ["now 10:00", "today 24:00", "today10:00", "today 10", "today 10:00 pst", "10:00 today", "toda", ""]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
