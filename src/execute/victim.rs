//! What becomes of a client that must give up, so that others which wait for it over several shards can go on.
//!
//! As after PostgreSQL's own deadlock error: its transaction fails on all servers, so that the locks go, and waits for ROLLBACK.

use bytes::{Bytes, BytesMut};

use crate::pool::error::error_field;
use crate::protocol::backend::{self, TransactionStatus};
use crate::protocol::error::ErrorFields;

use super::ask::Notices;
use super::{Conversation, End, Failure};

/// What a server says of a statement that was cancelled.
const CANCELLED: &[u8] = b"57014";

/// Names no savepoint of anybody's: going back to it fails a transaction, and only that.
pub(super) const FAIL: &str = "ROLLBACK TO SAVEPOINT \"sluice: deadlock detected\"";

/// What a client is to be told in the place of an answer.
#[derive(Clone, Debug)]
pub(super) struct Sentence {
    pub(super) fields: ErrorFields,
    pub(super) is_told: bool,
}

impl Sentence {
    /// The error in the place of a server's (the body of its ErrorResponse), if that is the sentence's doing.
    pub(super) fn in_place_of(&mut self, body: &[u8]) -> Option<Bytes> {
        if error_field(body, b'C') != Some(CANCELLED) {
            return None;
        }
        self.is_told = true;
        // Where the statement was when it had to stop is the server's knowledge.
        let context = ErrorFields::parse(body).context;
        let mut message = BytesMut::new();
        backend::error_response(&mut message, &ErrorFields { context, ..self.fields.clone() });
        Some(message.freeze())
    }
}

impl Conversation {
    /// The ErrorResponse that the client gets for a server's.
    pub(super) fn as_told(&self, message: &[u8]) -> Bytes {
        self.presence.sentence_for(&message[5..]).unwrap_or_else(|| Bytes::copy_from_slice(message))
    }

    /// The servers that have not failed themselves fail, too: nobody is to wait any longer for what they have locked.
    pub(super) async fn fail_everywhere(&mut self) -> Result<(), End> {
        let open = self.links.iter().filter(|link| link.joined && link.server.state.is_settled());
        let open = open.filter(|link| link.server.state.status() == TransactionStatus::Open);
        let open: Vec<u64> = open.map(|link| link.server.id.0).collect();
        for id in open {
            let Some(i) = self.links.by_server(id) else { continue };
            match self.ask_hearing(i, FAIL, Notices::Dropped).await {
                // A server that is gone holds no locks either; what comes next will tell.
                Ok(_) | Err(Failure::Error(_) | Failure::Told) => {}
                Err(Failure::End(end)) => return Err(end),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ErrorFields, Sentence};

    #[test]
    fn only_a_cancelled_statement_gets_another_error() {
        let fields = ErrorFields::error("40P01", "deadlock detected");
        let mut sentence = Sentence { fields, is_told: false };
        assert!(sentence.in_place_of(b"C23505\0Mduplicate\0\0").is_none() && !sentence.is_told);
        let told = sentence.in_place_of(b"C57014\0Mcancelled\0Wwhile locking tuple (0,1)\0\0").unwrap();
        let told = ErrorFields::parse(&told[5..]);
        assert_eq!((&*told.sqlstate, told.context.as_deref()), ("40P01", Some("while locking tuple (0,1)")));
        assert!(sentence.is_told);
    }
}
