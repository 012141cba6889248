//! Hostile first packets as raw bytes, and real clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BufMut;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::auth::client::{Exchange, Next};
use crate::config::{AuthMethod, Secret, Tls, User};
use crate::protocol::frontend;
use crate::protocol::startup::{PROTOCOL_3_0, PROTOCOL_LATEST, STARTUP_BYTES_MAX};

const LIMIT: Duration = Duration::from_secs(5);

fn context(method: AuthMethod) -> Context {
    let user = User {
        name: "app".into(),
        password: Some(Secret::Plain("secret".into())),
        role: Role::Stats,
        pool_mode: None,
        pool_size: None,
    };
    Context { users: Users::new(method, &[user], [1; 32]), tls: None, tls_required: false, login_timeout: LIMIT }
}

/// A client end, and the conversation with it.
fn pair(context: Context) -> (UnixStream, JoinHandle<Result<First, Refused>>) {
    let (client, server) = UnixStream::pair().expect("a pair");
    (client, tokio::spawn(async move { accept(Stream::Unix(server), &context).await }))
}

/// Sends `bytes`, ends the sending, and gives all that comes back.
async fn answer_to(bytes: &[u8], context: Context) -> (Vec<u8>, Result<First, Refused>) {
    let (mut client, task) = pair(context);
    let mut answer = Vec::new();
    client.write_all(bytes).await.expect("sent");
    client.shutdown().await.expect("shut down");
    let result = task.await.expect("no panic").map(first_without_stream);
    drop(client.read_to_end(&mut answer).await);
    (answer, result)
}

/// Closes the connection so that the client sees its end.
fn first_without_stream(first: First) -> First {
    let closed = || Stream::Unix(UnixStream::pair().expect("a pair").0);
    match first {
        First::Cancel { pid, secret, .. } => First::Cancel { stream: closed(), pid, secret },
        First::Client(accepted) => First::Client(Accepted { stream: closed(), ..accepted }),
    }
}

fn startup_packet(version: u32, entries: &[(&str, &str)]) -> BytesMut {
    let mut out = BytesMut::new();
    crate::protocol::frame::put_sized(&mut out, |out| {
        out.put_u32(version);
        for text in entries.iter().flat_map(|(name, value)| [name, value]) {
            out.put_slice(text.as_bytes());
            out.put_u8(0);
        }
        out.put_u8(0);
    });
    out
}

fn sqlstate(answer: &[u8]) -> String {
    let (tag, body, _) = Header::split(answer).expect("a length").expect("a message");
    assert_eq!(tag, b'E', "{:?}", String::from_utf8_lossy(answer));
    ErrorFields::parse(body).sqlstate.into_owned()
}

#[tokio::test]
async fn garbage_is_dropped_without_a_word() {
    for bytes in [
        &b""[..],
        b"\0",
        b"\0\0\0",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0\0\0\x08\0\0",
    ] {
        let (answer, result) = answer_to(bytes, context(AuthMethod::Trust)).await;
        assert_eq!(answer, b"", "{bytes:?}");
        assert!(matches!(result, Err(Refused::Dropped(_))), "{bytes:?}: {result:?}");
    }
}

#[tokio::test]
async fn absurd_lengths_are_dropped_before_any_body_comes() {
    for length in [0u32, 3, 4, 5, 7, 10_005, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        let (mut client, task) = pair(context(AuthMethod::Trust));
        client.write_all(&length.to_be_bytes()).await.expect("sent");
        assert!(matches!(task.await.expect("no panic"), Err(Refused::Dropped(_))), "{length}");
        assert_eq!(client.read(&mut [0; 9]).await.expect("the end"), 0, "{length}");
    }
    // The shortest that is whole asks for protocol 0.0.
    let (answer, _) = answer_to(b"\0\0\0\x08\0\0\0\0", context(AuthMethod::Trust)).await;
    assert_eq!(sqlstate(&answer), "0A000");
    // The longest that is allowed.
    let value = "x".repeat(STARTUP_BYTES_MAX - 4 - "user\0u\0application_name\0\0\0".len());
    let packet = startup_packet(PROTOCOL_3_0, &[("user", "u"), ("application_name", &value)]);
    assert_eq!(packet.len(), STARTUP_BYTES_MAX + 4);
    let (_, result) = answer_to(&packet, context(AuthMethod::Trust)).await;
    assert!(matches!(result, Ok(First::Client(_))), "{result:?}");
}

