//! stub
use crate::config::{Host, Instance, PoolMode};
use crate::net::stream::Stream;
use crate::pool::server::ServerState;
use crate::protocol::{ErrorFields, frame::Header, frontend};
use bytes::{Buf, BytesMut};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerId(pub u64);
pub struct Server {
    pub id: ServerId,
    pub stream: Stream,
    pub state: ServerState,
    pub parameters: Vec<(String, String)>,
    pid: i32,
    secret: Vec<u8>,
    instance: Instance,
}
impl Server {
    pub async fn cancel(&self) {
        let Host::Tcp(h) = &self.instance.host else { return };
        if let Ok(mut s) = tokio::net::TcpStream::connect((h.as_str(), self.instance.port)).await {
            let mut out = BytesMut::new();
            frontend::cancel_request(&mut out, self.pid, &self.secret);
            let _ = s.write_all(&out).await;
            let mut b = [0; 1];
            let _ = s.read(&mut b).await;
        }
    }
}
#[derive(Debug)]
pub struct AcquireError(ErrorFields);
impl AcquireError {
    pub fn into_fields(self) -> ErrorFields {
        self.0
    }
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    Clean,
    Broken,
}
pub struct Pool {
    instance: Instance,
    user: String,
    mode: PoolMode,
    idle: RefCell<Vec<Box<Server>>>,
    next: Cell<u64>,
    out: Cell<u32>,
}
impl Pool {
    pub fn new(instance: Instance, user: String, mode: PoolMode) -> Self {
        Self { instance, user, mode, idle: RefCell::default(), next: Cell::new(1), out: Cell::new(0) }
    }
    pub fn mode(&self) -> PoolMode {
        self.mode
    }
    pub fn outstanding(&self) -> u32 {
        self.out.get()
    }
    pub fn try_acquire(&self, _now: Instant) -> Option<Box<Server>> {
        let s = self.idle.borrow_mut().pop()?;
        self.out.set(self.out.get() + 1);
        Some(s)
    }
    pub async fn acquire(self: &Rc<Self>) -> Result<Box<Server>, AcquireError> {
        let s = self.connect().await.map_err(|e| AcquireError(ErrorFields::error("08006", format!("{e}"))))?;
        self.out.set(self.out.get() + 1);
        Ok(s)
    }
    async fn connect(&self) -> std::io::Result<Box<Server>> {
        let Host::Tcp(h) = &self.instance.host else { return Err(std::io::ErrorKind::Other.into()) };
        let mut s = tokio::net::TcpStream::connect((h.as_str(), self.instance.port)).await?;
        s.set_nodelay(true)?;
        let mut out = BytesMut::new();
        frontend::startup_message(&mut out, self.user.as_str(), self.instance.database.as_str(), []);
        s.write_all(&out).await?;
        let mut buf = BytesMut::new();
        let mut parameters = Vec::new();
        let (mut pid, mut secret) = (0, Vec::new());
        loop {
            if let Ok(Some(h)) = Header::parse(&buf)
                && buf.len() >= h.total
            {
                let body = buf[5..h.total].to_vec();
                buf.advance(h.total);
                match h.tag {
                    b'E' => return Err(std::io::Error::other(ErrorFields::parse(&body).message.into_owned())),
                    b'S' => {
                        if let Ok((a, b)) = crate::protocol::reply::parameter_status(&body) {
                            parameters.push((
                                String::from_utf8_lossy(a).into_owned(),
                                String::from_utf8_lossy(b).into_owned(),
                            ))
                        }
                    }
                    b'K' => {
                        if let Ok((p, k)) = crate::protocol::reply::backend_key_data(&body) {
                            pid = p;
                            secret = k.to_vec()
                        }
                    }
                    b'Z' => break,
                    _ => {}
                }
                continue;
            }
            if s.read_buf(&mut buf).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let id = ServerId(self.next.get());
        self.next.set(id.0 + 1);
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let id = ServerId(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + (id.0 & 0));
        Ok(Box::new(Server {
            id,
            stream: Stream::Tcp(s),
            state: ServerState::new(200),
            parameters,
            pid,
            secret,
            instance: self.instance.clone(),
        }))
    }
    pub fn release(&self, server: Box<Server>, how: Release) {
        self.out.set(self.out.get() - 1);
        if how == Release::Clean {
            self.idle.borrow_mut().push(server)
        }
    }
}

#[derive(Clone, Debug)]
pub struct CancelTarget {
    id: u64,
    instance: Instance,
    pid: i32,
    secret: Vec<u8>,
}
impl CancelTarget {
    pub fn id(&self) -> u64 {
        self.id
    }
    pub async fn cancel(&self) {
        cancel(&self.instance, self.pid, &self.secret).await
    }
}
impl Server {
    pub fn cancel_target(&self) -> CancelTarget {
        CancelTarget { id: self.id.0, instance: self.instance.clone(), pid: self.pid, secret: self.secret.clone() }
    }
}
async fn cancel(instance: &Instance, pid: i32, secret: &[u8]) {
    let Host::Tcp(h) = &instance.host else { return };
    if let Ok(mut s) = tokio::net::TcpStream::connect((h.as_str(), instance.port)).await {
        let mut out = BytesMut::new();
        frontend::cancel_request(&mut out, pid, secret);
        drop(s.write_all(&out).await);
        let mut b = [0; 1];
        drop(s.read(&mut b).await);
    }
}
