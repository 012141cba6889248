//! INSERT of rows that come from a query: they are read in portions, and each goes to the shard of its key.
//!
//! The servers that give rows are also those that take them, so the query runs as portals that rest between their portions. All of them are
//! open before the first row is stored: none sees what this statement stores.

use std::collections::{BTreeMap, VecDeque};

use pgsluice_sharding::catalog::element_type;
use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::merge::ColumnType;
use pgsluice_sharding::plan::{AddedColumns, AddedValue, Node, RowColumns, SelectedRows, TargetColumn, quoted};
use pgsluice_sharding::sql::Access;
use pgsluice_sharding::{Refusal, ShardId};

use crate::pool::server::{Audience, Due, StatementId};
use crate::protocol::backend::Field;
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;
use crate::protocol::frontend::{self, Kind};
use crate::protocol::reply;
use crate::session::statements::{FinalRead, ManyRead, RowSource};

use super::arguments::Arguments;
use super::ask::Notices;
use super::computed::random_uuid;
use super::final_query::InputRows;
use super::final_tables::Until;
use super::gather::{BINARY, ManyRequest, bind_for_shard, columns, sql_for_shards};
use super::types::ParameterTypes;
use super::worker::{Description, FIRST_USER_OID, Served};
use super::writes::{Part, Returned, added};
use super::{Conversation, Failure};

/// Rows that a portal gives before it rests.
const PORTION_ROWS: i32 = 2_000;

/// Rows go on to a shard in pieces of about this size.
const BATCH_BYTES: usize = 4 << 20;

/// The portals of the query.
const PORTAL: &[u8] = b"sluice_rows";

const TEXT_OID: u32 = 25;

/// Its binary form cannot be read when it is empty.
pub(super) const TSQUERY: u32 = 3615;

/// The names of the columns within the statement that stores rows.
const ROWS: &str = "sluice_rows";

/// How the rows of a query get from one server to another.
pub(super) struct Route<'a> {
    pub(super) insert: &'a SelectedRows,
    /// As the query gives them.
    pub(super) columns: &'a [ColumnType],
    /// Their names.
    names: Vec<String>,
    /// How its column is called in errors.
    key_name: String,
    key: KeyPlace,
    /// What the router adds to each row.
    pub(super) added: Vec<RowValue>,
    pub(super) formats: Vec<i16>,
    /// What each shard runs for its rows.
    sql: String,
    /// Of the arrays' elements.
    elements: Vec<ColumnType>,
    types: &'a ParameterTypes,
    arguments: &'a Arguments,
}

/// Where the key of a row is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum KeyPlace {
    /// In the column of the query with this number.
    Given(usize),
    /// In the value with this number that the router adds.
    Added(usize),
    /// In no row: all have this key, as text.
    Once(Option<String>),
}

/// A value that the router adds to a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowValue {
    /// The next of this sequence.
    Next(String),
    /// A random one.
    Uuid,
}

/// A default that is the same for all rows: as text, and in SQL.
pub(super) struct Fixed {
    pub(super) value: Option<String>,
    pub(super) sql: String,
}

/// Rows on their way to their shards.
#[derive(Default)]
pub(super) struct Sorted {
    /// Values of sequences for the rows that come next, row by row.
    pub(super) given: VecDeque<i64>,
    pub(super) batches: BTreeMap<ShardId, InputRows>,
    pub(super) tag: String,
}

