//! A read that PostgreSQL finishes: the shards' rows go, undecoded, to one server, which runs the client's own text over them. They go as
//! arrays, or, when they are many, by way of temporary tables.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pgsluice_sharding::ShardId;
use pgsluice_sharding::key::Format;
use pgsluice_sharding::merge::{ColumnType, Merge, MergeLimits};
use pgsluice_sharding::plan::{FinalQuery, Gather, Input, Shards};
use pgsluice_sharding::sql::Access;

use crate::config::show_size;
use crate::pool::server::{Audience, Due, StatementId};
use crate::protocol::backend::Field;
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{put_count, put_cstr, put_message, put_value};
use crate::protocol::frontend;
use crate::protocol::reply;
use crate::session::statements::FinalRead;

use super::arguments::Arguments;
use super::ask::Answer;
use super::cursors::close_portal_of_router;
use super::final_tables::{InputTables, Until};
use super::gather::{
    Attempt, BINARY, Described, Gathered, ManyRequest, OUT_OF_MEMORY, Sink, columns, is_out_of_memory, sql_for_shards,
};
use super::links::Sent;
use super::timed::TIME_TYPE;
use super::types::ParameterTypes;
use super::worker::Description;
use super::{Conversation, Failure};

/// The rows of one input, turned into one array for each column.
pub(super) struct InputRows {
    columns: Vec<ArrayColumn>,
    rows: usize,
    /// Bytes of values seen, kept or not.
    bytes: usize,
    /// More than this is not kept.
    bytes_max: usize,
    beyond: Beyond,
}

/// As many bytes of values, with their lengths, one input may be narrowed by.
const NARROWING_BYTES_MAX: usize = 1 << 20;

/// What becomes of rows for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    /// They are counted, to say how many there are.
    Counted,
    /// There is another place for all of them: no more are read.
    Elsewhere,
}

#[derive(Default)]
struct ArrayColumn {
    has_nulls: bool,
    /// Elements as in PostgreSQL's binary form of arrays: the same as in a DataRow.
    elements: Vec<u8>,
}

impl InputRows {
    fn new(columns: usize, bytes_max: usize, beyond: Beyond) -> Self {
        let columns = (0..columns).map(|_| ArrayColumn::default()).collect();
        Self { columns, rows: 0, bytes: 0, bytes_max, beyond }
    }

    /// For rows that pass through.
    pub(super) fn batch(columns: usize) -> Self {
        Self::new(columns, usize::MAX, Beyond::Counted)
    }

