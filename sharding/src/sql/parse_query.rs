//! Queries and the statements that touch rows: the parser's nodes -> our tree.

use pg_raw_parse::raw::{CmdType, JoinType, LimitOption, SetOperation};
use pg_raw_parse::{Node, nodes};

use super::parse::{Builder, Result, strings};
use super::tree::{
    Alias, Assignment, At, Body, Conflict, Cte, Delete, Derived, Distinct, Dml, Expr, From, FuncRef, Insert, Join,
    JoinKind, Merge, MergeAction, Query, RowsOf, Select, SetOp, TableRef, Target, Update, With,
};

impl Builder<'_> {
    pub(super) fn query(&mut self, select: &nodes::SelectStmt) -> Result<Query> {
        self.enter()?;
        let query = self.query_of(select);
        self.leave();
        query
    }

    fn query_of(&mut self, select: &nodes::SelectStmt) -> Result<Query> {
        let with = self.with(select.with_clause())?;
        let body = if select.op != SetOperation::SETOP_NONE {
            self.set_operation(select)?
        } else if !select.values_lists().is_empty() {
            self.values(select)?
        } else {
            Body::Select(Box::new(self.select(select)?))
        };
        let order = self.sort_items(select.sort_clause().iter())?;
        let limit = self.maybe_expr(select.limit_count())?;
        let offset = self.maybe_expr(select.limit_offset())?;
        let with_ties = select.limit_option == LimitOption::LIMIT_OPTION_WITH_TIES;
        let locking = select.locking_clause().iter().map(locked_names).collect();
        Ok(Query { with, body, order, limit, offset, with_ties, locking })
    }

    fn set_operation(&mut self, select: &nodes::SelectStmt) -> Result<Body> {
        let (Some(left), Some(right)) = (select.larg(), select.rarg()) else { return Ok(Body::Values(Vec::new())) };
        let kind = match select.op {
            SetOperation::SETOP_UNION => SetOp::Union,
            SetOperation::SETOP_INTERSECT => SetOp::Intersect,
            _ => SetOp::Except,
        };
        let left = Box::new(self.query(left)?);
        let right = Box::new(self.query(right)?);
        Ok(Body::SetOp { kind, all: select.all, left, right })
    }

    fn values(&mut self, select: &nodes::SelectStmt) -> Result<Body> {
        let mut rows = Vec::with_capacity(select.values_lists().len());
        for row in select.values_lists() {
            rows.push(match row {
                Node::NodeList(list) => self.exprs(list.iter())?,
                other => vec![self.expr(other)?],
            });
        }
        Ok(Body::Values(rows))
    }

    fn select(&mut self, select: &nodes::SelectStmt) -> Result<Select> {
        let distinct = match select.distinct_clause().first() {
            None => Distinct::No,
            Some(Node::None) => Distinct::Yes,
            Some(_) => Distinct::On(self.exprs(select.distinct_clause().iter())?),
        };
        let windows = select.window_clause().iter().filter_map(|window| match window {
            Node::WindowDef(window) => Some(window),
            _ => None,
        });
        let windows = windows.map(|window| self.window(window)).collect::<Result<_>>()?;
        let sets = select.group_clause().iter().any(|item| matches!(item, Node::GroupingSet(_)));
        let (mut group, mut in_sets) = (Vec::new(), Vec::new());
        if sets {
            self.grouping_sets(select.group_clause().iter(), &mut in_sets)?;
        } else {
            group = self.exprs(select.group_clause().iter())?;
        }
        Ok(Select {
            distinct,
            targets: self.targets(select.target_list().iter())?,
            from: self.range_list(select.from_clause().iter())?,
            filter: self.maybe_expr(select.where_clause())?,
            group,
            grouping_sets: sets || select.group_distinct,
            in_sets,
            having: self.maybe_expr(select.having_clause())?,
            windows,
            into: select.into_clause().map(|into| into.rel().is_some_and(is_temporary)),
        })
    }

    /// The expressions of grouping sets and of the sets in them.
    fn grouping_sets<'a>(&mut self, items: impl Iterator<Item = Node<'a>>, found: &mut Vec<Expr>) -> Result<()> {
        self.enter()?;
        for item in items {
            match item {
                Node::GroupingSet(set) => self.grouping_sets(set.content().iter(), found)?,
                item => found.push(self.expr(item)?),
            }
        }
        self.leave();
        Ok(())
    }

    fn targets<'a>(&mut self, targets: impl Iterator<Item = &'a nodes::ResTarget>) -> Result<Vec<Target>> {
        targets.map(|target| self.target(target)).collect()
    }

    fn target(&mut self, target: &nodes::ResTarget) -> Result<Target> {
        let at = at(target.location);
        Ok(Target { name: target.name().map(Box::from), expr: self.expr(target.val())?, at })
    }

    fn returning(&mut self, clause: Option<&nodes::ReturningClause>) -> Result<Vec<Target>> {
        let Some(clause) = clause else { return Ok(Vec::new()) };
        let targets = clause.exprs().iter().filter_map(|expr| match expr {
            Node::ResTarget(target) => Some(target),
            _ => None,
        });
        self.targets(targets)
    }

    fn with(&mut self, with: Option<&nodes::WithClause>) -> Result<Option<Box<With>>> {
        let Some(with) = with else { return Ok(None) };
        let mut ctes = Vec::with_capacity(with.ctes().len());
        for cte in with.ctes() {
            ctes.push(Cte {
                name: cte.ctename().unwrap_or_default().into(),
                columns: strings(cte.aliascolnames().iter()),
                statement: self.dml(cte.ctequery())?.unwrap_or_else(nothing),
                extended: cte.search_clause().is_some() || cte.cycle_clause().is_some(),
            });
        }
        Ok(Some(Box::new(With { recursive: with.recursive, ctes })))
    }

    fn range_list<'a>(&mut self, items: impl Iterator<Item = Node<'a>>) -> Result<Vec<From>> {
        items.map(|item| self.range_item(item)).collect()
    }

    fn range_item(&mut self, item: Node<'_>) -> Result<From> {
        self.enter()?;
        let from = match item {
            Node::RangeVar(table) => Ok(From::Table(Box::new(table_ref(table)))),
            Node::JoinExpr(join) => self.join(join),
            Node::RangeSubselect(query) => self.derived(query),
            Node::RangeFunction(function) => self.range_function(function),
            Node::RangeTableSample(sample) => self.sample(sample),
            Node::RangeTableFunc(table) => self.xml_table(table),
            Node::JsonTable(table) => {
                Ok(From::Func(Box::new(FuncRef { calls: vec![Expr::Opaque], alias: table.alias().map(alias) })))
            }
            _ => Ok(From::Func(Box::new(FuncRef { calls: vec![Expr::Opaque], alias: None }))),
        };
        self.leave();
        from
    }

    fn join(&mut self, join: &nodes::JoinExpr) -> Result<From> {
        let kind = match join.jointype {
            JoinType::JOIN_LEFT => JoinKind::Left,
            JoinType::JOIN_RIGHT => JoinKind::Right,
            JoinType::JOIN_FULL => JoinKind::Full,
            _ => JoinKind::Inner,
        };
        let left = self.range_item(join.larg())?;
        let right = self.range_item(join.rarg())?;
        Ok(From::Join(Box::new(Join {
            kind,
            natural: join.is_natural,
            using: join.using_clause().iter().filter_map(|name| name.sval()).map(Box::from).collect(),
            on: self.maybe_expr(join.quals())?,
            left,
            right,
            alias: join.alias().map(alias),
        })))
    }

    fn derived(&mut self, derived: &nodes::RangeSubselect) -> Result<From> {
        let query = match derived.subquery() {
            Node::SelectStmt(select) => self.query(select)?,
            _ => empty_query(),
        };
        let alias = derived.alias().map(alias);
        Ok(From::Query(Box::new(Derived { query, lateral: derived.lateral, alias })))
    }

    fn range_function(&mut self, function: &nodes::RangeFunction) -> Result<From> {
        let mut calls = Vec::new();
        for item in function.functions() {
            let call = match item {
                Node::NodeList(list) => list.first().unwrap_or(Node::None),
                other => other,
            };
            calls.push(self.expr(call)?);
        }
        Ok(From::Func(Box::new(FuncRef { calls, alias: function.alias().map(alias) })))
    }

    fn sample(&mut self, sample: &nodes::RangeTableSample) -> Result<From> {
        let mut from = self.range_item(sample.relation())?;
        if let From::Table(table) = &mut from {
            table.rows = RowsOf::Sample;
        }
        Ok(from)
    }

    fn xml_table(&mut self, table: &nodes::RangeTableFunc) -> Result<From> {
        let calls = vec![self.expr(table.docexpr())?, self.expr(table.rowexpr())?];
        Ok(From::Func(Box::new(FuncRef { calls, alias: table.alias().map(alias) })))
    }

    /// The statement if it is one that touches rows.
    pub(super) fn dml(&mut self, node: Node<'_>) -> Result<Option<Dml>> {
        self.enter()?;
        let dml = match node {
            Node::SelectStmt(select) => self.query(select).map(|query| Some(Dml::Query(Box::new(query)))),
            Node::InsertStmt(insert) => self.insert(insert).map(|insert| Some(Dml::Insert(Box::new(insert)))),
            Node::UpdateStmt(update) => self.update(update).map(|update| Some(Dml::Update(Box::new(update)))),
            Node::DeleteStmt(delete) => self.delete(delete).map(|delete| Some(Dml::Delete(Box::new(delete)))),
            Node::MergeStmt(merge) => self.merge(merge).map(|merge| Some(Dml::Merge(Box::new(merge)))),
            _ => Ok(None),
        };
        self.leave();
        dml
    }

    fn insert(&mut self, insert: &nodes::InsertStmt) -> Result<Insert> {
        let columns = insert.cols().iter().filter_map(|column| match column {
            Node::ResTarget(target) => target.name().map(Box::from),
            _ => None,
        });
        let is_part = |column: Node<'_>| matches!(column, Node::ResTarget(target) if !target.indirection().is_empty());
        Ok(Insert {
            with: self.with(insert.with_clause())?,
            table: table_or_nothing(insert.relation()),
            columns: columns.collect(),
            into_parts: insert.cols().iter().any(is_part),
            source: match insert.select_stmt() {
                Node::SelectStmt(select) => Some(self.query(select)?),
                _ => None,
            },
            conflict: insert.on_conflict_clause().map(|conflict| self.conflict(conflict)).transpose()?,
            returning: self.returning(insert.returning_clause())?,
        })
    }

    fn conflict(&mut self, conflict: &nodes::OnConflictClause) -> Result<Conflict> {
        let filter = self.maybe_expr(conflict.where_clause())?;
        let filtered = filter.is_some();
        let mut exprs: Vec<Expr> = filter.into_iter().collect();
        let mut columns = Vec::new();
        if let Some(infer) = conflict.infer() {
            for element in infer.index_elems() {
                let Node::IndexElem(element) = element else { continue };
                match element.name() {
                    Some(name) => columns.push(name.into()),
                    None => exprs.push(self.expr(element.expr())?),
                }
            }
            exprs.extend(self.maybe_expr(infer.where_clause())?);
        }
        Ok(Conflict { columns, exprs, set: self.assignments(conflict.target_list().iter())?, filtered })
    }

    fn assignments<'a>(&mut self, targets: impl Iterator<Item = &'a nodes::ResTarget>) -> Result<Vec<Assignment>> {
        targets
            .map(|target| {
                Ok(Assignment { column: target.name().unwrap_or_default().into(), value: self.expr(target.val())? })
            })
            .collect()
    }

    fn update(&mut self, update: &nodes::UpdateStmt) -> Result<Update> {
        Ok(Update {
            with: self.with(update.with_clause())?,
            table: table_or_nothing(update.relation()),
            set: self.assignments(update.target_list().iter())?,
            from: self.range_list(update.from_clause().iter())?,
            filter: self.maybe_expr(update.where_clause())?,
            cursor: cursor_of(update.where_clause()),
            returning: self.returning(update.returning_clause())?,
        })
    }

    fn delete(&mut self, delete: &nodes::DeleteStmt) -> Result<Delete> {
        Ok(Delete {
            with: self.with(delete.with_clause())?,
            table: table_or_nothing(delete.relation()),
            using: self.range_list(delete.using_clause().iter())?,
            filter: self.maybe_expr(delete.where_clause())?,
            cursor: cursor_of(delete.where_clause()),
            returning: self.returning(delete.returning_clause())?,
        })
    }

    fn merge(&mut self, merge: &nodes::MergeStmt) -> Result<Merge> {
        let mut actions = Vec::new();
        for when in merge.merge_when_clauses() {
            let targets = when.target_list().iter().filter_map(|target| match target {
                Node::ResTarget(target) => Some(target),
                _ => None,
            });
            let inserts = when.command_type == CmdType::CMD_INSERT;
            let set = if inserts {
                let columns = targets.map(|target| target.name().unwrap_or_default().into());
                columns.map(|column| Assignment { column, value: Expr::Default }).collect()
            } else {
                self.assignments(targets)?
            };
            let values = self.exprs(when.values().iter())?;
            actions.push(MergeAction { condition: self.maybe_expr(when.condition())?, set, values, inserts });
        }
        Ok(Merge {
            with: self.with(merge.with_clause())?,
            table: table_or_nothing(merge.relation()),
            source: self.range_item(merge.source_relation())?,
            on: self.maybe_expr(merge.join_condition())?,
            actions,
            returning: self.returning(merge.returning_clause())?,
        })
    }
}

