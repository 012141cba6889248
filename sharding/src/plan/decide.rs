//! One statement -> its plan, its access and its effects.

use std::sync::Arc;

use super::bind::{Binder, Moves};
use super::computed::Completed;
use super::phases::Phase;
use super::route::Place;
use super::scope::Names;
use super::{
    Broadcast, FinalQuery, Plan, Shards, Write, build, computed, ddl, final_groups, final_query, hazards, moved,
    reasons, stages, stored, view, write,
};
use crate::catalog::Catalog;
use crate::map::ShardId;
use crate::refusal::Refusal;
use crate::sql::parse::Parsed;
use crate::sql::tree::{Body, Distinct, Dml, Expr, From as Source, Query, Stmt, Target, Value};
use crate::sql::{Access, Command, Effects, Execute, Explain, Pin, Statement, spans};

/// What planning looks at besides the statement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub catalog: &'a Catalog,
    pub search_path: Option<&'a str>,
    pub text: &'a str,
    /// The phases that may run: all, but for tests.
    pub phases: &'a [Phase],
}

/// A planned statement, and whether its plan holds for every text of the same shape.
pub(crate) struct Planned {
    pub statement: Statement,
    pub any_values: bool,
}

/// Plans one statement of a text.
pub(crate) fn plan_statement(context: Context<'_>, parsed: &Parsed) -> Planned {
    let mut decided = decide(context, &parsed.stmt, parsed);
    if context.catalog.shards <= 1 {
        decided.plan = on_one_shard(decided.plan);
    }
    let statement = Statement {
        span: parsed.span.clone(),
        command: decided.command,
        access: decided.access,
        effects: decided.effects,
        params: parsed.params,
        plan: decided.plan,
        execute: decided.execute,
        current_of: match &parsed.stmt {
            Stmt::Dml(dml) => current_of(dml).map(Into::into),
            _ => None,
        },
    };
    let any_values = decided.any_values && holds_for_shape(&statement);
    Planned { statement, any_values }
}

/// With one shard nothing is refused and nothing is merged.
fn on_one_shard(plan: Plan) -> Plan {
    match plan {
        Plan::Session | Plan::Computed(_) => plan,
        _ => Plan::Route { shards: Shards::One(ShardId(0)), many: None },
    }
}

fn holds_for_shape(statement: &Statement) -> bool {
    let rows = matches!(statement.command, Command::Select | Command::Insert | Command::Update | Command::Delete);
    let untouched = match &statement.plan {
        Plan::Route { .. } | Plan::Computed(_) => true,
        // Which rows there are, and where in the text, is found out when it runs.
        Plan::Write(write) => matches!(**write, Write::Rows(_)),
        Plan::Refused(refusal) => refusal.position.is_none(),
        _ => false,
    };
    rows && untouched
}

/// What is known of a statement before it gets its place in the text.
pub(super) struct Decided {
    pub command: Command,
    pub access: Access,
    pub effects: Effects,
    pub plan: Plan,
    pub any_values: bool,
    pub execute: Option<Box<Execute>>,
}

impl Decided {
    pub(super) fn new(command: Command, access: Access, plan: Plan) -> Self {
        Self { command, access, effects: Effects::default(), plan, any_values: false, execute: None }
    }

    pub(super) fn pinned(mut self, pin: Pin) -> Self {
        self.effects.pin = Some(pin);
        self
    }
}

pub(super) fn anywhere() -> Plan {
    Plan::Route { shards: Shards::Any, many: None }
}

pub(super) fn first_shard() -> Plan {
    Plan::Route { shards: Shards::One(ShardId(0)), many: None }
}

pub(super) fn refused(refusal: Refusal) -> Plan {
    Plan::Refused(Box::new(refusal))
}