impl Conversation {
    /// Stores the rows of a query; gives the command tag.
    pub(super) async fn insert_selected(
        &mut self,
        insert: &SelectedRows,
        source: &RowSource,
        request: ManyRequest<'_>,
    ) -> Result<String, Failure> {
        // Types are known by the numbers that they have on the first shard.
        let i = self.link(Some(Served::HOME), Access::Lock).await?;
        let id = self.links[i].server.id.0;
        let description = self.write_description(id, request.arguments).await?;
        if request.describe && !description.client_columns.is_empty() {
            self.send_row_description(&description, request.arguments)?;
        }
        let types = &description.parameter_types;
        let query = request.arguments.of_part(&types.settle(&insert.text)).with_types(types.numbers());
        let given = self.write_description(id, &query).await?;
        let columns = given.client_columns.len();
        let fixed = self.fixed_values(insert, columns).await?;
        let timed = match &insert.added {
            Some(added) if added.timed => Some(self.timed(request.arguments, insert.params, id).await?),
            _ => None,
        };
        let route = Route::new(insert, &given, types, timed.as_ref().unwrap_or(request.arguments), &fixed)?;
        let query = query.with_formats(&route.formats)?;
        let order = if route.added.iter().any(RowValue::is_next) { RowOrder::Kept } else { RowOrder::Any };
        let portals = self.open_sources(insert, source, &query, (types, &given.client_columns), order).await?;
        let tag = if matches!(insert.columns, RowColumns::Used { .. }) { "MERGE 0" } else { "INSERT 0 0" };
        let mut sorted = Sorted { tag: tag.to_owned(), ..Sorted::default() };
        for id in &portals {
            while self.take_portion(*id, &route, &mut sorted).await? {
                if !insert.at_once {
                    self.store(&route, &mut sorted, BATCH_BYTES).await?;
                }
            }
        }
        self.store(&route, &mut sorted, 0).await?;
        self.close_sources(&portals).await?;
        Ok(sorted.tag)
    }

    /// Opens the query's portals; the ids of their servers.
    async fn open_sources(
        &mut self,
        insert: &SelectedRows,
        source: &RowSource,
        query: &Arguments,
        (types, given): (&ParameterTypes, &[ColumnType]),
        order: RowOrder,
    ) -> Result<Vec<u64>, Failure> {
        match source {
            RowSource::Shard(shard) => {
                let ids = self.link_all(&[*shard], Access::Lock).await?;
                self.open_portals(&ids, &insert.text, query, (types, given)).await?;
                Ok(ids)
            }
            RowSource::Many(read) => match &**read {
                ManyRead::Merged { gather, shards, .. } if is_append(&gather.tree, order) => {
                    let ids = self.link_all(shards, Access::Lock).await?;
                    let query = match gather.timed_sql {
                        Some(_) => self.timed(query, gather.params, ids[0]).await?,
                        None => query.clone(),
                    };
                    self.open_portals(&ids, sql_for_shards(gather), &query, (types, given)).await?;
                    Ok(ids)
                }
                ManyRead::Merged { or_else: Some(last), .. } | ManyRead::Finished(last) => {
                    self.open_final(last, query).await
                }
                ManyRead::Merged { .. } | ManyRead::Written(_) => Err(not_streamed()),
            },
        }
    }

    async fn open_final(&mut self, last: &FinalRead, query: &Arguments) -> Result<Vec<u64>, Failure> {
        let request = ManyRequest { arguments: query, access: Access::Lock, describe: false };
        let collected = self.collected(last, request, Until::Closed).await?;
        let i = self.bind_collected(&collected, &collected.text(), PORTAL)?;
        let link = &mut self.links[i];
        frontend::sync(&mut link.out);
        link.server.state.expect(Due::Sync(Audience::Router));
        self.read_answer(i).await?.into_result(self)?;
        Ok(vec![collected.home()])
    }

