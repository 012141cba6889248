//! The inputs of a final query that are too large for arrays: temporary tables on the server that finishes.
//!
//! They live in a transaction, the client's or one of the router's own. What the finishing server holds itself it puts in directly; what
//! others hold comes in batches.

use std::rc::Rc;

use bytes::{BufMut, BytesMut};
use pgsluice_sharding::merge::ColumnType;
use pgsluice_sharding::plan::{Gather, Input};
use pgsluice_sharding::sql::Access;

use crate::clock;
use crate::protocol::frame::{put_count, put_cstr, put_message};
use crate::protocol::reply;
use crate::session::statements::FinalRead;
use crate::session::transaction::is_on;

use super::arguments::Arguments;
use super::final_query::{Collected, Held, InputRows};
use super::gather::{BINARY, Sink, bind_for_shard, sql_for_shards};
use super::links::Link;
use super::worker::Description;
use super::{Conversation, Failure};

/// Rows go on to the finishing server in pieces of about this size.
const BATCH_BYTES: usize = 4 << 20;

/// How long the inputs of a final query are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The query has run to its end.
    Done,
    /// Its portal is closed, or its cursor, at the end of the transaction at the latest.
    Closed,
}

/// Tables with the rows of the inputs.
pub(super) struct InputTables {
    /// In the order of the inputs; their schema is `pg_temp`.
    pub(super) names: Vec<String>,
    /// The transaction in which they live is the router's own.
    own_transaction: bool,
    until: Until,
}

/// A table that is being filled.
pub(super) struct InputTable {
    /// What puts a batch into it.
    insert: String,
    types: Rc<[ColumnType]>,
    home: u64,
    batch: InputRows,
    /// Bytes of the rows of other servers so far, and of those before them.
    bytes: usize,
    bytes_max: usize,
}

/// What every table of one final query has in common.
struct Filling<'a> {
    held: &'a Held,
    description: &'a Description,
    arguments: &'a Arguments,
    bytes_max: usize,
}

impl Conversation {
    /// Whether temporary tables can be made: in a transaction that may write, or in one of its own, which nothing else is to be in.
    pub(super) fn can_have_tables(&self, until: Until) -> bool {
        match self.session.transaction.block() {
            Some(block) => !block.is_read_only(),
            None => {
                until == Until::Done
                    && !self.links.iter().any(Link::has_executed)
                    && !self.session.settings().get("default_transaction_read_only").is_some_and(is_on)
            }
        }
    }

    /// Reads the inputs of a final query into temporary tables.
    pub(super) async fn collect_into_tables(
        &mut self,
        read: &FinalRead,
        access: Access,
        description: Rc<Description>,
        arguments: Arguments,
        until: Until,
    ) -> Result<Collected, Failure> {
        let own_transaction = self.session.transaction.is_idle();
        if own_transaction {
            self.session.transaction.begin_text(self.session.settings().clone());
        }
        let tables = InputTables { names: Vec::new(), own_transaction, until };
        let held = match self.hold_for_final(read, access.max(Access::Lock)).await {
            Ok(held) => held,
            Err(failure) => return Err(self.abandon_tables(&tables, failure).await),
        };
        let filling = Filling {
            held: &held,
            description: &description,
            arguments: &arguments,
            bytes_max: self.worker.limits().final_query_bytes_max,
        };
        match self.fill_tables(read, &filling).await {
            Ok(names) => {
                let tables = Some(InputTables { names, ..tables });
                let query = read.query.clone();
                Ok(Collected { held, rows: Vec::new(), tables, description, query, arguments })
            }
            Err(failure) => Err(self.abandon_tables(&tables, failure).await),
        }
    }

    async fn fill_tables(&mut self, read: &FinalRead, filling: &Filling<'_>) -> Result<Vec<String>, Failure> {
        let i = self.position(filling.held.home)?;
        self.links[i].temporary_tables += read.query.inputs.len();
        let mut names = Vec::with_capacity(read.query.inputs.len());
        let mut bytes = 0;
        if let Some(steps) = &mut self.measure.steps {
            steps.begins_anew();
        }
        for (n, input) in read.query.inputs.iter().enumerate() {
            if let Some(steps) = &mut self.measure.steps {
                steps.reads_input(n);
            }
            let name = self.worker.new_table_name();
            let ids = filling.held.on(&read.inputs[n]);
            bytes = self.fill_table(&name, input, &filling.description.inputs[n], &ids, filling, bytes).await?;
            names.push(name);
        }
        self.check_size(bytes, filling.bytes_max)?;
        for name in &names {
            // Without statistics PostgreSQL would take every table for a small one.
            self.ask_home(filling, &format!("ANALYZE pg_temp.{name}")).await?;
        }
        Ok(names)
    }

