//! From an accepted socket to a client whose identity is known, or to a cancel request.
//!
//! ```text
//! [TLS at once | SSLRequest -> S, TLS | SSLRequest -> N] [GSSENCRequest -> N]  StartupMessage  password messages ...
//! ```
//!
//! What comes from a socket before the login is done comes from anybody: every packet has a bound, the whole has a
//! time limit, and whatever is out of order ends the connection.

use std::time::Duration;
use std::{fmt, io};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::auth::{Entropy, Login, Progress, Users};
use crate::config::{Config, Role};
use crate::net::tls::{self, ALPN, TlsError};
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::startup::{BadStartup, GSSENC_REQUEST, Packet, SSL_REQUEST, Startup, unsupported_version};
use crate::protocol::{ErrorFields, Header, backend};
use crate::transport::stream::Stream;

/// How long a refused client is given to take its last message and go.
const FAREWELL: Duration = Duration::from_millis(500);

/// What is read and thrown away meanwhile.
const FAREWELL_BYTES_MAX: usize = 64 * 1024;

/// The first byte of a TLS handshake; no PostgreSQL packet of sane length begins so.
const TLS_HANDSHAKE: u8 = 0x16;

/// What the conversation needs to know. Made anew when the configuration is read again.
pub struct Context {
    pub users: Users,
    pub tls: Option<TlsAcceptor>,
    /// Clients that come by TCP without TLS are refused.
    pub tls_required: bool,
    pub login_timeout: Duration,
}

impl Context {
    /// `salt_key` is random and stays the same over reloads: see [`Users::new`].
    ///
    /// # Errors
    /// The TLS files cannot be used.
    pub fn new(config: &Config, salt_key: [u8; 32]) -> Result<Self, TlsError> {
        let tls = config.listen.tls.as_ref();
        Ok(Self {
            users: Users::new(config.auth, &config.users, salt_key),
            tls: tls.map(tls::acceptor).transpose()?,
            tls_required: tls.is_some_and(|tls| tls.required),
            login_timeout: config.listen.login_timeout,
        })
    }
}

/// What a connection turned out to be.
#[derive(Debug)]
pub enum First {
    /// A wish to cancel. The client waits until `stream` is closed: then the request has been dealt with.
    Cancel {
        stream: Stream,
        pid: i32,
        secret: Vec<u8>,
    },
    Client(Accepted),
}

/// A client that has proved who it is and has got its AuthenticationOk, and nothing after it.
#[derive(Debug)]
pub struct Accepted {
    pub stream: Stream,
    /// Bytes that the client sent already: its first messages, or their beginning.
    pub buffer: BytesMut,
    pub user: String,
    pub role: Role,
    /// Not checked: it may not exist.
    pub database: String,
    /// Run-time parameters of the startup packet, those of `options` merged in.
    pub parameters: Vec<(String, String)>,
    /// Of protocol 3: 0, or 2 with long cancel keys.
    pub minor: u16,
}

/// Why a connection ended before its login was done.
#[derive(Debug)]
pub enum Refused {
    /// It does not speak the protocol, or went away. Nobody was told.
    Dropped(&'static str),
    Io(io::Error),
    TimedOut,
    /// The client was told this.
    Told(Box<ErrorFields>),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped(reason) => f.write_str(reason),
            Self::Io(error) => error.fmt(f),
            Self::TimedOut => f.write_str("the login took too long"),
            Self::Told(fields) => f.write_str(&fields.message),
        }
    }
}

impl std::error::Error for Refused {}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<BadStartup> for Refused {
    fn from(bad: BadStartup) -> Self {
        match bad {
            BadStartup::Drop(reason) => Self::Dropped(reason),
            BadStartup::Fatal(fields) => Self::Told(fields),
        }
    }
}

impl From<Box<ErrorFields>> for Refused {
    fn from(fields: Box<ErrorFields>) -> Self {
        Self::Told(fields)
    }
}

/// Holds the startup conversation of one connection.
///
/// # Errors
/// The connection is refused; a client that can be told has been told, and the socket is closed.
pub async fn accept(stream: Stream, context: &Context) -> Result<First, Refused> {
    timeout(context.login_timeout, begin(stream, context)).await.unwrap_or(Err(Refused::TimedOut))
}

