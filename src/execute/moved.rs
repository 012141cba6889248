//! UPDATE of the sharding key. The rows are locked first; those that stay on their shard are updated there, the others are deleted and
//! inserted where their new key is, with the columns as the update leaves them. Where triggers or foreign keys would tell the difference, they are
//! updated before they are deleted.

use std::collections::HashSet;

use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::merge::ColumnType;
use pgsluice_sharding::plan::{Hindrance, MovedRows, SelectedRows};
use pgsluice_sharding::sql::Access;
use pgsluice_sharding::{Refusal, ShardId};

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;
use crate::protocol::reply;
use crate::session::statements::FinalRead;

use super::arguments::Arguments;
use super::ask::Notices;
use super::final_query::InputRows;
use super::gather::{BINARY, ManyRequest};
use super::selected::{Route, Sorted, rounded};
use super::timed::TIME_TYPE;
use super::types::ParameterTypes;
use super::worker::Served;
use super::writes::{Part, Returned, added};
use super::{Conversation, Failure};

/// The columns of the rows that are found: `ctid`, the same with its table and the new key as text, the new key.
const FOUND: usize = 3;

/// `tid` and `text`.
const CHOSEN: [ColumnType; 2] = [ColumnType { type_oid: 27, typmod: -1 }, ColumnType { type_oid: 25, typmod: -1 }];

/// The rows of one shard that an UPDATE of the key concerns.
struct Found {
    /// Its server.
    id: u64,
    stay: InputRows,
    go: InputRows,
}

/// The statement with its arguments, as every shard gets them.
struct Asked<'a> {
    moved: &'a MovedRows,
    /// With that of the time, if the texts ask for it.
    types: &'a ParameterTypes,
    /// Of the client's parameters alone.
    own_types: &'a ParameterTypes,
    /// The client's.
    own: &'a Arguments,
    /// And the time.
    timed: &'a Arguments,
    /// And what is read of other tables.
    arguments: &'a Arguments,
    /// The type of the new keys.
    key: ColumnType,
}

/// How rows are taken out of their old shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    AtOnce,
    /// They are updated there first.
    Updated,
}

impl Conversation {
    /// Runs an UPDATE of the key on the shards where its rows are; gives the command tag.
    pub(super) async fn move_rows(
        &mut self,
        moved: &MovedRows,
        read: &FinalRead,
        target: &[ShardId],
        request: ManyRequest<'_>,
    ) -> Result<String, Failure> {
        let ids = self.link_writers(target, request.access).await?;
        let description = self.write_description(ids[0], request.arguments).await?;
        if request.describe && !description.client_columns.is_empty() {
            self.send_row_description(&description, request.arguments)?;
        }
        let own_types = description.parameter_types.clone();
        let mut types = own_types.clone();
        if moved.query.timed {
            // A text whose condition has given way to chosen rows may not mention it.
            types.push(TIME_TYPE);
        }
        let timed = match moved.query.timed {
            true => self.timed(request.arguments, moved.query.params, ids[0]).await?,
            false => request.arguments.clone(),
        };
        let arguments = match moved.query.inputs.is_empty() {
            true => timed.clone(),
            false => self.with_inputs(read, request.arguments, &timed).await?.1,
        };
        let query = request.arguments.of_part(&types.settle(&moved.find)).with_types(types.numbers());
        let found = self.write_description(ids[0], &query).await?;
        let key = found.client_columns.get(FOUND - 1).copied().ok_or_else(unexpected)?;
        let own = request.arguments;
        let asked =
            Asked { moved, types: &types, own_types: &own_types, own, timed: &timed, arguments: &arguments, key };
        let mut all = Vec::with_capacity(ids.len());
        for (id, shard) in ids.iter().zip(target) {
            all.push(self.find_moving(*id, *shard, &asked).await?);
        }
        self.move_found(&all, &asked).await
    }

