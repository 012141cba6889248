//! The router that logs in to a server: the bodies of its `R` messages in, password messages out.

use std::fmt;

use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use crate::auth::md5;
use crate::auth::scram::SCRAM_SHA_256;
use crate::config::Secret;
use crate::protocol::frontend;
use crate::protocol::reader::{Malformed, Reader};

/// Why the router cannot log in to a server. For the operator: it may name what is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthError(String);

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for AuthError {}

impl From<Malformed> for AuthError {
    fn from(malformed: Malformed) -> Self {
        Self(format!("malformed authentication request of the server: {malformed}"))
    }
}

/// The password that `user`'s secret gives for logging in to servers.
///
/// # Errors
/// Verifiers and md5 hashes prove a password; they do not contain it.
pub fn server_password<'a>(user: &str, secret: &'a Secret) -> Result<&'a str, AuthError> {
    let kind = match secret {
        Secret::Plain(password) => return Ok(password),
        Secret::ScramVerifier(_) => "SCRAM verifier",
        Secret::Md5(_) => "md5 hash",
    };
    Err(AuthError(format!(
        "the password of user \"{user}\" is configured as a {kind}, which cannot be used to log in to a server; \
         configure the plain password, or put user and password into the server's URL"
    )))
}

/// What to do after a message.
#[derive(Debug)]
pub enum Next {
    /// A whole password message for the server.
    Send(BytesMut),
    /// Nothing: the server's next `R` message follows.
    Wait,
    /// Logged in.
    Done,
}

/// One login.
pub struct Exchange {
    user: String,
    password: Option<String>,
    state: State,
}

enum State {
    Begun,
    /// The answer to md5 is sent, only the verdict is missing.
    Answered,
    SaslFirst(Box<ScramSha256>),
    SaslLast(Box<ScramSha256>),
    /// The server has proved that it knows the password too.
    SaslProved,
    Ended,
}

/// The codes of an `R` message.
mod code {
    pub(super) const OK: u32 = 0;
    pub(super) const CLEARTEXT: u32 = 3;
    pub(super) const MD5: u32 = 5;
    pub(super) const SASL: u32 = 10;
    pub(super) const SASL_CONTINUE: u32 = 11;
    pub(super) const SASL_FINAL: u32 = 12;
}

impl Exchange {
    pub fn new(user: &str, password: Option<&str>) -> Self {
        Self { user: user.to_owned(), password: password.map(str::to_owned), state: State::Begun }
    }

    /// Takes the body of an `R` message.
    ///
    /// The message SASLContinue costs a few milliseconds of hashing: a caller with others to serve may want to call
    /// this on another thread. A server cannot raise that without bound: above 100 000 iterations it is refused.
    ///
    /// # Errors
    /// The server asks for what the router does not do, or has not proved that it knows the password.
    pub fn message(&mut self, body: &[u8]) -> Result<Next, AuthError> {
        let mut reader = Reader::new(body);
        let code = reader.u32()?;
        match (code, std::mem::replace(&mut self.state, State::Ended)) {
            (code::OK, State::Begun | State::Answered | State::SaslProved) => Ok(Next::Done),
            (code::OK, State::SaslFirst(_) | State::SaslLast(_)) => {
                Err(AuthError("the server let the router in before it proved that it knows the password".into()))
            }
            (code::MD5, State::Begun) => {
                let salt = reader.u32()?.to_be_bytes();
                reader.end()?;
                self.state = State::Answered;
                self.md5(salt)
            }
            (code::SASL, State::Begun) => self.sasl_begin(reader),
            (code::SASL_CONTINUE, State::SaslFirst(scram)) => self.sasl_continue(scram, reader.rest()),
            (code::SASL_FINAL, State::SaslLast(mut scram)) => {
                scram
                    .finish(reader.rest())
                    .map_err(|e| AuthError(format!("the server failed to prove itself: {e}")))?;
                self.state = State::SaslProved;
                Ok(Next::Wait)
            }
            (code::CLEARTEXT, State::Begun) => Err(AuthError(
                "the server asks for the password in clear text, which the router does not send; \
                 use scram-sha-256 in the server's pg_hba.conf"
                    .into(),
            )),
            (2 | 7 | 9, State::Begun) => {
                Err(AuthError("the server asks for GSSAPI, Kerberos or SSPI, which the router does not support".into()))
            }
            (code, _) => Err(AuthError(format!("unexpected authentication request {code} of the server"))),
        }
    }