async fn begin(stream: Stream, context: &Context) -> Result<First, Refused> {
    let mut connection = Connection { stream, buffer: BytesMut::new(), tls_asked: false, gss_asked: false };
    match connection.converse(context).await {
        Ok(Opening::Cancel { pid, secret }) => Ok(First::Cancel { stream: connection.stream, pid, secret }),
        Ok(Opening::Client(startup, role)) => Ok(First::Client(Accepted {
            stream: connection.stream,
            buffer: connection.buffer,
            user: startup.user,
            role,
            database: startup.database,
            parameters: startup.parameters,
            minor: startup.minor,
        })),
        Err(refused) => {
            if let Refused::Told(fields) = &refused {
                connection.farewell(fields).await;
            }
            Err(refused)
        }
    }
}

enum Opening {
    Cancel { pid: i32, secret: Vec<u8> },
    Client(Startup, Role),
}

struct Connection {
    stream: Stream,
    /// Read and not yet used.
    buffer: BytesMut,
    /// Each kind of encryption may be asked for once.
    tls_asked: bool,
    gss_asked: bool,
}

impl Connection {
    async fn converse(&mut self, context: &Context) -> Result<Opening, Refused> {
        if let Some(acceptor) = &context.tls
            && self.begins_with_tls().await?
        {
            self.tls_asked = true;
            self.gss_asked = true;
            self.handshake(acceptor).await?;
            if !self.has_alpn() {
                return Err(Refused::Dropped("direct TLS connection without ALPN"));
            }
        }
        let startup = loop {
            match self.packet().await? {
                Packet::SslRequest => self.tls_request(context.tls.as_ref()).await?,
                Packet::GssEncRequest => self.gss_request().await?,
                Packet::Cancel { pid, secret } => return Ok(Opening::Cancel { pid, secret }),
                Packet::Startup(startup) => break startup,
            }
        };
        if context.tls_required && matches!(self.stream, Stream::Tcp(_)) {
            return Err(no_encryption(&startup).into());
        }
        let role = self.login(&startup, &context.users).await?;
        Ok(Opening::Client(startup, role))
    }

    /// Whether the client starts with a TLS handshake instead of asking for it. Takes nothing from the socket.
    async fn begins_with_tls(&self) -> io::Result<bool> {
        let Stream::Tcp(socket) = &self.stream else { return Ok(false) };
        let mut first = [0];
        Ok(socket.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE)
    }

    fn has_alpn(&self) -> bool {
        matches!(&self.stream, Stream::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(ALPN))
    }

    async fn tls_request(&mut self, acceptor: Option<&TlsAcceptor>) -> Result<(), Refused> {
        if std::mem::replace(&mut self.tls_asked, true) {
            return Err(BadStartup::from(unsupported_version(SSL_REQUEST)).into());
        }
        self.nothing_unencrypted()?;
        match acceptor {
            Some(acceptor) if matches!(self.stream, Stream::Tcp(_)) => {
                // With TLS there is no GSS encryption below it.
                self.gss_asked = true;
                self.stream.write_all(b"S").await?;
                self.handshake(acceptor).await
            }
            _ => Ok(self.stream.write_all(b"N").await?),
        }
    }

    async fn gss_request(&mut self) -> Result<(), Refused> {
        if std::mem::replace(&mut self.gss_asked, true) {
            return Err(BadStartup::from(unsupported_version(GSSENC_REQUEST)).into());
        }
        self.nothing_unencrypted()?;
        Ok(self.stream.write_all(b"N").await?)
    }

    /// Whoever sends more before the answer to a request for encryption may be somebody in the middle who wants
    /// these bytes to be taken for encrypted ones (CVE-2021-23214).
    fn nothing_unencrypted(&self) -> Result<(), Refused> {
        if self.buffer.is_empty() {
            Ok(())
        } else {
            Err(Refused::Dropped("received unencrypted data after a request for encryption"))
        }
    }