    /// Whether the reading may end before the last row.
    pub(super) fn is_full(&self) -> bool {
        self.beyond == Beyond::Elsewhere && self.bytes > self.bytes_max
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Forgets the rows and keeps the memory.
    pub(super) fn clear(&mut self) {
        (self.rows, self.bytes) = (0, 0);
        for column in &mut self.columns {
            column.elements.clear();
            column.has_nulls = false;
        }
    }

    /// Every column as an array, each as a value of a Bind message.
    pub(super) fn put(&self, out: &mut BytesMut, types: &[ColumnType]) {
        self.columns.iter().zip(types).for_each(|(column, found)| column.put(out, self.rows, found.type_oid));
    }

    /// Every column as an array in PostgreSQL's binary form.
    pub(super) fn arrays(&self, types: &[ColumnType]) -> Vec<Bytes> {
        let array = |(column, found): (&ArrayColumn, &ColumnType)| {
            let mut out = BytesMut::with_capacity(column.elements.len() + 24);
            column.put(&mut out, self.rows, found.type_oid);
            out.freeze().slice(4..)
        };
        self.columns.iter().zip(types).map(array).collect()
    }

    /// Takes whole DataRow messages.
    pub(super) fn take(&mut self, mut messages: &[u8]) {
        while messages.len() > 7 {
            let length = usize::try_from((&messages[1..]).get_u32()).unwrap_or(usize::MAX);
            let (message, rest) = messages.split_at(messages.len().min(length.saturating_add(1)));
            self.bytes += message.len();
            if self.bytes > self.bytes_max {
                self.columns.iter_mut().for_each(|column| column.elements = Vec::new());
            } else {
                self.take_row(&message[7..]);
            }
            messages = rest;
        }
    }

    /// Takes a whole DataRow message and `more` cells behind its own.
    pub(super) fn take_with(&mut self, row: &[u8], more: &[u8]) {
        if more.is_empty() {
            return self.take(row);
        }
        self.bytes += row.len() + more.len();
        self.take_row(&[row.get(7..).unwrap_or_default(), more].concat());
    }

    /// Takes the cells of one row.
    pub(super) fn take_cells(&mut self, cells: &[u8]) {
        self.bytes += cells.len();
        self.take_row(cells);
    }

    fn take_row(&mut self, mut cells: &[u8]) {
        self.rows += 1;
        for column in &mut self.columns {
            if cells.len() < 4 {
                return;
            }
            let length = (&cells[..4]).get_i32();
            column.has_nulls |= length < 0;
            let end = 4 + usize::try_from(length).unwrap_or(0).min(cells.len() - 4);
            column.elements.extend_from_slice(&cells[..end]);
            cells = &cells[end..];
        }
    }
}

/// An input that is asked for with the values of others, and the arguments with those; `None` when they are too many to be of use.
fn narrowed(
    input: &Input,
    all: &[InputRows],
    description: &Description,
    arguments: &Arguments,
) -> Result<Option<(Input, Arguments)>, Failure> {
    let Some(narrowed) = &input.narrowed else { return Ok(None) };
    let mut arguments = arguments.clone();
    for (other, column) in &narrowed.by {
        let type_oid = description.inputs[*other].get(*column).map_or(0, |found| found.type_oid);
        let values = all[*other].columns.get(*column).and_then(|column| column.distinct(type_oid));
        let Some(values) = values else { return Ok(None) };
        arguments = arguments.with(&values)?;
    }
    let gather = Gather { sql: narrowed.sql.clone(), timed_sql: None, ..input.gather.clone() };
    Ok(Some((Input { gather, ..input.clone() }, arguments)))
}

impl ArrayColumn {
    /// The different values in the binary form of an array; `None` when they are too many.
    fn distinct(&self, element_type: u32) -> Option<BytesMut> {
        let mut seen: HashSet<&[u8]> = HashSet::new();
        let mut distinct = Self::default();
        let (mut rows, mut rest) = (0, &self.elements[..]);
        while rest.len() >= 4 {
            let length = (&rest[..4]).get_i32();
            let end = 4 + usize::try_from(length).unwrap_or(0).min(rest.len() - 4);
            let (element, behind) = rest.split_at(end);
            rest = behind;
            // NULL equals nothing.
            if length >= 0 && seen.insert(element) {
                distinct.elements.extend_from_slice(element);
                rows += 1;
            }
            if distinct.elements.len() > NARROWING_BYTES_MAX {
                return None;
            }
        }
        let mut out = BytesMut::new();
        distinct.put(&mut out, rows, element_type);
        out.advance(4);
        Some(out)
    }

    /// The binary form of an array (`array_recv`): dimensions, flags, type of elements, size and lower bound, elements.
    fn put(&self, out: &mut BytesMut, rows: usize, element_type: u32) {
        let dimensions = i32::from(rows > 0);
        let header = if rows > 0 { 20 } else { 12 };
        out.put_u32(u32::try_from(header + self.elements.len()).unwrap_or(u32::MAX));
        out.put_i32(dimensions);
        out.put_i32(i32::from(self.has_nulls));
        out.put_u32(element_type);
        if rows > 0 {
            out.put_u32(u32::try_from(rows).unwrap_or(u32::MAX));
            out.put_i32(1);
            out.put_slice(&self.elements);
        }
    }
}

/// A final query whose inputs have been read.
pub(super) struct Collected {
    pub(super) held: Held,
    /// None when they are in tables.
    pub(super) rows: Vec<InputRows>,
    pub(super) tables: Option<InputTables>,
    pub(super) description: Rc<Description>,
    pub(super) query: Arc<FinalQuery>,
    /// The client's, and the time if the query is told it.
    pub(super) arguments: Arguments,
}

impl Collected {
    /// The id of the server that runs it.
    pub(super) fn home(&self) -> u64 {
        self.held.home
    }

