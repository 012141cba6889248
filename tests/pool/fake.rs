//! A PostgreSQL that is not there: it speaks the protocol strictly, knows a few statements, and now and
//! then is slow, answers in pieces, or drops a connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::tagged::Dice;
use super::wire::message;

/// Everybody's: what the postmaster knows.
pub struct Fake {
    backends: RefCell<HashMap<i32, Rc<Backend>>>,
    dice: RefCell<Dice>,
    next: Cell<i32>,
    /// Accidents happen.
    pub wild: Cell<bool>,
}

/// What a cancel request finds.
#[derive(Default)]
struct Backend {
    cancelled: Cell<bool>,
    signal: Notify,
}

impl Fake {
    /// Listens in the folder as on port 5432, for as long as the runtime lives.
    pub fn start(folder: &Path, dice: Dice) -> Rc<Self> {
        let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
        let fake = Rc::new(Self {
            backends: RefCell::default(),
            dice: RefCell::new(dice),
            next: Cell::new(1),
            wild: Cell::new(true),
        });
        let postmaster = fake.clone();
        drop(spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let seed = postmaster.below(u64::MAX);
                let connection = Connection::new(postmaster.clone(), stream, Dice(seed));
                // A connection that is lost needs no obituary: what matters is what its client says.
                drop(spawn_local(async move { drop(connection.serve().await) }));
            }
        }));
        fake
    }

    fn below(&self, sides: u64) -> u64 {
        self.dice.borrow_mut().below(sides)
    }

    fn cancel(&self, pid: i32) {
        if let Some(backend) = self.backends.borrow().get(&pid) {
            backend.cancelled.set(true);
            backend.signal.notify_one();
        }
    }
}

/// What a statement's text means here.
#[derive(Clone, Debug, PartialEq)]
enum Meaning {
    /// Rows of a tag and a filler of so many bytes.
    Rows {
        tag: Tag,
        count: Count,
        filler: usize,
        nap: Option<Duration>,
    },
    CopyOut {
        tag: String,
        count: u64,
    },
    Setting(String),
    DivisionByZero,
    Begin,
    End,
    Set {
        name: String,
        value: Option<String>,
    },
    /// Nothing but its command tag.
    Other(String),
    Empty,
}

#[derive(Clone, Debug, PartialEq)]
enum Tag {
    Is(String),
    Parameter,
}

#[derive(Clone, Debug, PartialEq)]
enum Count {
    Is(u64),
    Parameter,
}

impl Meaning {
    fn of(sql: &str) -> Self {
        let sql = sql.trim();
        let word = sql.split([' ', ';']).next().unwrap_or_default().to_ascii_uppercase();
        match word.as_str() {
            "" => Self::Empty,
            "BEGIN" => Self::Begin,
            "COMMIT" | "ROLLBACK" => Self::End,
            "SET" | "RESET" => {
                let mut parts = sql[word.len()..].splitn(2, [' ', '=']).filter(|part| !part.is_empty());
                let rest = parts.next().unwrap_or_default();
                let (name, value) = rest
                    .split_once([' ', '='])
                    .map_or((rest, None), |(name, value)| (name, value.split('\'').nth(1).map(str::to_owned)));
                Self::Set { name: name.replace('"', "").to_ascii_lowercase(), value }
            }
            "SHOW" => Self::Setting(sql[5..].trim().to_owned()),
            "COPY" => Self::CopyOut { tag: quoted(sql), count: number_after(sql, "generate_series(1, ").unwrap_or(1) },
            "SELECT" if sql.contains("1 / 0") => Self::DivisionByZero,
            "SELECT" if sql.contains("current_setting(") => Self::Setting(quoted(sql)),
            "SELECT" => Self::Rows {
                tag: if sql.contains("$1::text") { Tag::Parameter } else { Tag::Is(quoted(sql)) },
                count: match sql.contains("generate_series(1, $1") {
                    true => Count::Parameter,
                    false => Count::Is(number_after(sql, "generate_series(1, ").unwrap_or(1)),
                },
                filler: number_after(sql, "repeat('x', ").map_or(0, |n| usize::try_from(n).unwrap()),
                nap: sql.contains("pg_sleep(").then_some(Duration::from_millis(20)),
            },
            _ => Self::Other(word),
        }
    }

    fn gives_rows(&self) -> bool {
        matches!(self, Self::Rows { .. } | Self::Setting(_) | Self::DivisionByZero)
    }
}

