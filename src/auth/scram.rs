//! SCRAM-SHA-256 (RFC 5802, RFC 7677) from the server's side, as PostgreSQL does it.
//!
//! ```text
//! client-first  n,,n=,r=<client nonce>
//! server-first  r=<both nonces>,s=<salt>,i=<iterations>
//! client-final  c=biws,r=<both nonces>,p=<proof>
//! server-final  v=<signature>
//! ```

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::auth::password_failed;
use crate::protocol::ErrorFields;

/// The name of the mechanism.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// PostgreSQL's default.
pub const ITERATIONS: u32 = 4096;

/// Longest message of a client, as in PostgreSQL (`PG_MAX_SASL_MESSAGE_LENGTH`).
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// Random bytes in the router's half of the nonce.
pub const NONCE_BYTES: usize = 18;

type Key = [u8; 32];

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// What a server keeps instead of the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    /// In base64, as it is sent.
    salt: String,
    stored_key: Key,
    server_key: Key,
}

impl Verifier {
    /// Derives the keys from a password: thousands of hashes, a few milliseconds.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let prepared = stringprep::saslprep(password).unwrap_or(password.into());
        let mut block = hmac(prepared.as_bytes(), &[salt, &1u32.to_be_bytes()]);
        let mut salted = block;
        for _ in 1..iterations {
            block = hmac(prepared.as_bytes(), &[&block]);
            salted.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
        }
        Self {
            iterations,
            salt: STANDARD.encode(salt),
            stored_key: Sha256::digest(hmac(&salted, &[b"Client Key"])).into(),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid`.
    pub fn parse(text: &str) -> Option<Self> {
        let (iterations, rest) = text.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text| Key::try_from(STANDARD.decode(text).ok()?).ok();
        STANDARD.decode(salt).ok()?;
        Some(Self {
            iterations: iterations.parse().ok().filter(|&i| i > 0)?,
            salt: salt.to_owned(),
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// A verifier that no password fits, with the salt that `user` would have.
    pub fn mock(salt: &[u8]) -> Self {
        Self { iterations: ITERATIONS, salt: STANDARD.encode(salt), stored_key: [0; 32], server_key: [0; 32] }
    }
}

/// The salt of a user: always the same, and the same for users that do not exist, so that asking twice tells nothing.
pub fn salt_of(user: &str, salt_key: &[u8]) -> [u8; 16] {
    let full = hmac(salt_key, &[user.as_bytes()]);
    std::array::from_fn(|i| full[i])
}

/// What to send next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Continue(String),
    /// The client knows the password.
    Final(String),
}

/// One client's exchange.
pub struct Exchange {
    user: String,
    /// `None` for users that do not exist: they fail at the end, like a wrong password.
    verifier: Option<Verifier>,
    mock: Verifier,
    server_nonce: String,
    state: State,
}

enum State {
    ClientFirst,
    ClientFinal { gs2_header: &'static str, nonce: String, client_first_bare: String, server_first: String },
    Ended,
}

impl Exchange {
    /// `salt` is that of [`salt_of`], shown for users that have no verifier.
    pub fn new(user: &str, verifier: Option<Verifier>, salt: [u8; 16], nonce: [u8; NONCE_BYTES]) -> Self {
        Self {
            user: user.to_owned(),
            verifier,
            mock: Verifier::mock(&salt),
            server_nonce: STANDARD.encode(nonce),
            state: State::ClientFirst,
        }
    }

    /// Takes a message of the client. An initial response may be missing (`None`): the client is then asked for it.
    ///
    /// # Errors
    /// The message is malformed, or the proof is wrong. The exchange is over.
    pub fn message(&mut self, data: Option<&[u8]>) -> Result<Next, Box<ErrorFields>> {
        let state = std::mem::replace(&mut self.state, State::Ended);
        let Some(data) = data else {
            return match state {
                State::ClientFirst => {
                    self.state = state;
                    Ok(Next::Continue(String::new()))
                }
                State::ClientFinal { .. } | State::Ended => Err(malformed("The message is missing.")),
            };
        };
        if data.is_empty() {
            return Err(malformed("The message is empty."));
        }
        if data.len() > MESSAGE_BYTES_MAX || data.contains(&0) {
            return Err(malformed("Message length does not match input length."));
        }
        let Ok(text) = std::str::from_utf8(data) else { return Err(malformed("The message is not UTF-8.")) };
        match state {
            State::ClientFirst => self.client_first(text).map(Next::Continue),
            State::ClientFinal { gs2_header, nonce, client_first_bare, server_first } => {
                let (without_proof, proof) = read_client_final(text, gs2_header, &nonce)?;
                let auth_message = format!("{client_first_bare},{server_first},{without_proof}");
                self.verify(&auth_message, proof).map(Next::Final)
            }
            State::Ended => Err(malformed("The exchange is over.")),
        }
    }

    fn client_first(&mut self, text: &str) -> Result<String, Box<ErrorFields>> {
        let first = ClientFirst::read(text)?;
        let nonce = format!("{}{}", first.nonce, self.server_nonce);
        let verifier = self.verifier.as_ref().unwrap_or(&self.mock);
        let server_first = format!("r={nonce},s={},i={}", verifier.salt, verifier.iterations);
        self.state = State::ClientFinal {
            gs2_header: first.gs2_header,
            nonce,
            client_first_bare: first.bare.to_owned(),
            server_first: server_first.clone(),
        };
        Ok(server_first)
    }

    fn verify(&self, auth_message: &str, mut proof: Key) -> Result<String, Box<ErrorFields>> {
        let verifier = self.verifier.as_ref().unwrap_or(&self.mock);
        let signature = hmac(&verifier.stored_key, &[auth_message.as_bytes()]);
        proof.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        let stored_key: Key = Sha256::digest(proof).into();
        let proved = bool::from(stored_key.ct_eq(&verifier.stored_key));
        if !proved || self.verifier.is_none() {
            return Err(password_failed(&self.user));
        }
        Ok(format!("v={}", STANDARD.encode(hmac(&verifier.server_key, &[auth_message.as_bytes()]))))
    }
}

fn malformed(detail: impl Into<std::borrow::Cow<'static, str>>) -> Box<ErrorFields> {
    Box::new(ErrorFields::fatal("08P01", "malformed SCRAM message").with_detail(detail))
}

fn unsupported(message: &'static str) -> Box<ErrorFields> {
    Box::new(ErrorFields::fatal("0A000", message))
}

struct ClientFirst<'a> {
    gs2_header: &'static str,
    /// The message without its GS2 header.
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn read(text: &'a str) -> Result<Self, Box<ErrorFields>> {
        // `y` means: the client could bind to the channel but thinks that the server cannot, which is so.
        let (gs2_header, rest) = if let Some(rest) = text.strip_prefix("n,") {
            ("n,,", rest)
        } else if let Some(rest) = text.strip_prefix("y,") {
            ("y,,", rest)
        } else if text.starts_with("p=") {
            return Err(malformed(
                "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
            ));
        } else {
            return Err(malformed("Unexpected channel-binding flag."));
        };
        if rest.starts_with("a=") {
            return Err(unsupported("client uses authorization identity, but it is not supported"));
        }
        let Some(bare) = rest.strip_prefix(',') else { return Err(malformed("Comma expected.")) };
        if bare.starts_with("m=") {
            return Err(unsupported("client requires an unsupported SCRAM extension"));
        }
        let mut attributes = bare.split(',');
        // The name in here is ignored: the one of the startup packet counts.
        if !attributes.next().is_some_and(|user| user.starts_with("n=")) {
            return Err(malformed("Expected attribute \"n\"."));
        }
        let Some(nonce) = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")) else {
            return Err(malformed("Expected attribute \"r\"."));
        };
        if nonce.is_empty() || !nonce.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Box::new(ErrorFields::fatal("08P01", "non-printable characters in SCRAM nonce")));
        }
        if attributes.any(|extension| !is_attribute(extension)) {
            return Err(malformed("Attribute expected."));
        }
        Ok(Self { gs2_header, bare, nonce })
    }
}

fn is_attribute(text: &str) -> bool {
    matches!(text.as_bytes(), [name, b'=', ..] if name.is_ascii_alphabetic())
}

/// The message without its proof, and the proof.
fn read_client_final<'a>(text: &'a str, gs2_header: &str, nonce: &str) -> Result<(&'a str, Key), Box<ErrorFields>> {
    // The proof is last, and base64 has no comma.
    let Some((without_proof, proof)) = text.rsplit_once(",p=") else {
        return Err(malformed("Expected attribute \"p\" at the end."));
    };
    let mut attributes = without_proof.split(',');
    let channel = attributes.next().and_then(|channel| channel.strip_prefix("c="));
    let Some(channel) = channel else { return Err(malformed("Expected attribute \"c\".")) };
    if channel != STANDARD.encode(gs2_header) {
        let message = "unexpected SCRAM channel-binding attribute in client-final-message";
        return Err(Box::new(ErrorFields::fatal("08P01", message)));
    }
    let Some(echoed) = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")) else {
        return Err(malformed("Expected attribute \"r\"."));
    };
    if echoed != nonce {
        let error = ErrorFields::fatal("08P01", "invalid SCRAM response").with_detail("Nonce does not match.");
        return Err(Box::new(error));
    }
    if attributes.any(|extension| !is_attribute(extension)) {
        return Err(malformed("Attribute expected."));
    }
    let proof = STANDARD.decode(proof).ok().and_then(|proof| Key::try_from(proof).ok());
    let Some(proof) = proof else { return Err(malformed("Malformed proof in client-final-message.")) };
    Ok((without_proof, proof))
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use proptest::prelude::*;

    use super::*;

    fn exchange(verifier: Option<Verifier>) -> Exchange {
        Exchange::new("app", verifier, salt_of("app", b"key"), [7; NONCE_BYTES])
    }

    /// Lets a real client talk to `exchange`.
    fn login(mut exchange: Exchange, password: &str, binding: ChannelBinding) -> Result<(), Box<ErrorFields>> {
        let mut client = ScramSha256::new(password.as_bytes(), binding);
        let Next::Continue(first) = exchange.message(Some(client.message()))? else { panic!("too early") };
        client.update(first.as_bytes()).expect("a good server-first");
        let Next::Final(last) = exchange.message(Some(client.message()))? else { panic!("too late") };
        client.finish(last.as_bytes()).expect("a good server-final");
        Ok(())
    }

    #[test]
    fn the_right_password_logs_in_and_no_other() {
        for password in ["secret", "pässwörd", "I\u{ad}X", ""] {
            let verifier = Verifier::derive(password, b"0123456789abcdef", 4096);
            for binding in [ChannelBinding::unsupported, ChannelBinding::unrequested] {
                login(exchange(Some(verifier.clone())), password, binding()).expect("the right password");
            }
            let error = login(exchange(Some(verifier)), "wrong", ChannelBinding::unsupported());
            assert_eq!(error.expect_err("a wrong password").sqlstate, "28P01");
        }
    }

    #[test]
    fn a_verifier_of_postgresql_is_understood() {
        let text = postgres_protocol::password::scram_sha_256(b"secret");
        let verifier = Verifier::parse(&text).expect("a verifier");
        login(exchange(Some(verifier)), "secret", ChannelBinding::unsupported()).expect("the right password");
        for bad in ["", "SCRAM-SHA-256$", "SCRAM-SHA-256$0:AA==$AA==:AA==", &text[..text.len() - 1], "md5abc"] {
            assert!(Verifier::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_user_that_does_not_exist_sees_what_a_wrong_password_sees() {
        let salt = salt_of("app", b"key");
        let known = Verifier::derive("secret", &salt, ITERATIONS);
        let (mut a, mut b) = (exchange(Some(known.clone())), exchange(None));
        let first = Some(&b"n,,n=,r=abc"[..]);
        assert_eq!(a.message(first).expect("known"), b.message(first).expect("unknown"));
        let wrong = login(exchange(Some(known)), "x", ChannelBinding::unsupported());
        assert_eq!(login(exchange(None), "x", ChannelBinding::unsupported()), wrong);
    }

    #[test]
    fn no_proof_fits_a_mock() {
        // The mock's StoredKey is a constant: even the one who finds its preimage must not get in.
        let mut exchange = exchange(None);
        exchange.message(Some(b"n,,n=,r=abc")).expect("first");
        let State::ClientFinal { nonce, .. } = &exchange.state else { panic!("not waiting") };
        let last = format!("c=biws,r={nonce},p={}", STANDARD.encode([0u8; 32]));
        assert_eq!(exchange.message(Some(last.as_bytes())).expect_err("mock").sqlstate, "28P01");
    }

    #[test]
    fn malformed_messages_are_errors() {
        let long = format!("n,,n=,r={}", "a".repeat(2000));
        for (first, sqlstate) in [
            ("", "08P01"),
            ("x,,n=,r=a", "08P01"),
            ("p=tls-server-end-point,,n=,r=a", "08P01"),
            ("n,a=admin,n=,r=a", "0A000"),
            ("n,,m=x,n=,r=a", "0A000"),
            ("n,,r=a", "08P01"),
            ("n,,n=", "08P01"),
            ("n,,n=,r=", "08P01"),
            ("n,,n=,r=a\u{7f}", "08P01"),
            ("n,,n=,r=a,,", "08P01"),
            ("n,,n=\0,r=a", "08P01"),
            ("n", "08P01"),
            (&long, "08P01"),
        ] {
            let mut exchange = exchange(None);
            assert_eq!(exchange.message(Some(first.as_bytes())).expect_err(first).sqlstate, sqlstate, "{first}");
            assert_eq!(exchange.message(Some(b"n,,n=,r=a")).expect_err("over").sqlstate, "08P01");
        }
        for last in
            ["c=biws", "c=eSws,r=NONCE,p=AA==", "c=biws,r=other,p=AA==", "c=biws,r=NONCE,p=AA==", "c=biws,r=NONCE,p=!"]
        {
            let mut exchange = exchange(None);
            exchange.message(Some(b"n,,n=,r=abc")).expect("first");
            let last = last.replace("NONCE", &format!("abc{}", STANDARD.encode([7u8; NONCE_BYTES])));
            assert_eq!(exchange.message(Some(last.as_bytes())).expect_err(&last).sqlstate, "08P01", "{last}");
        }
    }

    #[test]
    fn a_missing_initial_response_is_asked_for() {
        let mut exchange = exchange(None);
        assert_eq!(exchange.message(None), Ok(Next::Continue(String::new())));
        assert!(matches!(exchange.message(Some(b"n,,n=,r=abc")), Ok(Next::Continue(_))));
        assert!(exchange.message(None).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_messages_never_panic(first in proptest::collection::vec(any::<u8>(), 0..80), last in "\\PC*") {
            let mut exchange = exchange(None);
            drop(exchange.message(Some(&first)));
            drop(exchange.message(Some(last.as_bytes())));
            drop(read_client_final(&last, "n,,", ""));
        }

        #[test]
        fn nearly_right_messages_never_panic(text in "[ny],[a,]?,?[nmr]?=?[a-z,=]{0,20}") {
            drop(exchange(None).message(Some(text.as_bytes())));
        }
    }
}
