//! Rows of several shards that come back with their numbers as text in a last column: what the client gets of them, and in which order.

use bytes::BytesMut;
use pgsluice_sharding::ShardId;

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{Header, put_count, put_message};
use crate::protocol::reply;

/// A RowDescription message without the number; none if it has another layout.
pub(super) fn described(message: &[u8]) -> Option<BytesMut> {
    /// What follows a column's name.
    const TYPE_BYTES: usize = 18;
    let body = message.get(5..)?;
    let columns = usize::from(u16::from_be_bytes(body.first_chunk().copied()?)).checked_sub(1)?;
    let mut end = 2;
    for _ in 0..columns {
        end += memchr::memchr(0, body.get(end..)?)? + 1 + TYPE_BYTES;
    }
    let own = body.get(2..end)?;
    let mut out = BytesMut::with_capacity(message.len());
    put_message(&mut out, b'T', |out| {
        put_count(out, columns);
        out.extend_from_slice(own);
    });
    Some(out)
}

/// The formats of the results with that of the number, as a Bind message has them: text is the same in both.
pub(super) fn formats(mut codes: Vec<i16>) -> Vec<i16> {
    if codes.len() > 1 {
        codes.push(0);
    }
    codes
}

/// The rows of a statement that came back from its shards.
pub(super) struct NumberedRows<'a> {
    shards: Vec<FromShard<'a>>,
}

/// What came from one shard.
struct FromShard<'a> {
    shard: ShardId,
    /// Whole DataRow messages.
    rest: &'a [u8],
    /// How many rows it was given, of those looked at.
    given: usize,
}

impl<'a> NumberedRows<'a> {
    /// Whole DataRow messages of each shard.
    pub(super) fn new(shards: &[ShardId], kept: &'a [Vec<u8>]) -> Self {
        let shards = shards.iter().zip(kept).map(|(shard, rest)| FromShard { shard: *shard, rest, given: 0 });
        Self { shards: shards.collect() }
    }

    /// Puts out the next row that was given to `place`, if it came back.
    pub(super) fn take(&mut self, place: ShardId, out: &mut BytesMut) -> Result<(), ErrorFields> {
        let Some(from) = self.shards.iter_mut().find(|from| from.shard == place) else { return Ok(()) };
        from.given += 1;
        let Ok(Some(header)) = Header::parse(from.rest) else { return Ok(()) };
        let (message, behind) = from.rest.split_at(header.total.min(from.rest.len()));
        let row = Row::read(message)?;
        if row.number == from.given {
            from.rest = behind;
            row.put(out);
        }
        Ok(())
    }

    /// Every row must have been one of those given.
    pub(super) fn end(&self) -> Result<(), ErrorFields> {
        if self.shards.iter().all(|from| from.rest.is_empty()) { Ok(()) } else { Err(out_of_order()) }
    }
}

/// A row with its number.
struct Row<'a> {
    number: usize,
    columns: usize,
    /// Those before the number.
    cells: &'a [u8],
}

impl<'a> Row<'a> {
    fn read(message: &'a [u8]) -> Result<Self, ErrorFields> {
        let body = message.get(5..).unwrap_or_default();
        let (mut columns, mut length, mut last) = (0, 0, None);
        for cell in reply::data_row(body)? {
            last = cell?;
            columns += 1;
            length += 4 + last.map_or(0, <[u8]>::len);
        }
        let number = last.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let number: usize = number.ok_or_else(out_of_order)?;
        let own = length - 4 - last.map_or(0, <[u8]>::len);
        Ok(Self { number, columns: columns - 1, cells: body.get(2..2 + own).ok_or_else(out_of_order)? })
    }

    fn put(&self, out: &mut BytesMut) {
        put_message(out, b'D', |out| {
            put_count(out, self.columns);
            out.extend_from_slice(self.cells);
        });
    }
}

fn out_of_order() -> ErrorFields {
    ErrorFields::error("XX000", "a shard does not tell which rows of the INSERT it gives back")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::backend::{self, Field};

    fn rows(cells: &[&[Option<&str>]]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for row in cells {
            let row: Vec<Option<Vec<u8>>> = row.iter().map(|cell| cell.map(|cell| cell.into())).collect();
            backend::data_row(&mut out, &row);
        }
        out.to_vec()
    }

    fn taken(kept: &[Vec<u8>], places: &[u16]) -> Result<Vec<u8>, String> {
        let mut numbered = NumberedRows::new(&[ShardId(0), ShardId(2)], kept);
        let mut out = BytesMut::new();
        for place in places {
            numbered.take(ShardId(*place), &mut out).map_err(|error| error.message.to_string())?;
        }
        numbered.end().map(|()| out.to_vec()).map_err(|error| error.message.to_string())
    }

    #[test]
    fn rows_come_in_the_order_of_those_given() {
        let first = rows(&[&[Some("b"), None, Some("2")], &[Some("d"), Some(""), Some("3")]]);
        let second = rows(&[&[None, Some("c"), Some("1")]]);
        let got = taken(&[first, second], &[0, 0, 2, 2, 0]);
        assert_eq!(got, Ok(rows(&[&[Some("b"), None], &[None, Some("c")], &[Some("d"), Some("")]])));
        assert_eq!(taken(&[Vec::new(), Vec::new()], &[0, 2]), Ok(Vec::new()));
    }

    #[test]
    fn rows_that_were_not_given_are_an_error() {
        for number in [Some("3"), Some("0"), Some("x"), None] {
            let kept = [rows(&[&[Some("a"), number]]), Vec::new()];
            assert!(taken(&kept, &[0, 2, 0]).is_err(), "{number:?}");
        }
        let twice = rows(&[&[Some("a"), Some("1")], &[Some("a"), Some("1")]]);
        assert!(taken(&[twice, Vec::new()], &[0, 0, 0]).is_err());
        assert!(taken(&[vec![b'D', 0, 0, 0, 6, 0, 0], Vec::new()], &[0]).is_err(), "without a column");
    }

    #[test]
    fn the_client_is_told_its_own_columns() {
        let (mut told, mut own) = (BytesMut::new(), BytesMut::new());
        backend::row_description(&mut told, &[Field::text("a"), Field::text("current_setting")]);
        backend::row_description(&mut own, &[Field::text("a")]);
        assert_eq!(described(&told).as_deref(), Some(&own[..]));
        for end in 0..told.len() - 20 {
            drop(described(&told[..end]));
        }
        assert_eq!(described(b"T\0\0\0\x06\0\0"), None);
        assert_eq!([formats(vec![]), formats(vec![1]), formats(vec![1, 0])], [vec![], vec![1], vec![1, 0, 0]]);
    }
}
