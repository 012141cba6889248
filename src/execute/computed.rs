//! Statements into which the router puts values before they are planned: ids, computed keys, what all copies of a row must have alike.

use std::collections::HashMap;
use std::mem;
use std::rc::Rc;

use bytes::Bytes;
use pgsluice_sharding::ShardId;
use pgsluice_sharding::catalog::{SequenceName, built_in_type};
use pgsluice_sharding::copy::FieldCell;
use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::plan::{Computed, Draft, Given, Sequence, Sequences, Values, Wanted, without_unique_ids};
use pgsluice_sharding::sql::Access;
use pgsluice_sharding::value::numeric::Numeric;

use crate::catalog::LoadError;
use crate::catalog::blocks::{Asker, NoValues};
use crate::pool::server::{Audience, Due, StatementId};
use crate::protocol::backend::Field;
use crate::protocol::error::ErrorFields;
use crate::protocol::frontend::{self, Bind, Kind};
use crate::protocol::reply;
use crate::session::sequences::LastValue;
use crate::session::statements::PreparedStatement;

use super::arguments::Arguments;
use super::ask::Answer;
use super::cursors::close_portal_of_router;
use super::decide::{Decision, decide};
use super::extended::{Binding, literals_of};
use super::gather::{BINARY, bind_for_shard};
use super::timed::bind_with;
use super::types::ParameterTypes;
use super::worker::Served;
use super::{Conversation, Failure};

/// As many parameters as a Bind message can have.
const PARAMETERS_MAX: usize = 65_535;

/// Expressions that a server is asked for at a time: PostgreSQL allows 1664 columns.
const EXPRESSIONS_MAX: usize = 1000;

/// `bigint`, `uuid` and `numeric`.
const INT8: u32 = 20;
const UUID: u32 = 2950;
const NUMERIC: u32 = 1700;

/// A text with values in it, and where they were put.
pub(super) struct MadeText {
    draft: Draft,
    /// As the client wrote it.
    text: Rc<str>,
    made: Rc<str>,
}

/// A value to be put in.
struct Value {
    /// `None` is NULL.
    content: Option<Content>,
    type_oid: u32,
    type_name: Rc<str>,
}

enum Content {
    Int8(i64),
    Uuid([u8; 16]),
    Text(String),
    Binary(Bytes),
}

impl Value {
    fn text(&self) -> Option<String> {
        match self.content.as_ref()? {
            Content::Int8(value) => Some(value.to_string()),
            Content::Uuid(bytes) => Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
            Content::Text(text) => Some(text.clone()),
            // Only what is sent as a parameter comes so.
            Content::Binary(_) => None,
        }
    }

    /// As text, if it is a numeric that came in binary.
    fn numeric_text(&self) -> Option<String> {
        let Some(Content::Binary(bytes)) = self.content.as_ref().filter(|_| self.type_oid == NUMERIC) else {
            return None;
        };
        let mut text = Vec::new();
        Numeric::from_binary(bytes).ok()?.write_text(&mut text);
        String::from_utf8(text).ok()
    }

    fn binary(&self) -> Option<Bytes> {
        match self.content.as_ref()? {
            Content::Int8(value) => Some(Bytes::copy_from_slice(&value.to_be_bytes())),
            Content::Uuid(bytes) => Some(Bytes::copy_from_slice(bytes)),
            Content::Text(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
            Content::Binary(bytes) => Some(bytes.clone()),
        }
    }
}

/// What evaluated expressions come as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// To be written into a text.
    Text,
    /// To be sent as parameters.
    Binary,
}

impl MadeText {
    /// Where in the client's text an error points.
    pub(super) fn position(&self, position: u32) -> u32 {
        let characters = usize::try_from(position).unwrap_or(usize::MAX).saturating_sub(1);
        let byte = self.made.char_indices().nth(characters).map_or(self.made.len(), |(byte, _)| byte);
        let own = self.draft.position(byte, &self.made, &self.text);
        let before = self.text.get(..own).map_or(0, |before| before.chars().count());
        u32::try_from(before + 1).unwrap_or(u32::MAX)
    }
}

