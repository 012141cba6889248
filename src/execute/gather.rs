//! One statement read on several shards and merged.
//!
//! Every shard runs the gather's SQL as a prepared statement; its rows stay in the link's buffer
//! until the merge takes them, so a shard that is ahead waits and memory stays bounded.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use pgsluice_sharding::ShardId;
use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::merge::{ColumnType, Merge, MergeLimits, Progress, ShardInput};
use pgsluice_sharding::plan::{Gather, Node};
use pgsluice_sharding::sql::Access;

use crate::clock;
use crate::pool::server::{Audience, Due, Preparation, StatementId, is_outdated_plan};
use crate::protocol::backend::{self, Field};
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{Header, put_cstr, put_message};
use crate::protocol::frontend::{self, Bind, Kind};
use crate::protocol::reply;
use crate::session::statements::{ManyPortal, ManyRead};

use super::arguments::Arguments;
use super::ask::Answer;
use super::cursors::close_portal_of_router;
use super::final_query::InputRows;
use super::final_tables::InputTable;
use super::steps::Taken;
use super::timed::TIME_TYPE;
use super::types::ParameterTypes;
use super::worker::{Description, shape_of_row};
use super::{CatalogChange, Conversation, Failure};

/// Rows leave in pieces of about this size.
pub(super) const OUT_BYTES: usize = 64 << 10;

/// What is read at once of rows that are all kept.
const TAKEN_IN_BYTES: usize = 16 << 10;

/// What a merge says that would need more memory than it may have.
pub(super) const OUT_OF_MEMORY: &str = "53200";

/// Results in binary, whatever the client asked for.
pub(super) const BINARY: i16 = 1;

