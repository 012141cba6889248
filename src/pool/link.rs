//! A connection to an instance, held by value: by its pool while idle, by a client while in use.

use std::cell::Cell;
use std::io;
use std::net;
use std::os::unix;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::pool::connect::{self, CancelKey, Connected};
use crate::pool::core::{Pooled, Stamp};
use crate::pool::driver::Pool;
use crate::pool::server::{Audience, Due, Resting, ServerState};
use crate::protocol::frame::{HEADER_BYTES, Header};
use crate::protocol::{ErrorFields, frontend, reply};
use crate::transport::stream::Stream;

/// How long an idle server may take to answer Sync.
const CHECK_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a server may take to close its side.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

/// What a server takes by itself, without buffers and prepared statements.
pub const SERVER_BYTES: usize = size_of::<Server>();

/// A server's number, unique in the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u64);

/// One server. Whoever has it may use it alone; `Pool::release` gives it back. Dropping it closes it, and its pool notices.
#[derive(Debug)]
pub struct Server {
    pub id: ServerId,
    pub stream: Stream,
    pub state: ServerState,
    /// What the server last reported, by ParameterStatus at login or while idle.
    pub parameters: Vec<(String, String)>,
    pub key: Rc<CancelKey>,
    pub(super) stamp: Stamp,
    pub(super) home: Home,
    pub(super) cancels: Rc<Cancels>,
}

impl Server {
    /// The first number of `server_version`; 0 if it says none.
    pub fn major_version(&self) -> u32 {
        let version = self.parameters.iter().find(|(name, _)| name == "server_version");
        let digits = version.and_then(|(_, version)| version.split(|letter: char| !letter.is_ascii_digit()).next());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }
}

impl Pooled for Box<Server> {
    fn stamp(&self) -> Stamp {
        self.stamp
    }
}

/// The pool that a server in use belongs to; tells it when the server is dropped instead of released.
#[derive(Debug, Default)]
pub(super) struct Home(Option<Rc<Pool>>);

impl Home {
    pub(super) fn of(pool: &Rc<Pool>) -> Self {
        Self(Some(Rc::clone(pool)))
    }

    pub(super) fn is(&self, pool: &Rc<Pool>) -> bool {
        self.0.as_ref().is_some_and(|home| Rc::ptr_eq(home, pool))
    }

    /// The server is properly given back.
    pub(super) fn leave(&mut self) {
        self.0 = None;
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            pool.lost();
        }
    }
}

/// Cancel requests for one server that are under way.
#[derive(Debug, Default)]
pub(super) struct Cancels {
    in_flight: Cell<u32>,
    none_left: Notify,
    /// How often the server has been given back: who was to cancel before that comes too late.
    tenancy: Cell<u64>,
}

impl Cancels {
    pub(super) fn any(&self) -> bool {
        self.in_flight.get() > 0
    }

    /// The present client has given the server back.
    pub(super) fn end_tenancy(&self) {
        self.tenancy.set(self.tenancy.get() + 1);
    }

    /// Returns when none is under way.
    pub(super) async fn ended(&self) {
        while self.any() {
            self.none_left.notified().await;
        }
    }
}

/// Where to cancel what a server does for its present client. Without effect once that client has given the server back.
#[derive(Clone, Debug)]
pub struct CancelHandle {
    pub server: ServerId,
    key: Rc<CancelKey>,
    cancels: Rc<Cancels>,
    tenancy: u64,
    stamp: Stamp,
}

impl CancelHandle {
    /// Process id and addresses of the server.
    pub fn key(&self) -> &CancelKey {
        &self.key
    }

    /// The server's birth.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The means to cancel what runs now.
    pub fn canceller(&self) -> Canceller {
        self.cancels.in_flight.set(self.cancels.in_flight.get() + 1);
        Canceller { key: Rc::clone(&self.key), cancels: Rc::clone(&self.cancels), tenancy: self.tenancy }
    }
}

/// The right to cancel what a server does for its present client. While it exists the server is not handed to anybody else.
#[derive(Debug)]
pub struct Canceller {
    key: Rc<CancelKey>,
    cancels: Rc<Cancels>,
    tenancy: u64,
}

impl Canceller {
    /// Sends the request; returns when the instance has passed it on.
    ///
    /// # Errors
    /// The instance did not take the request.
    pub async fn cancel(self) -> io::Result<()> {
        if self.cancels.tenancy.get() != self.tenancy {
            return Ok(());
        }
        connect::cancel(&self.key).await
    }
}

impl Drop for Canceller {
    fn drop(&mut self) {
        self.cancels.in_flight.set(self.cancels.in_flight.get() - 1);
        if !self.cancels.any() {
            self.cancels.none_left.notify_one();
        }
    }
}

/// What an idle server has to say for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Alive,
    /// Closed, about to close, or out of step.
    Gone,
}

impl Server {
    pub(super) fn new(connected: Connected, stamp: Stamp, prepared_max: usize) -> Self {
        let Connected { stream, parameters, key } = connected;
        let state = ServerState::new(prepared_max);
        Self {
            id: ServerId(stamp.id),
            stream,
            state,
            parameters,
            key: Rc::new(key),
            stamp,
            home: Home::default(),
            cancels: Rc::default(),
        }
    }

    /// From this anybody can cancel what the server does, as long as it is in the same hands.
    pub fn cancel_handle(&self) -> CancelHandle {
        let tenancy = self.cancels.tenancy.get();
        CancelHandle {
            server: self.id,
            key: Rc::clone(&self.key),
            cancels: Rc::clone(&self.cancels),
            tenancy,
            stamp: self.stamp,
        }
    }

    /// The means to cancel what runs now, to be used by whoever holds the client's cancel key.
    pub fn canceller(&self) -> Canceller {
        self.cancel_handle().canceller()
    }

