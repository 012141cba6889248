//! A wire between a router and a server that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::free_port;

/// Forwards connections to one port of this machine; its thread ends with the process.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

/// What of a connection arrives nowhere, though it stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Answers,
    Everything,
}

#[derive(Default)]
struct State {
    is_cut: AtomicBool,
    /// Of the connections that there are; new ones are none of these.
    muted: Mutex<Vec<Arc<Muted>>>,
    /// Both ends of every connection, also of those that have ended.
    ends: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub fn to(target: u16) -> Self {
        let (listener, port) = listen();
        let state = Arc::new(State::default());
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !shared.is_cut.load(Ordering::SeqCst)
                    && let Ok(server) = TcpStream::connect(("127.0.0.1", target))
                {
                    shared.join(client, server);
                }
            }
        });
        Self { port, state }
    }

    /// Breaks all connections, whatever is on its way; no new one comes through.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
        for end in self.state.ends.lock().unwrap().drain(..) {
            // It may have ended by itself.
            end.shutdown(Shutdown::Both).ok();
        }
    }

    /// Connections that there are stay open, and this arrives nowhere any more; new ones are as good as ever.
    pub fn mute(&self, lost: Lost) {
        for muted in self.state.muted.lock().unwrap().drain(..) {
            muted.answers.store(true, Ordering::SeqCst);
            muted.requests.store(lost == Lost::Everything, Ordering::SeqCst);
        }
    }

    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }
}

/// Whether what comes in either direction is thrown away.
#[derive(Default)]
struct Muted {
    requests: AtomicBool,
    answers: AtomicBool,
}

impl State {
    fn join(&self, client: TcpStream, server: TcpStream) {
        let mut ends = self.ends.lock().unwrap();
        // Cut in between: nothing may pass.
        if self.is_cut.load(Ordering::SeqCst) {
            return;
        }
        let muted = Arc::new(Muted::default());
        self.muted.lock().unwrap().push(muted.clone());
        for (from, to, answers) in [(&client, &server, false), (&server, &client, true)] {
            let muted = muted.clone();
            from.set_nodelay(true).ok();
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            ends.push(from.try_clone().unwrap());
            thread::spawn(move || {
                let mut chunk = [0; 16 << 10];
                while let Ok(count @ 1..) = from.read(&mut chunk) {
                    let is_muted = if answers { &muted.answers } else { &muted.requests };
                    if is_muted.load(Ordering::SeqCst) {
                        continue;
                    }
                    if to.write_all(&chunk[..count]).is_err() {
                        break;
                    }
                }
                to.shutdown(Shutdown::Both).ok();
                from.shutdown(Shutdown::Both).ok();
            });
        }
    }
}

fn listen() -> (TcpListener, u16) {
    loop {
        let port = free_port();
        // Another process may have taken it in between.
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return (listener, port);
        }
    }
}
