//! The sockets that clients connect to.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, net};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tracing::warn;

use crate::config::Listen;
use crate::transport::stream::Stream;

/// Connections that the kernel keeps until they are accepted; it lowers this to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// A peer that is silent for this long is asked whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long accepting rests after an error such as "too many open files", which does not go away at once.
const REST: Duration = Duration::from_millis(100);

/// An accepted connection that belongs to no runtime yet, so that it may be handed to any worker.
#[derive(Debug)]
pub enum Socket {
    Tcp { socket: net::TcpStream, peer: net::SocketAddr },
    Unix(StdUnixStream),
}

impl Socket {
    /// The same connection in the runtime of the calling worker.
    ///
    /// # Errors
    /// The runtime cannot watch it.
    pub fn into_stream(self) -> io::Result<Stream> {
        match self {
            Self::Tcp { socket, .. } => TcpStream::from_std(socket).map(Stream::Tcp),
            Self::Unix(socket) => UnixStream::from_std(socket).map(Stream::Unix),
        }
    }

    /// Where the client is; `None` on this machine, through the unix socket.
    pub fn peer(&self) -> Option<net::SocketAddr> {
        match self {
            Self::Tcp { peer, .. } => Some(*peer),
            Self::Unix(_) => None,
        }
    }
}

/// The listening sockets. Dropping it closes them and removes the unix socket's file.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    unix: Option<UnixSocket>,
}

#[derive(Debug)]
struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file: another process may have put its own in this place meanwhile.
    file: (u64, u64),
}

impl Listener {
    /// Opens the sockets. Must be called within a runtime.
    ///
    /// # Errors
    /// An address is taken, by another process that is alive, or may not be used.
    pub fn bind(listen: &Listen) -> io::Result<Self> {
        let socket = if listen.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        let at =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", listen.address));
        socket.bind(listen.address).map_err(at)?;
        let tcp = socket.listen(BACKLOG).map_err(at)?;
        let port = tcp.local_addr()?.port();
        let unix = listen.socket_dir.as_ref().map(|folder| UnixSocket::bind(folder, port)).transpose()?;
        Ok(Self { tcp, unix })
    }

    /// The address that clients connect to, also when port 0 was asked for.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<net::SocketAddr> {
        self.tcp.local_addr()
    }

    /// The unix socket's file.
    pub fn socket_path(&self) -> Option<&Path> {
        self.unix.as_ref().map(|unix| unix.path.as_path())
    }

    /// Hands every connection to `accepted`, for ever; dropping the future loses none.
    pub async fn run(&self, mut accepted: impl FnMut(Socket)) {
        loop {
            match self.accept().await {
                Ok(socket) => accepted(socket),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    warn!(%error, "cannot accept connections");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<Socket> {
        let Some(unix) = &self.unix else { return self.accept_tcp().await };
        tokio::select! {
            socket = self.accept_tcp() => socket,
            socket = unix.listener.accept() => Ok(Socket::Unix(socket?.0.into_std()?)),
        }
    }

    async fn accept_tcp(&self) -> io::Result<Socket> {
        let (socket, peer) = self.tcp.accept().await?;
        tune(&socket)?;
        Ok(Socket::Tcp { socket: socket.into_std()?, peer })
    }
}

/// Small messages leave at once, and peers that vanished are noticed.
///
/// # Errors
/// The socket is no longer connected.
pub fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Whether the error is of a client that has gone again, and says nothing about the next.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected)
}

impl UnixSocket {
    fn bind(folder: &Path, port: u16) -> io::Result<Self> {
        let path = folder.join(format!(".s.PGSQL.{port}"));
        let at =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()));
        remove_stale(&path).map_err(at)?;
        let listener = UnixListener::bind(&path).map_err(at)?;
        // As PostgreSQL: whoever may enter the folder may connect.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(at)?;
        let file = identity(&path).map_err(at)?;
        Ok(Self { listener, path, file })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // Another start removes it, if this fails.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Removes the socket file of a process that is gone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is not a socket"));
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    use super::*;

    fn listen(socket_dir: Option<&Path>) -> Listen {
        Listen {
            address: ([127, 0, 0, 1], 0).into(),
            socket_dir: socket_dir.map(Path::to_owned),
            http: None,
            clients_max: 10,
            router_id: 0,
            workers: 1,
            login_timeout: Duration::from_secs(1),
            tls: None,
        }
    }

    /// A folder that goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sluice-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[tokio::test]
    async fn both_sockets_are_accepted_and_usable() {
        let folder = Folder::new("listener");
        let listener = Listener::bind(&listen(Some(&folder.0))).expect("bound");
        let (address, path) = (listener.address().expect("an address"), listener.socket_path().expect("a path"));
        let (path, (sender, mut sockets)) = (path.to_owned(), mpsc::unbounded_channel());
        let task = tokio::spawn(async move {
            listener.run(|socket| sender.send(socket).expect("the test listens")).await;
        });
        let mut tcp = TcpStream::connect(address).await.expect("connected");
        let socket = sockets.recv().await.expect("accepted");
        assert_eq!(socket.peer(), Some(tcp.local_addr().expect("an address")));
        let mut stream = socket.into_stream().expect("a stream");
        stream.write_all(b"tcp").await.expect("written");
        let mut read = [0; 3];
        tcp.read_exact(&mut read).await.expect("read");
        let mut unix = UnixStream::connect(&path).await.expect("connected");
        let mut stream = sockets.recv().await.expect("accepted").into_stream().expect("a stream");
        stream.write_all(b"abc").await.expect("written");
        unix.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"abc");
        task.abort();
        assert!(task.await.is_err());
        assert!(!path.exists(), "the file goes with the listener");
    }

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let folder = Folder::new("stale");
        let path = folder.0.join(".s.PGSQL.1");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a stale file"));
        let socket = UnixSocket::bind(&folder.0, 1).expect("replaced");
        let taken = UnixSocket::bind(&folder.0, 1).expect_err("taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        fs::write(&path, "precious").expect("written");
        assert_eq!(UnixSocket::bind(&folder.0, 1).expect_err("a file").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
    }

    #[tokio::test]
    async fn a_taken_address_is_an_error_that_names_it() {
        let first = Listener::bind(&listen(None)).expect("bound");
        let address = first.address().expect("an address");
        let error = Listener::bind(&Listen { address, ..listen(None) }).expect_err("taken");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
