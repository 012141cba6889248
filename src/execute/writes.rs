//! One statement that writes on several shards: each gets its part, and all of them commit or none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use pgsluice_sharding::ShardId;
use pgsluice_sharding::plan::row_arrays::RowValues;
use pgsluice_sharding::plan::{Copies, InsertRows, Returns, Turns, Write};
use pgsluice_sharding::sql::rows::RowSpans;
use pgsluice_sharding::sql::{Access, with_clock};

use crate::pool::server::{Audience, Due, StatementId, Verdict};
use crate::protocol::backend;
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;
use crate::protocol::frontend::{self, Kind};
use crate::protocol::reply;
use crate::session::statements::{FinalRead, KeptRows, ManyPortal, ManyRead, ManyWrite, Portal};

use super::arguments::Arguments;
use super::ask::Notices;
use super::cursors::close_portal_of_router;
use super::final_query::Beyond;
use super::gather::{Described, ManyRequest, OUT_BYTES, bind_for_shard, columns};
use super::mirror::First;
use super::numbered::{self, NumberedRows};
use super::types::ParameterTypes;
use super::worker::{Description, shape_of_row};
use super::{CatalogChange, Conversation, Failure};

/// What one shard runs.
pub(super) struct Part {
    /// Its server.
    pub(super) id: u64,
    pub(super) sql: String,
}

