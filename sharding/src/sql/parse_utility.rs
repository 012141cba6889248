//! Everything that is not a query: the parser's nodes -> a command, or what DDL means for shards.

use std::ops::Range;

use pg_raw_parse::const_val::ConstValue;
use pg_raw_parse::raw::{
    AlterTableType, ConstrType, DiscardMode, ObjectType, OnCommitAction, ReindexObjectType, TransactionStmtKind,
    VariableSetKind,
};
use pg_raw_parse::{Node, nodes};

use super::parse::{Builder, Result, strings};
use super::parse_expr::type_name;
use super::parse_query::{table_or_nothing, table_ref};
use super::tree::{Change, ColumnDef, Constraint, Copy, CopyOption, CreateTable, Dml, Stmt, TableRef};
use super::{Command, Explain, ExplainFormat, Isolation, SetValue, TransactionOptions, is_on};

/// CURSOR_OPT_HOLD of PostgreSQL's parsenodes.h.
const CURSOR_HOLD: i32 = 0x0020;

/// What ON UPDATE may do, as PostgreSQL's parsenodes.h calls it (FKCONSTR_ACTION_...).
const CASCADE: std::ffi::c_char = b'c'.cast_signed();
const SET_NULL: std::ffi::c_char = b'n'.cast_signed();
const SET_DEFAULT: std::ffi::c_char = b'd'.cast_signed();

impl Builder<'_> {
    /// One whole statement; `span` is where it stands.
    pub(super) fn stmt(&mut self, node: Node<'_>, span: &Range<usize>) -> Result<Stmt> {
        if let Some(dml) = self.dml(node)? {
            return Ok(Stmt::Dml(dml));
        }
        match node {
            Node::ExplainStmt(explain) => self.explain(explain, span),
            Node::CopyStmt(copy) => self.copy(copy),
            Node::DeclareCursorStmt(declare) => self.declare(declare),
            Node::PrepareStmt(prepare) => self.prepare(prepare),
            Node::ExecuteStmt(execute) => Ok(Stmt::Execute { name: text(execute.name()) }),
            Node::CreateStmt(create) => Ok(Stmt::CreateTable(Box::new(create_table(create)))),
            Node::CreateTableAsStmt(create) => Ok(create_table_as(create)),
            Node::ViewStmt(view) => self.view(view),
            Node::CallStmt(call) => {
                let names = call.funccall().map(|call| strings(call.funcname().iter())).unwrap_or_default();
                Ok(Stmt::Call { procedure: names.into_iter().next_back().unwrap_or_default() })
            }
            Node::DoStmt(block) => {
                let body = block.args().iter().find(|option| option.defname() == Some("as"));
                let language = block.args().iter().find(|option| option.defname() == Some("language"));
                let plpgsql = language.is_none_or(|language| language.arg().as_str() == Some("plpgsql"));
                Ok(Stmt::Do { code: body.and_then(|body| body.arg().as_str()).unwrap_or_default().into(), plpgsql })
            }
            _ => Ok(utility(node)),
        }
    }

    fn explain(&mut self, explain: &nodes::ExplainStmt, span: &Range<usize>) -> Result<Stmt> {
        let options = explain.options().iter().map(|option| (text(option.defname()), option_value(option.arg())));
        let mut read = Explain { options: options.collect(), ..Explain::default() };
        read.analyze = read.is_on("analyze", false);
        let format = read.options.iter().rfind(|(name, _)| name == "format");
        read.format = match format.and_then(|(_, format)| format.as_deref()) {
            Some("json") => ExplainFormat::Json,
            Some("yaml") => ExplainFormat::Yaml,
            Some("xml") => ExplainFormat::Xml,
            // What is no format is refused by a server.
            _ => ExplainFormat::Text,
        };
        let inner = Box::new(self.stmt(explain.query(), span)?);
        Ok(Stmt::Explain { explain: Box::new(read), inner })
    }

    fn copy(&mut self, copy: &nodes::CopyStmt) -> Result<Stmt> {
        let query = self.dml(copy.query())?;
        let options = copy.options().iter().map(|option| (text(option.defname()).into(), copy_option(option.arg())));
        Ok(Stmt::Copy(Box::new(Copy {
            from: copy.is_from,
            stream: copy.filename().is_none() && !copy.is_program,
            table: copy.relation().map(table_ref),
            columns: strings(copy.attlist().iter()),
            query,
            options: options.collect(),
        })))
    }

    fn declare(&mut self, declare: &nodes::DeclareCursorStmt) -> Result<Stmt> {
        let hold = declare.options & CURSOR_HOLD != 0;
        let name = text(declare.portalname());
        match self.dml(declare.query())? {
            Some(Dml::Query(query)) => Ok(Stmt::Declare { name, hold, query }),
            _ => Ok(Stmt::Maintenance { transactional: true }),
        }
    }

    fn view(&mut self, view: &nodes::ViewStmt) -> Result<Stmt> {
        let query = match view.query() {
            Node::SelectStmt(select) => Some(Box::new(self.query(select)?)),
            _ => None,
        };
        Ok(Stmt::CreateView { table: table_or_nothing(view.view()), query })
    }

    fn prepare(&mut self, prepare: &nodes::PrepareStmt) -> Result<Stmt> {
        // The parameters of the inner statement are no parameters of this one.
        let params = self.params;
        self.dml(prepare.query())?;
        self.params = params;
        Ok(Stmt::Prepare { name: text(prepare.name()) })
    }
}