fn decide(context: Context<'_>, stmt: &Stmt, parsed: &Parsed) -> Decided {
    match stmt {
        Stmt::Dml(dml) => match set_config(dml).or_else(|| listening_channels(dml)) {
            Some(command) => Decided { command, any_values: false, ..rows(context, dml, parsed) },
            None => with_values(context, dml, parsed),
        },
        Stmt::Explain { explain, inner } => decide_explain(context, (**explain).clone(), inner, parsed),
        Stmt::Declare { name, hold, query } => declare(context, name, *hold, query, parsed),
        Stmt::Copy(copy) => ddl::decide_copy(context, copy, parsed),
        Stmt::Session(command) => session(command),
        Stmt::Prepare { name } => match spans::prepare(context.text, &parsed.span, name) {
            Some(prepare) => Decided::new(Command::Prepare(Box::new(prepare)), Access::Lock, Plan::Session),
            None => Decided::new(Command::Other, Access::Write, unreadable("PREPARE")),
        },
        Stmt::Execute { name } => execute(context, parsed, parsed.span.start, name),
        Stmt::CreateTableAs { execute: Some(name), .. } => {
            let start = spans::executed(context.text, &parsed.span);
            let executed = start.map(|start| execute(context, parsed, start, name));
            Decided { execute: executed.and_then(|executed| executed.execute), ..ddl::decide(context, stmt) }
        }
        _ => ddl::decide(Context { text: &context.text[parsed.span.clone()], ..context }, stmt),
    }
}

/// A statement that reads or writes rows; if values stand in it that the router gives, it is planned with them.
pub(super) fn with_values(context: Context<'_>, dml: &Dml, parsed: &Parsed) -> Decided {
    let plain = rows(context, dml, parsed);
    if let (Dml::Insert(insert), Plan::Refused(_)) = (dml, &plain.plan)
        && hazards::wakes_by_insert(&Names::new(context.catalog, context.search_path), &insert.table)
    {
        return plain;
    }
    let found = computed::computed(context, dml, parsed, &plain.plan);
    if let Some(plan) = with_values_in_stages(context, dml, parsed, &found) {
        return Decided { plan, any_values: false, ..plain };
    }
    let (plan, any_values) = match found {
        Ok(None) => return plain,
        Ok(Some(Completed::Write(write))) => (Plan::Write(write), false),
        Ok(Some(Completed::Computed(computed))) => {
            let any_values = computed.any_values;
            (Plan::Computed(computed), any_values)
        }
        Err(refusal) => (refused(refusal), false),
    };
    let pin = plain.effects.pin.filter(|pin| *pin != Pin::Sequence);
    Decided { plan, any_values, effects: Effects { pin, moves_sequences: false, ..plain.effects }, ..plain }
}

/// If CTEs write and one of them wants values of the router, or the statement itself does: each stage gets its own.
fn with_values_in_stages(
    context: Context<'_>,
    dml: &Dml,
    parsed: &Parsed,
    found: &Result<Option<Completed>, Refusal>,
) -> Option<Plan> {
    let wants = matches!(found, Err(_) | Ok(Some(Completed::Write(_))));
    if context.catalog.shards <= 1 || !wants || !stages::has_stages(dml) {
        return None;
    }
    stages::staged(context, dml, parsed, Shards::All).ok().map(|write| Plan::Write(Arc::new(write)))
}

/// What becomes of a statement whose CTEs write and for which there was no other plan than this.
fn in_stages(context: Context<'_>, dml: &Dml, parsed: &Parsed, plan: Plan) -> Plan {
    let (shards, is_route) = match &plan {
        Plan::Route { shards, .. } if can_be_many(shards) => (shards.clone(), true),
        Plan::Refused(refusal) if refusal.is_unsupported() => (Shards::All, false),
        _ => return plan,
    };
    match stages::staged(context, dml, parsed, shards.clone()) {
        Ok(write) => Plan::Write(Arc::new(write)),
        Err(refusal) if is_route => Plan::Route { shards, many: Some(Box::new(refusal)) },
        Err(refusal) => refused(refusal),
    }
}

/// Where it goes is known when its statement and the values of its arguments are.
fn execute(context: Context<'_>, parsed: &Parsed, start: usize, name: &str) -> Decided {
    let execute = spans::execute(context.text, start, parsed.span.end, name);
    let plan = if execute.is_some() { Plan::Session } else { unreadable("EXECUTE") };
    Decided { execute: execute.map(Box::new), ..Decided::new(Command::Execute, Access::Write, plan) }
}

fn unreadable(what: &str) -> Plan {
    refused(reasons::utility(what, "Use prepared statements of the protocol, as drivers do."))
}

/// The plan of a query that stands alone in the context's text.
pub(super) fn rows_of(context: Context<'_>, parsed: &Parsed) -> Plan {
    match &parsed.stmt {
        Stmt::Dml(dml) => rows(context, dml, parsed).plan,
        _ => refused(reasons::spread("this statement")),
    }
}