    /// Fills one table; `before` are the bytes of the tables before it, what is returned includes its own.
    async fn fill_table(
        &mut self,
        name: &str,
        input: &Input,
        types: &[ColumnType],
        ids: &[u64],
        filling: &Filling<'_>,
        before: usize,
    ) -> Result<usize, Failure> {
        let home = filling.held.home;
        let columns: Vec<String> =
            input.source.types.iter().enumerate().map(|(n, found)| format!("c{} {found}", n + 1)).collect();
        self.ask_home(filling, &format!("CREATE TEMPORARY TABLE {name} ({}) ON COMMIT DROP", columns.join(", ")))
            .await?;
        let mut bytes = before;
        if ids.contains(&home) {
            self.fill_from_home(name, &input.gather, filling).await?;
            bytes += self.table_size(name, filling).await?;
        }
        let arrays = input.source.types.iter().enumerate();
        let arrays: Vec<String> =
            arrays.map(|(n, found)| format!("pg_catalog.unnest(${}::{found}[])", n + 1)).collect();
        let mut table = InputTable {
            insert: format!("INSERT INTO pg_temp.{name} SELECT {}", arrays.join(", ")),
            types: types.into(),
            home,
            batch: InputRows::batch(types.len()),
            bytes,
            bytes_max: filling.bytes_max,
        };
        let others: Vec<u64> = ids.iter().copied().filter(|id| *id != home).collect();
        let parameter_types = &filling.description.parameter_types;
        let mut sink = Sink::Table(&mut table);
        self.read_input(input, types, &others, parameter_types, filling.arguments, &mut sink).await?;
        self.insert_batch(&mut table).await?;
        Ok(table.bytes)
    }

    /// The finishing server's own part of an input.
    async fn fill_from_home(&mut self, name: &str, gather: &Gather, filling: &Filling<'_>) -> Result<(), Failure> {
        let i = self.position(filling.held.home)?;
        let types = &filling.description.parameter_types;
        let sql = format!("INSERT INTO pg_temp.{name} {}", types.settle(sql_for_shards(gather)));
        let bind = filling.arguments.bind()?;
        let put = |out: &mut BytesMut, portal: &[u8]| {
            bind_for_shard(out, portal, "", &bind, &[]);
            Ok(())
        };
        let began = clock::now();
        let answer = self.ask_bound(i, &sql, types.numbers(), put).await?;
        if let Some(steps) = &mut self.measure.steps {
            steps.put_into_table(filling.held.home, began, reply::tag_rows(answer.tag().as_bytes()).unwrap_or(0));
        }
        answer.into_result(self)
    }

    /// How much the server keeps in a table.
    async fn table_size(&mut self, name: &str, filling: &Filling<'_>) -> Result<usize, Failure> {
        let i = self.position(filling.held.home)?;
        let sql = format!("SELECT pg_catalog.pg_relation_size('pg_temp.{name}'::pg_catalog.regclass)");
        let answer = self.ask(i, &sql).await?;
        let cell = answer.rows().find_map(|row| reply::data_row(row).ok()?.next()?.ok()?);
        let size = cell.and_then(|cell| std::str::from_utf8(cell).ok()?.parse().ok());
        answer.into_result(self)?;
        Ok(size.unwrap_or(0))
    }

    async fn ask_home(&mut self, filling: &Filling<'_>, sql: &str) -> Result<(), Failure> {
        let i = self.position(filling.held.home)?;
        self.ask(i, sql).await?.into_result(self)
    }

    /// Takes rows that have come for a table.
    pub(super) async fn put_into_table(&mut self, table: &mut InputTable, rows: &[u8]) -> Result<(), Failure> {
        let before = table.batch.bytes();
        table.batch.take(rows);
        table.bytes += table.batch.bytes() - before;
        if table.bytes > table.bytes_max {
            // From now on they are only counted.
            table.batch.clear();
        }
        if table.batch.bytes() >= BATCH_BYTES { self.insert_batch(table).await } else { Ok(()) }
    }

    async fn insert_batch(&mut self, table: &mut InputTable) -> Result<(), Failure> {
        if table.batch.is_empty() {
            return Ok(());
        }
        let i = self.position(table.home)?;
        let put = |out: &mut BytesMut, portal: &[u8]| {
            let columns = table.types.len();
            put_message(out, b'B', |out| {
                put_cstr(out, portal);
                put_cstr(out, b"");
                put_count(out, columns);
                (0..columns).for_each(|_| out.put_i16(BINARY));
                put_count(out, columns);
                table.batch.put(out, &table.types);
                put_count(out, 0);
            });
            Ok(())
        };
        let answer = self.ask_bound(i, &table.insert, &[], put).await?;
        table.batch.clear();
        answer.into_result(self)
    }

    /// The query over the tables has run, with this result.
    pub(super) async fn leave_tables(
        &mut self,
        collected: Collected,
        result: Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Some(tables) = &collected.tables else { return result };
        match result {
            Err(failure) => Err(self.abandon_tables(tables, failure).await),
            Ok(()) if tables.own_transaction => {
                let result = self.commit_links().await;
                self.session.transaction.end();
                result.map(|_| ())
            }
            Ok(()) if tables.until == Until::Done => {
                let names: Vec<String> = tables.names.iter().map(|name| format!("pg_temp.{name}")).collect();
                let i = self.position(collected.home())?;
                self.ask(i, &format!("DROP TABLE {}", names.join(", "))).await?.into_result(self)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Ends the router's own transaction after a failure, which is given back.
    async fn abandon_tables(&mut self, tables: &InputTables, failure: Failure) -> Failure {
        if !tables.own_transaction || matches!(failure, Failure::End(_)) {
            return failure;
        }
        let result = self.roll_back_links().await;
        self.session.transaction.end();
        result.err().unwrap_or(failure)
    }
}
