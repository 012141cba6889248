//! Configurations of other poolers -> a `sluice.toml`, with a list of what has no counterpart. Pure.

mod pgbouncer;
mod pgcat;

use std::fmt::Write;

/// What an import gives.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The text of a `sluice.toml`.
    pub toml: String,
    /// What was left out or changed, one line each.
    pub notes: Vec<String>,
}

/// Reads a configuration of PgBouncer (`.ini`) or PgCat (`.toml`); `included` gives the text of a file that it
/// names, such as PgBouncer's `auth_file`.
///
/// # Errors
/// A file that is neither, or that cannot be read as what it is.
pub fn import(name: &str, text: &str, included: impl Fn(&str) -> Result<String, String>) -> Result<Imported, String> {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("ini") => pgbouncer::import(text, included),
        Some("toml") => pgcat::import(text),
        _ => Err(format!("{name}: a pgbouncer.ini or a pgcat.toml is wanted")),
    }
}

/// A file under construction.
#[derive(Default)]
struct Draft {
    toml: String,
    notes: Vec<String>,
}

impl Draft {
    fn section(&mut self, header: &str) {
        let gap = if self.toml.is_empty() { "" } else { "\n" };
        // Writing into a string never fails.
        let _ = writeln!(self.toml, "{gap}{header}");
    }

    fn text(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.toml, "{key} = {}", quoted(value));
    }

    fn raw(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.toml, "{key} = {value}");
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// A user whose servers log in by themselves too.
    fn user(&mut self, name: &str, password: Option<&str>, role: Option<&str>) {
        self.section("[[user]]");
        self.text("name", name);
        if let Some(password) = password {
            self.text("password", password);
        }
        if let Some(role) = role {
            self.text("role", role);
        }
    }

    fn done(self) -> Imported {
        Imported { toml: self.toml, notes: self.notes }
    }
}

/// A TOML string in which `$` does not begin a variable.
fn quoted(value: &str) -> String {
    toml::Value::String(value.replace("${", "$${")).to_string()
}

/// Where an instance is, and as whom to log in there.
#[derive(Clone, Debug, Default)]
struct Place {
    host: String,
    port: String,
    database: String,
    user: Option<String>,
    password: Option<String>,
}

impl Place {
    fn url(&self) -> String {
        let mut login = self.user.as_deref().map(escaped).unwrap_or_default();
        if let Some(password) = &self.password {
            login = format!("{login}:{}", escaped(password));
        }
        if !login.is_empty() {
            login.push('@');
        }
        let database = escaped(&self.database);
        if self.host.starts_with('/') {
            return format!("postgres://{login}/{database}?host={}&port={}", escaped(&self.host), self.port);
        }
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("postgres://{login}{host}:{}/{database}", self.port)
    }
}

/// Percent-encoded, as parts of URLs are.
fn escaped(part: &str) -> String {
    let mut out = String::new();
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