fn text(value: Option<&str>) -> String {
    value.unwrap_or_default().to_owned()
}

fn session(command: Command) -> Stmt {
    Stmt::Session(Box::new(command))
}

/// Statements that hold no query of interest.
fn utility(node: Node<'_>) -> Stmt {
    match node {
        Node::TransactionStmt(statement) => session(transaction(statement)),
        Node::VariableSetStmt(statement) => set(statement),
        Node::VariableShowStmt(statement) => session(Command::Show(text(statement.name()))),
        Node::DiscardStmt(statement) if statement.target == DiscardMode::DISCARD_ALL => session(Command::DiscardAll),
        Node::DiscardStmt(_) => session(Command::Discard),
        Node::DeallocateStmt(statement) => session(Command::Deallocate(statement.name().map(str::to_owned))),
        Node::ListenStmt(statement) => session(Command::Listen(text(statement.conditionname()))),
        Node::UnlistenStmt(statement) => session(Command::Unlisten(statement.conditionname().map(str::to_owned))),
        Node::NotifyStmt(_) => session(Command::Notify),
        Node::FetchStmt(statement) => session(Command::Cursor(text(statement.portalname()))),
        Node::ClosePortalStmt(statement) => session(Command::Close(statement.portalname().map(str::to_owned))),
        Node::ConstraintsSetStmt(_) => Stmt::SetConstraints,
        Node::LockStmt(statement) => Stmt::Lock { tables: tables(statement.relations()) },
        Node::TruncateStmt(_) => Stmt::Truncate,
        Node::LoadStmt(_) => Stmt::Load,
        Node::VacuumStmt(statement) if !statement.is_vacuumcmd => Stmt::Analyze,
        Node::VacuumStmt(_) | Node::CheckPointStmt(_) => Stmt::Maintenance { transactional: false },
        Node::ClusterStmt(statement) => Stmt::Maintenance { transactional: statement.relation().is_some() },
        Node::ReindexStmt(statement) => Stmt::Maintenance { transactional: reindex_is_transactional(statement) },
        _ => ddl(node),
    }
}