    /// Updates the rows that stay and moves the others.
    async fn move_found(&mut self, all: &[Found], asked: &Asked<'_>) -> Result<String, Failure> {
        let moved = asked.moved;
        let mut tag = "UPDATE 0".to_owned();
        let going: Vec<&Found> = all.iter().filter(|found| !found.go.is_empty()).collect();
        let way = match going.first() {
            Some(first) => self.way_out(first.id, moved).await?,
            None => Way::AtOnce,
        };
        // Types are known by the numbers that they have on the first shard.
        let i = self.link(Some(Served::HOME), Access::Lock).await?;
        let home = self.links[i].server.id.0;
        let mut rows = Vec::new();
        for found in going {
            rows.extend(self.take_out(found, home, way, asked).await?);
        }
        for found in all.iter().filter(|found| !found.stay.is_empty()) {
            let more = self.run_chosen(found.id, &found.stay, (&moved.update, asked.arguments), asked, None).await?;
            if moved.rereads && reply::tag_rows(more.as_bytes()) != Some(found.stay.rows() as u64) {
                return Err(changed_meanwhile());
            }
            tag = added(&tag, &more);
        }
        if !rows.is_empty() {
            let more = self.put_in(&moved.insert, &rows, (way, home), asked).await?;
            tag = added(&tag, &more);
        }
        Ok(tag)
    }

    /// Locks the rows of one shard and tells those that stay from those that go.
    async fn find_moving(&mut self, id: u64, shard: ShardId, asked: &Asked<'_>) -> Result<Found, Failure> {
        let part = Part { id, sql: asked.types.settle(&asked.moved.find).into_owned() };
        let binary = asked.arguments.with_formats(&[BINARY; FOUND])?;
        self.start_parts(std::slice::from_ref(&part), asked.types, &binary)?;
        let mut rows = Vec::new();
        self.hear_part(id, Returned::Kept { rows: &mut rows, describe: false }, Notices::Passed).await?;
        self.check_size(rows.len(), self.worker.limits().final_query_bytes_max)?;
        let mut found = Found { id, stay: InputRows::batch(CHOSEN.len()), go: InputRows::batch(CHOSEN.len()) };
        let mut seen = HashSet::new();
        let mut rest = &rows[..];
        while let Ok(Some(header)) = Header::parse(rest) {
            let (row, behind) = rest.split_at(header.total.min(rest.len()));
            rest = behind;
            let stays = self.new_place(&row[5..], asked)? == shard;
            // A row to which several of FROM fit is updated once, by one of them.
            if !seen.insert(mark_of(&row[5..])) {
                continue;
            }
            if stays {
                found.stay.take(row);
            } else {
                found.go.take(row);
            }
        }
        Ok(found)
    }

    /// Where the new key of a row is.
    fn new_place(&self, row: &[u8], asked: &Asked<'_>) -> Result<ShardId, Failure> {
        let insert = &asked.moved.insert;
        let mut cells = reply::data_row(row).map_err(ErrorFields::from)?;
        let cell = cells.nth(FOUND - 1).transpose().map_err(ErrorFields::from)?.flatten();
        let name = insert.key_name();
        let Some(bytes) = cell else { return Err(insert.key_column.is_null().into()) };
        let input = Input { bytes: Some(bytes), format: Format::Binary, type_oid: asked.key.type_oid };
        let key = insert.key_type.coerce(input)?.ok_or_else(|| rounded(name))?;
        let key = match insert.stored_in {
            Some(characters) => key.stored_in(characters),
            None => key,
        };
        Ok(self.served.map.shard_of(&key))
    }

    /// Runs a text for chosen rows of a server, with these arguments before theirs; `kept` gets what comes back when there is one, in its
    /// formats, else the client does.
    async fn run_chosen(
        &mut self,
        id: u64,
        chosen: &InputRows,
        (sql, arguments): (&str, &Arguments),
        asked: &Asked<'_>,
        kept: Option<(&mut Vec<u8>, &[i16])>,
    ) -> Result<String, Failure> {
        let arrays = chosen.arrays(&CHOSEN);
        let arrays: Vec<&[u8]> = arrays.iter().map(|array| &**array).collect();
        let mut arguments = arguments.with_all(&arrays)?;
        let returned = match kept {
            None => Returned::Passed { describe: false },
            Some((rows, formats)) => {
                arguments = arguments.with_formats(formats)?;
                Returned::Kept { rows, describe: false }
            }
        };
        let part = Part { id, sql: asked.types.settle(sql).into_owned() };
        self.start_parts(std::slice::from_ref(&part), asked.types, &arguments)?;
        self.hear_part(id, returned, Notices::Passed).await
    }