#[tokio::test]
async fn whoever_is_slow_is_dropped_in_time() {
    let slow = Context { login_timeout: Duration::from_millis(50), ..context(AuthMethod::ScramSha256) };
    let (mut client, task) = pair(slow);
    let began = Instant::now();
    client.write_all(&startup_packet(PROTOCOL_3_0, &[("user", "app")])).await.expect("sent");
    // One byte now and then does not buy more time.
    while !task.is_finished() {
        drop(client.write_all(b"p").await);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(began.elapsed() < LIMIT);
    }
    assert!(matches!(task.await.expect("no panic"), Err(Refused::TimedOut | Refused::Told(_))));
    let slow = Context { login_timeout: Duration::from_millis(50), ..context(AuthMethod::Trust) };
    let (client, task) = pair(slow);
    assert!(matches!(task.await.expect("no panic"), Err(Refused::TimedOut)));
    drop(client);
}

#[tokio::test]
async fn a_cancel_request_is_handed_over() {
    let mut bytes = BytesMut::new();
    frontend::cancel_request(&mut bytes, 17, &[9; 32]);
    let (answer, result) = answer_to(&bytes, context(AuthMethod::ScramSha256)).await;
    assert_eq!(answer, b"");
    let Ok(First::Cancel { pid, secret, .. }) = result else { panic!("{result:?}") };
    assert_eq!((pid, secret), (17, vec![9; 32]));
}

#[tokio::test]
async fn what_a_client_sends_ahead_is_kept() {
    let entries = [("user", "somebody"), ("options", "-c geqo=off"), ("client_encoding", "UTF8")];
    let mut bytes = startup_packet(PROTOCOL_3_0, &entries);
    frontend::query(&mut bytes, b"select 1");
    let (answer, result) = answer_to(&bytes, context(AuthMethod::Trust)).await;
    assert_eq!(answer, b"R\0\0\0\x08\0\0\0\0");
    let Ok(First::Client(accepted)) = result else { panic!("{result:?}") };
    assert_eq!((&*accepted.user, &*accepted.database, accepted.minor), ("somebody", "somebody", 0));
    assert_eq!((&accepted.buffer[..], accepted.role), (&b"Q\0\0\0\x0dselect 1\0"[..], Role::App));
    let expected = [("geqo".to_owned(), "off".to_owned()), ("client_encoding".to_owned(), "UTF8".to_owned())];
    assert_eq!(accepted.parameters, expected);
}