fn ddl(node: Node<'_>) -> Stmt {
    match node {
        Node::IndexStmt(index) => create_index(index),
        Node::AlterTableStmt(alter) => alter_table(alter),
        Node::RenameStmt(rename) if rename.rename_type == ObjectType::OBJECT_COLUMN => Stmt::RenameColumn {
            table: table_or_nothing(rename.relation()),
            column: rename.subname().unwrap_or_default().into(),
        },
        Node::RenameStmt(rename) => renamed(rename),
        Node::AlterObjectSchemaStmt(moved) if is_relation(moved.object_type) => Stmt::Rename {
            table: table_or_nothing(moved.relation()),
            name: None,
            schema: moved.newschema().map(Box::from),
        },
        Node::RefreshMatViewStmt(refresh) => {
            Stmt::Refresh { table: table_or_nothing(refresh.relation()), concurrently: refresh.concurrent }
        }
        Node::CreateTrigStmt(_) | Node::CreateSchemaStmt(_) | Node::CreatePolicyStmt(_) | Node::AlterPolicyStmt(_) => {
            Stmt::Unread
        }
        Node::CreateFunctionStmt(function) if function.replace => Stmt::Unread,
        Node::RuleStmt(rule) if !rule.actions().is_empty() => Stmt::Rule { table: table_or_nothing(rule.relation()) },
        Node::AlterOwnerStmt(owner) if owner.object_type == ObjectType::OBJECT_LARGEOBJECT => Stmt::AtHome,
        Node::CommentStmt(comment) if comment.objtype == ObjectType::OBJECT_LARGEOBJECT => Stmt::AtHome,
        Node::GrantStmt(grant) if grant.objtype == ObjectType::OBJECT_LARGEOBJECT => Stmt::AtHome,
        Node::DropStmt(drop) => Stmt::Ddl { transactional: !drop.concurrent },
        Node::CreatedbStmt(_)
        | Node::DropdbStmt(_)
        | Node::AlterSystemStmt(_)
        | Node::CreateTableSpaceStmt(_)
        | Node::DropTableSpaceStmt(_)
        | Node::CreateSubscriptionStmt(_)
        | Node::DropSubscriptionStmt(_) => Stmt::Ddl { transactional: false },
        _ => Stmt::Ddl { transactional: true },
    }
}

fn transaction(statement: &nodes::TransactionStmt) -> Command {
    let name = || text(statement.savepoint_name());
    match statement.kind {
        TransactionStmtKind::TRANS_STMT_COMMIT => Command::Commit { chain: statement.chain },
        TransactionStmtKind::TRANS_STMT_ROLLBACK => Command::Rollback { chain: statement.chain },
        TransactionStmtKind::TRANS_STMT_SAVEPOINT => Command::Savepoint(name()),
        TransactionStmtKind::TRANS_STMT_RELEASE => Command::Release(name()),
        TransactionStmtKind::TRANS_STMT_ROLLBACK_TO => Command::RollbackTo(name()),
        TransactionStmtKind::TRANS_STMT_PREPARE
        | TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED
        | TransactionStmtKind::TRANS_STMT_ROLLBACK_PREPARED => Command::TwoPhase,
        _ => Command::Begin(transaction_options(statement.options())),
    }
}

fn transaction_options(options: &pg_raw_parse::list::NodeList) -> TransactionOptions {
    let mut found = TransactionOptions::default();
    for option in options {
        let Node::DefElem(option) = option else { continue };
        match option.defname() {
            Some("transaction_isolation") => found.isolation = isolation(option.arg()),
            Some("transaction_read_only") => found.read_only = Some(flag(option.arg())),
            Some("transaction_deferrable") => found.deferrable = Some(flag(option.arg())),
            _ => {}
        }
    }
    found
}

fn isolation(arg: Node<'_>) -> Option<Isolation> {
    match constant_text(arg)?.as_str() {
        "read uncommitted" => Some(Isolation::ReadUncommitted),
        "read committed" => Some(Isolation::ReadCommitted),
        "repeatable read" => Some(Isolation::RepeatableRead),
        "serializable" => Some(Isolation::Serializable),
        _ => None,
    }
}

fn constant_text(arg: Node<'_>) -> Option<String> {
    match arg {
        Node::A_Const(constant) => constant.val().map(|value| value.to_string()),
        Node::String(value) => value.sval().map(str::to_owned),
        _ => None,
    }
}