    async fn open_portals(
        &mut self,
        ids: &[u64],
        sql: &str,
        query: &Arguments,
        (types, given): (&ParameterTypes, &[ColumnType]),
    ) -> Result<(), Failure> {
        let sql = types.settle(sql);
        for id in ids {
            let i = self.position(*id)?;
            let bind = query.bind()?;
            let formats: Vec<i16> = bind.result_formats.codes().collect();
            let link = &mut self.links[i];
            frontend::parse(&mut link.out, b"", sql.as_bytes(), types.numbers());
            link.server.state.expect(Due::Parse(StatementId::UNNAMED, Audience::Router));
            bind_for_shard(&mut link.out, PORTAL, "", &bind, &formats);
            link.server.state.expect(Due::Bind(Audience::Router));
            frontend::describe(&mut link.out, Kind::Portal, PORTAL);
            link.server.state.expect(Due::DescribePortal(Audience::Router));
            frontend::sync(&mut link.out);
            link.server.state.expect(Due::Sync(Audience::Router));
            let answer = self.read_answer(i).await?;
            let row = answer.body_of(b'T').unwrap_or_default();
            answer.into_result(self)?;
            if !are_of_types(&columns(&row)?, given) {
                return Err(self.rows_are_others());
            }
        }
        Ok(())
    }

    async fn close_sources(&mut self, ids: &[u64]) -> Result<(), Failure> {
        for id in ids {
            let i = self.position(*id)?;
            let link = &mut self.links[i];
            frontend::close(&mut link.out, Kind::Portal, PORTAL);
            link.server.state.expect(Due::Close(Audience::Router));
            frontend::sync(&mut link.out);
            link.server.state.expect(Due::Sync(Audience::Router));
            self.read_answer(i).await?.into_result(self)?;
        }
        Ok(())
    }

    /// Takes the next rows of a portal; whether there may be more.
    async fn take_portion(&mut self, id: u64, route: &Route<'_>, sorted: &mut Sorted) -> Result<bool, Failure> {
        let i = self.position(id)?;
        let link = &mut self.links[i];
        frontend::execute(&mut link.out, PORTAL, PORTION_ROWS);
        link.server.state.expect(Due::Execute(Audience::Router));
        frontend::sync(&mut link.out);
        link.server.state.expect(Due::Sync(Audience::Router));
        let mut rows = Vec::new();
        let returned = Returned::Kept { rows: &mut rows, describe: false };
        // A portal that rests has no command tag yet.
        let tag = self.hear_part(id, returned, Notices::Passed).await?;
        self.give_ids(&rows, route, sorted).await?;
        self.sort_rows(&rows, route, sorted)?;
        Ok(tag.is_empty())
    }

    pub(super) fn sort_rows(&mut self, mut rows: &[u8], route: &Route<'_>, sorted: &mut Sorted) -> Result<(), Failure> {
        while let Ok(Some(header)) = Header::parse(rows) {
            let (row, behind) = rows.split_at(header.total.min(rows.len()));
            let more = route.more_cells(&mut sorted.given)?;
            let shard = self.shard_of_row(&row[5..], &more, route)?;
            let batch = sorted.batches.entry(shard).or_insert_with(|| InputRows::batch(route.elements.len()));
            batch.take_with(row, &more);
            rows = behind;
        }
        let bytes: usize = sorted.batches.values().map(InputRows::bytes).sum();
        if route.insert.at_once {
            self.check_size(bytes, self.worker.limits().final_query_bytes_max)?;
        }
        Ok(())
    }

    /// Where a row is stored.
    fn shard_of_row(&self, row: &[u8], more: &[u8], route: &Route<'_>) -> Result<ShardId, Failure> {
        let insert = route.insert;
        let name = &route.key_name;
        let (cell, format, type_oid) = match &route.key {
            KeyPlace::Given(at) => {
                let mut cells = reply::data_row(row).map_err(ErrorFields::from)?;
                let cell = cells.nth(*at).transpose().map_err(ErrorFields::from)?.flatten();
                let format = if route.formats[*at] == BINARY { Format::Binary } else { Format::Text };
                // What is a literal in the query takes the type of the column.
                let type_oid = route.columns[*at].type_oid;
                (cell, format, if type_oid == TEXT_OID { 0 } else { type_oid })
            }
            KeyPlace::Added(at) => {
                let before: usize = route.added[..*at].iter().map(RowValue::cell_bytes).sum();
                let cell = more.get(before + 4..before + route.added[*at].cell_bytes());
                (cell, Format::Binary, route.added[*at].type_oid())
            }
            KeyPlace::Once(value) => (value.as_ref().map(String::as_bytes), Format::Text, 0),
        };
        let Some(bytes) = cell else { return Err(insert.key_column.is_null().into()) };
        let input = Input { bytes: Some(bytes), format, type_oid };
        let key = match insert.key_type.coerce(input)? {
            Some(key) => key,
            // The shard rounds it in the same way.
            None if matches!(insert.columns, RowColumns::Filled { .. }) => insert.key_type.rounded(input)?,
            None => return Err(rounded(name).into()),
        };
        let key = match insert.stored_in {
            Some(characters) => key.stored_in(characters),
            None => key,
        };
        Ok(self.served.map.shard_of(&key))
    }