impl Conversation {
    /// Runs a statement of a text once its values are known. Nothing but literals is added to it.
    pub(super) async fn run_computed(
        &mut self,
        computed: &Computed,
        text: &str,
        describe: bool,
    ) -> Result<(), Failure> {
        let draft = self.draft(computed, text)?;
        let values = self.values(&draft, &Arguments::none(text), Form::Text).await?;
        let made: Rc<str> = with_literals(&draft, text, &values).into();
        let (script, decision) = self.plan_part(&made, 0)?;
        if matches!(decision, Decision::Compute(_)) {
            return Err(not_computed().into());
        }
        self.made = Some(Box::new(MadeText { draft, text: text.into(), made: made.clone() }));
        let result = Box::pin(self.run_in_router(&script, 0, &made, decision, describe)).await;
        self.made = None;
        result
    }

    /// Binds a statement with its values.
    pub(super) async fn bind_computed(
        &mut self,
        binding: &Binding,
        statement: &Rc<PreparedStatement>,
        computed: &Computed,
        portal: &str,
    ) -> Result<(), Failure> {
        let body = Bytes::copy_from_slice(binding.body(&self.client));
        let (made, body, decision) = self.compute_bound(statement, computed, body).await?;
        Box::pin(self.bind_decided(Binding::Made(body), made, portal, Some(decision))).await
    }

    /// A bound statement with its values as further parameters, and where it goes. `body` is that of its Bind message.
    pub(super) async fn compute_bound(
        &mut self,
        statement: &Rc<PreparedStatement>,
        computed: &Computed,
        body: Bytes,
    ) -> Result<(Rc<PreparedStatement>, Bytes, Decision), Failure> {
        let draft = match statement.draft.get() {
            Some(draft) => draft.clone(),
            None => {
                let draft = Rc::new(self.draft(computed, &statement.text)?);
                // The text is the same, so are its pieces.
                let _ = statement.draft.set(draft.clone());
                draft
            }
        };
        let own = statement.parameters();
        let fits = own + draft.wanted().count() <= PARAMETERS_MAX;
        let form = if fits { Form::Binary } else { Form::Text };
        let arguments = Arguments::bound(statement, body.clone());
        let values = self.values(&draft, &arguments, form).await?;
        // A parameter that is in no expression any more would have no type.
        let is_evaluated = draft.wanted().any(|wanted| matches!(wanted, Wanted::Evaluated(_)));
        let mut types = match own > 0 && is_evaluated {
            true => self.types_of_all(&arguments.of_part(statement.server_text())).await?,
            false => statement.param_types.to_vec(),
        };
        let (made, body) = match form {
            Form::Text => (with_literals(&draft, &statement.text, &values), body),
            Form::Binary => {
                types.resize(own, 0);
                // Where a number becomes a key, that is told from its text.
                let texts: Vec<Option<String>> = values.iter().map(Value::numeric_text).collect();
                let sent: Vec<&Value> =
                    values.iter().zip(&texts).filter(|(_, text)| text.is_none()).map(|(value, _)| value).collect();
                types.extend(sent.iter().map(|value| value.type_oid));
                let mut param = own;
                let given = values.iter().zip(&texts).map(|(value, text)| match text {
                    Some(text) => Given::Literal(Some(text), &value.type_name),
                    None => {
                        param += 1;
                        Given::Param(param, &value.type_name)
                    }
                });
                let made = draft.text(&statement.text, given);
                let more: Vec<Option<Bytes>> = sent.iter().map(|value| value.binary()).collect();
                let more: Vec<Option<&[u8]>> = more.iter().map(Option::as_deref).collect();
                (made, bind_with(&arguments.bind()?, &more))
            }
        };
        let reading = self.session.reading();
        let made = self.worker.prepare(&self.served, &*self.catalog()?, &reading, &made, &types)?;
        let decision = self.decide_made(&made, &body)?;
        Ok((made, body, decision))
    }

    /// The types of all parameters of a statement, as a server has found them; 0 for those of users.
    async fn types_of_all(&mut self, arguments: &Arguments) -> Result<Vec<u32>, Failure> {
        let i = self.link(None, Access::Lock).await?;
        let id = self.links[i].server.id.0;
        Ok(self.write_description(id, arguments).await?.parameter_types.numbers().to_vec())
    }