/// Whether an option is on: `ANALYZE`, `ANALYZE true`, `ANALYZE 1`.
fn flag(arg: Node<'_>) -> bool {
    match arg {
        Node::None => true,
        Node::Integer(value) => value.ival != 0,
        Node::Boolean(value) => value.boolval,
        Node::A_Const(constant) => match constant.val() {
            Some(ConstValue::Integer(value)) => value != 0,
            Some(ConstValue::Boolean(value)) => value,
            Some(ConstValue::String(value)) => is_on(value),
            _ => false,
        },
        other => other.as_str().is_some_and(is_on),
    }
}

/// The value of an option as a word.
fn option_value(arg: Node<'_>) -> Option<String> {
    match arg {
        Node::None => None,
        Node::Integer(value) => Some(value.ival.to_string()),
        Node::Boolean(value) => Some(value.boolval.to_string()),
        Node::A_Const(constant) => match constant.val() {
            Some(ConstValue::Integer(value)) => Some(value.to_string()),
            Some(ConstValue::Boolean(value)) => Some(value.to_string()),
            Some(ConstValue::String(value)) => Some(value.to_owned()),
            _ => Some(String::new()),
        },
        other => Some(other.as_str().unwrap_or_default().to_owned()),
    }
}

fn set(statement: &nodes::VariableSetStmt) -> Stmt {
    let name = text(statement.name());
    let value = match statement.kind {
        VariableSetKind::VAR_RESET => return session(Command::Reset(name)),
        VariableSetKind::VAR_RESET_ALL => return session(Command::ResetAll),
        VariableSetKind::VAR_SET_MULTI => return set_several(statement, &name),
        VariableSetKind::VAR_SET_DEFAULT => SetValue::Default,
        VariableSetKind::VAR_SET_VALUE => set_value(statement),
        _ => SetValue::Current,
    };
    session(Command::Set { local: statement.is_local, name, value })
}

fn set_several(statement: &nodes::VariableSetStmt, name: &str) -> Stmt {
    match name {
        "TRANSACTION" => session(Command::SetTransaction(transaction_options(statement.args()))),
        "SESSION CHARACTERISTICS" => {
            let settings = statement.args().iter().filter_map(|option| match option {
                Node::DefElem(option) => {
                    let value = match option.defname()? {
                        "transaction_isolation" => constant_text(option.arg())?,
                        _ if flag(option.arg()) => "on".to_owned(),
                        _ => "off".to_owned(),
                    };
                    Some((format!("default_{}", option.defname()?), value))
                }
                _ => None,
            });
            session(Command::SetSessionCharacteristics(settings.collect()))
        }
        _ => Stmt::SetConstraints,
    }
}

fn set_value(statement: &nodes::VariableSetStmt) -> SetValue {
    let mut parts = Vec::new();
    for arg in statement.args() {
        let Node::A_Const(constant) = arg else { return SetValue::Current };
        match constant.val() {
            Some(ConstValue::String(value)) => parts.push(quote(value)),
            Some(value) => parts.push(value.to_string()),
            None => return SetValue::Current,
        }
    }
    SetValue::Text(parts.join(", "))
}

fn quote(value: &str) -> String {
    if value.contains('\\') {
        return format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "''"));
    }
    format!("'{}'", value.replace('\'', "''"))
}

fn copy_option(arg: Node<'_>) -> CopyOption {
    match arg {
        Node::None => CopyOption::Flag(true),
        Node::Boolean(value) => CopyOption::Flag(value.boolval),
        Node::Integer(value) => CopyOption::Flag(value.ival != 0),
        Node::String(value) => CopyOption::Text(value.sval().unwrap_or_default().into()),
        Node::NodeList(names) => CopyOption::Names(strings(names.iter())),
        Node::A_Star(_) => CopyOption::All,
        _ => CopyOption::Other,
    }
}

fn tables(list: &pg_raw_parse::list::NodeList) -> Vec<TableRef> {
    let tables = list.iter().filter_map(|table| match table {
        Node::RangeVar(table) => Some(table_ref(table)),
        _ => None,
    });
    tables.collect()
}

