//! Cancel keys: who may cancel what. The key's holder only, and only what it is running.

use dashmap::DashMap;

/// A key as BackendKeyData carries it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CancelKey {
    pid: i32,
    secret: Box<[u8]>,
}

impl CancelKey {
    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// The client's number among those of the router.
    pub fn number(&self) -> i32 {
        self.pid
    }
}

/// The keys of all clients, on all workers.
///
/// A key's process id is a random number below 2^24 under the router's id (bits 24 to 30), so that a router that is asked to cancel for a
/// client of another knows which.
#[derive(Debug)]
pub struct CancelKeys {
    router_id: u8,
    holders: DashMap<i32, Holder>,
}

#[derive(Debug)]
struct Holder {
    secret: Box<[u8]>,
    worker: usize,
}

/// Who has to do what a cancel request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// A client of this worker.
    Worker(usize),
    /// A client of the router with this id.
    Peer(u8),
    /// The key is wrong, or its client has gone.
    Nobody,
}

/// Bytes of a secret in protocol 3.0, and from 3.2 on.
const SHORT_SECRET: usize = 4;
const LONG_SECRET: usize = 32;
/// Follows the secret of a request that comes from a peer, so that none goes round in circles where routers name each other wrongly.
const FORWARDED: u8 = 1;

const NUMBER_BITS: u32 = 24;

impl CancelKeys {
    /// `router_id` is 1 to 127 among peers, 0 without: then no request is a peer's.
    pub fn new(router_id: u8) -> Self {
        Self { router_id, holders: DashMap::new() }
    }

    /// A new key for a client of `worker` that speaks protocol 3.`minor`.
    pub fn enter(&self, worker: usize, minor: u16) -> CancelKey {
        let mut secret = vec![0; if minor >= 2 { LONG_SECRET } else { SHORT_SECRET }].into_boxed_slice();
        loop {
            let mut pid = [0; 4];
            // Without randomness there is no secret, and nothing that could be done instead.
            getrandom::fill(&mut pid).expect("the system has a source of random bytes");
            getrandom::fill(&mut secret).expect("the system has a source of random bytes");
            let pid = self.numbered(i32::from_be_bytes(pid) & i32::MAX);
            if let dashmap::Entry::Vacant(entry) = self.holders.entry(pid)
                && pid != 0
            {
                entry.insert(Holder { secret: secret.clone(), worker });
                return CancelKey { pid, secret };
            }
        }
    }

    fn numbered(&self, random: i32) -> i32 {
        match self.router_id {
            0 => random,
            id => i32::from(id) << NUMBER_BITS | random & ((1 << NUMBER_BITS) - 1),
        }
    }

    pub fn leave(&self, key: &CancelKey) {
        self.holders.remove(&key.pid);
    }

    /// Whom a request with this key is for.
    pub fn find(&self, pid: i32, secret: &[u8]) -> Addressee {
        let (secret, forwarded) = match secret {
            [secret @ .., FORWARDED] if [SHORT_SECRET, LONG_SECRET].contains(&secret.len()) => (secret, true),
            secret => (secret, false),
        };
        let named = u8::try_from(pid >> NUMBER_BITS).unwrap_or(0);
        if self.router_id != 0 && named != self.router_id {
            return if forwarded || named == 0 { Addressee::Nobody } else { Addressee::Peer(named) };
        }
        match self.holders.get(&pid) {
            Some(holder) if subtle::ConstantTimeEq::ct_eq(&*holder.secret, secret).into() => {
                Addressee::Worker(holder.worker)
            }
            _ => Addressee::Nobody,
        }
    }
}

/// The secret as it is passed on to the peer whose client the request is for.
pub fn forwarded(secret: &[u8]) -> Vec<u8> {
    [secret, &[FORWARDED]].concat()
}

#[cfg(test)]
mod tests {
    use super::{Addressee, CancelKeys, forwarded};

    #[test]
    fn only_the_holder_of_the_secret_is_heard() {
        for router_id in [0, 1, 127] {
            let keys = CancelKeys::new(router_id);
            let key = keys.enter(3, 0);
            assert_eq!(keys.find(key.pid(), key.secret()), Addressee::Worker(3));
            assert_eq!(keys.find(key.pid(), b"\0\0\0\0\0"), Addressee::Nobody);
            assert_eq!(keys.find(key.pid() ^ 1, key.secret()), Addressee::Nobody);
            keys.leave(&key);
            assert_eq!(keys.find(key.pid(), key.secret()), Addressee::Nobody);
        }
    }

    #[test]
    fn a_peers_key_is_passed_on_once() {
        let (one, two) = (CancelKeys::new(1), CancelKeys::new(2));
        for minor in [0, 2] {
            let key = one.enter(5, minor);
            assert_eq!(two.find(key.pid(), key.secret()), Addressee::Peer(1));
            let passed_on = forwarded(key.secret());
            assert_eq!(one.find(key.pid(), &passed_on), Addressee::Worker(5));
            assert_eq!(CancelKeys::new(3).find(key.pid(), &passed_on), Addressee::Nobody);
            assert_eq!(CancelKeys::new(0).find(key.pid(), key.secret()), Addressee::Nobody);
        }
        assert_eq!(one.find(17, b"1234"), Addressee::Nobody, "the key of a router without a number");
        assert_eq!(one.find(-1, b"1234"), Addressee::Nobody);
    }
}
