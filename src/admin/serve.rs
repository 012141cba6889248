//! Reads a console client's messages and writes the answers.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::admin::command::QUERY_BYTES_MAX;
use crate::admin::{After, Console, Operator};
use crate::protocol::frame::{HEADER_BYTES, Header};
use crate::protocol::{ErrorFields, backend};

/// Longest message: the longest query with its header and names.
const MESSAGE_BYTES_MAX: usize = QUERY_BYTES_MAX + 1024;

/// Serves one console client until it leaves. It has logged in and was told ReadyForQuery; `input`
/// holds what it has sent since.
///
/// # Errors
/// The connection broke.
pub async fn serve(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut input: BytesMut,
    console: &mut Console,
    router: &impl Operator,
) -> io::Result<()> {
    let mut out = BytesMut::new();
    loop {
        while let Some(message) = next(&mut input, &mut out) {
            let (tag, body) = (message[0], &message[HEADER_BYTES..]);
            if console.message(tag, body, router, &mut out).await == After::Close {
                return stream.write_all_buf(&mut out).await;
            }
            // Flushed after each, so that many large answers never lie here together.
            stream.write_all_buf(&mut out).await?;
        }
        if !out.is_empty() {
            return stream.write_all_buf(&mut out).await;
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// The next whole message; `None` when more must be read, or, with an error in `out`, when what is
/// there can be no message.
fn next(input: &mut BytesMut, out: &mut BytesMut) -> Option<BytesMut> {
    match Header::parse(input) {
        Ok(Some(header)) if header.total > MESSAGE_BYTES_MAX => {
            let message = format!("the console takes messages of at most {MESSAGE_BYTES_MAX} bytes");
            backend::error_response(out, &ErrorFields::fatal("54000", message));
            None
        }
        Ok(Some(header)) if input.len() >= header.total => Some(input.split_to(header.total)),
        Ok(_) => None,
        Err(_) => {
            backend::error_response(out, &ErrorFields::fatal("08P01", "invalid message length"));
            None
        }
    }
}
