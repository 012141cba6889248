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
#[derive(Debug, Default)]
pub struct CancelKeys {
    holders: DashMap<i32, Holder>,
}

#[derive(Debug)]
struct Holder {
    secret: Box<[u8]>,
    worker: usize,
}

/// Bytes of a secret in protocol 3.0, and from 3.2 on.
const SHORT_SECRET: usize = 4;
const LONG_SECRET: usize = 32;

impl CancelKeys {
    /// A new key for a client of `worker` that speaks protocol 3.`minor`.
    pub fn enter(&self, worker: usize, minor: u16) -> CancelKey {
        let mut secret = vec![0; if minor >= 2 { LONG_SECRET } else { SHORT_SECRET }].into_boxed_slice();
        loop {
            let mut pid = [0; 4];
            // Without randomness there is no secret, and nothing that could be done instead.
            getrandom::fill(&mut pid).expect("the system has a source of random bytes");
            getrandom::fill(&mut secret).expect("the system has a source of random bytes");
            let pid = i32::from_be_bytes(pid) & i32::MAX;
            if let dashmap::Entry::Vacant(entry) = self.holders.entry(pid)
                && pid != 0
            {
                entry.insert(Holder { secret: secret.clone(), worker });
                return CancelKey { pid, secret };
            }
        }
    }

    pub fn leave(&self, key: &CancelKey) {
        self.holders.remove(&key.pid);
    }

    /// The worker of the client with this key, if the secret is right.
    pub fn find(&self, pid: i32, secret: &[u8]) -> Option<usize> {
        let holder = self.holders.get(&pid)?;
        bool::from(subtle::ConstantTimeEq::ct_eq(&*holder.secret, secret)).then_some(holder.worker)
    }
}

#[cfg(test)]
mod tests {
    use super::CancelKeys;

    #[test]
    fn only_the_holder_of_the_secret_is_heard() {
        let keys = CancelKeys::default();
        let key = keys.enter(3, 0);
        assert_eq!(keys.find(key.pid(), key.secret()), Some(3));
        assert_eq!(keys.find(key.pid(), b"\0\0\0\0\0"), None);
        assert_eq!(keys.find(key.pid() ^ 1, key.secret()), None);
        keys.leave(&key);
        assert_eq!(keys.find(key.pid(), key.secret()), None);
    }
}