    /// Has the shards store what waits for them, if it is more than `bytes`.
    pub(super) async fn store(&mut self, route: &Route<'_>, sorted: &mut Sorted, bytes: usize) -> Result<(), Failure> {
        let Sorted { batches, tag, .. } = sorted;
        let mut parts = Vec::new();
        for (shard, batch) in batches.iter_mut().filter(|(_, batch)| !batch.is_empty() && batch.bytes() > bytes) {
            let i = self.link(Some(*shard), Access::Write).await?;
            self.note_access(i, Access::Write)?;
            let id = self.links[i].server.id.0;
            let arrays = batch.arrays(&route.elements);
            let arrays: Vec<&[u8]> = arrays.iter().map(|array| &**array).collect();
            let arguments = route.arguments.with_all(&arrays)?;
            let part = Part { id, sql: route.sql.clone() };
            self.start_parts(std::slice::from_ref(&part), route.types, &arguments)?;
            batch.clear();
            parts.push(part);
        }
        for (n, part) in parts.iter().enumerate() {
            let heard = self.hear_part(part.id, Returned::Passed { describe: false }, Notices::Passed).await;
            let more = self.or_stop(&parts[n + 1..], heard).await?;
            *tag = added(tag, &more);
        }
        Ok(())
    }
}

/// Whether columns are of the types that the router reads them by. The numbers of a user's types differ between the shards.
fn are_of_types(columns: &[ColumnType], given: &[ColumnType]) -> bool {
    let number = |column: &ColumnType| column.type_oid.min(FIRST_USER_OID);
    columns.iter().map(number).eq(given.iter().map(number))
}

impl<'a> Route<'a> {
    /// For the rows of a query which `given` describes.
    pub(super) fn new(
        insert: &'a SelectedRows,
        given: &'a Description,
        types: &'a ParameterTypes,
        arguments: &'a Arguments,
        fixed: &[Fixed],
    ) -> Result<Self, Failure> {
        let mut route = Self {
            insert,
            columns: &given.client_columns,
            names: names(&given.client_row)?,
            key_name: String::new(),
            key: KeyPlace::Given(0),
            added: Vec::new(),
            formats: Vec::new(),
            sql: String::new(),
            elements: Vec::new(),
            types,
            arguments,
        };
        route.set_out(fixed)?;
        Ok(route)
    }