    /// Asks the instance to cancel what runs now; returns when it has taken the request or cannot be reached in time.
    pub async fn cancel(&self) {
        if let Err(error) = self.canceller().cancel().await {
            tracing::warn!(%error, server = self.id.0, "a cancel request did not reach the server");
        }
    }

    /// Looks whether an idle server is still there, without waiting and, as long as it has said nothing, without a system call.
    pub(super) fn look(&mut self) -> Life {
        let mut buffer = [0; 2048];
        let read = match &self.stream {
            Stream::Tcp(stream) => stream.try_read(&mut buffer),
            Stream::Unix(stream) => stream.try_read(&mut buffer),
            Stream::Tls(_) => return Life::Alive,
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Life::Alive,
            Ok(n) if n > 0 && n < buffer.len() => self.hear(&buffer[..n]),
            Ok(_) | Err(_) => Life::Gone,
        }
    }

    /// What an idle server may say: parameters, notices, notifications. Anything else, a torn message too, means that it is lost.
    fn hear(&mut self, mut bytes: &[u8]) -> Life {
        while let Ok(Some(Header { tag, total })) = Header::parse(bytes) {
            let Some(body) = bytes.get(HEADER_BYTES..total) else { return Life::Gone };
            match tag {
                b'S' => self.note_parameter(body),
                b'N' | b'A' => {}
                _ => return Life::Gone,
            }
            bytes = &bytes[total..];
        }
        if bytes.is_empty() { Life::Alive } else { Life::Gone }
    }

    fn note_parameter(&mut self, body: &[u8]) {
        let Ok((name, value)) = reply::parameter_status(body) else { return };
        let value = String::from_utf8_lossy(value).into_owned();
        match self.parameters.iter_mut().find(|(known, _)| known.as_bytes() == name) {
            Some((_, known)) => *known = value,
            None => self.parameters.push((String::from_utf8_lossy(name).into_owned(), value)),
        }
    }

    /// Asks an idle server for a sign of life.
    pub(super) async fn check(&mut self) -> Life {
        let answer = async {
            let mut out = BytesMut::new();
            frontend::sync(&mut out);
            self.stream.write_all(&out).await?;
            let mut inbox = BytesMut::new();
            loop {
                let (tag, body) = connect::read_message(&mut self.stream, &mut inbox).await?;
                match tag {
                    b'S' => self.note_parameter(&body),
                    b'N' | b'A' => {}
                    b'Z' if inbox.is_empty() => return Ok(()),
                    _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
                }
            }
        };
        match timeout(CHECK_TIME_MAX, answer).await {
            Ok(Ok(())) => Life::Alive,
            Ok(Err(_)) | Err(_) => Life::Gone,
        }
    }

    /// Runs a statement of the router's own on a server at rest; gives back the server's error, if it
    /// made one.
    ///
    /// # Errors
    /// The connection broke, or the server is out of step: it must not be used again.
    pub async fn run(&mut self, sql: &str) -> io::Result<Option<ErrorFields>> {
        let mut out = BytesMut::new();
        frontend::query(&mut out, sql.as_bytes());
        self.state.expect(Due::Query(Audience::Router));
        self.stream.write_all(&out).await?;
        let (mut inbox, mut error) = (BytesMut::new(), None);
        while !self.state.is_settled() {
            let (tag, body) = connect::read_message(&mut self.stream, &mut inbox).await?;
            if tag == b'E' {
                error = Some(ErrorFields::parse(&body));
            }
            self.state.reply(tag, &body).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        }
        Ok(error)
    }

    /// Says goodbye and waits, not long, until the instance has closed the connection: only then it has room for another.
    pub(super) async fn close(mut self: Box<Self>) {
        let goodbye = async {
            let mut out = BytesMut::new();
            frontend::terminate(&mut out);
            self.stream.write_all(&out).await?;
            let mut rest = [0; 256];
            while self.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        // The socket is closed in any case.
        drop(timeout(CLOSE_TIME_MAX, goodbye).await);
    }
}

/// An idle server on its way to another worker: the socket is registered with no runtime.
#[derive(Debug)]
pub(super) struct Loan {
    socket: Socket,
    state: Resting,
    parameters: Vec<(String, String)>,
    key: CancelKey,
    stamp: Stamp,
}

#[derive(Debug)]
enum Socket {
    Tcp(net::TcpStream),
    Unix(unix::net::UnixStream),
}

impl Loan {
    /// Takes a server from this worker's runtime; `None` when it is lost or cannot move.
    pub(super) fn pack(mut server: Box<Server>) -> Option<Self> {
        if server.look() == Life::Gone || !server.state.is_clean() {
            return None;
        }
        let Server { stream, state, parameters, key, stamp, .. } = *server;
        let socket = match stream {
            Stream::Tcp(stream) => Socket::Tcp(stream.into_std().ok()?),
            Stream::Unix(stream) => Socket::Unix(stream.into_std().ok()?),
            Stream::Tls(_) => return None,
        };
        Some(Self { socket, state: state.into_resting(), parameters, key: (*key).clone(), stamp })
    }

    /// Brings it into this worker's runtime.
    pub(super) fn unpack(self) -> io::Result<Box<Server>> {
        let Self { socket, state, parameters, key, stamp } = self;
        let stream = match socket {
            Socket::Tcp(socket) => Stream::Tcp(TcpStream::from_std(socket)?),
            Socket::Unix(socket) => Stream::Unix(UnixStream::from_std(socket)?),
        };
        Ok(Box::new(Server {
            id: ServerId(stamp.id),
            stream,
            state: state.into(),
            parameters,
            key: Rc::new(key),
            stamp,
            home: Home::default(),
            cancels: Rc::default(),
        }))
    }
}
