//! Single values: durations, sizes, and strings that refer to the surroundings.

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What a configuration may ask of the machine. Tests bring their own.
pub struct Surroundings<'s> {
    pub variable: &'s dyn Fn(&str) -> Option<String>,
    pub read: &'s dyn Fn(&Path) -> std::io::Result<String>,
}

impl Surroundings<'static> {
    /// This process' environment and files.
    pub fn real() -> Self {
        Self { variable: &|name| env::var(name).ok(), read: &|path| fs::read_to_string(path) }
    }
}

impl Surroundings<'_> {
    /// `file:/path` becomes the file's text without the line feed at its end, `${NAME}` the
    /// variable's; `$${` stands for `${` itself.
    pub(super) fn expand(&self, text: &str) -> Result<String, String> {
        if let Some(path) = text.strip_prefix("file:") {
            let content = (self.read)(Path::new(path)).map_err(|error| format!("cannot read {path}: {error}"))?;
            return Ok(content.trim_end_matches(['\n', '\r']).to_owned());
        }
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                rest = after;
                continue;
            }
            let (name, after) = after.split_once('}').ok_or("`${` without `}`; write `$${` for the two characters")?;
            let value = (self.variable)(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
            expanded.push_str(before);
            expanded.push_str(&value);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }
}

/// `500ms`, `10s`, `5m`, `1h`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{text:?} is not a duration: write \"500ms\", \"10s\", \"5m\", \"1h\" or \"7d\"")),
    };
    let number = number.filter(|number| *number < 1_000_000_000).ok_or(format!("{text:?} is not a duration"))?;
    Ok(Duration::from_millis(number * milliseconds))
}

/// `512B`, `16kB`, `64MB`, `1GB`, in powers of 1024 as PostgreSQL's.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let bytes = match unit.to_ascii_lowercase().as_str() {
        "b" => 1,
        "kb" => 1 << 10,
        "mb" => 1 << 20,
        "gb" => 1 << 30,
        _ => return Err(format!("{text:?} is not a size: write \"512B\", \"16kB\", \"64MB\" or \"1GB\"")),
    };
    number
        .and_then(|number| number.checked_mul(bytes))
        .and_then(|number| usize::try_from(number).ok())
        .ok_or(format!("{text:?} is not a size"))
}

fn split_unit(text: &str) -> (Option<u64>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number.parse().ok(), unit.trim_start())
}

/// As it would be written in the file.
pub(crate) fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds >= length && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    if milliseconds == 0 { "0s".to_owned() } else { format!("{milliseconds}ms") }
}

/// As it would be written in the file.
pub(crate) fn show_size(bytes: usize) -> String {
    for (unit, length) in [("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)] {
        if bytes >= length && bytes.is_multiple_of(length) {
            return format!("{}{unit}", bytes / length);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_shown() {
        for text in ["500ms", "10s", "5m", "1h", "7d", "0s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        for text in ["512B", "16kB", "64MB", "1GB"] {
            assert_eq!(show_size(size(text).unwrap()), text);
        }
        for wrong in ["10", "s", "", "1 week", "-1s", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["64", "MB", "1.5GB", "99999999999999999999GB", "18446744073709551615GB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_come_from_variables_and_files() {
        let surroundings = Surroundings {
            variable: &|name| (name == "A").then(|| "x${A}".to_owned()),
            read: &|path| Ok(format!("{}\n", path.display())),
        };
        assert_eq!(surroundings.expand("1${A}2${A}").unwrap(), "1x${A}2x${A}");
        assert_eq!(surroundings.expand("$${A} $5").unwrap(), "${A} $5");
        assert_eq!(surroundings.expand("file:/run/secret").unwrap(), "/run/secret");
        assert!(surroundings.expand("${B}").unwrap_err().contains('B'));
        assert!(surroundings.expand("${A").is_err());
    }
}