fn quoted(sql: &str) -> String {
    sql.split('\'').nth(1).unwrap_or_default().to_owned()
}

fn number_after(sql: &str, before: &str) -> Option<u64> {
    let rest = &sql[sql.find(before)? + before.len()..];
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Rows that are still to come, of one tag.
#[derive(Clone, Debug)]
struct Portal {
    meaning: Meaning,
    parameter: String,
    left: u64,
}

/// An error as SQLSTATE.
type Sql<T> = Result<T, &'static str>;

struct Connection {
    fake: Rc<Fake>,
    stream: UnixStream,
    dice: Dice,
    pid: i32,
    backend: Rc<Backend>,
    out: Vec<u8>,
    statements: HashMap<String, (Meaning, usize)>,
    portals: HashMap<String, Portal>,
    settings: HashMap<String, String>,
    status: u8,
    /// After an error in the extended protocol everything up to Sync is skipped.
    skips: bool,
}

impl Connection {
    fn new(fake: Rc<Fake>, stream: UnixStream, dice: Dice) -> Self {
        let pid = fake.next.replace(fake.next.get() + 1);
        Self {
            fake,
            stream,
            dice,
            pid,
            backend: Rc::default(),
            out: Vec::new(),
            statements: HashMap::new(),
            portals: HashMap::new(),
            settings: HashMap::new(),
            status: b'I',
            skips: false,
        }
    }

    async fn serve(mut self) -> io::Result<()> {
        let startup = self.sized().await?;
        if startup[..4] == 80_877_102_u32.to_be_bytes() {
            // A signal takes its time, but it is sent when the requester is let go.
            sleep(Duration::from_micros(self.dice.below(5_000))).await;
            self.fake.cancel(i32::from_be_bytes(startup[4..8].try_into().unwrap()));
            return Ok(());
        }
        self.fake.backends.borrow_mut().insert(self.pid, self.backend.clone());
        self.put(b'R', &[0; 4]);
        for (name, value) in [
            ("server_version", "15.0"),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
            ("integer_datetimes", "on"),
        ] {
            self.put(b'S', format!("{name}\0{value}\0").as_bytes());
        }
        self.put(b'K', &[self.pid.to_be_bytes(), [7; 4]].concat());
        self.ready();
        let end = self.converse().await;
        self.fake.backends.borrow_mut().remove(&self.pid);
        end
    }

    async fn converse(&mut self) -> io::Result<()> {
        self.flush().await?;
        loop {
            let tag = self.stream.read_u8().await?;
            let body = self.sized().await?;
            if tag == b'X' {
                return Ok(());
            }
            self.backend.cancelled.set(false);
            self.take(tag, &body).await?;
            // As PostgreSQL: whoever forgets Flush or Sync waits for ever.
            if matches!(tag, b'S' | b'Q' | b'H') {
                self.flush().await?;
            }
        }
    }

    async fn sized(&mut self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.stream.read_u32().await?).unwrap();
        let mut body = vec![0; length.checked_sub(4).unwrap()];
        self.stream.read_exact(&mut body).await?;
        Ok(body)
    }

    fn put(&mut self, tag: u8, body: &[u8]) {
        self.out.extend(message(tag, body));
    }

    fn complete(&mut self, tag: &str) {
        self.put(b'C', format!("{tag}\0").as_bytes());
    }

    fn ready(&mut self) {
        self.put(b'Z', &[self.status]);
    }

    fn error(&mut self, sqlstate: &str) {
        self.put(b'E', format!("SERROR\0VERROR\0C{sqlstate}\0Mfailed as asked\0\0").as_bytes());
        if self.status == b'T' {
            self.status = b'E';
        }
    }

    /// In pieces, after a while, or never: then the connection is lost.
    async fn flush(&mut self) -> io::Result<()> {
        let out = std::mem::take(&mut self.out);
        if out.is_empty() {
            return Ok(());
        }
        let accident = if self.fake.wild.get() { self.dice.below(400) } else { 400 };
        let piece = match accident {
            0 => return Err(io::ErrorKind::ConnectionAborted.into()),
            1 => {
                let some = usize::try_from(self.dice.below(out.len() as u64)).unwrap();
                self.stream.write_all(&out[..some]).await?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            2 => {
                let fatal = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0");
                self.stream.write_all(&fatal).await?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            3 => {
                sleep(Duration::from_millis(self.dice.below(3_000))).await;
                out.len()
            }
            4..40 => usize::try_from(1 + self.dice.below(out.len() as u64)).unwrap(),
            _ => out.len(),
        };
        for piece in out.chunks(piece) {
            self.stream.write_all(piece).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn take(&mut self, tag: u8, body: &[u8]) -> io::Result<()> {
        if tag == b'S' {
            self.skips = false;
            if self.status == b'I' {
                self.portals.clear();
            }
            self.ready();
            return Ok(());
        }
        if tag == b'Q' {
            self.simple(body).await?;
            return Ok(());
        }
        if self.skips {
            return Ok(());
        }
        let answered = match tag {
            b'P' => self.parse(body),
            b'B' => self.bind(body),
            b'D' => self.describe(body),
            b'E' => self.execute(body).await?,
            b'C' => {
                let name = text(&body[1..]);
                if body[0] == b'S' {
                    drop(self.statements.remove(name));
                } else {
                    drop(self.portals.remove(name));
                }
                self.put(b'3', b"");
                Ok(())
            }
            b'H' => Ok(()),
            other => panic!("message {:?} from the router", char::from(other)),
        };
        if let Err(sqlstate) = answered {
            self.error(sqlstate);
            self.skips = true;
        }
        Ok(())
    }

    fn parse(&mut self, body: &[u8]) -> Sql<()> {
        let name = text(body);
        let sql = text(&body[name.len() + 1..]);
        if !name.is_empty() && self.statements.contains_key(name) {
            return Err("42P05");
        }
        let meaning = Meaning::of(sql);
        self.check_block(&meaning)?;
        self.statements.insert(name.to_owned(), (meaning, usize::from(sql.contains("$1"))));
        self.put(b'1', b"");
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Sql<()> {
        let portal = text(body);
        let statement = text(&body[portal.len() + 1..]);
        let mut rest = &body[portal.len() + statement.len() + 2..];
        let (meaning, parameters) = self.statements.get(statement).cloned().ok_or("26000")?;
        self.check_block(&meaning)?;
        let formats = number(&mut rest);
        rest = &rest[2 * formats..];
        if number(&mut rest) != parameters {
            return Err("08P01");
        }
        let parameter = match parameters {
            0 => String::new(),
            _ => {
                let length = usize::try_from(u32::from_be_bytes(rest[..4].try_into().unwrap())).unwrap();
                String::from_utf8(rest[4..4 + length].to_vec()).unwrap()
            }
        };
        if !portal.is_empty() && self.portals.contains_key(portal) {
            return Err("42P03");
        }
        let left = match &meaning {
            Meaning::Rows { count: Count::Is(count), .. } => *count,
            Meaning::Rows { count: Count::Parameter, .. } => parameter.parse().map_err(|_| "22P02")?,
            _ => 1,
        };
        self.portals.insert(portal.to_owned(), Portal { meaning, parameter, left });
        self.put(b'2', b"");
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Sql<()> {
        let name = text(&body[1..]);
        let meaning = match body[0] {
            b'S' => {
                let (meaning, parameters) = self.statements.get(name).cloned().ok_or("26000")?;
                let mut types = u16::try_from(parameters).unwrap().to_be_bytes().to_vec();
                types.extend(25_u32.to_be_bytes().repeat(parameters));
                self.put(b't', &types);
                meaning
            }
            _ => self.portals.get(name).cloned().ok_or("34000")?.meaning,
        };
        if meaning.gives_rows() {
            self.row_description();
        } else {
            self.put(b'n', b"");
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> io::Result<Sql<()>> {
        let name = text(body);
        let max = u64::from(u32::from_be_bytes(body[name.len() + 1..].try_into().unwrap()));
        let Some(mut portal) = self.portals.get(name).cloned() else { return Ok(Err("34000")) };
        let now = if max == 0 { portal.left } else { portal.left.min(max) };
        if let Err(sqlstate) = self.run(&portal.meaning, &portal.parameter, now).await? {
            return Ok(Err(sqlstate));
        }
        portal.left -= now;
        if portal.left > 0 || max > 0 && now == max {
            // The command tag that was put last is not due yet.
            self.take_back_tag();
            self.put(b's', b"");
        }
        self.portals.insert(name.to_owned(), portal);
        Ok(Ok(()))
    }

    fn take_back_tag(&mut self) {
        let tag = message(b'C', b"SELECT 00000\0").len();
        self.out.truncate(self.out.len() - tag);
    }

    async fn simple(&mut self, body: &[u8]) -> io::Result<()> {
        let sql = text(body).to_owned();
        self.portals.remove("");
        self.statements.remove("");
        let parts: Vec<&str> = sql.split(';').filter(|part| !part.trim().is_empty()).collect();
        if parts.is_empty() {
            self.put(b'I', b"");
        }
        for part in parts {
            let meaning = Meaning::of(part);
            if let Err(sqlstate) = self.check_block(&meaning) {
                self.error(sqlstate);
                break;
            }
            if meaning.gives_rows() {
                self.row_description();
            }
            let count = if let Meaning::Rows { count: Count::Is(count), .. } = &meaning { *count } else { 1 };
            if let Err(sqlstate) = self.run(&meaning, "", count).await? {
                self.error(sqlstate);
                break;
            }
        }
        self.ready();
        Ok(())
    }

    fn check_block(&self, meaning: &Meaning) -> Sql<()> {
        if self.status == b'E' && *meaning != Meaning::End { Err("25P02") } else { Ok(()) }
    }

    fn row_description(&mut self) {
        let mut body = vec![0, 2];
        for name in ["tag", "filler"] {
            body.extend(name.as_bytes());
            body.extend([0; 7]);
            body.extend(25_u32.to_be_bytes());
            body.extend([0xff; 6]);
            body.extend([0; 2]);
        }
        self.put(b'T', &body);
    }

    /// Runs a statement up to its command tag.
    async fn run(&mut self, meaning: &Meaning, parameter: &str, count: u64) -> io::Result<Sql<()>> {
        match meaning {
            Meaning::DivisionByZero => return Ok(Err("22012")),
            Meaning::Empty => self.put(b'I', b""),
            Meaning::Begin => {
                self.status = b'T';
                self.complete("BEGIN");
            }
            Meaning::End => {
                self.status = b'I';
                self.portals.clear();
                self.complete("COMMIT");
            }
            Meaning::Set { name, value } => {
                match value {
                    Some(value) => drop(self.settings.insert(name.clone(), value.clone())),
                    None => drop(self.settings.remove(name)),
                }
                self.complete("SET");
            }
            Meaning::Setting(name) => {
                let value = self.settings.get(name).cloned().unwrap_or_default();
                self.row(&value, 0);
                self.complete("SHOW");
            }
            Meaning::CopyOut { tag, count } => {
                self.put(b'H', &[0, 0, 1, 0, 0]);
                for _ in 0..*count {
                    self.put(b'd', format!("{tag}\tx\n").as_bytes());
                }
                self.put(b'c', b"");
                self.complete(&format!("COPY {count}"));
            }
            Meaning::Rows { tag, filler, nap, .. } => {
                if let Some(nap) = nap {
                    self.nap(*nap).await;
                }
                let tag = if let Tag::Is(tag) = tag { tag } else { parameter };
                for row in 0..count {
                    self.row(tag, *filler);
                    if row % 64 == 63 {
                        self.flush().await?;
                    }
                    if self.backend.cancelled.get() {
                        return Ok(Err("57014"));
                    }
                }
                if self.backend.cancelled.get() {
                    return Ok(Err("57014"));
                }
                self.complete(&format!("SELECT {count:05}"));
            }
            Meaning::Other(word) => {
                let word = word.clone();
                if word == "DISCARD" {
                    self.settings.clear();
                    self.statements.clear();
                    self.portals.clear();
                }
                self.complete(&word);
            }
        }
        Ok(Ok(()))
    }

    /// Ends early when the statement is cancelled.
    async fn nap(&mut self, nap: Duration) {
        let until = tokio::time::Instant::now() + nap;
        while !self.backend.cancelled.get() {
            tokio::select! {
                () = self.backend.signal.notified() => {}
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    fn row(&mut self, tag: &str, filler: usize) {
        let mut body = vec![0, 2];
        for value in [tag, &"x".repeat(filler)] {
            body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            body.extend(value.as_bytes());
        }
        self.put(b'D', &body);
    }
}

/// The text up to the zero byte.
fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap();
    std::str::from_utf8(&bytes[..end]).unwrap()
}

fn number(rest: &mut &[u8]) -> usize {
    let (number, after) = rest.split_at(2);
    *rest = after;
    usize::from(u16::from_be_bytes(number.try_into().unwrap()))
}