    /// Finds out how every column crosses, and with which text rows are stored.
    fn set_out(&mut self, fixed: &[Fixed]) -> Result<(), Failure> {
        let insert = self.insert;
        let timed = insert.added.as_ref().is_some_and(|added| added.timed);
        let first = usize::from(insert.params) + 1 + usize::from(timed);
        self.find_key()?;
        let (mut arrays, mut names, mut shown) = (Vec::new(), Vec::new(), Vec::new());
        for (n, column) in self.columns.iter().enumerate() {
            let target = match &insert.columns {
                RowColumns::Filled { columns, .. } => Some(columns.get(n).ok_or_else(not_streamed)?),
                RowColumns::Used { .. } => None,
            };
            let (element, format, cast) =
                crossing(column.type_oid, target).ok_or_else(|| not_converted(&self.names[n]))?;
            let type_oid = if format == BINARY { column.type_oid } else { TEXT_OID };
            self.elements.push(ColumnType { type_oid, typmod: -1 });
            self.formats.push(format);
            arrays.push(format!("pg_catalog.unnest(${}::{element}[])", first + n));
            names.push(format!("c{}", n + 1));
            shown.push(format!("{ROWS}.c{}{cast}", n + 1));
        }
        let [head, tail] = &insert.around;
        let given = self.columns.len();
        let head = insert.added.as_ref().map_or_else(|| head.clone(), |added| added.head(head, given));
        for value in self.add_columns(fixed, &mut shown) {
            let n = arrays.len();
            arrays.push(format!("pg_catalog.unnest(${}::{}[])", first + n, value.type_name()));
            names.push(format!("c{}", n + 1));
            self.elements.push(ColumnType { type_oid: value.type_oid(), typmod: -1 });
        }
        let (arrays, columns, shown) = (arrays.join(", "), names.join(", "), shown.join(", "));
        let query = format!("SELECT {shown} FROM ROWS FROM ({arrays}) AS {ROWS}({columns})");
        let sql = match &insert.columns {
            // Behind a WHERE no ON is taken for that of a join.
            RowColumns::Filled { .. } => format!("{head}{query} WHERE true{tail}"),
            RowColumns::Used { table, .. } => {
                let names: Vec<String> = self.names.iter().map(|name| quoted(name)).collect();
                format!("{head} ({query}) AS {table}({}) {tail}", names.join(", "))
            }
        };
        self.sql = self.types.settle(&sql).into_owned();
        Ok(())
    }

    /// Finds the key among the columns.
    fn find_key(&mut self) -> Result<(), Failure> {
        let (at, name) = match &self.insert.columns {
            RowColumns::Filled { columns, key } => (Some(*key), columns.get(*key).map(|column| &column.name)),
            RowColumns::Used { key, .. } => (self.names.iter().position(|name| name == key), Some(key)),
        };
        let added = self.insert.added.as_ref();
        if let Some(column) = added.and_then(|added| added.of(self.columns.len()).find(|column| column.is_key)) {
            // Which of the values it is says the column when it is added.
            self.key_name.clone_from(&column.name);
            return Ok(());
        }
        let name = name.map_or("", String::as_str);
        self.key_name = name.to_owned();
        self.key = KeyPlace::Given(at.filter(|at| *at < self.columns.len()).ok_or_else(|| without_key(name))?);
        Ok(())
    }

    /// Adds columns to those that are `shown`; the values that each row gets.
    fn add_columns(&mut self, fixed: &[Fixed], shown: &mut Vec<String>) -> Vec<RowValue> {
        let Some(added) = &self.insert.added else { return Vec::new() };
        let (given, time) = (self.columns.len(), usize::from(self.insert.params) + 1);
        let mut fixed = fixed.iter();
        for column in added.of(given) {
            let next = given + self.added.len();
            let name = |n: usize| format!("{ROWS}.c{}", n + 1);
            let own = match &column.value {
                AddedValue::Next(sequence) => {
                    self.added.push(RowValue::Next(sequence.clone()));
                    name(next)
                }
                AddedValue::Uuid => {
                    self.added.push(RowValue::Uuid);
                    name(next)
                }
                AddedValue::Around { pieces, sequences } => {
                    let names: Vec<String> = (next..next + sequences.len()).map(name).collect();
                    self.added.extend(sequences.iter().cloned().map(RowValue::Next));
                    AddedColumns::shown(pieces, &names, time)
                }
                AddedValue::Once(_) => {
                    let Some(Fixed { value, sql }) = fixed.next() else { continue };
                    self.key = KeyPlace::Once(value.clone());
                    sql.clone()
                }
            };
            if column.is_key && self.added.len() > next - given {
                self.key = KeyPlace::Added(next - given);
            }
            shown.push(own);
        }
        self.added.clone()
    }

