//! What a session has SET: it follows the session to whatever server runs its next statement.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Settings by lower-case name, each as it is written after `SET name TO`. Immutable once shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    values: BTreeMap<String, String>,
}

impl Settings {
    /// The settings of a startup packet: values are plain text there.
    pub fn of_startup<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut settings = Self::default();
        for (name, value) in parameters {
            settings.set(name, if is_list(name) { quote_list(value) } else { quote_literal(value) });
        }
        settings
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// `value` is SQL: quoted where it must be.
    pub fn set(&mut self, name: &str, value: String) {
        self.values.insert(name.to_ascii_lowercase(), value);
    }

    pub fn reset(&mut self, name: &str) {
        self.values.remove(&name.to_ascii_lowercase());
    }

    /// Forgets all but what RESET ALL leaves alone.
    pub fn reset_all(&mut self) {
        self.values.retain(|name, _| matches!(name.as_str(), "role" | "session_authorization"));
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Those on which it may depend what a statement means that is prepared under them, with those of
    /// `local` in their place: `'01/02/2024'::date` is made a date when the statement is prepared.
    pub fn reading(&self, local: Option<&Self>) -> Self {
        let all = self.values.iter().chain(local.into_iter().flat_map(|local| &local.values));
        Self { values: all.filter(|(name, _)| decides_reading(name)).map(|(n, v)| (n.clone(), v.clone())).collect() }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The statements that turn a server with settings `from` into one with these; empty when they
    /// are equal. Who the session is comes first, because it decides what else it may set; it goes
    /// back before it changes.
    pub fn replay(&self, from: &Self) -> String {
        let mut sql = String::new();
        for name in ["role", "session_authorization"] {
            if from.values.contains_key(name) && from.values.get(name) != self.values.get(name) {
                reset(&mut sql, name);
            }
        }
        for (name, _) in from.values.iter().filter(|(name, _)| !is_identity(name)) {
            if !self.values.contains_key(name) {
                reset(&mut sql, name);
            }
        }
        for (name, value) in self.values.iter().filter(|(name, _)| !is_identity(name)) {
            if from.values.get(name) != Some(value) {
                set(&mut sql, name, value);
            }
        }
        for name in ["session_authorization", "role"] {
            if let Some(value) = self.values.get(name)
                && from.values.get(name) != Some(value)
            {
                set(&mut sql, name, value);
            }
        }
        sql
    }
}

/// Settings that decide how rows are found, kept or written and how long that may take, but neither what
/// a text means nor what is computed once for all when its plan is made; `*` stands for any end. What
/// PostgreSQL does not know of itself has a dot in its name.
const INDIFFERENT: [&str; 37] = [
    "application_name",
    "check_function_bodies",
    "client_connection_check_interval",
    "client_min_messages",
    "commit_*",
    "constraint_exclusion",
    "cpu_*",
    "cursor_tuple_fraction",
    "deadlock_timeout",
    "debug_*",
    "default_statistics_target",
    "default_table_access_method",
    "default_tablespace",
    "default_transaction_*",
    "effective_*",
    "enable_*",
    "from_collapse_limit",
    "geqo*",
    "hash_mem_multiplier",
    "idle_*",
    "jit*",
    "join_collapse_limit",
    "lc_messages",
    "lock_timeout",
    "log_*",
    "maintenance_*",
    "max_parallel_*",
    "parallel_*",
    "plan_cache_mode",
    "statement_timeout",
    "synchronous_commit",
    "temp_*",
    "tcp_*",
    "track_*",
    "transaction_*",
    "vacuum_*",
    "work_mem",
];

fn decides_reading(name: &str) -> bool {
    let indifferent = |known: &str| known.strip_suffix('*').map_or(name == known, |start| name.starts_with(start));
    !name.contains('.') && !INDIFFERENT.iter().any(|known| indifferent(known))
}

/// SET takes the value for a list of names: in quotes it would be one name.
fn is_list(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "search_path" | "temp_tablespaces") || name.ends_with("_preload_libraries")
}

/// A list of names, as a setting holds it, as one for SET: each name in quotes.
fn quote_list(value: &str) -> String {
    let mut names = vec![String::new()];
    let mut chars = value.chars().peekable();
    let mut in_quotes = false;
    while let Some(char) = chars.next() {
        let Some(name) = names.last_mut() else { break };
        match char {
            '"' if in_quotes && chars.next_if_eq(&'"').is_some() => name.push('"'),
            '"' => in_quotes = !in_quotes,
            ',' if !in_quotes => names.push(String::new()),
            _ if in_quotes => name.push(char),
            _ if char.is_ascii_whitespace() => {}
            _ => name.push(char.to_ascii_lowercase()),
        }
    }
    names.iter().map(|name| quote_literal(name)).collect::<Vec<_>>().join(", ")
}

fn is_identity(name: &str) -> bool {
    matches!(name, "role" | "session_authorization")
}

fn set(sql: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = write!(sql, "SET {} TO {value};", quote_name(name));
}

fn reset(sql: &mut String, name: &str) {
    let _ = match name {
        "role" => write!(sql, "RESET ROLE;"),
        "session_authorization" => write!(sql, "RESET SESSION AUTHORIZATION;"),
        _ => write!(sql, "RESET {};", quote_name(name)),
    };
}

/// A setting's name as SET takes it: parts of a custom name are quoted one by one.
fn quote_name(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
    parts.join(".")
}

/// A string as an SQL literal that reads the same whatever standard_conforming_strings says.
pub fn quote_literal(value: &str) -> String {
    let doubled = value.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// What [`quote_literal`] has quoted; other text is given back as it is.
pub fn unquote_literal(text: &str) -> String {
    let inside = |text: &str| Some(text.strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "'"));
    match text.strip_prefix('E') {
        Some(rest) => inside(rest).map(|plain| plain.replace("\\\\", "\\")),
        None => inside(text),
    }
    .unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Settings, quote_literal, unquote_literal};

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::of_startup(pairs.iter().copied())
    }

    #[test]
    fn replay_sends_only_the_difference() {
        let from = settings(&[("timezone", "UTC"), ("datestyle", "ISO")]);
        let to = settings(&[("timezone", "UTC"), ("search_path", "a")]);
        assert_eq!(to.replay(&from), "RESET \"datestyle\";SET \"search_path\" TO 'a';");
        assert_eq!(to.replay(&to), "");
    }

    #[test]
    fn a_list_of_names_stays_a_list() {
        let to = settings(&[("search_path", "\"$user\", Public,\"a, \"\"B\"\"\"")]);
        assert_eq!(to.replay(&settings(&[])), "SET \"search_path\" TO '$user', 'public', 'a, \"B\"';");
        assert_eq!(settings(&[("Search_Path", "")]).get("search_path"), Some("''"));
    }

    #[test]
    fn a_role_is_left_before_anything_else_is_reset_and_taken_last() {
        let from = settings(&[("role", "a"), ("work_mem", "1MB")]);
        let to = settings(&[("role", "b")]);
        assert_eq!(to.replay(&from), "RESET ROLE;RESET \"work_mem\";SET \"role\" TO 'b';");
    }

    #[test]
    fn literals_survive_any_quoting_rule() {
        for text in ["", "it's", "a\\b'", "E'x'", "\\\\"] {
            assert_eq!(unquote_literal(&quote_literal(text)), text);
        }
        assert_eq!(unquote_literal("plain"), "plain");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), "E'a\\\\''b'");
    }
}