    fn decide_made(&self, made: &PreparedStatement, body: &[u8]) -> Result<Decision, Failure> {
        match self.decide_bound(made, body)? {
            Decision::Compute(_) => Err(not_computed().into()),
            decision => Ok(decision),
        }
    }

    /// Where a statement goes that the router has made, with the body of its Bind message.
    pub(super) fn decide_bound(&self, made: &PreparedStatement, body: &[u8]) -> Result<Decision, Failure> {
        let bind = Bind::read(body).map_err(ErrorFields::from)?;
        let inputs = bind.parameters().enumerate().map(|(n, (format, bytes))| Input {
            bytes,
            format: if format == BINARY { Format::Binary } else { Format::Text },
            type_oid: made.param_types.get(n).copied().unwrap_or(0),
        });
        let params: Vec<Input<'_>> = inputs.collect();
        let literals = literals_of(made);
        let values = Values { text: &made.text, literals: &literals, params: &params };
        let first = made.script.statements.first().ok_or_else(not_computed)?;
        Ok(decide(first, &self.served.map, values).inspect_err(|_| self.served.stats.refused.add(1))?)
    }

    fn draft(&self, computed: &Computed, text: &str) -> Result<Draft, Failure> {
        let catalog = self.catalog()?;
        let sequences = Sequences { catalog: &catalog, search_path: self.session.search_path() };
        Ok(Draft::of(text, computed, sequences).ok_or_else(not_computed)?)
    }

    /// The values that a draft wants, in its order.
    async fn values(&mut self, draft: &Draft, arguments: &Arguments, form: Form) -> Result<Vec<Value>, Failure> {
        let mut next = self.next_values(draft).await?;
        let mut values = Vec::new();
        let mut expressions = Vec::new();
        for wanted in draft.wanted() {
            if let Wanted::Evaluated(inner) = wanted {
                let mut given = Vec::new();
                for wanted in inner.wanted() {
                    given.push(self.value(wanted, &mut next).await?);
                }
                expressions.push((values.len(), with_literals(inner, &arguments.text, &given)));
            }
            values.push(match wanted {
                Wanted::Evaluated(_) => int8(0),
                _ => self.value(wanted, &mut next).await?,
            });
        }
        for part in expressions.chunks(EXPRESSIONS_MAX) {
            let texts: Vec<&str> = part.iter().map(|(_, text)| text.as_str()).collect();
            let found = self.evaluate_all(&texts, arguments, form).await?;
            for ((at, _), value) in part.iter().zip(found) {
                values[*at] = value;
            }
        }
        Ok(values)
    }

    /// One value that needs no server any more.
    async fn value(&mut self, wanted: &Wanted, next: &mut NextValues) -> Result<Value, Failure> {
        match wanted {
            Wanted::Next(sequence) => {
                let value = next.of(sequence).ok_or_else(not_computed)?;
                if let Some(known) = &sequence.known {
                    self.session.sequences.got(known, value);
                }
                Ok(int8(value))
            }
            Wanted::Current(sequence) => {
                let Some(known) = &sequence.known else { return Err(self.no_sequence(sequence).await) };
                told(self.session.sequences.current(known), &format!("currval of sequence \"{}\"", known.name))
            }
            Wanted::Last => told(self.session.sequences.last(), "lastval"),
            Wanted::UniqueId => Ok(int8(self.worker.ids.next())),
            Wanted::Uuid => Ok(Value {
                content: Some(Content::Uuid(random_uuid()?)),
                type_oid: UUID,
                type_name: "pg_catalog.uuid".into(),
            }),
            Wanted::Evaluated(_) => Err(not_computed().into()),
        }
    }

    /// Takes all values of sequences that a draft wants.
    async fn next_values(&mut self, draft: &Draft) -> Result<NextValues, Failure> {
        let mut counts: Vec<(&Sequence, usize)> = Vec::new();
        count(draft, &mut counts);
        if !counts.is_empty() {
            self.check_may_take()?;
        }
        let mut next = NextValues::default();
        for (sequence, count) in counts {
            let mut values = self.take(sequence, count).await?;
            values.reverse();
            next.left.insert(sequence.written.clone(), values);
        }
        Ok(next)
    }

