//! UPDATE of the sharding key. The rows are locked first; those that stay on their shard are updated there, the others are deleted and
//! inserted where their new key is, with the columns as the update leaves them.

use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::merge::ColumnType;
use pgsluice_sharding::plan::{MovedRows, SelectedRows};
use pgsluice_sharding::sql::Access;
use pgsluice_sharding::{Refusal, ShardId};

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;
use crate::protocol::reply;

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

/// The columns of the rows that are found: `ctid`, the same with its table as text, the new key.
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
    arguments: &'a Arguments,
    /// The type of the new keys.
    key: ColumnType,
}

impl Conversation {
    /// Runs an UPDATE of the key on the shards where its rows are; gives the command tag.
    pub(super) async fn move_rows(
        &mut self,
        moved: &MovedRows,
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
        if moved.timed {
            // A text whose condition has given way to chosen rows may not mention it.
            types.push(TIME_TYPE);
        }
        let arguments = match moved.timed {
            true => self.timed(request.arguments, moved.insert.params, ids[0]).await?,
            false => request.arguments.clone(),
        };
        let query = request.arguments.of_part(&types.settle(&moved.find)).with_types(types.numbers());
        let found = self.write_description(ids[0], &query).await?;
        let key = found.client_columns.get(FOUND - 1).copied().ok_or_else(unexpected)?;
        let asked =
            Asked { moved, types: &types, own_types: &own_types, own: request.arguments, arguments: &arguments, key };
        let mut all = Vec::with_capacity(ids.len());
        for (id, shard) in ids.iter().zip(target) {
            all.push(self.find_moving(*id, *shard, &asked).await?);
        }
        let mut tag = "UPDATE 0".to_owned();
        let going: Vec<&Found> = all.iter().filter(|found| !found.go.is_empty()).collect();
        let mut rows = Vec::new();
        if !going.is_empty() {
            self.check_hindrances(going[0].id, moved).await?;
        }
        // Types are known by the numbers that they have on the first shard.
        let i = self.link(Some(Served::HOME), Access::Lock).await?;
        let home = self.links[i].server.id.0;
        for found in going {
            rows.extend(self.take_out(found, home, &asked).await?);
        }
        for found in all.iter().filter(|found| !found.stay.is_empty()) {
            let more = self.run_chosen(found.id, &found.stay, &moved.update, &asked, &[], &mut Vec::new()).await?;
            tag = added(&tag, &more);
        }
        if !rows.is_empty() {
            let more = self.put_in(&moved.insert, &rows, &asked, home).await?;
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
        let mut rest = &rows[..];
        while let Ok(Some(header)) = Header::parse(rest) {
            let (row, behind) = rest.split_at(header.total.min(rest.len()));
            let stays = self.new_place(&row[5..], asked)? == shard;
            if stays {
                found.stay.take(row);
            } else {
                found.go.take(row);
            }
            rest = behind;
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

    /// Runs a text for chosen rows of a server; `kept` gets what comes back when it is in `formats`, else the client does.
    async fn run_chosen(
        &mut self,
        id: u64,
        chosen: &InputRows,
        sql: &str,
        asked: &Asked<'_>,
        formats: &[i16],
        kept: &mut Vec<u8>,
    ) -> Result<String, Failure> {
        let arrays = chosen.arrays(&CHOSEN);
        let arrays: Vec<&[u8]> = arrays.iter().map(|array| &**array).collect();
        let mut arguments = asked.arguments.with_all(&arrays)?;
        let returned = match formats {
            [] => Returned::Passed { describe: false },
            formats => {
                arguments = arguments.with_formats(formats)?;
                Returned::Kept { rows: kept, describe: false }
            }
        };
        let part = Part { id, sql: asked.types.settle(sql).into_owned() };
        self.start_parts(std::slice::from_ref(&part), asked.types, &arguments)?;
        self.hear_part(id, returned, Notices::Passed).await
    }

    /// Deletes the rows that go; gives them with their new values, of which server `home` tells the types.
    async fn take_out(&mut self, found: &Found, home: u64, asked: &Asked<'_>) -> Result<Vec<u8>, Failure> {
        let text = asked.types.settle(&asked.moved.delete);
        let query = asked.arguments.of_part(&text).with_types(asked.types.numbers());
        let given = self.write_description(home, &query).await?;
        let route = Route::new(&asked.moved.insert, &given, asked.own_types, asked.own, &[])?;
        let formats = route.formats.clone();
        let mut rows = Vec::new();
        self.run_chosen(found.id, &found.go, &asked.moved.delete, asked, &formats, &mut rows).await?;
        self.check_size(rows.len(), self.worker.limits().final_query_bytes_max)?;
        Ok(rows)
    }

    /// Stores rows where their new keys are.
    async fn put_in(
        &mut self,
        insert: &SelectedRows,
        rows: &[u8],
        asked: &Asked<'_>,
        id: u64,
    ) -> Result<String, Failure> {
        let text = asked.types.settle(&asked.moved.delete);
        let query = asked.arguments.of_part(&text).with_types(asked.types.numbers());
        let given = self.write_description(id, &query).await?;
        let route = Route::new(insert, &given, asked.own_types, asked.own, &[])?;
        let mut sorted = Sorted { tag: "UPDATE 0".to_owned(), ..Sorted::default() };
        self.sort_rows(rows, &route, &mut sorted)?;
        self.store(&route, &mut sorted, 0).await?;
        Ok(sorted.tag)
    }

    /// Refuses to move rows where it could be told that they are not updated.
    async fn check_hindrances(&mut self, id: u64, moved: &MovedRows) -> Result<(), Failure> {
        let i = self.position(id)?;
        let answer = self.ask(i, &moved.hindrances).await?;
        let cell = answer.rows().find_map(|row| reply::data_row(row).ok()?.next()?.ok()?);
        let what = cell.map(|cell| String::from_utf8_lossy(cell).into_owned());
        answer.into_result(self)?;
        match what {
            None => Ok(()),
            Some(what) => Err(Refusal::unsupported(
                format!(
                    "an UPDATE that changes the sharding key would move rows, which {what} would see as something else"
                ),
                "Insert the rows under their new key and delete the old ones in a transaction.",
            )
            .into()),
        }
    }
}

fn unexpected() -> Failure {
    ErrorFields::error("XX000", "a query for rows that move has no new key").into()
}
