//! Messages of a server, for whatever the router answers itself.

use bytes::{BufMut, Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::copy::{CopyInResponse, CopyOutResponse};
use pgwire::messages::response::{ErrorResponse, NoticeResponse};
use pgwire::messages::startup::{Authentication, BackendKeyData, SecretKey};

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{put_count, put_cstr, put_message, put_value};

/// The transaction status byte of ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    Open,
    Failed,
}

impl TransactionStatus {
    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Open => b'T',
            Self::Failed => b'E',
        }
    }

    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Open),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}

/// One column of a RowDescription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    /// The table that the column comes from, 0 for none.
    pub table_oid: u32,
    /// The column's number in that table, 0 for none.
    pub column: i16,
    pub type_oid: u32,
    /// Negative for types of varying length.
    pub type_size: i16,
    pub typmod: i32,
    /// 0 text, 1 binary.
    pub format: i16,
}

/// PostgreSQL's `text`.
const TEXT_OID: u32 = 25;

impl Field {
    /// A column of type `text`, sent as text.
    pub fn text(name: impl Into<String>) -> Self {
        Self { name: name.into(), table_oid: 0, column: 0, type_oid: TEXT_OID, type_size: -1, typmod: -1, format: 0 }
    }
}

/// Appends a message whose size the router itself bounds.
fn put<M: Message>(out: &mut BytesMut, message: &M) {
    let encoded = message.encode(out);
    assert!(encoded.is_ok(), "the router made a message beyond its bound: {encoded:?}");
}

pub fn authentication_ok(out: &mut BytesMut) {
    put(out, &Authentication::Ok);
}

pub fn authentication_md5(out: &mut BytesMut, salt: [u8; 4]) {
    put(out, &Authentication::MD5Password(salt.to_vec()));
}

pub fn authentication_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    put(out, &Authentication::SASL(mechanisms.iter().map(|&m| m.to_owned()).collect()));
}

pub fn authentication_sasl_continue(out: &mut BytesMut, data: &[u8]) {
    put(out, &Authentication::SASLContinue(Bytes::copy_from_slice(data)));
}

pub fn authentication_sasl_final(out: &mut BytesMut, data: &[u8]) {
    put(out, &Authentication::SASLFinal(Bytes::copy_from_slice(data)));
}

/// The answer to a newer minor version or to `_pq_.` options: what the router speaks instead.
/// `version` is the whole number (major in the upper half), as PostgreSQL sends it.
pub fn negotiate_protocol_version(out: &mut BytesMut, version: u32, unknown_options: &[String]) {
    put_message(out, b'v', |out| {
        out.put_u32(version);
        out.put_u32(u32::try_from(unknown_options.len()).unwrap_or(u32::MAX));
        for option in unknown_options {
            put_cstr(out, option.as_bytes());
        }
    });
}

pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    put_message(out, b'S', |out| {
        put_cstr(out, name.as_bytes());
        put_cstr(out, value.as_bytes());
    });
}

/// The key for cancelling. Protocol 3.0 knows secrets of four bytes only, 3.2 up to 256.
///
/// # Panics
/// The secret has fewer than 4 or more than 256 bytes.
pub fn backend_key_data(out: &mut BytesMut, pid: i32, secret: &[u8]) {
    put(out, &BackendKeyData::new(pid, SecretKey::Bytes(Bytes::copy_from_slice(secret))));
}

pub fn ready_for_query(out: &mut BytesMut, status: TransactionStatus) {
    out.put_slice(&[b'Z', 0, 0, 0, 5, status.byte()]);
}

pub fn command_complete(out: &mut BytesMut, tag: &str) {
    put_message(out, b'C', |out| put_cstr(out, tag.as_bytes()));
}

pub fn empty_query_response(out: &mut BytesMut) {
    put_message(out, b'I', |_| {});
}

pub fn parse_complete(out: &mut BytesMut) {
    put_message(out, b'1', |_| {});
}

pub fn bind_complete(out: &mut BytesMut) {
    put_message(out, b'2', |_| {});
}

pub fn close_complete(out: &mut BytesMut) {
    put_message(out, b'3', |_| {});
}

/// NotificationResponse.
pub fn notification_response(out: &mut BytesMut, pid: i32, channel: &str, payload: &str) {
    put_message(out, b'A', |out| {
        out.put_i32(pid);
        put_cstr(out, channel.as_bytes());
        put_cstr(out, payload.as_bytes());
    });
}