    /// The next values of a sequence, of which the last is the session's current one.
    pub(super) async fn take_next(&mut self, sequence: &Sequence, count: usize) -> Result<Vec<i64>, Failure> {
        self.check_may_take()?;
        let values = self.take(sequence, count).await?;
        if let (Some(known), Some(last)) = (&sequence.known, values.last()) {
            self.session.sequences.got(known, *last);
        }
        Ok(values)
    }

    /// PostgreSQL gives no values in a transaction that only reads.
    fn check_may_take(&self) -> Result<(), Failure> {
        match self.session.transaction.block().is_some_and(|block| block.is_read_only()) {
            true => Err(ErrorFields::error("25006", "cannot execute nextval() in a read-only transaction").into()),
            false => Ok(()),
        }
    }

    /// What a server makes of an expression: as text, and in SQL.
    pub(super) async fn evaluate_once(&mut self, sql: &str) -> Result<(Option<String>, String), Failure> {
        let values = self.evaluate_all(&[sql], &Arguments::none(sql), Form::Text).await?;
        let value = values.first().ok_or_else(not_computed)?;
        let literal = match value.text() {
            Some(text) => format!("{}::{}", quote(&text), value.type_name),
            None => format!("NULL::{}", value.type_name),
        };
        Ok((value.text(), literal))
    }

    /// What a server makes of an expression, for a field of binary COPY.
    pub(super) async fn evaluate_cell(&mut self, sql: &str) -> Result<FieldCell, Failure> {
        let values = self.evaluate_all(&[sql], &Arguments::none(sql), Form::Binary).await?;
        let value = values.first().ok_or_else(not_computed)?;
        Ok(value.binary().map_or(FieldCell::Text(None), |bytes| FieldCell::Binary(bytes.to_vec())))
    }

    /// Whether values come from blocks, and no server of the transaction is asked for them.
    pub(super) fn has_blocks(&self, sequence: &Sequence) -> bool {
        let moved = self.session.sequences.moved && !self.session.transaction.is_idle();
        sequence.known.is_some() && self.own_catalog.is_none() && !moved
    }

    async fn take(&mut self, sequence: &Sequence, count: usize) -> Result<Vec<i64>, Failure> {
        // What the transaction has done to a sequence is known to its own server alone.
        let is_own = self.own_catalog.is_some() || self.session.sequences.moved;
        let Some(known) = sequence.known.as_ref().filter(|_| !is_own) else {
            return Box::pin(self.take_on_server(sequence, count)).await;
        };
        let watch = self.served.catalog.borrow().watch().clone();
        let role = self.session.settings().get("role").is_some();
        let user = self.session.user.clone();
        let asker = if role { Asker::Role } else { Asker::User(&user) };
        let mut out = Vec::with_capacity(count);
        if watch.blocks.take_at_hand(known, asker, count, &mut out) {
            return Ok(out);
        }
        let catalog = self.catalog()?;
        let home = catalog.sequences.get(&known.schema).and_then(|names| names.get(&known.name)).copied();
        let pool = watch.primary(home.unwrap_or(Served::HOME)).ok_or_else(|| unreachable("it is not configured"))?;
        let block_max = self.worker.limits().sequence_block_max;
        let filling = watch.blocks.take(&pool, known, asker, count, block_max, self.asked_at);
        Ok(Box::pin(filling).await.map_err(|why| no_values(&why, known))?)
    }