/// What becomes of the rows that a part gives back.
pub(super) enum Returned<'a> {
    /// They pass to the client as they come, after their description if the client has not got it.
    Passed { describe: bool },
    /// They wait, as whole messages; the description passes if the client has not got it.
    Kept { rows: &'a mut Vec<u8>, describe: bool },
    /// The same of rows that have their numbers behind them, of which the description does not speak.
    Numbered { rows: &'a mut Vec<u8>, describe: bool },
    /// Another shard gives the same.
    Dropped,
}

impl Conversation {
    /// Writes on several shards, in the client's transaction or in one of the router's own.
    pub(super) async fn write_many(&mut self, write: &ManyWrite, request: ManyRequest<'_>) -> Result<(), Failure> {
        let tag = self.write_or_again(write, request).await?;
        self.complete(&tag);
        Ok(())
    }

    /// Writes; once more from the beginning if only something outdated stood in the way, nothing of it has been kept, and the
    /// client has heard nothing of it.
    async fn write_or_again(&mut self, write: &ManyWrite, request: ManyRequest<'_>) -> Result<String, Failure> {
        let (said, departures) = (self.client.out.len(), self.client.departures);
        let stands_alone = self.session.transaction.is_idle();
        let result = self.write_all(write, request).await;
        let unheard = stands_alone && self.client.departures == departures;
        let outdated = self.catalog_change == CatalogChange::Outdated;
        if !unheard || !outdated || !matches!(result, Err(Failure::Error(_) | Failure::Told)) {
            return result;
        }
        self.client.out.truncate(said);
        self.kept.iter_mut().for_each(Vec::clear);
        self.refresh_catalog().await?;
        self.write_all(write, request).await
    }

    /// Execute with a row limit: as in PostgreSQL everything is written at once, and what it gives back waits.
    pub(super) async fn write_in_portions(
        &mut self,
        name: &str,
        portal: &Rc<ManyPortal>,
        max_rows: i32,
    ) -> Result<(), Failure> {
        let ManyRead::Written(write) = &portal.read else {
            return Err(ErrorFields::error("XX000", "only a write gives its rows in portions").into());
        };
        self.cannot_run_again();
        let arguments = Arguments::of_portal(portal);
        let access = portal.statement.script.statements.first().map_or(Access::Write, |first| first.access);
        self.kept = Some(Vec::new());
        let request = ManyRequest { arguments: &arguments, access, describe: false };
        let result = self.write_or_again(write, request).await;
        let rows = self.kept.take().map_or_else(Bytes::new, Bytes::from);
        let kept = Rc::new(KeptRows { portal: portal.clone(), rows: RefCell::new(rows), tag: result? });
        self.session.statements.bind(name, Portal::Kept(kept.clone()));
        self.give_portion(&kept, max_rows);
        Ok(())
    }

    /// Hands out so many of the rows that wait; 0 are all.
    pub(super) fn give_portion(&mut self, kept: &KeptRows, max_rows: i32) {
        let mut rows = kept.rows.borrow_mut();
        let (mut end, mut count) = (0, 0);
        while max_rows <= 0 || count < max_rows {
            let Ok(Some(header)) = Header::parse(&rows[end..]) else { break };
            end += header.total;
            count += 1;
        }
        let end = end.min(rows.len());
        self.client.out.extend_from_slice(&rows.split_to(end));
        if max_rows > 0 && count == max_rows {
            backend::portal_suspended(&mut self.client.out);
        } else {
            // As in PostgreSQL it counts the rows of the last portion.
            let verb = kept.tag.rsplit_once(' ').map_or("", |(verb, _)| verb);
            self.complete(&format!("{verb} {count}"));
        }
    }

    /// Writes in the client's transaction or in one of the router's own; gives the command tag.
    pub(super) async fn write_all(&mut self, write: &ManyWrite, request: ManyRequest<'_>) -> Result<String, Failure> {
        let work = async |this: &mut Self| {
            let told = this.with_moments(request.arguments).await?;
            let request = ManyRequest { arguments: told.as_ref().unwrap_or(request.arguments), ..request };
            match write {
                ManyWrite::Each { read, target, copies } => {
                    this.write_each(read, target, copies.as_ref(), request).await
                }
                ManyWrite::Rows { insert, places } => this.insert_rows(insert, places, request).await,
                ManyWrite::Selected { write, source } => match &**write {
                    Write::Selected(insert) => this.insert_selected(insert, source, request).await,
                    _ => Err(ErrorFields::error("XX000", "only a query is selected from").into()),
                },
                ManyWrite::Moved { write, read, target } => match &**write {
                    Write::Moved(moved) => this.move_rows(moved, read, target, request).await,
                    _ => Err(ErrorFields::error("XX000", "only an UPDATE moves rows").into()),
                },
                ManyWrite::Staged { write } => match &**write {
                    Write::Staged(staged) => Box::pin(this.write_in_stages(staged, request)).await,
                    _ => Err(ErrorFields::error("XX000", "only CTEs that write make stages").into()),
                },
            }
        };
        self.in_own_block(work).await
    }

    /// Every shard of `target` runs the statement; the first one before the others, so that two clients which do the same wait for each
    /// other there, and the others at the same time.
    async fn write_each(
        &mut self,
        read: &FinalRead,
        target: &[ShardId],
        copies: Option<&Copies>,
        request: ManyRequest<'_>,
    ) -> Result<String, Failure> {
        let ids = self.link_writers(target, request.access).await?;
        self.measure.touches(ids.len());
        if let Some(copies) = copies {
            self.take_turn(&ids, &copies.turn).await?;
        }
        let (sql, types, arguments) = self.prepare_each(read, ids[0], request.arguments).await?;
        if let Some(copies) = copies
            && let Some(mirror) = &copies.mirror
        {
            return self.write_mirrored(copies, mirror, &ids, First { sql, types, arguments }, request).await;
        }
        let part = |id: &u64| Part { id: *id, sql: sql.clone() };
        let first = [part(&ids[0])];
        self.start_parts(&first, &types, &arguments)?;
        let mut tag = self.hear_part(ids[0], Returned::Passed { describe: request.describe }, Notices::Passed).await?;
        let others: Vec<Part> = ids[1..].iter().map(part).collect();
        self.start_parts(&others, &types, &arguments)?;
        self.send_all_parts(&others).await?;
        for (n, other) in others.iter().enumerate() {
            let (returned, notices) = match copies {
                Some(_) => (Returned::Dropped, Notices::Dropped),
                None => (Returned::Passed { describe: false }, Notices::Passed),
            };
            let heard = self.hear_part(other.id, returned, notices).await;
            let more = self.or_stop(&others[n + 1..], heard).await?;
            match copies {
                None => tag = added(&tag, &more),
                Some(_) if more == tag => {}
                Some(copies) => {
                    self.or_stop(&others[n + 1..], Err(unlike_copies(&copies.table).into())).await?;
                }
            }
        }
        Ok(tag)
    }

    /// Waits on these servers until nobody else writes the same copies.
    pub(super) async fn take_turn(&mut self, ids: &[u64], turn: &str) -> Result<(), Failure> {
        for id in ids {
            let i = self.position(*id)?;
            self.ask(i, turn).await?.into_result(self)?;
        }
        Ok(())
    }

    /// What every shard runs, with the values of its parameters and with what is read elsewhere.
    async fn prepare_each(
        &mut self,
        read: &FinalRead,
        id: u64,
        arguments: &Arguments,
    ) -> Result<(String, ParameterTypes, Arguments), Failure> {
        let query = &*read.query;
        let timed = match query.timed {
            true => self.timed(arguments, query.params, id).await?,
            false => arguments.clone(),
        };
        if query.inputs.is_empty() {
            return Ok((query.sql.clone(), ParameterTypes::declared(&arguments.param_types), timed));
        }
        let (description, all) = self.with_inputs(read, arguments, &timed).await?;
        let sql = description.final_sql.as_ref().map_or_else(|_| query.sql.clone(), |sql| sql.to_string());
        let types = description.parameter_types.clone();
        Ok((types.settle(&sql).into_owned(), types, all))
    }

    /// Reads the inputs of a write; gives the values of its parameters, with the time if it is `timed`, and with the inputs behind them.
    pub(super) async fn with_inputs(
        &mut self,
        read: &FinalRead,
        arguments: &Arguments,
        timed: &Arguments,
    ) -> Result<(Rc<Description>, Arguments), Failure> {
        arguments.check_count(read.query.params)?;
        let held = self.hold_for_final(read, Access::Lock).await?;
        let (read, description) = self.accepted(read, held.home, arguments).await?;
        let rows = self.read_inputs(read, &held, &description, timed, Beyond::Counted).await?.unwrap_or_default();
        let arrays: Vec<_> =
            rows.iter().zip(&description.inputs).flat_map(|(rows, types)| rows.arrays(types)).collect();
        let arrays: Vec<&[u8]> = arrays.iter().map(|array| &**array).collect();
        let all = timed.with_all(&arrays)?;
        Ok((description, all))
    }

    /// Stores rows, each on its shard; they come back in their order.
    async fn insert_rows(
        &mut self,
        insert: &InsertRows,
        places: &[ShardId],
        request: ManyRequest<'_>,
    ) -> Result<String, Failure> {
        let text = request.arguments.text.clone();
        let spans = RowSpans::of(&text).filter(|spans| spans.rows.len() == places.len());
        let spans =
            spans.ok_or_else(|| ErrorFields::error("XX000", "the rows of an INSERT are not where they were"))?;
        let mut shards = places.to_vec();
        shards.sort_unstable();
        shards.dedup();
        let ids = self.link_writers(&shards, request.access).await?;
        self.measure.touches(ids.len());
        let rows = Rows { insert, text: &text, spans: &spans, places, shards: &shards };
        let arguments = match insert.returns {
            Returns::Numbered(_) => {
                let formats = request.arguments.bind()?.result_formats.codes().collect();
                &request.arguments.told_in_formats(&numbered::formats(formats))?
            }
            Returns::Nothing | Returns::EveryRow => request.arguments,
        };
        let parts = match rows.as_arrays(arguments)? {
            Some((sql, arrays)) => self.start_arrays(insert, &ids, &sql, arrays).await?,
            None => self.start_values(&rows, &ids, arguments).await?,
        };
        if insert.turns == Turns::Together {
            self.send_all_parts(&parts).await?;
        }
        let mut tag = String::new();
        let mut kept = vec![Vec::new(); parts.len()];
        for (n, part) in parts.iter().enumerate() {
            let (rows, describe) = (&mut kept[n], request.describe && n == 0);
            let returned = match insert.returns {
                Returns::Numbered(_) => Returned::Numbered { rows, describe },
                Returns::Nothing | Returns::EveryRow => Returned::Kept { rows, describe },
            };
            let heard = self.hear_part(part.id, returned, Notices::Passed).await;
            let all: usize = kept.iter().map(Vec::len).sum();
            let fits = all <= self.worker.limits().final_query_bytes_max;
            let heard = heard.and_then(|tag| if fits { Ok(tag) } else { Err(too_much().into()) });
            let more = self.or_stop(&parts[n + 1..], heard).await?;
            tag = added(&tag, &more);
        }
        match insert.returns {
            Returns::Nothing => {}
            Returns::EveryRow => self.give_in_order(&shards, places, &kept).await?,
            Returns::Numbered(_) => self.give_by_number(&shards, places, &kept).await?,
        }
        Ok(tag)
    }

    /// Lays the rows of each shard ready as arrays.
    async fn start_arrays(
        &mut self,
        insert: &InsertRows,
        ids: &[u64],
        sql: &str,
        arrays: Vec<Arguments>,
    ) -> Result<Vec<Part>, Failure> {
        let arrays = match insert.timed {
            true => {
                let time = self.transaction_time(ids[0]).await?;
                arrays.iter().map(|arguments| arguments.with(&time)).collect::<Result<_, _>>()?
            }
            false => arrays,
        };
        let parts: Vec<Part> = ids.iter().map(|id| Part { id: *id, sql: sql.to_owned() }).collect();
        for (part, arguments) in parts.iter().zip(&arrays) {
            self.start_parts(std::slice::from_ref(part), &ParameterTypes::default(), arguments)?;
        }
        Ok(parts)
    }

    /// Lays the rows of each shard ready as they stand in the client's text.
    async fn start_values(
        &mut self,
        rows: &Rows<'_>,
        ids: &[u64],
        arguments: &Arguments,
    ) -> Result<Vec<Part>, Failure> {
        let insert = rows.insert;
        let mut types = ParameterTypes::declared(&arguments.param_types);
        if insert.params > 0 {
            // A shard's part need not name all of them.
            types = self.write_description(ids[0], arguments).await?.parameter_types.clone();
        }
        let arguments = match insert.timed {
            true => self.timed(arguments, insert.params, ids[0]).await?,
            false => arguments.clone(),
        };
        let mut parts = Vec::with_capacity(ids.len());
        for (shard, id) in rows.shards.iter().zip(ids) {
            let own: Vec<usize> = (0..rows.places.len()).filter(|row| rows.places[*row] == *shard).collect();
            let sql = match insert.returns {
                Returns::Numbered(numbers) => numbers.text_with(rows.text, rows.spans, &own),
                Returns::Nothing | Returns::EveryRow => rows.spans.text_with(rows.text, &own),
            };
            let sql = insert.part(&sql);
            parts.push(Part { id: *id, sql: types.settle(&sql).into_owned() });
        }
        self.start_parts(&parts, &types, &arguments)?;
        Ok(parts)
    }

    /// Passes kept rows on in the order of the rows they come from, all of which have come back.
    async fn give_in_order(&mut self, shards: &[ShardId], places: &[ShardId], kept: &[Vec<u8>]) -> Result<(), Failure> {
        let mut rest: Vec<&[u8]> = kept.iter().map(Vec::as_slice).collect();
        for place in places {
            let Some(n) = shards.iter().position(|shard| shard == place) else { continue };
            if let Ok(Some(header)) = Header::parse(rest[n]) {
                let (row, behind) = rest[n].split_at(header.total);
                match &mut self.kept {
                    Some(kept) => kept.extend_from_slice(row),
                    None => self.client.out.extend_from_slice(row),
                }
                rest[n] = behind;
            }
            if self.client.out.len() >= OUT_BYTES {
                self.client.flush().await?;
            }
        }
        Ok(())
    }

    /// The same for rows of which some may not have come back.
    async fn give_by_number(
        &mut self,
        shards: &[ShardId],
        places: &[ShardId],
        kept: &[Vec<u8>],
    ) -> Result<(), Failure> {
        let mut numbered = NumberedRows::new(shards, kept);
        let mut row = BytesMut::new();
        for place in places {
            match &mut self.kept {
                None => numbered.take(*place, &mut self.client.out)?,
                Some(kept) => {
                    numbered.take(*place, &mut row)?;
                    kept.extend_from_slice(&row.split());
                }
            }
            if self.client.out.len() >= OUT_BYTES {
                self.client.flush().await?;
            }
        }
        Ok(numbered.end()?)
    }

    /// A server on each shard that will be written, in their order.
    pub(super) async fn link_writers(&mut self, shards: &[ShardId], access: Access) -> Result<Vec<u64>, Failure> {
        let ids = self.link_all(shards, access).await?;
        for id in &ids {
            let i = self.position(*id)?;
            self.note_access(i, Access::Write)?;
        }
        Ok(ids)
    }

    /// Lays every part ready for its server, which gets it when it is sent or heard.
    pub(super) fn start_parts(
        &mut self,
        parts: &[Part],
        types: &ParameterTypes,
        arguments: &Arguments,
    ) -> Result<(), Failure> {
        let bind = arguments.bind()?;
        let formats: Vec<i16> = bind.result_formats.codes().collect();
        for part in parts {
            let i = self.position(part.id)?;
            let portal = self.portal_of_router(part.id);
            let link = &mut self.links[i];
            link.row_told = arguments.row_told();
            frontend::parse(&mut link.out, b"", part.sql.as_bytes(), types.numbers());
            link.server.state.expect(Due::Parse(StatementId::UNNAMED, Audience::Router));
            bind_for_shard(&mut link.out, portal, "", &bind, &formats);
            link.server.state.expect(Due::Bind(Audience::Router));
            frontend::describe(&mut link.out, Kind::Portal, portal);
            link.server.state.expect(Due::DescribePortal(Audience::Router));
            frontend::execute(&mut link.out, portal, 0);
            link.server.state.expect(Due::Execute(Audience::Router));
            close_portal_of_router(link, portal);
            frontend::sync(&mut link.out);
            link.server.state.expect(Due::Sync(Audience::Router));
        }
        Ok(())
    }

    /// Sends the parts that lie ready, so that all servers work at the same time.
    pub(super) async fn send_all_parts(&mut self, parts: &[Part]) -> Result<(), Failure> {
        for part in parts {
            let i = self.position(part.id)?;
            self.links[i].borrow_buffer(&self.worker);
            if let Err(failure) = self.send_out(i).await {
                let ids: Vec<u64> = parts.iter().map(|part| part.id).collect();
                self.finish_all(&ids, true).await?;
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Hears a server to the end of its part; gives the command tag.
    pub(super) async fn hear_part(
        &mut self,
        id: u64,
        mut returned: Returned<'_>,
        notices: Notices,
    ) -> Result<String, Failure> {
        let mut tag = String::new();
        let mut failure = None;
        let i = self.position(id)?;
        self.links[i].borrow_buffer(&self.worker);
        loop {
            let i = self.position(id)?;
            if self.links[i].server.state.is_settled() && self.links[i].out.is_empty() {
                self.links[i].return_buffer(&self.worker);
                break;
            }
            let Ok(parsed) = Header::parse(self.links[i].inbox.filled()) else { return Err(self.out_of_step(i)) };
            let available = self.links[i].inbox.len();
            let Some(header) = parsed.filter(|header| header.total <= available) else {
                if let Some(header) = parsed {
                    self.links[i].inbox.reserve(header.total - available);
                }
                if self.client.out.len() >= OUT_BYTES {
                    self.client.flush().await?;
                }
                match (self.exchange(i).await, &failure) {
                    (Ok(()), _) => continue,
                    // Its last words have been told.
                    (Err(Failure::Error(_)), Some(Failure::Told)) => return Err(Failure::Told),
                    (Err(lost), _) => return Err(lost),
                }
            };
            if header.tag == b'E' {
                // The client hears it now, and nothing else of the same.
                failure = Some(self.shard_failed(i, header.total));
                continue;
            }
            if header.tag == b'T' && failure.is_none() && self.gives_other_rows(i, header, &returned) {
                failure = Some(self.rows_are_others());
                returned = Returned::Dropped;
            }
            self.take_part_message(i, header, &mut returned, notices, &mut tag)?;
            if self.keeps_too_much(&returned) {
                self.kept.iter_mut().for_each(|kept| kept.clear());
                returned = Returned::Dropped;
                failure = Some(too_much().into());
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(tag),
        }
    }

    /// For writes of which no server gives the client's rows as they are.
    pub(super) fn hold_to_what_was_told(
        &mut self,
        description: &Description,
        arguments: &Arguments,
    ) -> Result<(), Failure> {
        match arguments.row_told() {
            Some(told) if told != shape_of_row(&description.client_row) => Err(self.rows_are_others()),
            _ => Ok(()),
        }
    }

    /// Whether a description of a server's rows is not what the client was told.
    fn gives_other_rows(&self, i: usize, header: Header, returned: &Returned<'_>) -> bool {
        let link = &self.links[i];
        let Some(told) = link.row_told.filter(|_| !link.server.state.hidden_query_runs()) else { return false };
        let message = &link.inbox.filled()[..header.total];
        let shape = match returned {
            Returned::Numbered { .. } => numbered::described(message).map(|own| shape_of_row(&own[5..])),
            Returned::Passed { .. } | Returned::Kept { .. } | Returned::Dropped => Some(shape_of_row(&message[5..])),
        };
        shape != Some(told)
    }

    /// Keeps rows that are merged, as far as that is allowed.
    pub(super) fn keep(&self, kept: &mut Vec<u8>, rows: &[u8]) -> Result<(), Failure> {
        kept.extend_from_slice(rows);
        if kept.len() > self.worker.limits().final_query_bytes_max { Err(too_much().into()) } else { Ok(()) }
    }

    fn keeps_too_much(&self, returned: &Returned<'_>) -> bool {
        let bytes = match returned {
            Returned::Kept { rows, .. } | Returned::Numbered { rows, .. } => rows.len(),
            Returned::Passed { .. } | Returned::Dropped => self.kept.as_ref().map_or(0, |kept| kept.len()),
        };
        bytes > self.worker.limits().final_query_bytes_max
    }

    /// One message of a server that runs its part, no error.
    fn take_part_message(
        &mut self,
        i: usize,
        header: Header,
        returned: &mut Returned<'_>,
        notices: Notices,
        tag: &mut String,
    ) -> Result<(), Failure> {
        let Self { links, client, kept, .. } = &mut *self;
        let link = &mut links[i];
        let message = &link.inbox.filled()[..header.total];
        let hidden = link.server.state.hidden_query_runs();
        let Ok(verdict) = link.server.state.reply(header.tag, &message[5..]) else { return Err(self.out_of_step(i)) };
        match (header.tag, &mut *returned) {
            _ if hidden => {}
            (b'T', Returned::Passed { describe: true } | Returned::Kept { describe: true, .. }) => {
                client.out.extend_from_slice(message);
            }
            (b'D', Returned::Passed { .. }) => match kept {
                Some(kept) => kept.extend_from_slice(message),
                None => client.out.extend_from_slice(message),
            },
            (b'T', Returned::Numbered { describe: true, .. }) => {
                let Some(described) = numbered::described(message) else { return Err(self.out_of_step(i)) };
                client.out.extend_from_slice(&described);
            }
            (b'D', Returned::Kept { rows, .. } | Returned::Numbered { rows, .. }) => rows.extend_from_slice(message),
            (b'C', _) => *tag = String::from_utf8_lossy(&message[5..header.total - 1]).into_owned(),
            (b'N', _) if notices == Notices::Dropped => {}
            (b'N' | b'S' | b'A', _) if verdict == Verdict::Pass || header.tag == b'A' => {
                client.out.extend_from_slice(message);
            }
            _ => {}
        }
        link.inbox.consume(header.total);
        Ok(())
    }

    /// When a part has failed, the others are told to stop.
    pub(super) async fn or_stop(&mut self, others: &[Part], heard: Result<String, Failure>) -> Result<String, Failure> {
        if heard.is_err() {
            let ids: Vec<u64> = others.iter().map(|part| part.id).collect();
            self.finish_all(&ids, true).await?;
        }
        heard
    }

    /// Describe of a portal that writes on several shards.
    pub(super) async fn describe_write(&mut self, arguments: &Arguments) -> Result<(), Failure> {
        let i = self.link(None, Access::Lock).await?;
        let id = self.links[i].server.id.0;
        let description = self.write_description(id, arguments).await?;
        if description.client_columns.is_empty() {
            backend::no_data(&mut self.client.out);
            return Ok(());
        }
        self.send_row_description(&description, arguments)
    }

    /// What PostgreSQL says of a statement that several shards will run. What rows it gives back is asked each time: what runs has no
    /// name on the servers, so that none of them would notice that it was another before.
    pub(super) async fn write_description(
        &mut self,
        id: u64,
        arguments: &Arguments,
    ) -> Result<Rc<Description>, Failure> {
        let reading = self.session.reading();
        let text = format!("{}\0write", arguments.text);
        let key = self.worker.statement_id(&self.served, &*self.catalog()?, &reading, &text, &arguments.param_types);
        if let Some(known) = self.served.descriptions.borrow().get(&key)
            && known.client_columns.is_empty()
        {
            return Ok(known.clone());
        }
        let i = self.position(id)?;
        let Described { parameters, row } = self.describe_text(i, &arguments.text, &arguments.param_types).await?;
        let i = self.position(id)?;
        let parameter_types = self.parameter_types(i, &parameters).await?;
        let description = Rc::new(Description {
            client_columns: columns(&row)?,
            shard_columns: Vec::new(),
            inputs: Vec::new(),
            narrows: Vec::new(),
            final_sql: Ok(Box::default()),
            large: Cell::new(false),
            parameters,
            parameter_types,
            client_row: row,
        });
        self.served.remember(key, description.clone());
        Ok(description)
    }
}

/// The rows of an INSERT, and where they go.
struct Rows<'a> {
    insert: &'a InsertRows,
    text: &'a str,
    spans: &'a RowSpans,
    /// The shard of each row.
    places: &'a [ShardId],
    /// All of them, in order.
    shards: &'a [ShardId],
}

impl Rows<'_> {
    /// What the shards run, and the arrays of each; none when a value is not plain.
    fn as_arrays(&self, arguments: &Arguments) -> Result<Option<(String, Vec<Arguments>)>, Failure> {
        let Self { insert, text, spans, .. } = *self;
        let Some(arrays) = &insert.arrays else { return Ok(None) };
        let Some(sql) = arrays.text(text, spans) else { return Ok(None) };
        let params: Vec<_> = arguments.bind()?.parameters().collect();
        let values = RowValues { text, spans, params: &params, declared: &arguments.param_types };
        let part_of = |place| self.shards.iter().position(|shard| *shard == place).unwrap_or(usize::MAX);
        let part_of: Vec<usize> = self.places.iter().map(|place| part_of(*place)).collect();
        let Some(filled) = arrays.fill(values, &part_of, self.shards.len()) else { return Ok(None) };
        let filled: Result<Vec<Arguments>, Failure> = filled.iter().map(|values| arguments.replaced(values)).collect();
        let sql = if insert.timed { with_clock(&sql, arrays.elements.len() + 1) } else { sql };
        Ok(Some((sql, filled?)))
    }
}

/// In a REPEATABLE READ transaction the snapshots of two shards may be on either side of another's commit.
pub(super) fn unlike_copies(table: &str) -> ErrorFields {
    let message = format!("the copies of reference table \"{table}\" are not the same on all shards");
    ErrorFields::error("40001", message)
        .with_detail("The statement concerns more rows on one of them than on another.")
        .with_hint("Try the transaction again; if that does not help, compare the table on the shards.")
}

fn too_much() -> ErrorFields {
    let message = "what the statement gives back is more than limits.final_query_bytes_max allows to be kept";
    ErrorFields::error("54000", message)
        .with_hint("Give back less, execute it without a row limit (fetch size 0), or raise the limit.")
}

/// The command tag for the rows of both; `INSERT 0 3` and `INSERT 0 2` make `INSERT 0 5`.
pub(super) fn added(tag: &str, more: &str) -> String {
    if tag.is_empty() {
        return more.to_owned();
    }
    let rows = |tag: &str| reply::tag_rows(tag.as_bytes()).unwrap_or(0);
    let verb = tag.rsplit_once(' ').map_or(tag, |(verb, _)| verb);
    format!("{verb} {}", rows(tag) + rows(more))
}

#[cfg(test)]
mod tests {
    use super::added;

    #[test]
    fn tags_are_added() {
        assert_eq!(added("", "UPDATE 2"), "UPDATE 2");
        assert_eq!(added("INSERT 0 3", "INSERT 0 2"), "INSERT 0 5");
        assert_eq!(added("DELETE 0", "DELETE 0"), "DELETE 0");
    }
}