fn create_table_as(create: &nodes::CreateTableAsStmt) -> Stmt {
    let into = create.into();
    Stmt::CreateTableAs {
        table: table_or_nothing(into.and_then(|into| into.rel())),
        view: create.objtype == ObjectType::OBJECT_MATVIEW,
        empty: into.is_some_and(|into| into.skip_data),
        columns: into.map(|into| strings(into.col_names().iter())).unwrap_or_default(),
        execute: match create.query() {
            Node::ExecuteStmt(execute) => Some(text(execute.name())),
            _ => None,
        },
    }
}

fn create_table(create: &nodes::CreateStmt) -> CreateTable {
    let mut table = CreateTable {
        table: table_or_nothing(create.relation()),
        columns: Vec::new(),
        constraints: create.constraints().iter().filter_map(|found| constraint(found, None)).collect(),
        like: Vec::new(),
        parents: tables(create.inh_relations()),
        partition: create.partbound().is_some(),
        dropped_at_commit: create.oncommit == OnCommitAction::ONCOMMIT_DROP,
    };
    for element in create.table_elts() {
        match element {
            Node::ColumnDef(column) => {
                table.constraints.extend(column_constraints(column));
                table.columns.push(column_def(column));
            }
            Node::Constraint(found) => table.constraints.extend(constraint(found, None)),
            Node::TableLikeClause(like) => table.like.extend(like.relation().map(table_ref)),
            _ => {}
        }
    }
    table
}

fn column_def(column: &nodes::ColumnDef) -> ColumnDef {
    let not_null = |constraint: Node<'_>| {
        matches!(constraint, Node::Constraint(constraint)
            if matches!(constraint.contype, ConstrType::CONSTR_NOTNULL | ConstrType::CONSTR_PRIMARY))
    };
    let is_generated = |constraint: Node<'_>| matches!(constraint, Node::Constraint(constraint) if constraint.contype == ConstrType::CONSTR_GENERATED);
    let collation = column.coll_clause().and_then(|clause| strings(clause.collname().iter()).pop());
    ColumnDef {
        name: column.colname().unwrap_or_default().into(),
        target: column.type_name().map(type_name).unwrap_or_default(),
        not_null: column.is_not_null || column.constraints().iter().any(not_null),
        generated: column.constraints().iter().any(is_generated),
        collation,
    }
}

fn column_constraints(column: &nodes::ColumnDef) -> Vec<Constraint> {
    let constraints = column.constraints().iter().filter_map(|found| match found {
        Node::Constraint(found) => constraint(found, column.colname()),
        _ => None,
    });
    constraints.collect()
}

/// A constraint over rows; `column` is the one it is written behind.
fn constraint(found: &nodes::Constraint, column: Option<&str>) -> Option<Constraint> {
    let or_column = |columns: Vec<Box<str>>| match column {
        Some(column) if columns.is_empty() => vec![column.into()],
        _ => columns,
    };
    match found.contype {
        ConstrType::CONSTR_PRIMARY | ConstrType::CONSTR_UNIQUE if found.indexname().is_some() => {
            Some(Constraint::UsingIndex)
        }
        ConstrType::CONSTR_PRIMARY | ConstrType::CONSTR_UNIQUE => Some(Constraint::Unique {
            primary: found.contype == ConstrType::CONSTR_PRIMARY,
            columns: or_column(strings(found.keys().iter())),
        }),
        ConstrType::CONSTR_EXCLUSION => Some(Constraint::Exclusion { equal: compared_by_equality(found) }),
        ConstrType::CONSTR_FOREIGN => Some(Constraint::Foreign {
            columns: or_column(strings(found.fk_attrs().iter())),
            table: table_or_nothing(found.pktable()),
            referenced: strings(found.pk_attrs().iter()),
            follows: matches!(found.fk_upd_action, CASCADE | SET_NULL | SET_DEFAULT),
        }),
        _ => None,
    }
}

