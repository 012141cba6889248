//! A client that shows everything a server says, and can say anything itself.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// No answer after this long is a failure of the test, not of patience.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Stands for the SQLSTATE of a connection that was closed without a word.
pub const LOST: &str = "lost";

/// One message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

/// What an ErrorResponse or a NoticeResponse says.
#[derive(Clone, PartialEq, Eq)]
pub struct Fields(HashMap<u8, String>);

impl Fields {
    /// Those in the body of the message.
    pub fn read(body: &[u8]) -> Self {
        let parts = body.split(|byte| *byte == 0).filter(|part| !part.is_empty());
        Self(parts.map(|part| (part[0], String::from_utf8_lossy(&part[1..]).into_owned())).collect())
    }

    pub fn field(&self, tag: u8) -> &str {
        self.0.get(&tag).map_or("", String::as_str)
    }

    pub fn sqlstate(&self) -> &str {
        self.field(b'C')
    }

    pub fn message(&self) -> &str {
        self.field(b'M')
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.field(b'S'), self.sqlstate(), self.message())?;
        for (name, tag) in [("DETAIL", b'D'), ("HINT", b'H'), ("CONTEXT", b'W')] {
            if !self.field(tag).is_empty() {
                write!(f, " {name}: {}", self.field(tag))?;
            }
        }
        Ok(())
    }
}

/// A column as RowDescription names it; where it comes from is left out, since every database numbers
/// its tables itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
    pub type_len: i16,
    pub typmod: i32,
    pub format: i16,
}

pub type Row = Vec<Option<Vec<u8>>>;

/// The answer to one statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Result {
    /// None when the statement has no rows to give.
    pub columns: Option<Vec<Column>>,
    pub rows: Vec<Row>,
    /// The command tag; empty after an empty statement or an error.
    pub tag: String,
}

/// Everything up to ReadyForQuery.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub results: Vec<Result>,
    pub error: Option<Fields>,
    pub notices: Vec<Fields>,
    /// Process id, channel and payload of notifications.
    pub notifications: Vec<(i32, String, String)>,
    /// What COPY TO STDOUT sent.
    pub copied: Vec<u8>,
    /// `I`, `T` or `E`.
    pub status: u8,
}

impl Answer {
    /// The rows as `psql -At` prints them; panics on an error.
    pub fn text(&self) -> String {
        assert!(self.error.is_none(), "{:?}", self.error);
        let rows = self.results.iter().flat_map(|result| &result.rows);
        rows.map(text_of).collect::<Vec<_>>().join("\n")
    }

    /// The SQLSTATE of the error; empty when there was none.
    pub fn sqlstate(&self) -> &str {
        self.error.as_ref().map_or("", Fields::sqlstate)
    }

    /// The last command tag; panics on an error.
    pub fn tag(&self) -> &str {
        assert!(self.error.is_none(), "{:?}", self.error);
        self.results.last().map_or("", |result| &result.tag)
    }
}

fn text_of(row: &Row) -> String {
    let value = |value: &Option<Vec<u8>>| String::from_utf8_lossy(value.as_deref().unwrap_or(b"")).into_owned();
    row.iter().map(value).collect::<Vec<_>>().join("|")
}

/// A connection to a server or to the router.
pub struct Wire {
    stream: TcpStream,
    inbox: Vec<u8>,
    /// Bytes at the front of the inbox that are read already.
    taken: usize,
    pub pid: i32,
    pub secret: Vec<u8>,
    pub parameters: HashMap<String, String>,
}

impl Wire {
    /// Logs in where no password is asked for; panics when that fails.
    pub fn connect(port: u16, user: &str, database: &str) -> Self {
        match Self::try_connect(port, &[("user", user), ("database", database)]) {
            Ok(wire) => wire,
            Err(error) => panic!("cannot connect to {database}: {error:?}"),
        }
    }

    pub fn try_connect(port: u16, parameters: &[(&str, &str)]) -> std::result::Result<Self, Fields> {
        let mut wire = Self::open(port);
        wire.send(&startup(parameters));
        loop {
            let message = wire.message().map_err(|error| lost(&error))?;
            match message.tag {
                b'E' => return Err(Fields::read(&message.body)),
                b'K' => {
                    wire.pid = i32::from_be_bytes(message.body[..4].try_into().unwrap());
                    wire.secret = message.body[4..].to_vec();
                }
                b'S' => {
                    let mut parts = message.body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
                    let (name, value) = (parts.next().unwrap(), parts.next().unwrap());
                    wire.parameters.insert(name.into_owned(), value.into_owned());
                }
                b'Z' => return Ok(wire),
                b'R' => assert_eq!(message.body, [0, 0, 0, 0], "a password is asked for"),
                b'N' => {}
                tag => panic!("{} during the login", char::from(tag)),
            }
        }
    }