/// SELECT, INSERT, UPDATE, DELETE, MERGE.
fn rows(context: Context<'_>, dml: &Dml, parsed: &Parsed) -> Decided {
    let (command, verb) = match dml {
        Dml::Query(_) => (Command::Select, "SELECT"),
        Dml::Insert(_) => (Command::Insert, "INSERT"),
        Dml::Update(_) => (Command::Update, "UPDATE"),
        Dml::Delete(_) => (Command::Delete, "DELETE"),
        Dml::Merge(_) => (Command::Merge, "MERGE"),
    };
    let mut binder = Binder::new(Names::new(context.catalog, context.search_path));
    let seen = match dml {
        Dml::Query(query) => binder.query(query),
        _ => {
            if matches!(dml, Dml::Update(_)) {
                binder.moves = Moves::May;
            }
            binder.statement(dml);
            Default::default()
        }
    };
    binder.finish();
    if context.catalog.shards > 1
        && !binder.views.is_empty()
        && let Some((text, through)) = view::without_views(context, &parsed.span)
        && let Stmt::Dml(dml) = &through.stmt
    {
        // Nothing of the plan stands where it does in the client's text.
        return Decided { any_values: false, ..rows(Context { text: &text, ..context }, dml, &through) };
    }
    if context.catalog.shards > 1
        && let Dml::Update(update) = dml
        && let Some((text, written)) = computed::with_written_clocks(context, update, parsed)
        && let Stmt::Dml(dml) = &written.stmt
    {
        let planned = rows(Context { text: &text, ..context }, dml, &written);
        if matches!(planned.plan, Plan::Write(_)) {
            return Decided { any_values: false, ..planned };
        }
    }
    let into = into_of(dml);
    let access = if into.is_some() { Access::Write } else { access_of(&binder) };
    let plan = if context.catalog.shards <= 1 {
        first_shard()
    } else if into.is_some() {
        select_into(context, into, parsed)
    } else if let Some(table) = &binder.facts.missing_table {
        refused(reasons::no_such_table(table))
    } else if let Err(refusal) = hazards::check(&binder, dml) {
        refused(refusal)
    } else if binder.reference_writes.is_empty()
        && let Dml::Query(query) = dml
    {
        match binder.place() {
            Err(refusal) => refused(refusal),
            Ok(Place::Known(shards)) => read_known(context, &mut binder, query, &seen, shards, parsed),
            Ok(Place::Spread(home)) => {
                spread(context, &mut binder, query, &seen, Shards::All, home, parsed).unwrap_or_else(refused)
            }
        }
    } else {
        plan_write(context, &mut binder, dml, verb, parsed)
    };
    let plan = match context.catalog.shards > 1 && stages::has_stages(dml) {
        true => in_stages(context, dml, parsed, plan),
        false => plan,
    };
    // Whether several shards can answer may depend on values: a position in ORDER BY, 'today', LIMIT.
    let spread = matches!(dml, Dml::Query(_))
        && matches!(&plan, Plan::Gather(_) | Plan::Final(_) | Plan::Refused(_) | Plan::Route { many: Some(_), .. });
    let any_values = !binder.value_seen && !spread;
    let effects = effects_of(context, &binder, into);
    let command = if let Plan::Broadcast(_) = plan { Command::Ddl } else { command };
    Decided { command, access, effects, plan, any_values, execute: None }
}

/// SELECT INTO is CREATE TABLE AS; `into` says whether the table is temporary.
fn select_into(context: Context<'_>, into: Option<bool>, parsed: &Parsed) -> Plan {
    let text = &context.text[parsed.span.clone()];
    if into == Some(true) || ddl::may_be_temporary(Context { text, ..context }) {
        return refused(reasons::temporary());
    }
    match stored::selected_into(text) {
        Some(_) if parsed.params > 0 => refused(reasons::table_with_parameters()),
        Some(table) => Plan::Broadcast(Broadcast::Inserted(Box::new(table))),
        None => refused(reasons::select_into()),
    }
}