pub fn no_data(out: &mut BytesMut) {
    put_message(out, b'n', |_| {});
}

pub fn portal_suspended(out: &mut BytesMut) {
    put_message(out, b's', |_| {});
}

pub fn parameter_description(out: &mut BytesMut, types: &[u32]) {
    put_message(out, b't', |out| {
        put_count(out, types.len());
        for &oid in types {
            out.put_u32(oid);
        }
    });
}

pub fn row_description(out: &mut BytesMut, fields: &[Field]) {
    put_message(out, b'T', |out| {
        put_count(out, fields.len());
        for field in fields {
            put_cstr(out, field.name.as_bytes());
            out.put_u32(field.table_oid);
            out.put_i16(field.column);
            out.put_u32(field.type_oid);
            out.put_i16(field.type_size);
            out.put_i32(field.typmod);
            out.put_i16(field.format);
        }
    });
}

/// One row; a cell is whatever bytes its column's format asks for, `None` is NULL.
pub fn data_row<C: AsRef<[u8]>>(out: &mut BytesMut, cells: &[Option<C>]) {
    put_message(out, b'D', |out| {
        put_count(out, cells.len());
        for cell in cells {
            put_value(out, cell.as_ref().map(AsRef::as_ref));
        }
    });
}

pub fn error_response(out: &mut BytesMut, fields: &ErrorFields) {
    put(out, &ErrorResponse::new(fields.to_wire()));
}

pub fn notice_response(out: &mut BytesMut, fields: &ErrorFields) {
    put(out, &NoticeResponse::new(fields.to_wire()));
}

/// The server is ready for CopyData. `format` is the overall one: 0 text, 1 binary.
pub fn copy_in_response(out: &mut BytesMut, format: i8, columns: &[i16]) {
    put(out, &CopyInResponse::new(format, columns.len().try_into().unwrap_or(i16::MAX), columns.to_vec()));
}

pub fn copy_out_response(out: &mut BytesMut, format: i8, columns: &[i16]) {
    put(out, &CopyOutResponse::new(format, columns.len().try_into().unwrap_or(i16::MAX), columns.to_vec()));
}

pub fn copy_data(out: &mut BytesMut, data: &[u8]) {
    put_message(out, b'd', |out| out.put_slice(data));
}

pub fn copy_done(out: &mut BytesMut) {
    put_message(out, b'c', |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layouts of the protocol's documentation, byte for byte.
    #[test]
    fn bytes_are_those_of_postgresql() {
        let mut out = BytesMut::new();
        authentication_ok(&mut out);
        authentication_md5(&mut out, [1, 2, 3, 4]);
        authentication_sasl(&mut out, &["SCRAM-SHA-256"]);
        assert_eq!(
            &out[..],
            b"R\0\0\0\x08\0\0\0\0R\0\0\0\x0c\0\0\0\x05\x01\x02\x03\x04R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"
        );
        out.clear();
        backend_key_data(&mut out, 7, &[0xde, 0xad, 0xbe, 0xef, 1]);
        assert_eq!(&out[..], b"K\0\0\0\x0d\0\0\0\x07\xde\xad\xbe\xef\x01");
        out.clear();
        negotiate_protocol_version(&mut out, 0x0003_0002, &["_pq_.x".into()]);
        assert_eq!(&out[..], b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0");
        out.clear();
        row_description(&mut out, &[Field::text("a")]);
        assert_eq!(&out[..], b"T\0\0\0\x1a\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
        out.clear();
        data_row(&mut out, &[Some("x"), None]);
        assert_eq!(&out[..], b"D\0\0\0\x0f\0\x02\0\0\0\x01x\xff\xff\xff\xff");
        out.clear();
        copy_in_response(&mut out, 1, &[1, 1]);
        assert_eq!(&out[..], b"G\0\0\0\x0b\x01\0\x02\0\x01\0\x01");
    }

    #[test]
    fn an_error_carries_its_severity_twice() {
        let mut out = BytesMut::new();
        error_response(&mut out, &ErrorFields::fatal("28000", "no").with_hint("try"));
        assert_eq!(&out[..], b"E\0\0\0\x23SFATAL\0VFATAL\0C28000\0Mno\0Htry\0\0");
    }
}