    /// Connects and says nothing yet.
    pub fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        Self { stream, inbox: Vec::new(), taken: 0, pid: 0, secret: Vec::new(), parameters: HashMap::new() }
    }

    /// An answer that takes longer counts as none.
    pub fn set_patience(&mut self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    /// Sends bytes as they are. A server that has hung up shows when its answer is read.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).ok();
    }

    /// Sends nothing more; the answer can still be read.
    pub fn end_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Everything the server sends until it closes the connection.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = self.inbox.split_off(std::mem::take(&mut self.taken));
        self.inbox.clear();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => bytes,
            Err(error) => panic!("the connection stays open: {error}"),
        }
    }

    /// The next message.
    pub fn message(&mut self) -> io::Result<Message> {
        self.fill(5)?;
        let head = &self.inbox[self.taken..];
        let tag = head[0];
        let length = u32::from_be_bytes(head[1..5].try_into().unwrap()) as usize;
        self.fill(1 + length)?;
        let body = self.inbox[self.taken + 5..=self.taken + length].to_vec();
        self.taken += 1 + length;
        Ok(Message { tag, body })
    }

    fn fill(&mut self, least: usize) -> io::Result<()> {
        if self.inbox.len() - self.taken >= least {
            return Ok(());
        }
        self.inbox.drain(..std::mem::take(&mut self.taken));
        let mut chunk = vec![0; 64 << 10];
        while self.inbox.len() < least {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.inbox.extend_from_slice(&chunk[..count]),
                // With a timeout set, a process that was stopped and woken sees this.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads up to ReadyForQuery and keeps none of it: how many bytes of rows there were, or the error.
    pub fn pass_over(&mut self) -> std::result::Result<usize, Fields> {
        let mut chunk = vec![0; 64 << 10];
        let (mut rows, mut error) = (0, None);
        loop {
            let mut rest = &self.inbox[self.taken..];
            while let Some((&[tag, a, b, c, d], _)) = rest.split_first_chunk::<5>() {
                let total = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
                let Some((message, behind)) = rest.split_at_checked(total) else { break };
                rest = behind;
                match tag {
                    b'D' => rows += total,
                    b'E' => error = Some(Fields::read(&message[5..])),
                    b'Z' => {
                        self.taken = self.inbox.len() - rest.len();
                        return error.map_or(Ok(rows), Err);
                    }
                    _ => {}
                }
            }
            let taken = self.inbox.len() - rest.len();
            self.inbox.drain(..taken);
            self.taken = 0;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(lost(&io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.inbox.extend_from_slice(&chunk[..count]),
                Err(error) => return Err(lost(&error)),
            }
        }
    }

    /// Runs statements by the simple protocol.
    pub fn query(&mut self, sql: &str) -> Answer {
        self.send(&query(sql));
        self.answer(&[])
    }

    /// The rows of a statement as text; panics when it fails.
    pub fn text(&mut self, sql: &str) -> String {
        self.query(sql).text()
    }

    /// Runs COPY ... FROM STDIN with this data.
    pub fn copy(&mut self, sql: &str, data: &[u8]) -> Answer {
        self.send(&query(sql));
        self.answer(data)
    }

    /// Runs one statement by the extended protocol; parameters are text of unknown types.
    pub fn execute(&mut self, sql: &str, parameters: &[Option<&str>], binary: bool) -> Answer {
        let mut out = parse("", sql);
        out.extend(bind("", "", parameters, binary));
        out.extend(message(b'D', b"P\0"));
        out.extend(execute(""));
        out.extend(sync());
        self.send(&out);
        self.answer(&[])
    }

    /// Reads up to ReadyForQuery; whoever asks for COPY data gets it. A lost connection becomes the
    /// error `LOST` with status 0.
    pub fn answer(&mut self, copy: &[u8]) -> Answer {
        let mut answer = Answer::default();
        let mut current = Result::default();
        loop {
            let message = match self.message() {
                Ok(message) => message,
                Err(error) => {
                    answer.error.get_or_insert(lost(&error));
                    answer.results.push(current);
                    return answer;
                }
            };
            match message.tag {
                b'T' => current.columns = Some(columns(&message.body)),
                b'D' => current.rows.push(values(&message.body)),
                b'C' => {
                    current.tag = String::from_utf8_lossy(message.body.strip_suffix(&[0]).unwrap()).into_owned();
                    answer.results.push(std::mem::take(&mut current));
                }
                b'I' => answer.results.push(std::mem::take(&mut current)),
                b'E' => {
                    let second = Fields::read(&message.body);
                    assert!(answer.error.is_none(), "a second error after {:?}: {second:?}", answer.error);
                    answer.error = Some(Fields::read(&message.body));
                    if !current.rows.is_empty() {
                        answer.results.push(std::mem::take(&mut current));
                    }
                }
                b'N' => answer.notices.push(Fields::read(&message.body)),
                b'G' => self.send_copy(copy),
                b'd' => answer.copied.extend_from_slice(&message.body),
                b'S' | b'H' | b'c' | b'1' | b'2' | b'3' | b'n' | b's' | b't' => {}
                b'A' => answer.notifications.push(notification(&message.body)),
                b'Z' => {
                    answer.status = message.body[0];
                    return answer;
                }
                tag => panic!("unexpected message {}", char::from(tag)),
            }
        }
    }

    fn send_copy(&mut self, data: &[u8]) {
        for piece in data.chunks(7000) {
            self.send(&message(b'd', piece));
        }
        self.send(&message(b'c', b""));
    }
}

/// Process id, channel and payload.
pub fn notification(body: &[u8]) -> (i32, String, String) {
    let pid = i32::from_be_bytes(body[..4].try_into().unwrap());
    let mut texts = body[4..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    (pid, texts.next().unwrap(), texts.next().unwrap())
}

/// The SQLSTATE in the body of an ErrorResponse.
pub fn sqlstate(body: &[u8]) -> String {
    Fields::read(body).sqlstate().to_owned()
}

fn lost(error: &io::Error) -> Fields {
    let mut fields = HashMap::new();
    fields.insert(b'S', "LOST".to_owned());
    fields.insert(b'C', LOST.to_owned());
    fields.insert(b'M', error.to_string());
    Fields(fields)
}

/// The columns in the body of a RowDescription.
pub fn columns(body: &[u8]) -> Vec<Column> {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0).unwrap();
        let name = String::from_utf8_lossy(&rest[..end]).into_owned();
        let numbers = &rest[end + 1..end + 19];
        columns.push(Column {
            name,
            type_oid: u32::from_be_bytes(numbers[6..10].try_into().unwrap()),
            type_len: i16::from_be_bytes(numbers[10..12].try_into().unwrap()),
            typmod: i32::from_be_bytes(numbers[12..16].try_into().unwrap()),
            format: i16::from_be_bytes(numbers[16..18].try_into().unwrap()),
        });
        rest = &rest[end + 19..];
    }
    columns
}

/// The cells in the body of a DataRow.
pub fn values(body: &[u8]) -> Row {
    let mut rest = &body[2..];
    let mut values = Vec::new();
    while !rest.is_empty() {
        let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
        let end = 4 + usize::try_from(length).unwrap_or(0);
        values.push((length >= 0).then(|| rest[4..end].to_vec()));
        rest = &rest[end..];
    }
    values
}

/// Any message: tag, length, body.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(length(body.len() + 4));
    out.extend_from_slice(body);
    out
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap().to_be_bytes()
}