    /// The text that the server runs.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match (&self.tables, &self.description.final_sql) {
            (Some(tables), _) => Cow::Owned(self.query.over_tables(&tables.names)),
            (None, Ok(sql)) => Cow::Borrowed(sql),
            (None, Err(_)) => Cow::Borrowed(&self.query.sql),
        }
    }
}

/// What has become of the inputs of a final query.
enum Collecting {
    Done(Collected),
    /// A shard had an outdated plan; the client has seen nothing.
    Outdated,
    /// The query that is there for it has to answer.
    NextWay,
}

/// The servers of a final query, one for each shard it concerns.
pub(super) struct Held {
    servers: Vec<(ShardId, u64)>,
    /// The one that runs it.
    pub(super) home: u64,
}

impl Held {
    /// How many shards there are.
    pub(super) fn shards(&self) -> usize {
        self.servers.len()
    }

    pub(super) fn on(&self, shards: &[ShardId]) -> Vec<u64> {
        self.servers.iter().filter(|(shard, _)| shards.contains(shard)).map(|(_, id)| *id).collect()
    }
}

impl Conversation {
    /// Reads the inputs of a final query, has it run, and passes its rows and its command tag to the client.
    pub(super) async fn final_query(
        &mut self,
        read: &FinalRead,
        request: ManyRequest<'_>,
        attempt: Attempt,
    ) -> Result<Gathered, Failure> {
        let Some((collected, _)) = self.collect(read, request, attempt, Until::Done).await? else {
            return Ok(Gathered::Outdated);
        };
        let result = match request.describe {
            true => self.send_row_description(&collected.description, request.arguments),
            false => Ok(()),
        };
        let result = match result {
            Ok(()) => self.run_final(&collected, &collected.text()).await,
            Err(failure) => Err(failure),
        };
        self.leave_tables(collected, result).await?;
        Ok(Gathered::Done)
    }