/// What a statement leaves behind; `into` says of a SELECT INTO whether its table is temporary.
fn effects_of(context: Context<'_>, binder: &Binder<'_>, into: Option<bool>) -> Effects {
    let facts = &binder.facts;
    let changes_catalog = into == Some(false);
    let is_temporary = into == Some(true) || (into.is_some() && ddl::may_be_temporary(context));
    let pin = if is_temporary { Some(Pin::TempTable) } else { facts.pin };
    Effects { pin, changes_catalog, unlocks: facts.unlocks, moves_sequences: facts.moves_sequences }
}

/// What becomes of a statement that writes rows.
fn plan_write(context: Context<'_>, binder: &mut Binder<'_>, dml: &Dml, verb: &str, parsed: &Parsed) -> Plan {
    let planned = |write: Result<Write, Refusal>| match write {
        Ok(write) => Plan::Write(Arc::new(write)),
        Err(refusal) => refused(refusal),
    };
    if current_of(dml).is_some() && !binder.locals.iter().any(|local| local.target) {
        return at_cursor(binder);
    }
    if let (Dml::Update(update), Moves::Does) = (dml, binder.moves) {
        return planned(moved::moved(context, binder, update, parsed, dml));
    }
    if !binder.reference_writes.is_empty() {
        return planned(write::copies(context, binder, dml, parsed));
    }
    match binder.place() {
        Err(refusal) => refused(refusal),
        Ok(Place::Known(shards)) if !can_be_many(&shards) => Plan::Route { shards, many: None },
        Ok(Place::Known(shards)) => match write::known(context, binder, dml, shards.clone(), parsed) {
            Ok(write) => Plan::Write(Arc::new(write)),
            Err(refusal) => Plan::Route { shards, many: Some(Box::new(reasons::write_many(verb, &refusal))) },
        },
        Ok(Place::Spread(_)) => planned(write::spread(context, binder, dml, parsed)),
    }
}

/// The cursor of WHERE CURRENT OF.
fn current_of(dml: &Dml) -> Option<&str> {
    match dml {
        Dml::Update(update) => update.cursor.as_deref(),
        Dml::Delete(delete) => delete.cursor.as_deref(),
        Dml::Query(_) | Dml::Insert(_) | Dml::Merge(_) => None,
    }
}

/// The row of a cursor is changed on the shard of that cursor, which is known when the statement runs. That shard sees its own rows only.
fn at_cursor(binder: &Binder<'_>) -> Plan {
    if let Some(problem) = &binder.problem {
        return refused(problem.clone());
    }
    if !binder.reference_writes.is_empty() {
        return refused(reasons::current_of_copies());
    }
    if binder.moves == Moves::Does {
        return refused(reasons::current_of_moves());
    }
    if binder.occurrences.len() > 1 || !binder.locals.is_empty() || binder.facts.reader.is_some() {
        return refused(reasons::current_of_others());
    }
    anywhere()
}

/// `SELECT set_config('name', 'value', false)`, as drivers and frameworks greet a server with. Not for
/// settings that SET would read as a list of names, for who the session is, or for one transaction.
fn set_config(dml: &Dml) -> Option<Command> {
    let Dml::Query(query) = dml else { return None };
    let Body::Select(select) = &query.body else { return None };
    let [Target { expr: Expr::Func(call), .. }] = select.targets.as_slice() else { return None };
    let plain = query.with.is_none() && query.limit.is_none() && query.offset.is_none() && select.from.is_empty();
    let unfiltered = select.filter.is_none() && select.having.is_none() && select.group.is_empty();
    if !plain || !unfiltered || &*call.name != "set_config" || call.schema.is_some() || call.filter.is_some() {
        return None;
    }
    let [Expr::Const(name), Expr::Const(value), Expr::Const(local)] = call.args.as_slice() else { return None };
    let (Value::Text(name), Value::Text(value), Value::Bool(false)) = (&name.value, &value.value, &local.value) else {
        return None;
    };
    let name = name.to_ascii_lowercase();
    let is_list = matches!(name.as_str(), "search_path" | "temp_tablespaces") || name.ends_with("_preload_libraries");
    let is_identity = matches!(name.as_str(), "role" | "session_authorization");
    if is_list || is_identity || name.starts_with("transaction_") {
        return None;
    }
    Some(Command::SetConfig { name, value: value.to_string() })
}