    /// Takes values inside the client's transaction.
    async fn take_on_server(&mut self, sequence: &Sequence, count: usize) -> Result<Vec<i64>, Failure> {
        let catalog = self.catalog()?;
        let home = sequence.known.as_ref();
        let home = home.and_then(|known| catalog.sequences.get(&known.schema)?.get(&known.name)).copied();
        let i = self.server_to_ask(home.unwrap_or(Served::HOME), Access::Write).await?;
        let name = quote(&sequence.written);
        let sql = format!("SELECT pg_catalog.nextval({name}::regclass) FROM pg_catalog.generate_series(1, {count})");
        let answer = self.ask(i, &sql).await?;
        let mut values = Vec::with_capacity(count);
        for row in answer.rows() {
            let cell = reply::data_row(row).ok().and_then(|mut cells| cells.next()?.ok()?);
            values.extend(cell.and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse::<i64>().ok()));
        }
        answer.into_result(self)?;
        Ok(values)
    }

    /// What PostgreSQL says of a sequence that the catalog does not have.
    async fn no_sequence(&mut self, sequence: &Sequence) -> Failure {
        let asked = async {
            let i = self.server_to_ask(Served::HOME, Access::Lock).await?;
            let answer = self.ask(i, &format!("SELECT {}::regclass", quote(&sequence.written))).await?;
            answer.into_result(self)
        };
        match asked.await {
            Err(failure) => failure,
            Ok(()) => ErrorFields::error("42809", format!("\"{}\" is not a sequence", sequence.written)).into(),
        }
    }

    /// A server that runs nothing of a pipeline, in the client's transaction.
    async fn server_to_ask(&mut self, shard: ShardId, access: Access) -> Result<usize, Failure> {
        self.quiet_pipeline().await?;
        let i = self.link_on(shard, access).await?;
        self.bring_into_step(i).await?;
        Ok(i)
    }

    /// Has one server evaluate expressions over the client's parameters.
    async fn evaluate_all(&mut self, texts: &[&str], arguments: &Arguments, form: Form) -> Result<Vec<Value>, Failure> {
        self.quiet_pipeline().await?;
        let i = self.link(None, Access::Lock).await?;
        let id = self.links[i].server.id.0;
        let mut types = ParameterTypes::declared(&arguments.param_types);
        let bind = arguments.bind()?;
        if bind.values.count() > 0 {
            let judged = without_unique_ids(&arguments.text);
            let asked = judged.map_or_else(|| arguments.clone(), |judged| arguments.of_part(&judged));
            types = self.write_description(id, &asked).await?.parameter_types.clone();
        }
        let sql = format!("SELECT {}", texts.join(", "));
        let sql = types.settle(&sql);
        let i = self.position(id)?;
        let portal = self.portal_of_router(id);
        let link = &mut self.links[i];
        frontend::parse(&mut link.out, b"", sql.as_bytes(), types.numbers());
        link.server.state.expect(Due::Parse(StatementId::UNNAMED, Audience::Router));
        let formats: &[i16] = if form == Form::Binary { &[BINARY] } else { &[] };
        bind_for_shard(&mut link.out, portal, "", &bind, formats);
        link.server.state.expect(Due::Bind(Audience::Router));
        frontend::describe(&mut link.out, Kind::Portal, portal);
        link.server.state.expect(Due::DescribePortal(Audience::Router));
        frontend::execute(&mut link.out, portal, 0);
        link.server.state.expect(Due::Execute(Audience::Router));
        close_portal_of_router(link, portal);
        frontend::sync(&mut link.out);
        link.server.state.expect(Due::Sync(Audience::Router));
        let answer = self.read_answer(i).await?;
        let found = evaluated(&answer, form);
        answer.into_result(self)?;
        found
    }

    /// What of a pipeline waits is answered, so that a question can be asked in its middle.
    async fn quiet_pipeline(&mut self) -> Result<(), Failure> {
        self.answer_parses().await?;
        self.settle_all().await?;
        self.execute_in_pipeline().await
    }

    /// A statement may have moved sequences: what is left of blocks is not used any more.
    pub(super) fn sequences_moved(&mut self) {
        if self.served.shards.len() > 1 {
            self.served.catalog.borrow().watch().blocks.forget();
            self.session.sequences.moved |= !self.session.transaction.is_idle();
        }
    }

    /// The transaction that may have moved sequences is over: values come from blocks again, also in the next
    /// transaction. Drivers that open one for each piece of work would else never get out of this.
    pub(super) fn sequences_are_shared(&mut self) {
        if mem::take(&mut self.session.sequences.moved) {
            self.served.catalog.borrow().watch().blocks.forget();
        }
    }
}

/// The values of sequences at hand, the next one last.
#[derive(Default)]
struct NextValues {
    left: HashMap<String, Vec<i64>>,
}

impl NextValues {
    fn of(&mut self, sequence: &Sequence) -> Option<i64> {
        self.left.get_mut(&sequence.written)?.pop()
    }
}