/// Where merged rows go.
pub(super) enum Sink<'a> {
    Client(&'a mut Outflow),
    /// Into the input of a final query.
    Rows(&'a mut InputRows),
    /// Into a temporary table.
    Table(&'a mut InputTable),
    /// They wait, as whole messages.
    Kept(&'a mut Vec<u8>),
    /// They are only counted, in bytes.
    Nowhere(&'a mut u64),
}

/// What of the rows has left for the client.
#[derive(Default)]
pub(super) struct Outflow {
    /// Some has, so that the statement cannot be answered in another way any more.
    began: bool,
    /// Rows that wait because it may have to be.
    held: Option<Vec<u8>>,
}

impl Outflow {
    /// Rows that are given out while others are still remembered wait until it is sure that the memory suffices.
    pub(super) fn of(gather: &Gather) -> Self {
        let mut node = Some(&gather.tree);
        let mut remembers = false;
        while let Some(found) = node {
            remembers |= matches!(found, Node::Distinct { sorted: false, .. });
            node = found.input();
        }
        Self { began: false, held: (remembers && gather.or_else.is_some()).then(Vec::new) }
    }
}

impl Outflow {
    /// Whether the client has got rows.
    pub(super) fn has_begun(&self) -> bool {
        self.began
    }
}

impl Sink<'_> {
    /// Whether it is known already that the rows will not be used.
    pub(super) fn has_enough(&self) -> bool {
        matches!(self, Self::Rows(rows) if rows.is_full())
    }
}

/// How a read over several shards is asked for.
#[derive(Clone, Copy)]
pub(super) struct ManyRequest<'a> {
    pub(super) arguments: &'a Arguments,
    pub(super) access: Access,
    /// The client gets the description of the rows before them.
    pub(super) describe: bool,
}

/// A read over several shards is tried twice at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    Second,
}

/// What has become of an attempt.
#[derive(Debug)]
pub(super) enum Gathered {
    Done,
    /// A shard had an outdated plan; the client has seen nothing.
    Outdated,
    /// The rows take more memory than a merge may have; the client has seen nothing.
    TooLarge(Box<ErrorFields>),
}

/// What lies in a link's buffer for the merge.
#[derive(Clone, Copy, Default)]
pub(super) struct Head {
    /// Bytes of whole rows at the front.
    pub(super) rows: usize,
    /// CommandComplete follows them.
    pub(super) finished: bool,
    /// All rows so far.
    pub(super) taken: Taken,
}

impl Head {
    /// Passes over all whole rows that follow those at the front of `filled`.
    fn pass_rows(&mut self, filled: &[u8]) {
        while let Ok(Some(header)) = Header::parse(&filled[self.rows..])
            && header.tag == b'D'
            && header.total <= filled.len() - self.rows
        {
            self.rows += header.total;
            self.taken.row(header.total);
        }
    }
}

impl Conversation {
    /// Reads on several shards and sends the rows and the command tag.
    pub(super) async fn read_many(&mut self, read: &ManyRead, request: ManyRequest<'_>) -> Result<(), Failure> {
        if let ManyRead::Written(write) = read {
            return Box::pin(self.write_many(write, request)).await;
        }
        let first = self.read_once(read, request, Attempt::First).await?;
        if matches!(first, Gathered::Outdated) {
            // Plans are made and shards are asked anew. Of the first attempt the client has seen nothing.
            self.refresh_catalog().await?;
            self.read_once(read, request, Attempt::Second).await?;
        }
        Ok(())
    }

    async fn read_once(
        &mut self,
        read: &ManyRead,
        request: ManyRequest<'_>,
        attempt: Attempt,
    ) -> Result<Gathered, Failure> {
        let (gather, shards, or_else) = match read {
            ManyRead::Merged { gather, shards, or_else } => (gather, shards, or_else),
            ManyRead::Finished(last) => return self.final_query(last, request, attempt).await,
            ManyRead::Written(_) => return Ok(Gathered::Done),
        };
        self.measure.touches(shards.len());
        let ids = self.link_all(shards, request.access).await?;
        let arguments = request.arguments;
        let description = self.description(ids[0], gather, arguments).await?;
        arguments.check_told(&description, attempt)?;
        let told;
        let request = match &gather.timed_sql {
            Some(_) => {
                told = self.timed(request.arguments, gather.params, ids[0]).await?;
                ManyRequest { arguments: &told, ..request }
            }
            None => request,
        };
        match (self.merge(gather, ids.len(), &description, request.arguments), or_else) {
            (Ok(merge), or_else) => {
                let gathered = self.gather(gather, &ids, &description, merge, request, attempt).await?;
                match (gathered, or_else) {
                    (Gathered::TooLarge(_), Some(last)) => {
                        self.final_query(last, ManyRequest { arguments, ..request }, attempt).await
                    }
                    (Gathered::TooLarge(error), None) => Err(Failure::Error(*error)),
                    (gathered, _) => Ok(gathered),
                }
            }
            (Err(Failure::Error(fields)), Some(last)) if fields.sqlstate == "0A000" => {
                self.final_query(last, ManyRequest { arguments, ..request }, attempt).await
            }
            (Err(failure), _) => Err(failure),
        }
    }

    async fn gather(
        &mut self,
        gather: &Gather,
        ids: &[u64],
        description: &Description,
        mut merge: Merge,
        request: ManyRequest<'_>,
        attempt: Attempt,
    ) -> Result<Gathered, Failure> {
        let arguments = request.arguments;
        let said = self.client.out.len();
        if request.describe {
            self.send_row_description(description, arguments)?;
        }
        let mut outflow = Outflow::of(gather);
        let mut sink = Sink::Client(&mut outflow);
        let result = self.run_gather(gather, ids, description, &mut merge, arguments, &mut sink).await?;
        if merge.rows() == 0 && self.may_try_again(&result, attempt) {
            self.client.out.truncate(said);
            return Ok(Gathered::Outdated);
        }
        match result {
            Err(Failure::Error(fields)) if !outflow.began && fields.sqlstate == OUT_OF_MEMORY => {
                self.client.out.truncate(said);
                return Ok(Gathered::TooLarge(Box::new(fields)));
            }
            result => result?,
        }
        self.measure.add_rows(merge.rows());
        backend::command_complete(&mut self.client.out, &format!("SELECT {}", merge.rows()));
        Ok(Gathered::Done)
    }

    /// Has the shards run their part, and merges what comes. All servers are at rest afterwards, or one is lost: that is the outer error.
    pub(super) async fn run_gather(
        &mut self,
        gather: &Gather,
        ids: &[u64],
        description: &Description,
        merge: &mut Merge,
        arguments: &Arguments,
        sink: &mut Sink<'_>,
    ) -> Result<Result<(), Failure>, Failure> {
        let formats = shard_formats(&arguments.bind()?, description);
        let types = &description.parameter_types;
        let started = match gather.locks {
            true => self.start_one_by_one(ids, gather, types, &formats, arguments).await,
            false => self.start_on_all(ids, gather, types, &formats, arguments),
        };
        let result = match started {
            Ok(()) => self.run_merge(ids, merge, sink).await,
            Err(failure) => Err(failure),
        };
        let goes_on = gather.or_else.is_some() && is_out_of_memory(&result);
        self.finish_all(ids, result.is_err() && !self.must_hear_out(goes_on)).await?;
        Ok(result)
    }

    /// Whether what the shards still send is to be read to its end: a transaction that goes on in another way would not survive that they are
    /// told to stop.
    pub(super) fn must_hear_out(&self, goes_on: bool) -> bool {
        goes_on && !self.session.transaction.is_idle()
    }

    /// Whether an attempt has failed only because a shard had an outdated plan, outside of a block.
    pub(super) fn may_try_again(&self, result: &Result<(), Failure>, attempt: Attempt) -> bool {
        let outdated = matches!(result, Err(Failure::Told)) && self.catalog_change == CatalogChange::Outdated;
        outdated && attempt == Attempt::First && self.session.transaction.is_idle()
    }

    /// A server on each of `shards`, settled and in step; their ids, in the order of the shards.
    pub(super) async fn link_all(&mut self, shards: &[ShardId], access: Access) -> Result<Vec<u64>, Failure> {
        if shards.len() > 1 {
            self.begin_on_several().await?;
        }
        let mut ids = Vec::with_capacity(shards.len());
        for shard in shards {
            let i = self.link(Some(*shard), access).await?;
            ids.push(self.links[i].server.id.0);
        }
        Ok(ids)
    }

    pub(super) fn position(&self, id: u64) -> Result<usize, Failure> {
        self.links
            .by_server(id)
            .ok_or_else(|| ErrorFields::error("08006", "a shard's server closed the connection unexpectedly").into())
    }

    pub(super) fn merge(
        &self,
        gather: &Gather,
        inputs: usize,
        description: &Description,
        arguments: &Arguments,
    ) -> Result<Merge, Failure> {
        let bind = arguments.bind()?;
        let params: Vec<Input<'_>> = bind
            .parameters()
            .enumerate()
            .map(|(n, (format, bytes))| Input {
                bytes,
                format: format_of(format),
                type_oid: description.parameter_types.numbers().get(n).copied().unwrap_or(0),
            })
            .collect();
        let formats = visible_formats(&bind, description.client_columns.len());
        let limits = MergeLimits { buffered_bytes_max: self.worker.limits().merge_buffer_max };
        let merge = Merge::new(
            gather,
            inputs,
            &description.shard_columns,
            &description.client_columns,
            &formats,
            &params,
            limits,
        );
        let merge = merge.inspect_err(|_| self.served.stats.refused.add(1))?;
        if merge.prints_floats() && self.session.settings().get("extra_float_digits").is_some_and(rounds_floats) {
            self.served.stats.refused.add(1);
            let message = "a sum or average of floating-point numbers is not rounded over several shards";
            let refusal = ErrorFields::error("0A000", message);
            return Err(refusal.with_hint("Set extra_float_digits to 1, or ask for binary results.").into());
        }
        Ok(merge)
    }

    pub(super) fn send_row_description(
        &mut self,
        description: &Description,
        arguments: &Arguments,
    ) -> Result<(), Failure> {
        let bind = arguments.bind()?;
        let mut fields = reply::row_description(&description.client_row).map_err(ErrorFields::from)?;
        for (n, field) in fields.iter_mut().enumerate() {
            field.format = bind.result_formats.of(n);
        }
        backend::row_description(&mut self.client.out, &fields);
        Ok(())
    }

    /// Describe of a portal over several shards.
    pub(super) async fn describe_many(&mut self, portal: &ManyPortal) -> Result<(), Failure> {
        let arguments = Arguments::of_portal(portal);
        self.question_in_pipeline().await?;
        self.begin_on_several().await?;
        let description = match &portal.read {
            ManyRead::Merged { gather, shards, .. } => {
                let ids = self.link_all(&shards[..1], Access::Read).await?;
                self.description(ids[0], gather, &arguments).await?
            }
            ManyRead::Finished(last) => {
                let ids = self.link_all(&[last.home], Access::Read).await?;
                self.accepted(last, ids[0], &arguments).await?.1
            }
            ManyRead::Written(_) => return self.describe_write(&arguments).await,
        };
        self.send_row_description(&description, &arguments)
    }

    /// What PostgreSQL says of the statement and of the shards' part of it; asked once.
    pub(super) async fn description(
        &mut self,
        id: u64,
        gather: &Gather,
        arguments: &Arguments,
    ) -> Result<Rc<Description>, Failure> {
        let reading = self.session.reading();
        let key = self.worker.statement_id(
            &self.served,
            &*self.catalog()?,
            &reading,
            &arguments.text,
            &arguments.param_types,
        );
        if let Some(known) = self.served.descriptions.borrow().get(&key) {
            return Ok(known.clone());
        }
        let i = self.position(id)?;
        let original = self.describe_text(i, &arguments.text, &arguments.param_types).await?;
        let mut types = self.parameter_types(i, &original.parameters).await?;
        if gather.timed_sql.is_some() {
            types.push(TIME_TYPE);
        }
        let i = self.position(id)?;
        let sql = types.settle(sql_for_shards(gather));
        let shard = self.describe_text(i, &sql, types.numbers()).await?;
        self.keep_shape(&sql, types.numbers(), &shard.row)?;
        let description = Rc::new(Description {
            client_columns: columns(&original.row)?,
            shard_columns: columns(&shard.row)?,
            inputs: Vec::new(),
            narrows: Vec::new(),
            final_sql: Ok(Box::default()),
            large: Cell::new(false),
            parameters: original.parameters,
            parameter_types: types,
            client_row: original.row,
        });
        self.served.remember(key, description.clone());
        Ok(description)
    }

    /// Parses and describes a text on server `i`, as its unnamed statement.
    pub(super) async fn describe_text(&mut self, i: usize, text: &str, types: &[u32]) -> Result<Described, Failure> {
        let answer = self.ask_to_describe(i, text, types).await?;
        let described = Described::of(&answer);
        answer.into_result(self)?;
        Ok(described)
    }

    /// The answer to Parse and Describe of a text, which may be an error.
    pub(super) async fn ask_to_describe(&mut self, i: usize, text: &str, types: &[u32]) -> Result<Answer, Failure> {
        let link = &mut self.links[i];
        frontend::parse(&mut link.out, b"", text.as_bytes(), types);
        link.server.state.expect(Due::Parse(StatementId::UNNAMED, Audience::Router));
        frontend::describe(&mut link.out, Kind::Statement, b"");
        link.server.state.expect(Due::DescribeStatement(StatementId::UNNAMED, Audience::Router));
        frontend::sync(&mut link.out);
        link.server.state.expect(Due::Sync(Audience::Router));
        self.read_answer(i).await
    }

    /// Sends the shards' part to all of them.
    pub(super) fn start_on_all(
        &mut self,
        ids: &[u64],
        gather: &Gather,
        types: &ParameterTypes,
        formats: &[i16],
        arguments: &Arguments,
    ) -> Result<(), Failure> {
        let bind = arguments.bind()?;
        let reading = self.session.reading();
        let sql = &*types.settle(sql_for_shards(gather));
        let types = types.numbers();
        let statement = self.worker.statement_id(&self.served, &*self.catalog()?, &reading, sql, types);
        let name = statement.name();
        for id in ids {
            let i = self.position(*id)?;
            let portal = self.portal_of_router(*id);
            let link = &mut self.links[i];
            if let Preparation::Parse { close } = link.server.state.prepared().touch(statement) {
                if let Some(old) = close {
                    frontend::close(&mut link.out, Kind::Statement, old.name().as_bytes());
                    link.server.state.expect(Due::Evict(old));
                }
                frontend::parse(&mut link.out, name.as_bytes(), sql.as_bytes(), types);
                link.server.state.expect(Due::Parse(statement, Audience::Router));
                // Whoever has prepared it when it was another refuses it; this one would not.
                frontend::describe(&mut link.out, Kind::Statement, name.as_bytes());
                link.server.state.expect(Due::DescribeStatement(statement, Audience::Router));
                self.presence.prepared_on(link.server.id.0, link.server.state.prepared_count());
            }
            bind_for_shard(&mut link.out, portal, &name, &bind, formats);
            link.server.state.expect(Due::Bind(Audience::Router));
            frontend::execute(&mut link.out, portal, 0);
            link.server.state.expect(Due::Execute(Audience::Router));
            close_portal_of_router(link, portal);
            frontend::sync(&mut link.out);
            link.server.state.expect(Due::Sync(Audience::Router));
        }
        Ok(())
    }

    /// Sends the shards' part to one after another, each when the one before has locked all its rows: whoever does
    /// the same waits in the same place. PostgreSQL finds deadlocks within a shard, nobody those between shards.
    async fn start_one_by_one(
        &mut self,
        ids: &[u64],
        gather: &Gather,
        types: &ParameterTypes,
        formats: &[i16],
        arguments: &Arguments,
    ) -> Result<(), Failure> {
        let max = self.worker.limits().merge_buffer_max;
        let mut held = 0;
        for id in ids {
            self.start_on_all(&[*id], gather, types, formats, arguments)?;
            held += self.take_in(*id, max.saturating_sub(held)).await?;
        }
        Ok(())
    }

    /// Keeps all rows of a server in its buffer, `max` bytes at most; how many bytes there are.
    async fn take_in(&mut self, id: u64, max: usize) -> Result<usize, Failure> {
        let i = self.position(id)?;
        self.links[i].borrow_buffer(&self.worker);
        self.send_out(i).await?;
        let mut head = Head::default();
        loop {
            self.look_at(i, &mut head)?;
            let inbox = &mut self.links[i].inbox;
            let next = Header::parse(&inbox.filled()[head.rows..]).ok().flatten();
            let is_whole = next.is_some_and(|next| next.total <= inbox.len() - head.rows);
            // The end, or what the merge finds behind the rows: a notice, an error.
            if head.finished || is_whole {
                return Ok(head.rows);
            }
            if head.rows > max {
                let message = "the rows to be locked take more memory than limits.merge_buffer_max allows";
                let hint = "Lock fewer rows at a time, or raise the limit.";
                return Err(ErrorFields::error("53200", message).with_hint(hint).into());
            }
            inbox.reserve(TAKEN_IN_BYTES);
            self.exchange(i).await?;
        }
    }

    /// Moves rows from the shards through the merge to the client.
    pub(super) async fn run_merge(
        &mut self,
        ids: &[u64],
        merge: &mut Merge,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let began = clock::now();
        let mut heads = vec![Head::default(); ids.len()];
        let mut out = Vec::new();
        for id in ids {
            let i = self.position(*id)?;
            self.links[i].borrow_buffer(&self.worker);
            self.send_out(i).await?;
        }
        loop {
            match self.step(ids, &mut heads, merge, &mut out)? {
                Progress::Done => break,
                Progress::Full => {
                    self.write_rows(&mut out, sink).await?;
                    if sink.has_enough() {
                        return Ok(());
                    }
                }
                Progress::Needs(n) => {
                    let i = self.position(ids[n])?;
                    match self.measure.steps {
                        Some(_) => self.fill_watching(ids, &mut heads, n).await?,
                        None => self.fill(i, &mut heads[n]).await?,
                    }
                }
            }
        }
        if let Some(steps) = &mut self.measure.steps {
            steps.merged(began, ids, heads.iter().map(|head| head.taken), merge.rows_of_steps());
        }
        if let Sink::Client(outflow) = sink {
            if let Some(mut held) = outflow.held.take() {
                held.append(&mut out);
                out = held;
            }
            if self.client.out.len() + out.len() < OUT_BYTES {
                self.client.out.extend_from_slice(&out);
                self.served.stats.sent.add(out.len() as u64);
                return Ok(());
            }
        }
        self.write_rows(&mut out, sink).await
    }

    /// One run of the merge over what the buffers hold.
    fn step(
        &mut self,
        ids: &[u64],
        heads: &mut [Head],
        merge: &mut Merge,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Failure> {
        let positions = ids.iter().map(|id| self.position(*id)).collect::<Result<Vec<usize>, Failure>>()?;
        let mut inputs: Vec<ShardInput<'_>> = positions
            .iter()
            .zip(&*heads)
            .map(|(i, head)| ShardInput { rows: &self.links[*i].inbox.filled()[..head.rows], finished: head.finished })
            .collect();
        let result = merge.run(&mut inputs, out, OUT_BYTES);
        let left: Vec<usize> = inputs.iter().map(|input| input.rows.len()).collect();
        for ((i, head), left) in positions.into_iter().zip(heads).zip(left) {
            self.links[i].inbox.consume(head.rows - left);
            head.rows = left;
        }
        Ok(result?)
    }

    async fn write_rows(&mut self, out: &mut Vec<u8>, sink: &mut Sink<'_>) -> Result<(), Failure> {
        match sink {
            Sink::Client(Outflow { held: Some(held), .. }) => held.append(out),
            Sink::Client(outflow) => {
                outflow.began = true;
                self.client.write(out).await?;
                self.served.stats.sent.add(out.len() as u64);
            }
            Sink::Rows(rows) => rows.take(out),
            Sink::Kept(rows) => self.keep(rows, out)?,
            Sink::Nowhere(bytes) => **bytes += out.len() as u64,
            Sink::Table(table) => self.put_into_table(table, out).await?,
        }
        out.clear();
        Ok(())
    }

    /// Reads from server `i` until it has rows that the merge has not seen, or has finished.
    async fn fill(&mut self, i: usize, head: &mut Head) -> Result<(), Failure> {
        let before = head.rows;
        loop {
            self.look_at(i, head)?;
            if head.rows > before || head.finished {
                return Ok(());
            }
            self.exchange(i).await?;
        }
    }

    /// Finds out how many whole rows are at the front of a buffer, and what is behind them.
    pub(super) fn look_at(&mut self, i: usize, head: &mut Head) -> Result<(), Failure> {
        loop {
            let link = &mut self.links[i];
            if link.server.state.executes() {
                head.pass_rows(link.inbox.filled());
            }
            let rest = &link.inbox.filled()[head.rows..];
            let Ok(parsed) = Header::parse(rest) else { return Err(self.out_of_step(i)) };
            let Some(header) = parsed else { return Ok(()) };
            if rest.len() < header.total {
                // While rows lie in front of it the buffer could only grow; once they are taken there is room.
                if head.rows == 0 {
                    let missing = header.total - rest.len();
                    link.inbox.reserve(missing);
                }
                return Ok(());
            }
            let executing = link.server.state.executes();
            match header.tag {
                b'C' if executing => {
                    head.finished = true;
                    head.taken.complete();
                    return Ok(());
                }
                // Whatever else comes waits until the rows before it are taken.
                _ if head.rows > 0 => return Ok(()),
                b'E' => return Err(self.shard_failed(i, header.total)),
                tag => {
                    let hidden = link.server.state.hidden_query_runs();
                    let body = &link.inbox.filled()[5..header.total];
                    let described = link.server.state.describes().filter(|_| tag == b'T');
                    let known = described.and_then(|id| self.served.shapes.borrow().get(&id).copied());
                    let others = known.is_some_and(|known| known != shape_of_row(body));
                    if link.server.state.reply(tag, body).is_err() {
                        return Err(self.out_of_step(i));
                    }
                    if (matches!(tag, b'N' | b'S') && !hidden) || tag == b'A' {
                        self.client.out.extend_from_slice(&link.inbox.filled()[..header.total]);
                    }
                    link.inbox.consume(header.total);
                    if others {
                        return Err(self.tell_of_other_rows());
                    }
                }
            }
        }
    }

    /// A server gives other rows than those by which the router reads them.
    fn tell_of_other_rows(&mut self) -> Failure {
        self.plans_are_outdated();
        self.served.stats.errors.add(1);
        backend::error_response(&mut self.client.out, &ErrorFields::outdated_plan());
        Failure::Told
    }

    /// What a server says of the rows of the shards' part, by which they will be read.
    pub(super) fn keep_shape(&mut self, sql: &str, types: &[u32], row: &[u8]) -> Result<(), Failure> {
        let reading = self.session.reading();
        let id = self.worker.statement_id(&self.served, &*self.catalog()?, &reading, sql, types);
        self.served.remember_shape(id, row);
        Ok(())
    }

    /// A shard's error becomes the statement's; it is told once.
    pub(super) fn shard_failed(&mut self, i: usize, total: usize) -> Failure {
        let link = &mut self.links[i];
        if link.server.state.hidden_query_runs() {
            return self.hidden_query_failed(i, 5..total);
        }
        let message = BytesMut::from(&link.inbox.filled()[..total]);
        link.note_fault(Some(&message[5..]));
        link.inbox.consume(total);
        // An ErrorResponse is never out of step.
        let _ = link.server.state.reply(b'E', &message[5..]);
        if is_outdated_plan(&message[5..]) {
            self.plans_are_outdated();
        }
        self.served.stats.errors.add(1);
        let told = self.as_told(&message);
        self.client.out.extend_from_slice(&told);
        Failure::Told
    }

    /// Sends all that waits for server `i`; takes in what it says meanwhile.
    pub(super) async fn send_out(&mut self, i: usize) -> Result<(), Failure> {
        let link = &mut self.links[i];
        let result = std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(result) = link.poll_send(cx) {
                return std::task::Poll::Ready(result.map(drop));
            }
            match link.inbox.poll_read_more(cx, &mut link.server.stream) {
                std::task::Poll::Ready(Ok(0)) => std::task::Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into())),
                std::task::Poll::Ready(Ok(_)) => {
                    cx.waker().wake_by_ref();
                    std::task::Poll::Pending
                }
                std::task::Poll::Ready(Err(error)) => std::task::Poll::Ready(Err(error)),
                std::task::Poll::Pending => std::task::Poll::Pending,
            }
        })
        .await;
        result.map_err(|error| self.server_gone(i, &error))
    }

    /// Brings all shards to rest: what they still send is not needed. After a failure they are told
    /// to stop.
    pub(super) async fn finish_all(&mut self, ids: &[u64], failed: bool) -> Result<(), Failure> {
        for id in ids {
            let Some(i) = self.links.by_server(*id) else { continue };
            self.links[i].borrow_buffer(&self.worker);
            let link = &mut self.links[i];
            let drained = match failed && !link.server.state.is_settled() {
                true => link.cancel_and_drain().await,
                false => link.drain().await,
            };
            if drained.is_err() {
                let lost = self.server_gone(i, &std::io::ErrorKind::UnexpectedEof.into());
                if !failed {
                    return Err(lost);
                }
                continue;
            }
            self.links[i].return_buffer(&self.worker);
        }
        Ok(())
    }
}