/// StartupMessage of protocol 3.0.
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(cstr(name));
        body.extend(cstr(value));
    }
    body.push(0);
    let mut out = length(body.len() + 4).to_vec();
    out.extend(body);
    out
}

/// CancelRequest, to be sent on a connection of its own.
pub fn cancel(pid: i32, secret: &[u8]) -> Vec<u8> {
    let mut out = length(12 + secret.len()).to_vec();
    out.extend(80_877_102_u32.to_be_bytes());
    out.extend(pid.to_be_bytes());
    out.extend_from_slice(secret);
    out
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &cstr(sql))
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    let mut body = cstr(name);
    body.extend(cstr(sql));
    body.extend([0, 0]);
    message(b'P', &body)
}

pub fn bind(portal: &str, statement: &str, parameters: &[Option<&str>], binary: bool) -> Vec<u8> {
    let mut body = cstr(portal);
    body.extend(cstr(statement));
    body.extend([0, 0]);
    body.extend(u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        match parameter {
            Some(text) => {
                body.extend(length(text.len()));
                body.extend_from_slice(text.as_bytes());
            }
            None => body.extend([0xff; 4]),
        }
    }
    body.extend([0, 1, 0, u8::from(binary)]);
    message(b'B', &body)
}

pub fn execute(portal: &str) -> Vec<u8> {
    let mut body = cstr(portal);
    body.extend([0; 4]);
    message(b'E', &body)
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

fn cstr(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
