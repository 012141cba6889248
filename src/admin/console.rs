//! One console session: messages of a client in, answers out.
//!
//! The extended protocol is served for statements without parameters, which is all that drivers
//! send: PgBouncer refuses it, and with it most drivers' defaults.

use std::collections::HashMap;

use bytes::BytesMut;

use crate::admin::Operator;
use crate::admin::command::{self, Command};
use crate::admin::table::{Table, Type, cell};
use crate::config::Role;
use crate::protocol::backend::{self, TransactionStatus};
use crate::protocol::frontend::{Bind, Close, Describe, Execute, Kind, Parse, Query};
use crate::protocol::{ErrorFields, Malformed, Severity};
use crate::view::View;

/// Prepared statements and portals of one console session, each.
const NAMES_MAX: usize = 1000;

/// Whether the session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Continue,
    /// The client said goodbye, or something that is no message.
    Close,
}

/// One client of the console.
#[derive(Debug)]
pub struct Console {
    user: String,
    role: Role,
    /// `None` is an empty statement.
    statements: HashMap<Vec<u8>, Option<Command>>,
    portals: HashMap<Vec<u8>, Portal>,
    /// After an error in the extended protocol: until Sync.
    skipping: bool,
}

#[derive(Clone, Debug)]
struct Portal {
    command: Option<Command>,
    /// As Bind gave them: none, one for all, or one for each column.
    formats: Vec<i16>,
}

impl Console {
    /// For a client that has logged in as `user`.
    pub fn new(user: &str, role: Role) -> Self {
        Self { user: user.to_owned(), role, statements: HashMap::new(), portals: HashMap::new(), skipping: false }
    }

    /// Takes one message and appends the answer to `out`.
    pub async fn message(&mut self, tag: u8, body: &[u8], router: &impl Operator, out: &mut BytesMut) -> After {
        let done = match tag {
            b'X' => return After::Close,
            b'S' => {
                self.skipping = false;
                backend::ready_for_query(out, TransactionStatus::Idle);
                return After::Continue;
            }
            _ if self.skipping => return After::Continue,
            b'Q' => {
                if let Err(error) = self.query(body, router, out).await {
                    backend::error_response(out, &error);
                }
                backend::ready_for_query(out, TransactionStatus::Idle);
                return After::Continue;
            }
            b'P' => self.parse(body, out),
            b'B' => self.bind(body, out),
            b'D' => self.describe(body, out),
            b'E' => self.execute(body, router, out).await,
            b'C' => self.close(body, out),
            b'H' => Ok(()),
            _ => {
                let message = format!("the console does not understand messages of type {:?}", char::from(tag));
                backend::error_response(out, &ErrorFields::fatal("08P01", message));
                return After::Close;
            }
        };
        if let Err(error) = done {
            self.skipping = true;
            backend::error_response(out, &error);
        }
        After::Continue
    }

    async fn query(&mut self, body: &[u8], router: &impl Operator, out: &mut BytesMut) -> Result<(), ErrorFields> {
        let query = Query::read(body).map_err(malformed)?;
        let commands = command::parse(text(query.sql)?)?;
        if commands.is_empty() {
            backend::empty_query_response(out);
        }
        for command in &commands {
            command.allow(self.role)?;
            let answer = self.run(command, router).await?;
            if let Some(table) = &answer.table {
                table.encode_description(out);
            }
            answer.encode(&[], out)?;
        }
        Ok(())
    }

    fn parse(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), ErrorFields> {
        let parse = Parse::read(body).map_err(malformed)?;
        let mut commands = command::parse(text(parse.sql)?)?;
        if commands.len() > 1 {
            return Err(ErrorFields::error("42601", "cannot insert multiple commands into a prepared statement"));
        }
        put(&mut self.statements, parse.name, commands.pop())?;
        backend::parse_complete(out);
        Ok(())
    }

    fn bind(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), ErrorFields> {
        let bind = Bind::read(body).map_err(malformed)?;
        if bind.values.count() > 0 {
            return Err(ErrorFields::error("08P01", "the console's statements have no parameters"));
        }
        let command =
            self.statements.get(bind.statement).ok_or_else(|| missing("prepared statement", "26000"))?.clone();
        put(&mut self.portals, bind.portal, Portal { command, formats: bind.result_formats.codes().collect() })?;
        backend::bind_complete(out);
        Ok(())
    }

