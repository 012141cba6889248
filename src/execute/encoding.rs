//! Texts of clients whose encoding is not UTF8.
//!
//! Over one shard the router has to understand of a text only what is ASCII, and gives the server the
//! client's own bytes. In between, a byte beyond ASCII is held as the character with its number: the
//! way back is exact, whatever the encoding.

use std::borrow::Cow;

use crate::protocol::error::ErrorFields;
use crate::session::settings::unquote_literal;

use super::Conversation;

/// Encodings in which every byte of a character beyond ASCII is beyond ASCII, by the beginnings of
/// their names and aliases.
const ASCII_SAFE: [&str; 14] = [
    "latin",
    "iso8859",
    "koi8",
    "euc",
    "win125",
    "windows125",
    "win866",
    "windows866",
    "win874",
    "windows874",
    "sqlascii",
    "muleinternal",
    "alt",
    "abc",
];

impl Conversation {
    /// A text of the client.
    ///
    /// # Errors
    /// `22021`: it is not UTF-8, and the client's encoding is one that the router cannot read.
    pub(super) fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, str>, ErrorFields> {
        if !bytes.is_ascii() && self.keeps_bytes() {
            return Ok(Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()));
        }
        std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| not_utf8())
    }

    /// The bytes that the client has sent for a text.
    pub(super) fn encode<'a>(&self, text: &'a str) -> Cow<'a, [u8]> {
        if text.is_ascii() || !self.keeps_bytes() {
            return Cow::Borrowed(text.as_bytes());
        }
        Cow::Owned(text.chars().map(|char| u8::try_from(char).unwrap_or(b'?')).collect())
    }

    /// What the router keeps or says itself must be UTF-8.
    ///
    /// # Errors
    /// `0A000`: the text is none.
    pub(super) fn must_be_unicode(&self, text: &str) -> Result<(), ErrorFields> {
        match text.is_ascii() || !self.keeps_bytes() {
            true => Ok(()),
            false => {
                Err(ErrorFields::error("0A000", "settings and names of the session must be ASCII in this encoding")
                    .with_hint("Set client_encoding to UTF8."))
            }
        }
    }

    /// Whether the client can read a text that the router gives it.
    pub(super) fn understands(&self, text: &str) -> bool {
        text.is_ascii() || matches!(self.encoding().as_str(), "utf8" | "unicode" | "sqlascii")
    }

    /// Texts are bytes rather than characters to the router.
    fn keeps_bytes(&self) -> bool {
        let encoding = self.encoding();
        self.served.shards.len() == 1 && ASCII_SAFE.iter().any(|start| encoding.starts_with(start))
    }

    /// The client's encoding, in small letters and digits.
    fn encoding(&self) -> String {
        let name = self.session.client_encoding().map_or_else(|| self.encoding_by_default.to_string(), unquote_literal);
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
    }
}

/// The router reads statements as UTF-8, or leaves them alone.
pub(super) fn not_utf8() -> ErrorFields {
    ErrorFields::error("22021", "invalid byte sequence for encoding \"UTF8\"")
        .with_hint("Set client_encoding to what the client sends, or to UTF8 if the router cannot read that.")
}
