//! One client that logs in: its password messages in, requests and the verdict out.

use bytes::BytesMut;
use subtle::ConstantTimeEq;

use crate::auth::scram::{self, NONCE_BYTES, SCRAM_SHA_256};
use crate::auth::users::Users;
use crate::auth::{md5, password_failed};
use crate::config::{AuthMethod, Role};
use crate::protocol::reader::Reader;
use crate::protocol::{ErrorFields, backend};

/// Longest password message, as in PostgreSQL (`PG_MAX_AUTH_TOKEN_LENGTH`).
pub const PASSWORD_BYTES_MAX: usize = 65_535;

/// Fresh random bytes for one login.
#[derive(Clone, Copy)]
pub struct Entropy {
    pub nonce: [u8; NONCE_BYTES],
    pub salt: [u8; 4],
}

/// How far a login has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A request was written; the client's next message must be a password message.
    Wait,
    /// AuthenticationOk was written.
    Done(Role),
}

/// The state of one login.
pub struct Login {
    user: String,
    role: Role,
    state: State,
}

enum State {
    Trusted,
    Md5 {
        stored: Option<String>,
        salt: [u8; 4],
    },
    /// The mechanism is not chosen yet.
    SaslOffered(scram::Exchange),
    Sasl(scram::Exchange),
    Ended,
}

impl Login {
    /// Writes the first request, or AuthenticationOk when nothing is asked of this user.
    pub fn begin(users: &Users, user: &str, entropy: Entropy, out: &mut BytesMut) -> (Self, Progress) {
        let role = users.role_of(user);
        let (state, progress) = match users.method_for(user) {
            AuthMethod::Trust => {
                backend::authentication_ok(out);
                (State::Trusted, Progress::Done(role))
            }
            AuthMethod::Md5 => {
                backend::authentication_md5(out, entropy.salt);
                (State::Md5 { stored: users.md5_of(user), salt: entropy.salt }, Progress::Wait)
            }
            AuthMethod::ScramSha256 => {
                backend::authentication_sasl(out, &[SCRAM_SHA_256]);
                let exchange = scram::Exchange::new(user, users.verifier_of(user), users.salt_of(user), entropy.nonce);
                (State::SaslOffered(exchange), Progress::Wait)
            }
        };
        (Self { user: user.to_owned(), role, state }, progress)
    }

    /// The longest body that the next password message may have.
    pub fn message_bytes_max(&self) -> usize {
        match self.state {
            State::SaslOffered(_) | State::Sasl(_) => scram::MESSAGE_BYTES_MAX,
            State::Trusted | State::Md5 { .. } | State::Ended => PASSWORD_BYTES_MAX,
        }
    }

    /// What a client hears that sends anything but a password message.
    pub fn unexpected(&self, tag: u8) -> ErrorFields {
        let awaited = match self.state {
            State::SaslOffered(_) | State::Sasl(_) => "SASL",
            State::Trusted | State::Md5 { .. } | State::Ended => "password",
        };
        ErrorFields::fatal("08P01", format!("expected {awaited} response, got message type {tag}"))
    }

    /// Takes the body of a password message and writes the answer.
    ///
    /// # Errors
    /// The login has failed for good; nothing was written.
    pub fn message(&mut self, body: &[u8], out: &mut BytesMut) -> Result<Progress, Box<ErrorFields>> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Trusted | State::Ended => Err(Box::new(self.unexpected(b'p'))),
            State::Md5 { stored, salt } => {
                self.check_md5(body, stored.as_deref(), salt)?;
                backend::authentication_ok(out);
                Ok(Progress::Done(self.role))
            }
            State::SaslOffered(exchange) => self.sasl(exchange, read_initial_response(body)?, out),
            State::Sasl(exchange) => self.sasl(exchange, Some(body), out),
        }
    }

    fn sasl(
        &mut self,
        mut exchange: scram::Exchange,
        data: Option<&[u8]>,
        out: &mut BytesMut,
    ) -> Result<Progress, Box<ErrorFields>> {
        match exchange.message(data)? {
            scram::Next::Continue(text) => {
                backend::authentication_sasl_continue(out, text.as_bytes());
                self.state = State::Sasl(exchange);
                Ok(Progress::Wait)
            }
            scram::Next::Final(text) => {
                backend::authentication_sasl_final(out, text.as_bytes());
                backend::authentication_ok(out);
                Ok(Progress::Done(self.role))
            }
        }
    }

    fn check_md5(&self, body: &[u8], stored: Option<&str>, salt: [u8; 4]) -> Result<(), Box<ErrorFields>> {
        let Some((0, sent)) = body.split_last().filter(|(_, sent)| !sent.contains(&0)) else {
            return Err(Box::new(ErrorFields::fatal("08P01", "invalid password packet size")));
        };
        // A user that does not exist costs the same time.
        let expected = md5::response(stored.unwrap_or(""), salt);
        let same = bool::from(expected.as_bytes().ct_eq(sent));
        if same && stored.is_some() { Ok(()) } else { Err(password_failed(&self.user)) }
    }
}