    fn describe(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), ErrorFields> {
        let describe = Describe::read(body).map_err(malformed)?;
        let (command, formats): (&Option<Command>, &[i16]) = match describe.kind {
            Kind::Statement => {
                backend::parameter_description(out, &[]);
                (self.statements.get(describe.name).ok_or_else(|| missing("prepared statement", "26000"))?, &[])
            }
            Kind::Portal => {
                let portal = self.portals.get(describe.name).ok_or_else(|| missing("portal", "34000"))?;
                (&portal.command, &portal.formats)
            }
        };
        match command.as_ref().and_then(columns) {
            Some(table) => table.encode_description_in(formats, out),
            None => backend::no_data(out),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8], router: &impl Operator, out: &mut BytesMut) -> Result<(), ErrorFields> {
        let execute = Execute::read(body).map_err(malformed)?;
        let Portal { command, formats } =
            self.portals.get(execute.portal).ok_or_else(|| missing("portal", "34000"))?.clone();
        let Some(command) = command else {
            backend::empty_query_response(out);
            return Ok(());
        };
        command.allow(self.role)?;
        // A row limit is ignored: what the console answers is small and made at once.
        self.run(&command, router).await?.encode(&formats, out)
    }

    fn close(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), ErrorFields> {
        let close = Close::read(body).map_err(malformed)?;
        match close.kind {
            Kind::Statement => drop(self.statements.remove(close.name)),
            Kind::Portal => drop(self.portals.remove(close.name)),
        }
        backend::close_complete(out);
        Ok(())
    }

    async fn run(&self, command: &Command, router: &impl Operator) -> Result<Answer, ErrorFields> {
        match command {
            Command::Show(show) => Ok(Answer::rows("SHOW", (show.table)(&router.view(show.needs).await))),
            Command::Help => Ok(Answer { notices: vec![command::help()], ..Answer::done("SHOW") }),
            Command::Parameter(name, value) => Ok(Answer::rows("SHOW", single(name).with_rows([vec![cell(value)]]))),
            Command::Select(name, value) => Ok(Answer::rows("SELECT 1", single(name).with_rows([vec![cell(value)]]))),
            Command::Set => Ok(Answer::done("SET")),
            Command::Control(control) => {
                tracing::info!(user = self.user, command = ?control, "console command");
                let done = router.control(control.clone()).await;
                if let Err(error) = &done {
                    tracing::warn!(user = self.user, command = ?control, error = %error.message, "console command failed");
                }
                done.map(|notices| Answer { notices, ..Answer::done(control.tag()) })
            }
            Command::ExplainRoute { database, statement } => {
                let lines = router.explain(database.clone(), statement.clone()).await?;
                Ok(Answer::rows("EXPLAIN", single("plan").with_rows(lines.into_iter().map(|line| vec![Some(line)]))))
            }
        }
    }
}

/// What a command gives.
#[derive(Debug)]
struct Answer {
    notices: Vec<String>,
    table: Option<Table>,
    tag: &'static str,
}

impl Answer {
    fn done(tag: &'static str) -> Self {
        Self { notices: Vec::new(), table: None, tag }
    }

    fn rows(tag: &'static str, table: Table) -> Self {
        Self { notices: Vec::new(), table: Some(table), tag }
    }

    /// Everything but the RowDescription.
    fn encode(&self, formats: &[i16], out: &mut BytesMut) -> Result<(), ErrorFields> {
        for notice in &self.notices {
            backend::notice_response(out, &ErrorFields::new(Severity::Notice, "00000", notice.clone()));
        }
        if let Some(table) = &self.table {
            table.encode_rows(formats, out)?;
        }
        backend::command_complete(out, self.tag);
        Ok(())
    }
}

/// One column of text.
fn single(name: &str) -> Table {
    Table::new(&[(name, Type::Text)])
}

/// The columns that a command will give, if any.
fn columns(command: &Command) -> Option<Table> {
    match command {
        Command::Show(show) => Some((show.table)(&View::default())),
        Command::Parameter(name, _) | Command::Select(name, _) => Some(single(name)),
        Command::ExplainRoute { .. } => Some(single("plan")),
        Command::Help | Command::Set | Command::Control(_) => None,
    }
}

fn put<V>(names: &mut HashMap<Vec<u8>, V>, name: &[u8], value: V) -> Result<(), ErrorFields> {
    if names.len() >= NAMES_MAX && !names.contains_key(name) {
        return Err(ErrorFields::error("54000", format!("a console session has at most {NAMES_MAX} names")));
    }
    names.insert(name.to_vec(), value);
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, ErrorFields> {
    std::str::from_utf8(bytes).map_err(|_| ErrorFields::error("22021", "invalid byte sequence for encoding \"UTF8\""))
}

fn malformed(malformed: Malformed) -> ErrorFields {
    ErrorFields::error("08P01", malformed.0)
}

fn missing(what: &str, sqlstate: &'static str) -> ErrorFields {
    ErrorFields::error(sqlstate, format!("the console session has no such {what}"))
}
