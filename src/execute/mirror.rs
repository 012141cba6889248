//! Writes of a reference table that only the first shard runs; the others get the rows as it leaves them.

use bytes::{Buf, BytesMut};
use pgsluice_sharding::Refusal;
use pgsluice_sharding::merge::ColumnType;
use pgsluice_sharding::plan::{Copies, Mirror};

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{Header, put_count, put_message};
use crate::protocol::reply;

use super::arguments::Arguments;
use super::ask::Notices;
use super::final_query::InputRows;
use super::gather::{BINARY, ManyRequest, OUT_BYTES};
use super::types::ParameterTypes;
use super::writes::{Part, Returned, unlike_copies};
use super::{Conversation, Failure};

/// What a shard tells of the rows that it got.
const TOLD: usize = 3;

/// What the first shard runs, without what the router adds.
pub(super) struct First {
    pub(super) sql: String,
    pub(super) types: ParameterTypes,
    pub(super) arguments: Arguments,
}

impl Conversation {
    /// Runs a statement on the first of these servers and makes the copies on the others like that one; gives the command tag.
    pub(super) async fn write_mirrored(
        &mut self,
        copies: &Copies,
        mirror: &Mirror,
        ids: &[u64],
        first: First,
        request: ManyRequest<'_>,
    ) -> Result<String, Failure> {
        let description = self.write_description(ids[0], request.arguments).await?;
        self.hold_to_what_was_told(&description, request.arguments)?;
        let own = description.client_columns.len();
        if request.describe && own > 0 {
            self.send_row_description(&description, request.arguments)?;
        }
        let bind = request.arguments.bind()?;
        let formats = (0..own).map(|n| bind.result_formats.of(n));
        let formats: Vec<i16> = formats.chain(mirror.elements.iter().map(|_| BINARY)).collect();
        let part = [Part { id: ids[0], sql: format!("{}{}", first.sql, mirror.returning) }];
        self.start_parts(&part, &first.types, &first.arguments.with_formats(&formats)?)?;
        let mut kept = Vec::new();
        let tag = self.hear_part(ids[0], Returned::Kept { rows: &mut kept, describe: false }, Notices::Passed).await?;
        if mirror.moves_sequences {
            self.sequences_moved();
            self.session.sequences.used_elsewhere();
        }
        let mut rows = InputRows::batch(mirror.elements.len());
        let count = self.part_rows(&kept, own, &mut rows).await?;
        drop(kept);
        if count > 0 {
            self.make_alike(copies, mirror, &ids[1..], (&rows, count)).await?;
        }
        Ok(tag)
    }

    /// The first `own` cells of every row go to the client, the others to `rows`; how many rows there are.
    async fn part_rows(&mut self, mut kept: &[u8], own: usize, rows: &mut InputRows) -> Result<usize, Failure> {
        let mut count = 0;
        while let Ok(Some(header)) = Header::parse(kept) {
            let (row, behind) = kept.split_at(header.total.min(kept.len()));
            let (given, others) = parted(row.get(7..).unwrap_or_default(), own);
            rows.take_cells(others);
            if own > 0 {
                let mut row = BytesMut::with_capacity(given.len() + 7);
                put_message(&mut row, b'D', |out| {
                    put_count(out, own);
                    out.extend_from_slice(given);
                });
                match &mut self.kept {
                    Some(kept) => kept.extend_from_slice(&row),
                    None => self.client.out.extend_from_slice(&row),
                }
            }
            if self.client.out.len() >= OUT_BYTES {
                self.client.flush().await?;
            }
            count += 1;
            kept = behind;
        }
        Ok(count)
    }

    /// Has the other shards change their copies by these rows.
    async fn make_alike(
        &mut self,
        copies: &Copies,
        mirror: &Mirror,
        others: &[u64],
        (rows, count): (&InputRows, usize),
    ) -> Result<(), Failure> {
        let types = mirror.elements.iter().map(|type_oid| ColumnType { type_oid: *type_oid, typmod: -1 });
        let arrays = rows.arrays(&types.collect::<Vec<_>>());
        let arrays: Vec<&[u8]> = arrays.iter().map(|array| &**array).collect();
        let arguments = Arguments::none(&mirror.sql).with_all(&arrays)?;
        let parts: Vec<Part> = others.iter().map(|id| Part { id: *id, sql: mirror.sql.clone() }).collect();
        self.start_parts(&parts, &ParameterTypes::default(), &arguments)?;
        self.send_all_parts(&parts).await?;
        for (n, part) in parts.iter().enumerate() {
            let mut told = Vec::new();
            let returned = Returned::Kept { rows: &mut told, describe: false };
            let heard = self.hear_part(part.id, returned, Notices::Dropped).await;
            let heard = heard.and_then(|tag| check(&copies.table, &told, count).map(|()| tag));
            self.or_stop(&parts[n + 1..], heard).await?;
        }
        Ok(())
    }
}

/// Looks at what a shard tells of the `count` rows that it got, as a whole DataRow message.
fn check(table: &str, row: &[u8], count: usize) -> Result<(), Failure> {
    let mut told = [None; TOLD];
    let cells = reply::data_row(row.get(5..).unwrap_or_default()).map_err(ErrorFields::from)?;
    for (told, cell) in told.iter_mut().zip(cells) {
        let text = cell.map_err(ErrorFields::from)?.and_then(|cell| std::str::from_utf8(cell).ok());
        *told = text.and_then(|text| text.parse::<usize>().ok());
    }
    match told {
        [_, _, Some(1..)] => Err(not_told(table).into()),
        [Some(changed), ..] if changed != count => Err(unlike_copies(table).into()),
        [_, Some(1..), _] => Err(changed_again(table).into()),
        [Some(_), Some(0), Some(0)] => Ok(()),
        _ => Err(ErrorFields::error("XX000", "a shard does not tell what it has done with copies").into()),
    }
}

/// The first `count` cells and those behind.
fn parted(cells: &[u8], count: usize) -> (&[u8], &[u8]) {
    let mut rest = cells;
    for _ in 0..count {
        if rest.len() < 4 {
            break;
        }
        let length = (&rest[..4]).get_i32();
        let end = 4 + usize::try_from(length).unwrap_or(0).min(rest.len() - 4);
        rest = &rest[end..];
    }
    cells.split_at(cells.len() - rest.len())
}

fn not_told(table: &str) -> Refusal {
    Refusal::unsupported(
        format!(
            "under these settings values of reference table \"{table}\" lose something when they are written as text"
        ),
        "RESET extra_float_digits, DateStyle and IntervalStyle, or compute the values first and write them as literals or parameters.",
    )
}

fn changed_again(table: &str) -> Refusal {
    Refusal::unsupported(
        format!("a trigger changes the rows of reference table \"{table}\" again on the other shards"),
        "Compute the values first, then write them as literals or parameters.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_parted() {
        let cells = b"\0\0\0\x01a\xff\xff\xff\xff\0\0\0\x02bc";
        assert_eq!(parted(cells, 0), (&b""[..], &cells[..]));
        assert_eq!(parted(cells, 2), (&cells[..9], &cells[9..]));
        assert_eq!(parted(cells, 3), (&cells[..], &b""[..]));
    }
}