/// Whether a merge has failed only because it needs more memory than it may have.
pub(super) fn is_out_of_memory(result: &Result<(), Failure>) -> bool {
    matches!(result, Err(Failure::Error(fields)) if fields.sqlstate == OUT_OF_MEMORY)
}

/// What shards run, whether or not they are told the time.
pub(super) fn sql_for_shards(gather: &Gather) -> &str {
    gather.timed_sql.as_ref().unwrap_or(&gather.sql)
}

/// What Describe of a statement gave.
pub(super) struct Described {
    pub(super) parameters: Bytes,
    pub(super) row: Bytes,
}

impl Described {
    pub(super) fn of(answer: &Answer) -> Self {
        Self {
            parameters: answer.body_of(b't').unwrap_or_else(|| Bytes::from_static(b"\0\0")),
            row: answer.body_of(b'T').unwrap_or_else(|| Bytes::from_static(b"\0\0")),
        }
    }
}

pub(super) fn columns(row_description: &[u8]) -> Result<Vec<ColumnType>, Failure> {
    let fields: Vec<Field> = reply::row_description(row_description).map_err(ErrorFields::from)?;
    Ok(fields.iter().map(|field| ColumnType { type_oid: field.type_oid, typmod: field.typmod }).collect())
}

pub(super) fn format_of(code: i16) -> Format {
    if code == 1 { Format::Binary } else { Format::Text }
}