    /// Puts TLS under the conversation.
    async fn handshake(&mut self, acceptor: &TlsAcceptor) -> Result<(), Refused> {
        assert!(self.buffer.is_empty(), "bytes read before the handshake would be taken for encrypted ones");
        let broken = Stream::Unix(tokio::net::UnixStream::pair()?.0);
        match std::mem::replace(&mut self.stream, broken) {
            Stream::Tcp(socket) => {
                let tls = Box::pin(acceptor.accept(socket)).await?;
                self.stream = Stream::Tls(Box::new(tls));
                Ok(())
            }
            Stream::Unix(_) | Stream::Tls(_) => Err(Refused::Dropped("TLS is for TCP connections")),
        }
    }

    /// The next packet without a tag.
    async fn packet(&mut self) -> Result<Packet, Refused> {
        loop {
            if let Some((packet, length)) = Packet::parse(&self.buffer)? {
                self.buffer.advance(length);
                return Ok(packet);
            }
            self.read("the connection was closed before its startup packet").await?;
        }
    }

    async fn login(&mut self, startup: &Startup, users: &Users) -> Result<Role, Refused> {
        let mut out = BytesMut::new();
        if let Some(negotiate) = &startup.negotiate {
            backend::negotiate_protocol_version(&mut out, negotiate.version, &negotiate.unknown_options);
        }
        let (mut login, mut progress) = Login::begin(users, &startup.user, entropy()?, &mut out);
        loop {
            self.stream.write_all(&out).await?;
            self.stream.flush().await?;
            if let Progress::Done(role) = progress {
                return Ok(role);
            }
            out.clear();
            let total = self.password_message(&login).await?;
            progress = login.message(&self.buffer[HEADER_BYTES..total], &mut out)?;
            self.buffer.advance(total);
        }
    }

    /// Waits until the buffer begins with a whole password message, and gives its length.
    async fn password_message(&mut self, login: &Login) -> Result<usize, Refused> {
        loop {
            // The tag first: a second startup packet has no tag, and its length is none either.
            if let Some(&tag) = self.buffer.first()
                && tag != b'p'
            {
                return Err(Box::new(login.unexpected(tag)).into());
            }
            match Header::parse(&self.buffer) {
                Ok(Some(header)) if header.total <= login.message_bytes_max() + HEADER_BYTES => {
                    if self.buffer.len() >= header.total {
                        return Ok(header.total);
                    }
                }
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => {
                    return Err(Box::new(ErrorFields::fatal("08P01", "invalid message length")).into());
                }
            }
            self.read("the client went away during its login").await?;
        }
    }

    /// Reads what is there, `at_end` being said when the client has gone.
    async fn read(&mut self, at_end: &'static str) -> Result<(), Refused> {
        self.buffer.reserve(1024);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(Refused::Dropped(at_end)),
            _ => Ok(()),
        }
    }

    /// Sends the last message, and waits a little: a socket closed with unread bytes in it takes the message along.
    async fn farewell(&mut self, fields: &ErrorFields) {
        let mut out = BytesMut::new();
        backend::error_response(&mut out, fields);
        let send_and_drain = async {
            self.stream.write_all(&out).await?;
            self.stream.shutdown().await?;
            let mut left = FAREWELL_BYTES_MAX;
            let mut scrap = [0; 1024];
            while left > 0 {
                match self.stream.read(&mut scrap).await? {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
            Ok::<_, io::Error>(())
        };
        // A client that does not listen has lost nothing.
        drop(timeout(FAREWELL, send_and_drain).await);
    }
}

fn entropy() -> io::Result<Entropy> {
    let mut entropy = Entropy { nonce: [0; _], salt: [0; _] };
    getrandom::fill(&mut entropy.nonce).and_then(|()| getrandom::fill(&mut entropy.salt)).map_err(io::Error::other)?;
    Ok(entropy)
}

fn no_encryption(startup: &Startup) -> Box<ErrorFields> {
    let Startup { user, database, .. } = startup;
    let message =
        format!("connections without TLS are refused: user \"{user}\", database \"{database}\", no encryption");
    Box::new(ErrorFields::fatal("28000", message).with_hint("Connect with sslmode=require or stronger."))
}

#[cfg(test)]
mod tests;
