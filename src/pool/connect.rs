//! Logging in to an instance, and cancelling there. Sequential, hence plain `async fn`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::auth::client::{Exchange, Next};
use crate::config::Host;
use crate::pool::error::{ConnectError, error_field};
use crate::protocol::frame::{HEADER_BYTES, Header};
use crate::protocol::{frontend, reply};
use crate::transport::stream::Stream;

/// The longest message a server may send before the login is complete.
const LOGIN_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// How long a cancel request may take, all in all.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(5);

/// The kernel asks a silent peer after this, then this often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Where and as whom to log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    pub host: Host,
    pub port: u16,
    pub user: String,
    pub database: String,
    pub password: Option<String>,
    /// Further parameters of the startup message. Never a client's.
    pub parameters: Vec<(String, String)>,
}

/// Who a server is: what a CancelRequest for it needs, and what SHOW SERVERS tells of it.
#[derive(Clone, Debug)]
pub struct CancelKey {
    pub host: Host,
    pub port: u16,
    pub pid: i32,
    pub secret: Bytes,
    /// The two ends of its connection; none through a unix socket.
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
}

/// A connection that is logged in and idle.
#[derive(Debug)]
pub struct Connected {
    pub stream: Stream,
    /// As reported by the server, in its order.
    pub parameters: Vec<(String, String)>,
    pub key: CancelKey,
}

/// Logs in; returns when the server is ready for its first query.
///
/// # Errors
/// No connection, no login, or not within `time_max`.
pub async fn connect(target: &Target, time_max: Duration) -> Result<Connected, ConnectError> {
    match timeout(time_max, Box::pin(log_in(target))).await {
        Ok(result) => result,
        Err(_elapsed) => Err(ConnectError::Timeout { after: time_max }),
    }
}

/// Asks the instance to cancel what the server is doing. Returns when the instance has passed the request on, so that nothing that is
/// sent to the server afterwards can be hit.
///
/// # Errors
/// No connection, or no answer in time: the request may or may not arrive.
pub async fn cancel(key: &CancelKey) -> io::Result<()> {
    let request = async {
        let mut stream = open(&key.host, key.port).await?;
        let mut out = BytesMut::new();
        frontend::cancel_request(&mut out, key.pid, &key.secret);
        stream.write_all(&out).await?;
        let mut rest = [0; 64];
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    };
    timeout(CANCEL_TIME_MAX, request).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn open(host: &Host, port: u16) -> io::Result<Stream> {
    match host {
        Host::Tcp(name) => {
            let stream = TcpStream::connect((name.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
            socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Ok(Stream::Tcp(stream))
        }
        Host::Unix(folder) => Ok(Stream::Unix(UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?)),
    }
}

async fn log_in(target: &Target) -> Result<Connected, ConnectError> {
    let address = || match &target.host {
        Host::Tcp(host) => format!("{host}:{}", target.port),
        Host::Unix(folder) => format!("{}:{}", folder.display(), target.port),
    };
    let broken = |error: io::Error| ConnectError::Unreachable { text: format!("{}: {error}", address()) };
    let mut stream = open(&target.host, target.port).await.map_err(broken)?;
    let mut out = BytesMut::new();
    let parameters = target.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    frontend::startup_message(&mut out, &target.user, &target.database, parameters);
    stream.write_all(&out).await.map_err(broken)?;

    let mut exchange = Exchange::new(&target.user, target.password.as_deref());
    let mut parameters = Vec::new();
    let (local, remote) = stream.ends();
    let mut key =
        CancelKey { host: target.host.clone(), port: target.port, pid: 0, secret: Bytes::new(), local, remote };
    let mut inbox = BytesMut::with_capacity(2048);
    let mut logged_in = false;
    loop {
        let (tag, body) = match read_message(&mut stream, &mut inbox).await {
            Ok(message) => message,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(ConnectError::Protocol { text: "the server does not speak PostgreSQL's protocol" });
            }
            Err(error) => return Err(broken(error)),
        };
        match tag {
            b'R' => match authenticate(&mut exchange, body).await? {
                Next::Send(message) => stream.write_all(&message).await.map_err(broken)?,
                Next::Wait => {}
                Next::Done => logged_in = true,
            },
            b'S' if logged_in => parameters.push(parameter(&body)?),
            b'K' if logged_in => {
                let (pid, secret) = reply::backend_key_data(&body).map_err(|_| MALFORMED)?;
                (key.pid, key.secret) = (pid, Bytes::copy_from_slice(secret));
            }
            b'Z' if logged_in => return Ok(Connected { stream, parameters, key }),
            b'E' => return Err(refused(body)),
            b'N' => {}
            _ => return Err(ConnectError::Protocol { text: "the server sent an unexpected message during the login" }),
        }
    }
}

const MALFORMED: ConnectError = ConnectError::Protocol { text: "the server sent a malformed message during the login" };

fn parameter(body: &[u8]) -> Result<(String, String), ConnectError> {
    let (name, value) = reply::parameter_status(body).map_err(|_| MALFORMED)?;
    Ok((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned()))
}

fn refused(body: Bytes) -> ConnectError {
    let sqlstate = String::from_utf8_lossy(error_field(&body, b'C').unwrap_or(b"08006")).into_owned();
    ConnectError::Server { sqlstate, body }
}

/// The next step of the authentication. SCRAM's hashing takes milliseconds, so it is done on another thread.
async fn authenticate(exchange: &mut Exchange, body: Bytes) -> Result<Next, ConnectError> {
    let hashes = body.starts_with(&11_u32.to_be_bytes());
    let answer = if hashes {
        let mut moved = std::mem::replace(exchange, Exchange::new("", None));
        let hashing = tokio::task::spawn_blocking(move || {
            let answer = moved.message(&body);
            (moved, answer)
        });
        let Ok((back, answer)) = hashing.await else {
            return Err(ConnectError::Authentication { text: "the login was interrupted".to_owned() });
        };
        *exchange = back;
        answer
    } else {
        exchange.message(&body)
    };
    answer.map_err(|error| ConnectError::Authentication { text: error.to_string() })
}

/// The next whole message: its tag and body.
///
/// # Errors
/// `InvalidData` when it is none or too long for a login; `UnexpectedEof` when the server has gone.
pub(super) async fn read_message(stream: &mut Stream, inbox: &mut BytesMut) -> io::Result<(u8, Bytes)> {
    loop {
        match Header::parse(inbox) {
            Ok(Some(header)) if header.total > LOGIN_MESSAGE_BYTES_MAX => return Err(io::ErrorKind::InvalidData.into()),
            Ok(Some(header)) if inbox.len() >= header.total => {
                let mut message = inbox.split_to(header.total);
                message.advance(HEADER_BYTES);
                return Ok((header.tag, message.freeze()));
            }
            Ok(_) => {}
            Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
        if stream.read_buf(inbox).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