/// Whether `extra_float_digits` of this value makes PostgreSQL print fewer digits than a number has.
pub(super) fn rounds_floats(value: &str) -> bool {
    value.trim_matches('\'').trim().parse::<i32>().is_ok_and(|digits| digits < 1)
}

fn visible_formats(bind: &Bind<'_>, columns: usize) -> Vec<Format> {
    (0..columns).map(|n| format_of(bind.result_formats.of(n))).collect()
}

/// The formats that shards answer in: the client's, then binary for the helpers.
fn shard_formats(bind: &Bind<'_>, description: &Description) -> Vec<i16> {
    let visible = description.client_columns.len();
    (0..description.shard_columns.len()).map(|n| if n < visible { bind.result_formats.of(n) } else { 1 }).collect()
}

/// The client's Bind with the shards' statement and result formats.
pub(super) fn bind_for_shard(out: &mut BytesMut, portal: &[u8], statement: &str, bind: &Bind<'_>, formats: &[i16]) {
    put_message(out, b'B', |out| {
        put_cstr(out, portal);
        put_cstr(out, statement.as_bytes());
        crate::protocol::frame::put_count(out, bind.formats.count());
        bind.formats.codes().for_each(|code| out.put_i16(code));
        crate::protocol::frame::put_count(out, bind.values.count());
        bind.values.iter().for_each(|value| crate::protocol::frame::put_value(out, value));
        crate::protocol::frame::put_count(out, formats.len());
        formats.iter().for_each(|code| out.put_i16(*code));
    });
}