/// SASLInitialResponse: the mechanism, and the first message unless the client waits to be asked.
fn read_initial_response(body: &[u8]) -> Result<Option<&[u8]>, Box<ErrorFields>> {
    let mut reader = Reader::new(body);
    let mechanism = reader.cstr()?;
    if mechanism != SCRAM_SHA_256.as_bytes() {
        let message = "client selected an invalid SASL authentication mechanism";
        return Err(Box::new(ErrorFields::fatal("08P01", message)));
    }
    let data = reader.value()?;
    reader.end()?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::client::{Exchange, Next};
    use crate::config::{Secret, User};
    use crate::protocol::Header;

    const ENTROPY: Entropy = Entropy { nonce: [9; NONCE_BYTES], salt: [1, 2, 3, 4] };

    fn users(method: AuthMethod) -> Users {
        let user =
            |name: &str, password, role| User { name: name.into(), password, role, pool_mode: None, pool_size: None };
        let verifier = postgres_protocol::password::scram_sha_256(b"secret");
        let list = [
            user("plain", Some(Secret::Plain("secret".into())), Role::Admin),
            user("verifier", Some(Secret::ScramVerifier(verifier)), Role::App),
            user("md5", Some(Secret::Md5(md5::stored("md5", "secret"))), Role::Stats),
            user("none", None, Role::App),
        ];
        Users::new(method, &list, [3; 32])
    }

    /// The router's own client side logs in to its server side.
    fn login(method: AuthMethod, user: &str, password: &str) -> Result<Role, String> {
        let (users, mut out) = (users(method), BytesMut::new());
        let (mut login, mut progress) = Login::begin(&users, user, ENTROPY, &mut out);
        let mut client = Exchange::new(user, Some(password));
        loop {
            let sent = out.split();
            let mut bytes = &sent[..];
            while let Some((tag, body, rest)) = Header::split(bytes).map_err(|e| format!("{e:?}"))? {
                assert_eq!(tag, b'R');
                match client.message(body).map_err(|e| e.to_string())? {
                    Next::Send(message) => {
                        let body = &message[5..];
                        assert!(body.len() <= login.message_bytes_max());
                        progress = login.message(body, &mut out).map_err(|e| e.sqlstate.to_string())?;
                    }
                    Next::Wait => {}
                    Next::Done => {
                        let Progress::Done(role) = progress else { panic!("the client is done first") };
                        return Ok(role);
                    }
                }
                bytes = rest;
            }
        }
    }

    #[test]
    fn every_secret_logs_in_by_what_it_allows() {
        let failed = || Err("28P01".to_owned());
        for (method, user, expected) in [
            (AuthMethod::Trust, "anybody", Ok(Role::App)),
            (AuthMethod::Trust, "plain", Ok(Role::Admin)),
            (AuthMethod::Md5, "plain", Ok(Role::Admin)),
            (AuthMethod::Md5, "md5", Ok(Role::Stats)),
            (AuthMethod::Md5, "verifier", Ok(Role::App)),
            (AuthMethod::Md5, "none", failed()),
            (AuthMethod::Md5, "anybody", failed()),
            (AuthMethod::ScramSha256, "plain", Ok(Role::Admin)),
            (AuthMethod::ScramSha256, "verifier", Ok(Role::App)),
            (AuthMethod::ScramSha256, "md5", failed()),
            (AuthMethod::ScramSha256, "none", failed()),
            (AuthMethod::ScramSha256, "anybody", failed()),
        ] {
            assert_eq!(login(method, user, "secret"), expected, "{method:?} {user}");
            if method != AuthMethod::Trust {
                assert_eq!(login(method, user, "wrong"), failed(), "{method:?} {user}");
                assert_eq!(login(method, user, ""), failed(), "{method:?} {user}");
            }
        }
    }

    #[test]
    fn a_stored_md5_is_not_itself_a_password() {
        let (users, mut out) = (users(AuthMethod::Md5), BytesMut::new());
        for hostile in [&b"\0"[..], b"md5\0", b"", b"x", b"a\0b\0"] {
            let (mut login, _) = Login::begin(&users, "md5", ENTROPY, &mut out);
            assert!(login.message(hostile, &mut out).is_err());
            // A second try needs a new connection.
            let good = format!("{}\0", md5::response(&md5::stored("md5", "secret"), ENTROPY.salt));
            assert!(login.message(good.as_bytes(), &mut out).is_err());
        }
    }

    #[test]
    fn another_mechanism_is_refused() {
        let (users, mut out) = (users(AuthMethod::ScramSha256), BytesMut::new());
        for hostile in [&b"SCRAM-SHA-256-PLUS\0\0\0\0\0"[..], b"PLAIN\0", b"", b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,"] {
            let (mut login, _) = Login::begin(&users, "plain", ENTROPY, &mut out);
            assert_eq!(login.message(hostile, &mut out).expect_err("hostile").sqlstate, "08P01");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_messages_never_log_in(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..4),
            sasl in any::<bool>(),
        ) {
            let method = if sasl { AuthMethod::ScramSha256 } else { AuthMethod::Md5 };
            let mut out = BytesMut::new();
            let (mut login, _) = Login::begin(&users(method), "none", ENTROPY, &mut out);
            for body in bodies {
                prop_assert!(!matches!(login.message(&body, &mut out), Ok(Progress::Done(_))));
            }
        }
    }
}
