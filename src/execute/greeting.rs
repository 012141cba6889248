//! What a client is told at its login: the parameters of a server under the client's own settings.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use pgsluice_sharding::sql::Access;

use crate::protocol::error::{ErrorFields, Severity};
use crate::protocol::frame::Header;
use crate::protocol::reply;
use crate::session::settings::Settings;

use super::{Conversation, End, Failure};

/// Parameters by name, in the order a server reported them.
pub type Greeting = Arc<[(String, String)]>;

/// Kept at most; when there are more, all are forgotten.
const GREETINGS_MAX: usize = 1000;

/// What all workers know of the greetings of one database: a worker that greets for the first time
/// needs no server, so clients can log in while there is none.
#[derive(Debug, Default)]
pub struct Greetings(Mutex<HashMap<(Box<str>, Settings), Greeting>>);

impl Greetings {
    fn get(&self, user: &str, settings: &Settings) -> Option<Greeting> {
        self.known().get(&(user.into(), settings.clone())).cloned()
    }

    fn insert(&self, user: &str, settings: Settings, greeting: Greeting) {
        let mut known = self.known();
        if known.len() >= GREETINGS_MAX {
            known.clear();
        }
        known.insert((user.into(), settings), greeting);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(Box<str>, Settings), Greeting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Conversation {
    /// Bytes on their way to the client.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.client.out
    }

    /// The parameters to report, asked from a server once for each set of startup settings.
    ///
    /// # Errors
    /// A setting of the startup packet that a server does not accept, or no server.
    pub async fn greeting(&mut self) -> Result<Greeting, End> {
        let greeting = self.any_greeting().await?;
        if let Some((_, encoding)) = greeting.iter().find(|(name, _)| name == "client_encoding") {
            self.encoding_by_default = encoding.as_str().into();
        }
        let unreadable = greeting.iter().find_map(|(name, value)| unreadable(name, value));
        match unreadable.filter(|_| self.served.shards.len() > 1) {
            Some(refusal) => Err(End::Fatal(fatal(refusal))),
            None => Ok(greeting),
        }
    }

    async fn any_greeting(&mut self) -> Result<Greeting, End> {
        let mut settings = (**self.session.settings()).clone();
        settings.reset("application_name");
        if let Some(known) = self.served.greetings.borrow().get(&settings) {
            return Ok(known.clone());
        }
        if let Some(known) = self.served.all_greetings.get(&self.served.user, &settings) {
            self.remember_greeting(settings, &known);
            return Ok(known);
        }
        let greeting: Greeting = match self.ask_greeting(&settings).await {
            Ok(greeting) => greeting.into(),
            Err(Failure::Error(fields)) => return Err(End::Fatal(fatal(fields))),
            Err(Failure::Told) => return Err(End::Fatal(self.told_error())),
            Err(Failure::End(end)) => return Err(end),
        };
        self.client.out.clear();
        self.release_if_done();
        self.served.all_greetings.insert(&self.served.user, settings.clone(), greeting.clone());
        self.remember_greeting(settings, &greeting);
        Ok(greeting)
    }

    fn remember_greeting(&self, settings: Settings, greeting: &Greeting) {
        let mut known = self.served.greetings.borrow_mut();
        if known.len() >= GREETINGS_MAX {
            known.clear();
        }
        known.insert(Rc::new(settings), greeting.clone());
    }

    /// The error that a server has just given, as the end of the login.
    fn told_error(&mut self) -> ErrorFields {
        let out = self.client.out.split();
        let mut rest = &out[..];
        while let Ok(Some(header)) = Header::parse(rest) {
            if header.tag == b'E' {
                return fatal(ErrorFields::parse(&rest[5..header.total]));
            }
            rest = &rest[header.total..];
        }
        ErrorFields::fatal("08006", "the login failed on the server")
    }

    async fn ask_greeting(&mut self, settings: &Settings) -> Result<Vec<(String, String)>, Failure> {
        let i = self.any_link().await?;
        let mut parameters = self.links[i].server.parameters.clone();
        parameters.retain(|(name, _)| name != "application_name");
        let applied = self.links[i].server.state.settings().clone();
        let back = Settings::default().replay(&applied);
        if !back.is_empty() {
            self.ask(i, &back).await?.into_result(self)?;
        }
        self.links[i].server.state.set_settings(Rc::default());
        self.client.out.clear();
        let replay = settings.replay(&Settings::default());
        if !replay.is_empty() {
            self.ask(i, &replay).await?.into_result(self)?;
            self.links[i].server.state.set_settings(Rc::new(settings.clone()));
        }
        let mut rest = &self.client.out[..];
        while let Ok(Some(header)) = Header::parse(rest) {
            if let (b'S', Ok((name, value))) = (header.tag, reply::parameter_status(&rest[5..header.total])) {
                let name = String::from_utf8_lossy(name).into_owned();
                parameters.retain(|(known, _)| *known != name);
                parameters.push((name, String::from_utf8_lossy(value).into_owned()));
            }
            rest = &rest[header.total..];
        }
        Ok(parameters)
    }

    /// A server of the first shard that has one.
    async fn any_link(&mut self) -> Result<usize, Failure> {
        let mut last = None;
        for shard in self.served.all_shards() {
            match self.link_on(shard, Access::Read).await {
                Ok(i) => return Ok(i),
                Err(Failure::Error(fields)) => last = Some(fields),
                Err(other) => return Err(other),
            }
        }
        Err(last.unwrap_or_else(|| ErrorFields::error("08006", "the database has no shard")).into())
    }
}

/// Why the router cannot read keys as PostgreSQL does under a setting, if that is so.
pub(super) fn unreadable(name: &str, value: &str) -> Option<ErrorFields> {
    let value: String = value.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    if name.eq_ignore_ascii_case("client_encoding") && !["utf8", "unicode", "sqlascii"].contains(&value.as_str()) {
        let message = "client_encoding must be UTF8 over several shards: keys are hashed as they are sent";
        return Some(ErrorFields::error("0A000", message).with_hint("Set client_encoding to UTF8."));
    }
    // PostgreSQL takes the beginnings of these words too.
    let off = value == "0" || ["off", "false", "no"].iter().any(|word| !value.is_empty() && word.starts_with(&value));
    if name.eq_ignore_ascii_case("standard_conforming_strings") && off {
        let message = "standard_conforming_strings cannot be off over several shards";
        return Some(ErrorFields::error("0A000", message).with_hint("Write backslash escapes in E'...' strings."));
    }
    None
}

fn fatal(fields: ErrorFields) -> ErrorFields {
    ErrorFields { severity: Severity::Fatal, ..fields }
}