    /// The cells that a row gets behind its own.
    fn more_cells(&self, ids: &mut VecDeque<i64>) -> Result<Vec<u8>, Failure> {
        let mut cells = Vec::new();
        for value in &self.added {
            match value {
                RowValue::Next(_) => {
                    let id = ids.pop_front().ok_or_else(not_streamed)?;
                    cells.extend_from_slice(&8_i32.to_be_bytes());
                    cells.extend_from_slice(&id.to_be_bytes());
                }
                RowValue::Uuid => {
                    cells.extend_from_slice(&16_i32.to_be_bytes());
                    cells.extend_from_slice(&random_uuid()?);
                }
            }
        }
        Ok(cells)
    }
}

/// Whether the rows of a query are wanted in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowOrder {
    Any,
    /// They get ids in it.
    Kept,
}

impl RowValue {
    fn is_next(&self) -> bool {
        matches!(self, Self::Next(_))
    }

    fn type_oid(&self) -> u32 {
        if self.is_next() { 20 } else { 2950 }
    }

    fn type_name(&self) -> &'static str {
        if self.is_next() { "pg_catalog.int8" } else { "pg_catalog.uuid" }
    }

    /// Of a cell with its length.
    fn cell_bytes(&self) -> usize {
        if self.is_next() { 12 } else { 20 }
    }
}

/// How values of a type cross that are for a column: as elements of an array of which type, in which format, and with which cast behind.
fn crossing(type_oid: u32, target: Option<&TargetColumn>) -> Option<(String, i16, String)> {
    let text = || "pg_catalog.text".to_owned();
    let is_text = target.is_none_or(|target| matches!(target.type_oid, TEXT_OID | 1042 | 1043));
    if type_oid == TEXT_OID && is_text {
        return Some((text(), BINARY, String::new()));
    }
    if let Some(name) = element_type(type_oid).filter(|_| ![TEXT_OID, TSQUERY].contains(&type_oid)) {
        return Some((name, BINARY, String::new()));
    }
    // As text it becomes a value of the column again.
    let target = target.filter(|target| type_oid == TEXT_OID || type_oid == target.type_oid)?;
    Some((text(), 0, format!("::{}", target.type_name)))
}

/// The names of the columns that a RowDescription tells.
fn names(row: &[u8]) -> Result<Vec<String>, Failure> {
    let fields: Vec<Field> = reply::row_description(row).map_err(ErrorFields::from)?;
    Ok(fields.into_iter().map(|field| field.name).collect())
}

/// Whether the rows of the shards, one after another, are those of the answer.
fn is_append(node: &Node, order: RowOrder) -> bool {
    match node {
        Node::Route => true,
        Node::Append { input } | Node::Project { input } => is_append(input, order),
        // An order says nothing of what is stored, unless ids follow it.
        Node::Sort { input, .. } | Node::MergeSort { input, .. } if order == RowOrder::Any => is_append(input, order),
        _ => false,
    }
}

pub(super) fn rounded(name: &str) -> Refusal {
    Refusal::unsupported(
        format!("a value of sharding key \"{name}\" would be rounded"),
        "Round it in the query, so that its type is that of the column.",
    )
}

fn without_key(name: &str) -> Failure {
    let message = format!("the INSERT does not give its sharding key \"{name}\"");
    ErrorFields::error("0A000", message).with_hint("Select a value for it, too.").into()
}

fn not_streamed() -> Failure {
    ErrorFields::error("0A000", "this form of INSERT ... SELECT is not supported over several shards")
        .with_hint("Select the rows first, then insert them with VALUES or COPY.")
        .into()
}

fn not_converted(name: &str) -> Failure {
    let message = format!("the query gives another type than that of column \"{name}\"");
    ErrorFields::error("0A000", message).with_hint("Cast the column of the query to the type of the table's.").into()
}