    /// Reads the inputs of a final query, or of the one that has to answer for it, which comes with them; none if a shard had an outdated
    /// plan and the client has seen nothing.
    pub(super) async fn collect<'r>(
        &mut self,
        read: &'r FinalRead,
        request: ManyRequest<'_>,
        attempt: Attempt,
        until: Until,
    ) -> Result<Option<(Collected, &'r FinalRead)>, Failure> {
        let mut read = read;
        request.arguments.check_count(read.query.params)?;
        loop {
            let held = self.hold_for_final(read, request.access).await?;
            let (accepted, description) = self.accepted(read, held.home, request.arguments).await?;
            read = accepted;
            match self.collect_once(read, held, description, request, attempt, until).await? {
                Collecting::Done(collected) => return Ok(Some((collected, read))),
                Collecting::Outdated => return Ok(None),
                Collecting::NextWay => {
                    let other = read.or_else.as_deref();
                    read = other.ok_or_else(|| ErrorFields::error("XX000", "there is no other way to answer"))?;
                }
            }
        }
    }

    /// The first of a final query and those that can answer for it to which PostgreSQL agrees.
    pub(super) async fn accepted<'r>(
        &mut self,
        read: &'r FinalRead,
        home: u64,
        arguments: &Arguments,
    ) -> Result<(&'r FinalRead, Rc<Description>), Failure> {
        let mut read = read;
        loop {
            match (self.final_description(home, &read.query, arguments).await, &read.or_else) {
                (Ok(description), Some(other)) if description.final_sql.is_err() => read = other,
                (described, _) => return described.map(|description| (read, description)),
            }
        }
    }

    async fn collect_once(
        &mut self,
        read: &FinalRead,
        held: Held,
        description: Rc<Description>,
        request: ManyRequest<'_>,
        attempt: Attempt,
        until: Until,
    ) -> Result<Collecting, Failure> {
        let (query, arguments) = (&read.query, request.arguments);
        self.measure.touches(held.servers.len());
        arguments.check_told(&description, attempt)?;
        let arguments = match query.timed {
            true => self.timed(arguments, query.params, held.home).await?,
            false => arguments.clone(),
        };
        let said = self.client.out.len();
        let in_tables = query.fits_tables() && self.can_have_tables(until);
        let has_next = !query.fits_tables() && read.or_else.is_some();
        let beyond = if in_tables || has_next { Beyond::Elsewhere } else { Beyond::Counted };
        let result = match beyond == Beyond::Elsewhere && description.large.get() {
            true => Ok(None),
            false => self.read_inputs(read, &held, &description, &arguments, beyond).await,
        };
        match result {
            Ok(Some(rows)) => {
                let query = query.clone();
                Ok(Collecting::Done(Collected { held, rows, tables: None, description, query, arguments }))
            }
            Ok(None) => {
                description.large.set(true);
                if !in_tables {
                    return Ok(Collecting::NextWay);
                }
                let collected = self.collect_into_tables(read, request.access, description, arguments, until).await;
                collected.map(Collecting::Done)
            }
            // The merge cannot compare such values, or cannot hold so many of them.
            Err(Failure::Error(fields)) if has_next && ["0A000", OUT_OF_MEMORY].contains(&fields.sqlstate.as_ref()) => {
                Ok(Collecting::NextWay)
            }
            Err(failure) => {
                let result = Err(failure);
                if self.may_try_again(&result, attempt) {
                    self.client.out.truncate(said);
                    return Ok(Collecting::Outdated);
                }
                result.map(|()| Collecting::Outdated)
            }
        }
    }

    /// What the shards hold of all inputs; `None` when that is more than arrays may be, and goes elsewhere.
    pub(super) async fn read_inputs(
        &mut self,
        read: &FinalRead,
        held: &Held,
        description: &Description,
        arguments: &Arguments,
        beyond: Beyond,
    ) -> Result<Option<Vec<InputRows>>, Failure> {
        let (query, types) = (&*read.query, &description.parameter_types);
        let mut all: Vec<InputRows> = description.inputs.iter().map(|_| InputRows::batch(0)).collect();
        for n in query.order.iter().copied() {
            let (input, columns) = (&query.inputs[n], &description.inputs[n]);
            if let Some(steps) = &mut self.measure.steps {
                steps.reads_input(n);
            }
            let before = all.iter().map(|rows| rows.bytes).sum();
            let visible = columns.len() - usize::from(input.gather.helpers);
            let mut rows = InputRows::new(visible, self.array_bytes_max().saturating_sub(before), beyond);
            let ids = held.on(&read.inputs[n]);
            let mut sink = Sink::Rows(&mut rows);
            match narrowed(input, &all, description, arguments)?.filter(|_| description.narrows[n]) {
                Some((input, more)) => self.read_input(&input, columns, &ids, types, &more, &mut sink).await?,
                None => self.read_input(input, columns, &ids, types, arguments, &mut sink).await?,
            }
            if rows.is_full() {
                return Ok(None);
            }
            all[n] = rows;
        }
        self.check_size(all.iter().map(|rows| rows.bytes).sum(), self.array_bytes_max())?;
        Ok(Some(all))
    }

    /// How large the arrays of one statement may be.
    pub(super) fn array_bytes_max(&self) -> usize {
        let limits = self.worker.limits();
        limits.final_query_array_bytes_max.min(limits.final_query_bytes_max)
    }

    /// Servers in the order of the shards, so that clients who do the same wait in the same place. Where any shard will do, the query ends
    /// where the session is at work already.
    pub(super) async fn hold_for_final(&mut self, read: &FinalRead, access: Access) -> Result<Held, Failure> {
        let wrote = self.links.iter().find(|link| link.wrote).or(self.links.iter().next()).map(|link| link.shard);
        let home = read.query.home.or(wrote).unwrap_or(read.home);
        let mut shards: Vec<ShardId> = read.inputs.iter().flatten().copied().chain([home]).collect();
        shards.sort_unstable();
        shards.dedup();
        if shards.len() > 1 {
            self.begin_on_several().await?;
        }
        let for_inputs = if access == Access::Read { Access::Read } else { Access::Lock };
        let mut servers = Vec::with_capacity(shards.len());
        for shard in shards {
            let access = if shard == home { access } else { for_inputs };
            let i = self.link(Some(shard), access).await?;
            servers.push((shard, self.links[i].server.id.0));
        }
        let home = servers.iter().find(|(shard, _)| *shard == home).map_or(0, |(_, id)| *id);
        let i = self.position(home)?;
        self.note_access(i, access)?;
        Ok(Held { servers, home })
    }

    /// What PostgreSQL says of the statement and of its inputs; asked once. The final query must give columns of the same names and types
    /// as the statement itself, or it is not the same.
    pub(super) async fn final_description(
        &mut self,
        home: u64,
        query: &FinalQuery,
        arguments: &Arguments,
    ) -> Result<Rc<Description>, Failure> {
        let reading = self.session.reading();
        // Two statements can end in the same text over the rows of unlike tables.
        let text = format!("{}\0{}", arguments.text, query.sql);
        let key = self.worker.statement_id(&self.served, &*self.catalog()?, &reading, &text, &arguments.param_types);
        if let Some(known) = self.served.descriptions.borrow().get(&key) {
            return Ok(known.clone());
        }
        let i = self.position(home)?;
        let answer = self.ask_to_describe(i, &arguments.text, &arguments.param_types).await?;
        self.check_tables_exist(query, &answer)?;
        let original = Described::of(&answer);
        answer.into_result(self)?;
        let i = self.position(home)?;
        let mut types = self.parameter_types(i, &original.parameters).await?;
        if query.timed {
            types.push(TIME_TYPE);
        }
        let mut inputs = Vec::with_capacity(query.inputs.len());
        let mut narrows = Vec::with_capacity(query.inputs.len());
        for input in &query.inputs {
            let i = self.position(home)?;
            let sql = types.settle(sql_for_shards(&input.gather));
            let shard = self.describe_text(i, &sql, types.numbers()).await?;
            self.keep_shape(&sql, types.numbers(), &shard.row)?;
            inputs.push(columns(&shard.row)?);
            narrows.push(match &input.narrowed {
                Some(narrowed) => {
                    let i = self.position(home)?;
                    let sql = types.settle(&narrowed.sql);
                    self.ask_to_describe(i, &sql, types.numbers()).await?.error.is_none()
                }
                None => false,
            });
        }
        let final_sql = match self.final_sql(home, query, &inputs, &types, &original).await {
            Err(Failure::Error(fields)) if query.or_else.is_some() => Err(Box::new(fields)),
            Err(failure) => {
                self.served.stats.refused.add(1);
                return Err(failure);
            }
            Ok(sql) => Ok(sql),
        };
        let description = Rc::new(Description {
            client_columns: columns(&original.row)?,
            shard_columns: Vec::new(),
            inputs,
            narrows,
            final_sql,
            large: Cell::new(false),
            parameters: original.parameters,
            parameter_types: types,
            client_row: original.row,
        });
        self.served.remember(key, description.clone());
        Ok(description)
    }

    /// The text that gives what the statement gives, with all types in it.
    async fn final_sql(
        &mut self,
        home: u64,
        query: &FinalQuery,
        inputs: &[Vec<ColumnType>],
        types: &ParameterTypes,
        original: &Described,
    ) -> Result<Box<str>, Failure> {
        let ids: Vec<Vec<u32>> =
            inputs.iter().map(|columns| columns.iter().map(|column| column.type_oid).collect()).collect();
        let Some(sql) = query.typed_sql(&ids) else {
            return Err(not_finished("Its groups have columns of types that cannot be handed over.".to_owned()));
        };
        let i = self.position(home)?;
        let answer = self.ask_to_describe(i, &types.settle(&sql), types.numbers()).await?;
        check_faithful(original, &answer)?;
        Ok(sql.into())
    }

    /// A local table may be on its own shard only; where the statement runs, PostgreSQL must know it to tell the types of the answer.
    fn check_tables_exist(&mut self, query: &FinalQuery, answer: &Answer) -> Result<(), Failure> {
        let apart = query.inputs.iter().find(|input| matches!(input.gather.shards, Shards::One(_)));
        let missing = |error: &[u8]| ErrorFields::parse(&error[5..]).sqlstate == "42P01";
        match (apart, &answer.error) {
            (Some(apart), Some(error)) if missing(error) => {
                self.served.stats.refused.add(1);
                let message =
                    format!("a local table beside others must exist on their shard too, as \"{}\" must", apart.table);
                let hint = "Create an empty table like it on the other shard, or query the tables one by one.";
                Err(ErrorFields::error("0A000", message).with_hint(hint).into())
            }
            _ => Ok(()),
        }
    }

    /// Reads what some shards hold of one input.
    pub(super) async fn read_input(
        &mut self,
        input: &Input,
        types: &[ColumnType],
        ids: &[u64],
        parameter_types: &ParameterTypes,
        arguments: &Arguments,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        if ids.is_empty() {
            return Ok(());
        }
        let limits = MergeLimits { buffered_bytes_max: self.worker.limits().merge_buffer_max };
        let visible = &types[..types.len() - usize::from(input.gather.helpers)];
        let binary = vec![Format::Binary; visible.len()];
        let mut merge = Merge::new(&input.gather, ids.len(), types, visible, &binary, &[], limits)?;
        let formats = vec![BINARY; types.len()];
        let result = match self.start_on_all(ids, &input.gather, parameter_types, &formats, arguments) {
            Ok(()) => self.run_merge(ids, &mut merge, sink).await,
            Err(failure) => Err(failure),
        };
        let goes_on = sink.has_enough() || is_out_of_memory(&result);
        let stops = result.is_err() || sink.has_enough();
        self.finish_all(ids, stops && !self.must_hear_out(goes_on)).await?;
        result
    }

    /// Refuses inputs of more than `max` bytes.
    pub(super) fn check_size(&self, bytes: usize, max: usize) -> Result<(), Failure> {
        if bytes <= max {
            return Ok(());
        }
        let in_arrays = max < self.worker.limits().final_query_bytes_max;
        let limit = if in_arrays { "final_query_array_bytes_max" } else { "final_query_bytes_max" };
        let (bytes, max) = (show_size(bytes), show_size(max));
        let message =
            format!("the statement needs {bytes} of the shards' rows, more than limits.{limit} ({max}) allows");
        let error =
            ErrorFields::error("54000", message).with_hint("Add conditions or leave columns out, or raise the limit.");
        Err(match in_arrays {
            true => error
                .with_detail(
                    "Temporary tables cannot take the rows where nothing may be written, nor within a pipeline, nor for a \
                     write on several shards.",
                )
                .into(),
            false => error.into(),
        })
    }

    /// Runs a text over the inputs of a final query; its rows pass undecoded.
    pub(super) async fn run_final(&mut self, collected: &Collected, sql: &str) -> Result<(), Failure> {
        let home = collected.home();
        let portal = self.portal_of_router(home);
        let i = self.bind_collected(collected, sql, portal)?;
        let link = &mut self.links[i];
        frontend::execute(&mut link.out, portal, 0);
        link.server.state.expect(Due::Execute(Audience::Client));
        close_portal_of_router(link, portal);
        frontend::sync(&mut link.out);
        link.server.state.expect(Due::Sync(Audience::Router));
        link.sent = Sent::Synced;
        let errors = link.errors;
        self.pump(i).await?;
        let failed = self.links.by_server(home).is_none_or(|i| self.links[i].errors != errors);
        if failed { Err(Failure::Told) } else { Ok(()) }
    }

    /// Has the server of a final query parse a text and bind it, with the inputs, as `portal`; its position.
    pub(super) fn bind_collected(&mut self, collected: &Collected, sql: &str, portal: &[u8]) -> Result<usize, Failure> {
        let description = &collected.description;
        let i = self.position(collected.home())?;
        let link = &mut self.links[i];
        let types = &description.parameter_types;
        frontend::parse(&mut link.out, b"", types.settle(sql).as_bytes(), types.numbers());
        link.server.state.expect(Due::Parse(StatementId::UNNAMED, Audience::Router));
        bind_arrays(&mut link.out, portal, collected)?;
        link.server.state.expect(Due::Bind(Audience::Router));
        Ok(i)
    }
}