    fn password(&self) -> Result<&str, AuthError> {
        self.password.as_deref().ok_or_else(|| {
            AuthError(format!("the server asks for a password, and none is configured for user \"{}\"", self.user))
        })
    }

    fn md5(&self, salt: [u8; 4]) -> Result<Next, AuthError> {
        let answer = md5::response(&md5::stored(&self.user, self.password()?), salt);
        let mut out = BytesMut::new();
        frontend::password(&mut out, answer.as_bytes());
        Ok(Next::Send(out))
    }

    fn sasl_begin(&mut self, mut mechanisms: Reader<'_>) -> Result<Next, AuthError> {
        let mut offered = Vec::new();
        while let Ok(mechanism @ [_, ..]) = mechanisms.cstr() {
            offered.push(String::from_utf8_lossy(mechanism).into_owned());
        }
        if !offered.iter().any(|mechanism| mechanism == SCRAM_SHA_256) {
            return Err(AuthError(format!("the server offers only {}, not {SCRAM_SHA_256}", offered.join(", "))));
        }
        let scram = ScramSha256::new(self.password()?.as_bytes(), ChannelBinding::unsupported());
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(&mut out, SCRAM_SHA_256, scram.message());
        self.state = State::SaslFirst(Box::new(scram));
        Ok(Next::Send(out))
    }

    fn sasl_continue(&mut self, mut scram: Box<ScramSha256>, data: &[u8]) -> Result<Next, AuthError> {
        scram.update(data).map_err(|e| AuthError(format!("malformed SCRAM message of the server: {e}")))?;
        let mut out = BytesMut::new();
        frontend::sasl_response(&mut out, scram.message());
        self.state = State::SaslLast(scram);
        Ok(Next::Send(out))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sasl_started() -> (Exchange, String) {
        let mut exchange = Exchange::new("u", Some("p"));
        let Ok(Next::Send(out)) = exchange.message(b"\0\0\0\x0aSCRAM-SHA-256\0\0") else { panic!("no answer") };
        let text = String::from_utf8_lossy(&out).into_owned();
        let nonce = text.split_once(",r=").expect("a nonce").1.to_owned();
        (exchange, nonce)
    }

    #[test]
    fn trust_needs_no_password() {
        assert!(matches!(Exchange::new("u", None).message(&[0; 4]), Ok(Next::Done)));
    }

    #[test]
    fn a_server_that_skips_its_proof_is_refused() {
        let (mut exchange, _) = sasl_started();
        assert!(exchange.message(&[0; 4]).is_err());
        let (mut exchange, nonce) = sasl_started();
        let first = format!("\0\0\0\x0br={nonce}x,s=AAAA,i=4096");
        assert!(matches!(exchange.message(first.as_bytes()), Ok(Next::Send(_))));
        assert!(exchange.message(b"\0\0\0\x0cv=AAAA").is_err());
        assert!(exchange.message(&[0; 4]).is_err());
    }

    #[test]
    fn iterations_are_bounded_before_they_are_computed() {
        for iterations in ["100001", "2147483647", "4294967295", "99999999999", "-1"] {
            let (mut exchange, nonce) = sasl_started();
            let first = format!("\0\0\0\x0br={nonce}x,s=AAAA,i={iterations}");
            assert!(exchange.message(first.as_bytes()).is_err(), "{iterations}");
        }
    }

    #[test]
    fn requests_that_are_not_served_say_so() {
        for (body, word) in [
            (&b"\0\0\0\x03"[..], "clear text"),
            (b"\0\0\0\x07", "GSSAPI"),
            (b"\0\0\0\x0aOAUTHBEARER\0\0", "OAUTHBEARER"),
            (b"\0\0\0\x05\0", "insufficient"),
            (b"\0\0\0\x63", "99"),
            (b"", "insufficient"),
        ] {
            let error = Exchange::new("u", Some("p")).message(body).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
        let error = Exchange::new("u", None).message(b"\0\0\0\x05abcd").expect_err("no password").to_string();
        assert!(error.contains("none is configured"), "{error}");
        let error = server_password("u", &Secret::Md5("md5".into())).expect_err("not a password").to_string();
        assert!(error.contains("md5 hash"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_requests_never_panic(
            first in proptest::collection::vec(any::<u8>(), 0..60),
            code in 0u8..13,
            rest in "\\PC*",
        ) {
            drop(Exchange::new("u", Some("p")).message(&first));
            let (mut exchange, _) = sasl_started();
            for _ in 0..2 {
                drop(exchange.message(&[&[0, 0, 0, code][..], rest.as_bytes()].concat()));
            }
        }
    }
}