/// The columns of an exclusion constraint that exclude each other by `=`.
fn compared_by_equality(found: &nodes::Constraint) -> Vec<Box<str>> {
    let columns = found.exclusions().iter().filter_map(|pair| {
        let Node::NodeList(pair) = pair else { return None };
        let mut parts = pair.iter();
        let (Some(Node::IndexElem(element)), Some(Node::NodeList(operator))) = (parts.next(), parts.next()) else {
            return None;
        };
        let operator = strings(operator.iter()).pop()?;
        element.name().filter(|_| &*operator == "=").map(Box::from)
    });
    columns.collect()
}

fn is_relation(kind: ObjectType::Type) -> bool {
    matches!(
        kind,
        ObjectType::OBJECT_TABLE
            | ObjectType::OBJECT_VIEW
            | ObjectType::OBJECT_MATVIEW
            | ObjectType::OBJECT_FOREIGN_TABLE
    )
}

fn renamed(rename: &nodes::RenameStmt) -> Stmt {
    match rename.rename_type {
        ObjectType::OBJECT_SCHEMA => Stmt::RenameSchema {
            schema: rename.subname().unwrap_or_default().into(),
            name: rename.newname().unwrap_or_default().into(),
        },
        kind if is_relation(kind) => Stmt::Rename {
            table: table_or_nothing(rename.relation()),
            name: rename.newname().map(Box::from),
            schema: None,
        },
        _ => Stmt::Ddl { transactional: true },
    }
}

fn create_index(index: &nodes::IndexStmt) -> Stmt {
    Stmt::CreateIndex {
        table: table_or_nothing(index.relation()),
        unique: index.unique,
        concurrently: index.concurrent,
        columns: index.index_params().iter().map(|element| element.name().map(Box::from)).collect(),
        name: index.idxname().map(Box::from),
        if_not_exists: index.if_not_exists,
    }
}

fn alter_table(alter: &nodes::AlterTableStmt) -> Stmt {
    let mut changes = Vec::new();
    let mut transactional = true;
    for command in alter.cmds() {
        let Node::AlterTableCmd(command) = command else { continue };
        let name = || command.name().unwrap_or_default().into();
        match (command.subtype, command.def()) {
            (AlterTableType::AT_AddConstraint, Node::Constraint(found)) => {
                changes.push(constraint(found, None).map_or(Change::Other, Change::AddConstraint));
            }
            (AlterTableType::AT_AddColumn, Node::ColumnDef(column)) => {
                changes.extend(column_constraints(column).into_iter().map(Change::AddConstraint));
            }
            (AlterTableType::AT_DropColumn, _) => changes.push(Change::DropColumn(name())),
            (AlterTableType::AT_AlterColumnType, Node::ColumnDef(column)) if keeps_integer(column) => {
                changes.push(Change::Other);
            }
            (AlterTableType::AT_AlterColumnType, _) => changes.push(Change::AlterType(name())),
            (AlterTableType::AT_DetachPartition, Node::PartitionCmd(partition)) => {
                transactional &= !partition.concurrent;
            }
            _ => changes.push(Change::Other),
        }
    }
    Stmt::AlterTable { table: table_or_nothing(alter.relation()), changes, transactional }
}

/// ALTER COLUMN ... TYPE bigint without USING, which only integers can follow: their values stay, and so do the places of rows.
fn keeps_integer(column: &nodes::ColumnDef) -> bool {
    let target = column.type_name().map(type_name).unwrap_or_default();
    matches!(column.raw_default(), Node::None) && !target.array && matches!(&*target.name, "int2" | "int4" | "int8")
}

fn reindex_is_transactional(reindex: &nodes::ReindexStmt) -> bool {
    let concurrently =
        reindex.params().iter().any(|option| option.defname() == Some("concurrently") && flag(option.arg()));
    !concurrently
        && matches!(reindex.kind, ReindexObjectType::REINDEX_OBJECT_INDEX | ReindexObjectType::REINDEX_OBJECT_TABLE)
}
