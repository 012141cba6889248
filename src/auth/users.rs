//! The users of the configuration, ready for logging in.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::auth::md5;
use crate::auth::scram::{self, Verifier};
use crate::config::{AuthMethod, Role, Secret, User};

/// Who may log in, and how. Made once for a configuration and shared.
pub struct Users {
    method: AuthMethod,
    known: HashMap<String, Known>,
    salt_key: [u8; 32],
}

struct Known {
    secret: Option<Secret>,
    role: Role,
    /// Derived from a plain password when it is first needed: that takes milliseconds.
    verifier: OnceLock<Option<Verifier>>,
}

impl Users {
    /// `salt_key` is random and stays the same when the configuration is read again: all salts that are not written
    /// in the configuration come from it, those of users that do not exist too.
    pub fn new(method: AuthMethod, users: &[User], salt_key: [u8; 32]) -> Self {
        let known = users.iter().map(|user| {
            let known = Known { secret: user.password.clone(), role: user.role, verifier: OnceLock::new() };
            (user.name.clone(), known)
        });
        Self { method, known: known.collect(), salt_key }
    }

    /// How `user` must prove who it is.
    ///
    /// With `md5` a user of whom only a SCRAM verifier is known proves it by SCRAM, as in PostgreSQL.
    pub(crate) fn method_for(&self, user: &str) -> AuthMethod {
        let secret = self.known.get(user).and_then(|known| known.secret.as_ref());
        match (self.method, secret) {
            (AuthMethod::Md5, Some(Secret::ScramVerifier(_))) => AuthMethod::ScramSha256,
            (method, _) => method,
        }
    }

    /// What the console lets `user` do. A user that is not listed is there by `trust` alone.
    pub(crate) fn role_of(&self, user: &str) -> Role {
        self.known.get(user).map_or(Role::App, |known| known.role)
    }

    /// The salt that `user` has, or would have.
    pub(crate) fn salt_of(&self, user: &str) -> [u8; 16] {
        scram::salt_of(user, &self.salt_key)
    }

    /// `None` for users that do not exist or cannot log in by SCRAM.
    pub(crate) fn verifier_of(&self, user: &str) -> Option<Verifier> {
        let known = self.known.get(user)?;
        let derive = || match known.secret.as_ref()? {
            Secret::Plain(password) => Some(Verifier::derive(password, &self.salt_of(user), scram::ITERATIONS)),
            Secret::ScramVerifier(text) => Verifier::parse(text),
            Secret::Md5(_) => None,
        };
        known.verifier.get_or_init(derive).clone()
    }

    /// The stored md5 form; `None` for users that do not exist or cannot log in by md5.
    pub(crate) fn md5_of(&self, user: &str) -> Option<String> {
        match self.known.get(user)?.secret.as_ref()? {
            Secret::Plain(password) => Some(md5::stored(user, password)),
            Secret::Md5(stored) => Some(stored.clone()),
            Secret::ScramVerifier(_) => None,
        }
    }
}