/// How many values of which sequences a draft wants.
fn count<'d>(draft: &'d Draft, counts: &mut Vec<(&'d Sequence, usize)>) {
    for wanted in draft.wanted() {
        match wanted {
            Wanted::Next(sequence) => match counts.iter_mut().find(|(known, _)| known.written == sequence.written) {
                Some((_, count)) => *count += 1,
                None => counts.push((sequence, 1)),
            },
            Wanted::Evaluated(inner) => count(inner, counts),
            _ => {}
        }
    }
}

fn with_literals(draft: &Draft, text: &str, values: &[Value]) -> String {
    let texts: Vec<Option<String>> = values.iter().map(Value::text).collect();
    let given = texts.iter().zip(values).map(|(text, value)| Given::Literal(text.as_deref(), &value.type_name));
    draft.text(text, given)
}

/// The row of evaluated expressions.
fn evaluated(answer: &Answer, form: Form) -> Result<Vec<Value>, Failure> {
    let (Some(row), Some(cells)) = (answer.body_of(b'T'), answer.rows().next()) else { return Ok(Vec::new()) };
    let fields = reply::row_description(&row).map_err(ErrorFields::from)?;
    let cells: Vec<Option<&[u8]>> = reply::data_row(cells).and_then(Iterator::collect).map_err(ErrorFields::from)?;
    let value = |(field, cell): (&Field, Option<&[u8]>)| {
        let type_name = built_in_type(field.type_oid).ok_or_else(of_user_type)?.into();
        let content = cell.map(|bytes| match form {
            Form::Text => Content::Text(String::from_utf8_lossy(bytes).into_owned()),
            Form::Binary => Content::Binary(Bytes::copy_from_slice(bytes)),
        });
        Ok(Value { content, type_oid: field.type_oid, type_name })
    };
    fields.iter().zip(cells).map(value).collect()
}

fn int8(value: i64) -> Value {
    thread_local! {
        static NAME: Rc<str> = "pg_catalog.int8".into();
    }
    Value { content: Some(Content::Int8(value)), type_oid: INT8, type_name: NAME.with(Rc::clone) }
}

fn told(value: LastValue, what: &str) -> Result<Value, Failure> {
    match value {
        LastValue::Known(value) => Ok(int8(value)),
        LastValue::None => {
            Err(ErrorFields::error("55000", format!("{what} is not yet defined in this session")).into())
        }
        LastValue::InDoubt => Err(ErrorFields::error("0A000", "what the sequence gave is known to a server only")
            .with_hint("Use INSERT ... RETURNING, or nextval() in a SELECT without FROM.")
            .into()),
    }
}

/// A version 4 UUID.
pub(super) fn random_uuid() -> Result<[u8; 16], Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| ErrorFields::error("XX000", format!("no random numbers: {error}")))?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Ok(bytes)
}

fn no_values(why: &NoValues, sequence: &SequenceName) -> ErrorFields {
    match why {
        NoValues::Denied => ErrorFields::error("42501", format!("permission denied for sequence {}", sequence.name)),
        NoValues::Failed(LoadError::Query(error)) => match error.as_db_error() {
            Some(error) => {
                let fields = ErrorFields::error("XX000", error.message().to_owned());
                let fields = ErrorFields { sqlstate: error.code().code().to_owned().into(), ..fields };
                match error.detail() {
                    Some(detail) => fields.with_detail(detail.to_owned()),
                    None => fields,
                }
            }
            None => unreachable(&crate::catalog::blocks::reason(error)),
        },
        NoValues::Failed(error) => unreachable(&error.to_string()),
    }
}

fn unreachable(why: &str) -> ErrorFields {
    ErrorFields::error("08006", "the shard that gives out the values of the sequence cannot be asked")
        .with_detail(why.to_owned())
}

fn of_user_type() -> Failure {
    ErrorFields::error("0A000", "a value of a user-defined type cannot be computed for several shards")
        .with_hint("Pass it as a literal or a parameter.")
        .into()
}

fn not_computed() -> ErrorFields {
    ErrorFields::error("0A000", "the values of the statement cannot be computed over several shards")
        .with_hint("Write the values, or pass them as parameters.")
}

fn quote(text: &str) -> String {
    let mark = if text.contains('\\') { " E" } else { "" };
    format!("{mark}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