/// What a session listens to, asked for in the plain ways.
fn listening_channels(dml: &Dml) -> Option<Command> {
    const NAME: &str = "pg_listening_channels";
    let Dml::Query(query) = dml else { return None };
    let Body::Select(select) = &query.body else { return None };
    let [target] = select.targets.as_slice() else { return None };
    let plain = query.with.is_none() && query.limit.is_none() && query.offset.is_none() && query.locking.is_empty();
    let unfiltered = select.filter.is_none() && select.having.is_none() && select.group.is_empty();
    if !plain || !unfiltered || !query.order.is_empty() || select.distinct != Distinct::No || select.into.is_some() {
        return None;
    }
    let (call, name) = match (&target.expr, select.from.as_slice()) {
        (Expr::Func(call), []) => (call, target.name.as_deref()),
        (Expr::Star(names), [Source::Func(func)]) if names.is_empty() => match (func.calls.as_slice(), &func.alias) {
            ([Expr::Func(call)], None) => (call, None),
            _ => return None,
        },
        _ => return None,
    };
    let is_it = &*call.name == NAME && call.schema.is_none() && call.args.is_empty() && call.filter.is_none();
    is_it.then(|| Command::ListeningChannels(name.unwrap_or(NAME).to_owned()))
}

/// SELECT INTO: whether the new table is temporary.
fn into_of(dml: &Dml) -> Option<bool> {
    let Dml::Query(query) = dml else { return None };
    let mut body = &query.body;
    loop {
        match body {
            Body::Select(select) => return select.into,
            Body::SetOp { left, .. } => body = &left.body,
            Body::Values(_) => return None,
        }
    }
}

/// Read only when nothing in the statement can change a row.
pub(super) fn access_of(binder: &Binder<'_>) -> Access {
    let facts = &binder.facts;
    if facts.writes || facts.opaque {
        return Access::Write;
    }
    match (&facts.volatile, &facts.reader) {
        (Some(_), _) if !facts.only_locks => Access::Write,
        (_, Some(_)) => Access::Write,
        (Some(_), None) => Access::Lock,
        (None, None) if facts.locking > 0 || facts.user_view || facts.unknown_table => Access::Lock,
        (None, None) => Access::Read,
    }
}

pub(super) fn can_be_many(shards: &Shards) -> bool {
    match shards {
        Shards::Keys { keys, .. } => match keys.as_slice() {
            [key] => matches!(key, super::KeyValue::ParamElements(_)),
            _ => true,
        },
        Shards::Home { .. } | Shards::All => true,
        Shards::Any | Shards::One(_) => false,
    }
}

/// A query whose shards are named: one answers untouched, several only if that is proved.
fn read_known(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    query: &Query,
    seen: &super::bind_query::Seen,
    shards: Shards,
    parsed: &Parsed,
) -> Plan {
    if !can_be_many(&shards) {
        return Plan::Route { shards, many: None };
    }
    let table = binder.occurrences.first().map_or("", |occurrence| occurrence.table.as_str());
    let home = match (&shards, &binder.facts.home, binder.locals.first()) {
        (Shards::Home { home, .. }, Some(function), _) => Some((*home, reasons::home_function(function, table))),
        (Shards::Home { home, .. }, None, Some(local)) => Some((*home, reasons::local_and_sharded(&local.name, table))),
        _ => None,
    };
    match spread(context, binder, query, seen, shards.clone(), home, parsed) {
        Ok(plan) => plan,
        Err(refusal) => Plan::Route { shards, many: Some(Box::new(reasons::read_many(&refusal))) },
    }
}

/// A query over several shards, beside which `home` may have something that no other shard has: merged here if that is proved exact, else
/// finished by PostgreSQL.
fn spread(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    query: &Query,
    seen: &super::bind_query::Seen,
    shards: Shards,
    home: Option<(ShardId, Refusal)>,
    parsed: &Parsed,
) -> Result<Plan, Refusal> {
    let (home, reason) = home.unzip();
    let gather = match reason {
        Some(reason) => Err(reason),
        None => build::gather(context, binder, query, seen, shards.clone(), parsed),
    };
    if let Err(refusal) = &gather
        && !refusal.is_unsupported()
    {
        return Err(refusal.clone());
    }
    let groups = match (&gather, home) {
        (Err(_), None) => final_groups::final_groups(context, binder, query, seen, shards.clone(), parsed),
        _ => None,
    };
    let last = final_query::final_query(context, binder, query, seen, shards, home, parsed);
    match (gather, last) {
        (Ok(mut gather), last) => {
            gather.or_else = last.ok().map(Arc::new);
            Ok(Plan::Gather(Arc::new(gather)))
        }
        (Err(_), last) if let Some(groups) = groups => {
            Ok(Plan::Final(Arc::new(FinalQuery { or_else: last.ok().map(Arc::new), ..groups })))
        }
        (Err(_), Ok(last)) => Ok(Plan::Final(Arc::new(last))),
        // What PostgreSQL finishes locks nothing.
        (Err(refusal), Err(_)) if binder.facts.locking > 0 => Err(refusal),
        (Err(_), Err(refusal)) => Err(refusal),
    }
}