    /// Deletes the rows that go; gives them with their new values, of which server `home` tells the types.
    async fn take_out(&mut self, found: &Found, home: u64, way: Way, asked: &Asked<'_>) -> Result<Vec<u8>, Failure> {
        let sql = asked.text_out(way);
        let text = asked.types.settle(sql);
        let query = asked.own.of_part(&text).with_types(asked.types.numbers());
        let given = self.write_description(home, &query).await?;
        let route = Route::new(&asked.moved.insert, &given, asked.own_types, asked.own, &[])?;
        let formats = route.formats.clone();
        let updated = match way {
            Way::AtOnce => None,
            Way::Updated => Some(self.update_before(found, asked).await?),
        };
        let (chosen, arguments) = match &updated {
            None => (&found.go, asked.arguments),
            Some(updated) => (updated, asked.timed),
        };
        let mut rows = Vec::new();
        let tag = self.run_chosen(found.id, chosen, (sql, arguments), asked, Some((&mut rows, &formats))).await?;
        if reply::tag_rows(tag.as_bytes()) != Some(chosen.rows() as u64) {
            return Err(changed_meanwhile());
        }
        self.check_size(rows.len(), self.worker.limits().final_query_bytes_max)?;
        Ok(rows)
    }

    /// Updates rows on their old shard before they are deleted there; gives what they are found by then.
    async fn update_before(&mut self, found: &Found, asked: &Asked<'_>) -> Result<InputRows, Failure> {
        let mut kept = Vec::new();
        let update = (&*asked.moved.apart.update, asked.arguments);
        self.run_chosen(found.id, &found.go, update, asked, Some((&mut kept, &[BINARY; CHOSEN.len()]))).await?;
        let mut updated = InputRows::batch(CHOSEN.len());
        updated.take(&kept);
        Ok(updated)
    }

    /// Stores rows where their new keys are.
    async fn put_in(
        &mut self,
        insert: &SelectedRows,
        rows: &[u8],
        (way, home): (Way, u64),
        asked: &Asked<'_>,
    ) -> Result<String, Failure> {
        let text = asked.types.settle(asked.text_out(way));
        let query = asked.own.of_part(&text).with_types(asked.types.numbers());
        let given = self.write_description(home, &query).await?;
        let route = Route::new(insert, &given, asked.own_types, asked.own, &[])?;
        let mut sorted = Sorted { tag: "UPDATE 0".to_owned(), ..Sorted::default() };
        self.sort_rows(rows, &route, &mut sorted)?;
        self.store(&route, &mut sorted, 0).await?;
        Ok(sorted.tag)
    }

    /// How rows can move so that nobody could tell that they are not updated.
    async fn way_out(&mut self, id: u64, moved: &MovedRows) -> Result<Way, Failure> {
        let i = self.position(id)?;
        let answer = self.ask(i, &moved.hindrances).await?;
        let hindrance = |row: &[u8]| {
            let mut cells = reply::data_row(row).ok()?.map(|cell| std::str::from_utf8(cell.ok()??).ok());
            Some((Hindrance::of(cells.next()??), cells.next()??.to_owned()))
        };
        let found: Vec<(Hindrance, String)> = answer.rows().filter_map(hindrance).collect();
        answer.into_result(self)?;
        let first = |kind| found.iter().find(|(found, _)| *found == kind).map(|(_, what)| what);
        let message = match (first(Hindrance::Always), first(Hindrance::UnlessUpdated), first(Hindrance::IfUpdated)) {
            (None, None, _) => return Ok(Way::AtOnce),
            (None, Some(_), None) => return Ok(Way::Updated),
            (None, Some(what), Some(key)) => format!(
                "an UPDATE that changes the sharding key would move rows, which {what} wants to be updated first, and {key} forbids that"
            ),
            (Some(what), ..) => format!(
                "an UPDATE that changes the sharding key would move rows, which {what} would see as something else"
            ),
        };
        let hint = "Insert the rows under their new key and delete the old ones in a transaction.";
        Err(Refusal::unsupported(message, hint).into())
    }
}

impl Asked<'_> {
    /// What deletes the rows that go.
    fn text_out(&self, way: Way) -> &str {
        match way {
            Way::AtOnce => &self.moved.delete,
            Way::Updated => &self.moved.apart.delete,
        }
    }
}

/// Which row of its shard is meant, without its new key.
fn mark_of(row: &[u8]) -> Vec<u8> {
    let cell = reply::data_row(row).ok().and_then(|mut cells| cells.nth(1)?.ok()?);
    let cell = cell.unwrap_or_default();
    let end = cell.iter().position(|byte| *byte == b'=').unwrap_or(cell.len());
    cell[..end].to_vec()
}

fn changed_meanwhile() -> Failure {
    let message = "could not move rows: what their new sharding key is computed from has changed meanwhile";
    ErrorFields::error("40001", message).with_hint("Try the transaction again.").into()
}

fn unexpected() -> Failure {
    ErrorFields::error("XX000", "a query for rows that move has no new key").into()
}