/// Compares what the final query gives with what the statement gives.
fn check_faithful(original: &Described, answer: &Answer) -> Result<(), Failure> {
    if let Some(error) = &answer.error {
        let message = ErrorFields::parse(&error[5..]).message;
        return Err(not_finished(format!("With the rows as input it says: {message}.")));
    }
    let row = Described::of(answer).row;
    let (wanted, found): (Vec<Field>, Vec<Field>) = (
        reply::row_description(&original.row).map_err(ErrorFields::from)?,
        reply::row_description(&row).map_err(ErrorFields::from)?,
    );
    let same = |(a, b): (&Field, &Field)| a.name == b.name && a.type_oid == b.type_oid;
    if wanted.len() == found.len() && wanted.iter().zip(&found).all(same) {
        return Ok(());
    }
    Err(not_finished("With the rows as input its columns would have other types.".to_owned()))
}

fn not_finished(why: String) -> Failure {
    let refusal = ErrorFields::error("0A000", "PostgreSQL cannot finish this statement over several shards");
    let hint = "Compare the sharding key with a literal or a parameter, so that one shard can answer.";
    refusal.with_detail(why).with_hint(hint).into()
}

/// The client's parameters, then the arrays; results as the client wants them.
fn bind_arrays(out: &mut BytesMut, portal: &[u8], collected: &Collected) -> Result<(), Failure> {
    let Collected { rows, description, arguments, .. } = collected;
    let bind = arguments.bind()?;
    let arrays: usize = rows.iter().map(|rows| rows.columns.len()).sum();
    put_message(out, b'B', |out| {
        put_cstr(out, portal);
        put_cstr(out, b"");
        put_count(out, bind.values.count() + arrays);
        bind.parameters().for_each(|(format, _)| out.put_i16(format));
        (0..arrays).for_each(|_| out.put_i16(BINARY));
        put_count(out, bind.values.count() + arrays);
        bind.values.iter().for_each(|value| put_value(out, value));
        rows.iter().zip(&description.inputs).for_each(|(rows, types)| rows.put(out, types));
        put_count(out, bind.result_formats.count());
        bind.result_formats.codes().for_each(|code| out.put_i16(code));
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::{Beyond, InputRows};
    use crate::protocol::backend;

    fn rows(rows: &[[Option<&str>; 2]], bytes_max: usize) -> InputRows {
        let mut out = BytesMut::new();
        rows.iter().for_each(|row| backend::data_row(&mut out, row));
        let mut input = InputRows::new(2, bytes_max, Beyond::Counted);
        input.take(&out);
        input
    }

    #[test]
    fn rows_become_arrays() {
        let input = rows(&[[Some("a"), None], [Some("bc"), Some("")]], 1_000);
        let mut out = BytesMut::new();
        input.columns[0].put(&mut out, input.rows, 25);
        assert_eq!(&out[..], b"\0\0\0\x1f\0\0\0\x01\0\0\0\0\0\0\0\x19\0\0\0\x02\0\0\0\x01\0\0\0\x01a\0\0\0\x02bc");
        let mut out = BytesMut::new();
        input.columns[1].put(&mut out, input.rows, 25);
        assert_eq!(&out[..], b"\0\0\0\x1c\0\0\0\x01\0\0\0\x01\0\0\0\x19\0\0\0\x02\0\0\0\x01\xff\xff\xff\xff\0\0\0\0");
        let empty = rows(&[], 1_000);
        let mut out = BytesMut::new();
        empty.columns[0].put(&mut out, empty.rows, 25);
        assert_eq!(&out[..], b"\0\0\0\x0c\0\0\0\0\0\0\0\0\0\0\0\x19");
    }

    #[test]
    fn what_is_too_much_is_counted_and_not_kept() {
        let row = [Some("a"), Some("b")];
        let one = rows(&[row], 1_000).bytes;
        let input = rows(&[row; 100], 10 * one);
        assert_eq!(input.bytes, 100 * one);
        assert!(input.columns.iter().all(|column| column.elements.capacity() == 0));
    }
}