/// An EXPLAIN goes where its statement goes. The parts of a plan are of that statement alone.
fn decide_explain(context: Context<'_>, mut explain: Explain, inner: &Stmt, parsed: &Parsed) -> Decided {
    let mut start = spans::explained(context.text, &parsed.span);
    let part = |start: usize| Parsed {
        stmt: Stmt::Session(Box::new(Command::Empty)),
        span: start..parsed.span.end,
        params: parsed.params,
    };
    let mut decided = match inner {
        Stmt::Execute { name } => execute(context, parsed, start, name),
        Stmt::Dml(dml) => rows(context, dml, &part(start)),
        _ => decide(context, inner, &part(start)),
    };
    if let (true, Stmt::Dml(dml)) = (explain.analyze, inner)
        && let Err(refusal) = computed::check_none(
            context,
            dml,
            &part(start),
            &decided.plan,
            "EXPLAIN ANALYZE of what the router gets values for",
        )
    {
        decided.plan = refused(refusal);
    }
    if !explain.analyze {
        decided.effects = Effects::default();
        // Nothing is written, but planning takes the locks of a write.
        decided.access = decided.access.min(Access::Lock);
    }
    if let Stmt::Declare { .. } = inner {
        start = spans::declared(context.text, &(start..parsed.span.end));
    }
    explain.inner = start..parsed.span.end;
    decided.command = Command::Explain(Box::new(explain));
    decided.any_values = false;
    decided
}

/// Over several shards the cursor is PostgreSQL's: one server has it, and the rows as they were at DECLARE.
fn declare(context: Context<'_>, name: &str, hold: bool, query: &Query, parsed: &Parsed) -> Decided {
    let span = spans::declared(context.text, &parsed.span)..parsed.span.end;
    let dml = Dml::Query(Box::new(query.clone()));
    let inner = Parsed { stmt: Stmt::Session(Box::new(Command::Empty)), span: span.clone(), params: parsed.params };
    let mut decided = rows(context, &dml, &inner);
    if let Err(refusal) = computed::check_none(
        context,
        &dml,
        &inner,
        &decided.plan,
        "a cursor of a query for which the router gets values",
    ) {
        decided.plan = refused(refusal);
    }
    decided.command = Command::DeclareCursor { name: name.to_owned(), hold, query: span };
    decided.any_values = false;
    if hold {
        decided.effects.pin = Some(Pin::HoldCursor);
        // Whoever is pinned uses primaries.
        decided.access = decided.access.max(Access::Lock);
    }
    if stages::has_writes(&dml) {
        let message = "DECLARE CURSOR must not contain data-modifying statements in WITH";
        decided.plan = refused(Refusal::error("0A000", message));
    }
    if let Plan::Gather(gather) = &decided.plan {
        decided.plan = match &gather.or_else {
            Some(last) => Plan::Final(last.clone()),
            None => refused(reasons::spread("a cursor of this query")),
        };
    }
    decided
}

/// Statements whose command says it all.
fn session(command: &Command) -> Decided {
    let hint = "Commit without it: the router commits over several shards in two phases by itself.";
    let (access, plan) = match command {
        Command::Show(_) => (Access::Read, anywhere()),
        Command::TwoPhase => (Access::Write, refused(reasons::utility("PREPARE TRANSACTION", hint))),
        Command::Notify => (Access::Write, first_shard()),
        Command::Cursor(_) | Command::Close(_) => (Access::Lock, anywhere()),
        _ => (Access::Read, Plan::Session),
    };
    Decided::new(command.clone(), access, plan)
}
