//! What servers answer, as far as the router looks into it.

use crate::protocol::backend::Field;
use crate::protocol::reader::{Malformed, Reader};

/// ParameterStatus: name and value.
///
/// # Errors
/// The body has another layout, as for all readers of this file.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    let pair = (reader.cstr()?, reader.cstr()?);
    reader.end()?;
    Ok(pair)
}

/// BackendKeyData: process id and the secret, of 4 bytes in protocol 3.0 and up to 256 in 3.2.
///
/// # Errors
/// See [`parameter_status`].
pub fn backend_key_data(body: &[u8]) -> Result<(i32, &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    let pid = reader.i32()?;
    match reader.rest() {
        secret if (4..=256).contains(&secret.len()) => Ok((pid, secret)),
        secret => Err(Malformed(format!("a cancel key of {} bytes", secret.len()))),
    }
}

/// RowDescription.
///
/// # Errors
/// See [`parameter_status`].
pub fn row_description(body: &[u8]) -> Result<Vec<Field>, Malformed> {
    let mut reader = Reader::new(body);
    let count = usize::from(reader.u16()?);
    // Every field takes 19 bytes or more: a count that promises more reserves nothing.
    let mut fields = Vec::with_capacity(count.min(body.len() / 19));
    for _ in 0..count {
        fields.push(Field {
            name: String::from_utf8_lossy(reader.cstr()?).into_owned(),
            table_oid: reader.u32()?,
            column: reader.i16()?,
            type_oid: reader.u32()?,
            type_size: reader.i16()?,
            typmod: reader.i32()?,
            format: reader.i16()?,
        });
    }
    reader.end()?;
    Ok(fields)
}

/// ParameterDescription: the types of a statement's parameters.
///
/// # Errors
/// See [`parameter_status`].
pub fn parameter_description(body: &[u8]) -> Result<Vec<u32>, Malformed> {
    let mut reader = Reader::new(body);
    let count = usize::from(reader.u16()?);
    let types = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(types)
}

/// CommandComplete: the tag without its NUL.
///
/// # Errors
/// See [`parameter_status`].
pub fn command_tag(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body);
    let tag = reader.cstr()?;
    reader.end()?;
    Ok(tag)
}

/// How many rows a command tag speaks of: the last word of `INSERT 0 5`, `SELECT 5`, `COPY 5`.
pub fn tag_rows(tag: &[u8]) -> Option<u64> {
    let (mut rows, mut scale, mut digits) = (0_u64, Some(1_u64), 0);
    for byte in tag.iter().rev() {
        match byte {
            b'0'..=b'9' => {
                rows = u64::from(byte - b'0').checked_mul(scale?)?.checked_add(rows)?;
                scale = scale.and_then(|scale| scale.checked_mul(10));
                digits += 1;
            }
            b' ' if digits > 0 => return Some(rows),
            _ => return None,
        }
    }
    None
}

/// CopyInResponse, CopyOutResponse, CopyBothResponse: the overall format and that of each column.
///
/// # Errors
/// See [`parameter_status`].
pub fn copy_response(body: &[u8]) -> Result<(u8, Vec<i16>), Malformed> {
    let mut reader = Reader::new(body);
    let format = reader.u8()?;
    let count = usize::from(reader.u16()?);
    let columns = (0..count).map(|_| reader.i16()).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok((format, columns))
}

/// DataRow: its cells in order, `None` for NULL.
///
/// # Errors
/// See [`parameter_status`].
pub fn data_row(body: &[u8]) -> Result<impl Iterator<Item = Result<Option<&[u8]>, Malformed>>, Malformed> {
    let mut reader = Reader::new(body);
    let count = usize::from(reader.u16()?);
    Ok((0..count).map(move |_| reader.value()))
}

/// NotificationResponse: process id, channel, payload.
///
/// # Errors
/// See [`parameter_status`].
pub fn notification(body: &[u8]) -> Result<(i32, &[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    let notification = (reader.i32()?, reader.cstr()?, reader.cstr()?);
    reader.end()?;
    Ok(notification)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::backend;

    #[test]
    fn rows_of_a_tag() {
        assert_eq!(tag_rows(b"INSERT 0 5"), Some(5));
        assert_eq!(tag_rows(b"SELECT 18446744073709551615"), Some(u64::MAX));
        for tag in [&b"BEGIN"[..], b"CREATE TABLE", b"", b"7", b"SELECT ", b"SELECT 99999999999999999999"] {
            assert_eq!(tag_rows(tag), None, "{tag:?}");
        }
    }

    #[test]
    fn a_count_that_lies_reserves_nothing() {
        assert!(row_description(b"\xff\xff").is_err());
        assert!(parameter_description(b"\xff\xff\0\0\0\x01").is_err());
    }

    fn field() -> impl Strategy<Value = Field> {
        ("[^\0]*", any::<u32>(), any::<i16>(), any::<u32>(), any::<i16>(), any::<i32>(), 0i16..2).prop_map(
            |(name, table_oid, column, type_oid, type_size, typmod, format)| Field {
                name,
                table_oid,
                column,
                type_oid,
                type_size,
                typmod,
                format,
            },
        )
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parameter_status(&body));
            drop(backend_key_data(&body));
            drop(row_description(&body));
            drop(parameter_description(&body));
            drop(command_tag(&body).map(tag_rows));
            drop(copy_response(&body));
            drop(data_row(&body).map(Iterator::count));
            drop(notification(&body));
        }

        #[test]
        fn rows_and_fields_round_trip(
            fields in proptest::collection::vec(field(), 0..5),
            cells in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)), 0..5),
        ) {
            let mut out = BytesMut::new();
            backend::row_description(&mut out, &fields);
            prop_assert_eq!(row_description(&out[5..]), Ok(fields));
            out.clear();
            backend::data_row(&mut out, &cells);
            let read: Vec<_> = data_row(&out[5..]).and_then(Iterator::collect).expect("a row");
            prop_assert_eq!(read, cells.iter().map(Option::as_deref).collect::<Vec<_>>());
        }
    }
}