fn at(location: i32) -> At {
    At(u32::try_from(location).unwrap_or(0))
}

/// The names behind OF.
fn locked_names(clause: &nodes::LockingClause) -> Vec<Box<str>> {
    let tables = clause.locked_rels().iter().filter_map(|node| match node {
        Node::RangeVar(table) => table.relname().map(Into::into),
        _ => None,
    });
    tables.collect()
}

fn is_temporary(table: &nodes::RangeVar) -> bool {
    table.relpersistence as u8 == b't' || table.schemaname() == Some("pg_temp")
}

pub(super) fn table_ref(table: &nodes::RangeVar) -> TableRef {
    TableRef {
        schema: table.schemaname().map(Box::from),
        name: table.relname().unwrap_or_default().into(),
        alias: table.alias().map(alias),
        rows: if table.inh { RowsOf::All } else { RowsOf::Only },
        temporary: is_temporary(table),
        at: at(table.location),
    }
}

pub(super) fn table_or_nothing(table: Option<&nodes::RangeVar>) -> TableRef {
    table.map_or_else(
        || TableRef {
            schema: None,
            name: "".into(),
            alias: None,
            rows: RowsOf::All,
            temporary: false,
            at: At::default(),
        },
        table_ref,
    )
}

fn alias(alias: &nodes::Alias) -> Alias {
    Alias { name: alias.aliasname().unwrap_or_default().into(), columns: strings(alias.colnames().iter()) }
}

/// The cursor of WHERE CURRENT OF.
fn cursor_of(filter: Node<'_>) -> Option<Box<str>> {
    match filter {
        Node::CurrentOfExpr(current) => current.cursor_name().map(Into::into),
        _ => None,
    }
}

fn empty_query() -> Query {
    let body = Body::Values(Vec::new());
    Query { with: None, body, order: Vec::new(), limit: None, offset: None, with_ties: false, locking: Vec::new() }
}

fn nothing() -> Dml {
    Dml::Query(Box::new(empty_query()))
}