#[tokio::test]
async fn a_newer_protocol_is_negotiated_before_the_login() {
    let bytes = startup_packet(3 << 16 | 9999, &[("user", "u"), ("_pq_.x", "1")]);
    let (answer, result) = answer_to(&bytes, context(AuthMethod::Trust)).await;
    assert_eq!(&answer, b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0R\0\0\0\x08\0\0\0\0");
    assert!(matches!(result, Ok(First::Client(Accepted { minor: 2, .. }))), "{result:?}");
    let (answer, _) = answer_to(&startup_packet(PROTOCOL_LATEST, &[("user", "u")]), context(AuthMethod::Trust)).await;
    assert_eq!(answer[0], b'R');
}

#[tokio::test]
async fn encryption_is_asked_for_once_of_each_kind() {
    let (mut client, task) = pair(context(AuthMethod::Trust));
    let (ssl, gss, mut answer) = (b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x08\x04\xd2\x16\x30", [0]);
    for request in [gss, ssl] {
        client.write_all(request).await.expect("sent");
        client.read_exact(&mut answer).await.expect("answered");
        assert_eq!(&answer, b"N");
    }
    client.write_all(ssl).await.expect("sent");
    let mut rest = Vec::new();
    client.shutdown().await.expect("shut down");
    client.read_to_end(&mut rest).await.expect("the end");
    assert_eq!(sqlstate(&rest), "0A000");
    assert!(matches!(task.await.expect("no panic"), Err(Refused::Told(_))));
}

#[tokio::test]
async fn bytes_behind_a_request_for_encryption_drop_the_connection() {
    for request in [b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x08\x04\xd2\x16\x30"] {
        let bytes = [&request[..], &startup_packet(PROTOCOL_3_0, &[("user", "u")])].concat();
        let (answer, result) = answer_to(&bytes, context(AuthMethod::Trust)).await;
        assert_eq!(answer, b"");
        assert!(matches!(result, Err(Refused::Dropped(_))), "{result:?}");
    }
}

/// Logs in as `app` until `stop` messages were sent, then sends `hostile` instead, and gives the answer's SQLSTATE.
async fn interrupted_login(stop: usize, hostile: &[u8]) -> String {
    let (mut client, task) = pair(context(AuthMethod::ScramSha256));
    client.write_all(&startup_packet(PROTOCOL_3_0, &[("user", "app")])).await.expect("sent");
    let (mut exchange, mut buffer, mut sent) = (Exchange::new("app", Some("secret")), BytesMut::new(), 0);
    loop {
        client.read_buf(&mut buffer).await.expect("an answer");
        let Some((tag, body, _)) = Header::split(&buffer).expect("a length") else { continue };
        if tag == b'E' {
            drop(client);
            assert!(matches!(task.await.expect("no panic"), Err(Refused::Told(_))));
            return ErrorFields::parse(body).sqlstate.into_owned();
        }
        let Next::Send(message) = exchange.message(body).expect("a good request") else { panic!("logged in") };
        client.write_all(if sent == stop { hostile } else { &message }).await.expect("sent");
        sent += 1;
        buffer.clear();
    }
}

#[tokio::test]
async fn nothing_but_password_messages_is_taken_during_a_login() {
    let second_startup = startup_packet(PROTOCOL_3_0, &[("user", "postgres")]);
    let mut query = BytesMut::new();
    frontend::query(&mut query, b"select 1");
    for stop in [0, 1] {
        for hostile in [
            &second_startup[..],
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            &query,
            b"p\0\0\0\0",
            b"p\0\0\0\x03",
            b"p\x7f\xff\xff\xff",
            b"p\x80\0\0\0",
            b"p\xff\xff\xff\xff",
            b"p\0\x01\0\0",
            b"p\0\0\0\x04",
            b"p\0\0\0\x05\0",
        ] {
            assert_eq!(interrupted_login(stop, hostile).await, "08P01", "{stop} {hostile:?}");
        }
    }
}

/// A router that lets clients log in and then says that it is ready.
async fn serve(context: Context) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let context = Arc::new(context);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let context = Arc::clone(&context);
            tokio::spawn(async move {
                let Ok(First::Client(mut client)) = accept(Stream::Tcp(socket), &context).await else { return };
                let mut out = BytesMut::new();
                backend::parameter_status(&mut out, "server_version", "17.0");
                backend::backend_key_data(&mut out, 1, &[0; 4]);
                backend::ready_for_query(&mut out, backend::TransactionStatus::Idle);
                client.stream.write_all(&out).await.expect("sent");
                // Until the client goes.
                while client.stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    address
}

#[tokio::test]
async fn a_real_client_logs_in_by_its_password_only() {
    for method in [AuthMethod::ScramSha256, AuthMethod::Md5, AuthMethod::Trust] {
        let address = serve(context(method)).await;
        for (user, password) in [("app", "secret"), ("app", "wrong"), ("ghost", "secret")] {
            let mut config = tokio_postgres::Config::new();
            config.host("127.0.0.1").port(address.port()).user(user).password(password).dbname("d");
            match config.connect(tokio_postgres::NoTls).await {
                Ok((_, connection)) => {
                    assert_eq!(connection.parameter("server_version"), Some("17.0"));
                    assert!(method == AuthMethod::Trust || (user, password) == ("app", "secret"), "{method:?} {user}");
                }
                Err(error) => {
                    let error = error.as_db_error().expect("an answer of the router").clone();
                    assert!(method != AuthMethod::Trust && (user, password) != ("app", "secret"), "{error}");
                    assert_eq!(error.code().code(), "28P01");
                    assert_eq!(error.message(), format!("password authentication failed for user \"{user}\""));
                }
            }
        }
    }
}

/// A context with a fresh certificate for `localhost`, and what a client needs to trust it.
fn tls_context(required: bool, alpn: &[&[u8]]) -> (Context, TlsConnector) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let id = format!("{}-{:p}", std::process::id(), &raw const certified);
    let path = |kind| std::env::temp_dir().join(format!("sluice-tls-{id}.{kind}"));
    let tls = Tls { certificate: path("crt"), key: path("key"), required };
    std::fs::write(&tls.certificate, certified.cert.pem()).expect("written");
    std::fs::write(&tls.key, certified.signing_key.serialize_pem()).expect("written");
    let acceptor = tls::acceptor(&tls).expect("an acceptor");
    for file in [tls.certificate, tls.key] {
        std::fs::remove_file(file).expect("removed");
    }
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let context = Context { tls: Some(acceptor), tls_required: required, ..context(AuthMethod::Trust) };
    (context, TlsConnector::from(Arc::new(config)))
}

/// Logs in over TLS and gives the first byte that comes back; `direct` does not ask first.
async fn tls_login(address: SocketAddr, connector: &TlsConnector, direct: bool) -> io::Result<u8> {
    let mut socket = TcpStream::connect(address).await?;
    if !direct {
        socket.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await?;
        assert_eq!(socket.read_u8().await?, b'S');
    }
    let name = "localhost".try_into().expect("a name");
    let mut tls = connector.connect(name, socket).await?;
    tls.write_all(&startup_packet(PROTOCOL_3_0, &[("user", "app")])).await?;
    tls.read_u8().await
}

#[tokio::test]
async fn tls_works_when_asked_for_and_directly() {
    let (context, connector) = tls_context(true, &[ALPN]);
    let address = serve(context).await;
    assert_eq!(tls_login(address, &connector, false).await.expect("logged in"), b'R');
    assert_eq!(tls_login(address, &connector, true).await.expect("logged in"), b'R');
    let (context, connector) = tls_context(false, &[]);
    let address = serve(context).await;
    assert_eq!(tls_login(address, &connector, false).await.expect("ALPN is needed for direct TLS only"), b'R');
    assert!(tls_login(address, &connector, true).await.is_err());
    let (context, connector) = tls_context(false, &[b"http/1.1"]);
    let address = serve(context).await;
    assert!(tls_login(address, &connector, true).await.is_err());
}

#[tokio::test]
async fn tls_that_is_required_is_required_of_tcp() {
    let (context, _) = tls_context(true, &[]);
    let address = serve(context).await;
    let mut socket = TcpStream::connect(address).await.expect("connected");
    socket.write_all(&startup_packet(PROTOCOL_3_0, &[("user", "app")])).await.expect("sent");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("an answer");
    assert_eq!(sqlstate(&answer), "28000");
    // A unix socket has no wire to listen on, and no TLS.
    let (context, _) = tls_context(true, &[]);
    let (mut client, task) = pair(context);
    client.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await.expect("sent");
    assert_eq!(client.read_u8().await.expect("answered"), b'N');
    client.write_all(&startup_packet(PROTOCOL_3_0, &[("user", "app")])).await.expect("sent");
    assert!(matches!(task.await.expect("no panic"), Ok(First::Client(_))));
}

#[tokio::test]
async fn plaintext_is_never_taken_for_encrypted_bytes() {
    let (context, _) = tls_context(false, &[]);
    let address = serve(context).await;
    // In one write with the request, and behind the answer.
    for late in [false, true] {
        let mut socket = TcpStream::connect(address).await.expect("connected");
        let startup = startup_packet(PROTOCOL_3_0, &[("user", "app")]);
        let request = b"\0\0\0\x08\x04\xd2\x16\x2f";
        if late {
            socket.write_all(request).await.expect("sent");
            assert_eq!(socket.read_u8().await.expect("answered"), b'S');
            socket.write_all(&startup).await.expect("sent");
        } else {
            socket.write_all(&[request, &startup[..]].concat()).await.expect("sent");
        }
        let mut answer = Vec::new();
        drop(socket.read_to_end(&mut answer).await);
        // At most a TLS alert: no AuthenticationOk, no error in clear text.
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
    }
}

#[test]
fn tls_files_that_do_not_fit_say_which() {
    let missing = Tls { certificate: "/nonexistent/a.crt".into(), key: "/nonexistent/a.key".into(), required: false };
    let error = tls::acceptor(&missing).err().expect("no such file").to_string();
    assert!(error.contains("/nonexistent/a.crt"), "{error}");
}
