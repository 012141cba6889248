//! Queries: FROM, predicates, and what a query gives to the one around it.

use super::bind::{Binder, Block, CteScope, Output, Root, Stage};
use super::bind_values::Reach;
use super::conditions::{ClausePlace, Keeps};
use super::scope::{Columns, Rel};
use super::terms::{ColumnKind, Nature, Term};
use crate::sql::tree::{
    Alias, Body, Cte, Derived, Distinct, Dml, Expr, From, Join, JoinKind, Other, Query, Select, SublinkKind, Target,
    Value, Window,
};

/// What the query around one sees of it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// `None` when the columns cannot be told.
    pub outputs: Option<Vec<Output>>,
    pub roots: Vec<Root>,
    /// The block of a plain SELECT.
    pub block: Option<usize>,
}

impl Binder<'_> {
    pub(crate) fn query(&mut self, query: &Query) -> Seen {
        let before = self.with(query.with.as_deref());
        self.facts.locking += usize::from(!query.locking.is_empty());
        let seen = match &query.body {
            Body::Select(select) => self.select(query, select),
            Body::Values(rows) => self.values(query, rows),
            Body::SetOp { left, right, .. } => self.set_operation(query, left, right),
        };
        self.forget_ctes(before);
        seen
    }

    fn select(&mut self, query: &Query, select: &Select) -> Seen {
        let block = self.open();
        for item in &select.from {
            self.table_item(item, true);
        }
        if !select.grouping_sets {
            self.blocks[block].stage = Stage::Rows;
        }
        if let Some(filter) = &select.filter {
            self.filter(filter, block, ClausePlace::Where, Keeps::Fulfilled);
            self.predicates(filter, &Reach::Block(block), true);
        }
        self.reduce_outer_joins(block);
        self.select_parts(query, select);
        if !select.grouping_sets {
            self.blocks[block].group = self.columns_of_exprs(&select.group);
        }
        let outputs = self.outputs(query, select, block);
        let roots = self.roots_through(query, select, block, outputs.as_deref());
        self.close();
        Seen { outputs, roots, block: Some(block) }
    }

    /// Everything of a SELECT but FROM and WHERE.
    fn select_parts(&mut self, query: &Query, select: &Select) {
        let block = self.block();
        let is_bare_star = |target: &Target| matches!(&target.expr, Expr::Star(names) if names.is_empty());
        self.blocks[block].all_columns |= select.targets.iter().any(is_bare_star);
        for target in &select.targets {
            self.expr(&target.expr);
        }
        for window in &select.windows {
            self.window(window, &select.windows);
        }
        let distinct = match &select.distinct {
            Distinct::On(exprs) => exprs.as_slice(),
            Distinct::No | Distinct::Yes => &[],
        };
        let order = query.order.iter().map(|item| &item.expr);
        let rest = select.group.iter().chain(&select.in_sets).chain(&select.having).chain(distinct).chain(order);
        for expr in rest.chain(&query.limit).chain(&query.offset) {
            self.expr(expr);
        }
    }

    fn values(&mut self, query: &Query, rows: &[Vec<Expr>]) -> Seen {
        self.open();
        for expr in rows.iter().flatten().chain(&query.limit).chain(&query.offset) {
            self.expr(expr);
        }
        let width = rows.first().map_or(0, Vec::len);
        let name = |position: usize| Some(format!("column{}", position + 1).into());
        let mut outputs = Vec::with_capacity(width);
        for position in 0..width {
            let mut collation = self.names.catalog.default_collation;
            for value in rows.iter().filter_map(|row| row.get(position)) {
                collation = collation.max_with(self.collation_of(value));
            }
            outputs.push(Output::computed(name(position), collation));
        }
        self.close();
        Seen { outputs: Some(outputs), ..Seen::default() }
    }

    fn set_operation(&mut self, query: &Query, left: &Query, right: &Query) -> Seen {
        let left = self.query(left);
        let right = self.query(right);
        for expr in query.limit.iter().chain(&query.offset) {
            self.expr(expr);
        }
        let (Some(left), Some(right)) = (left.outputs, right.outputs) else { return Seen::default() };
        let limited = query.limit.is_some() || query.offset.is_some();
        let owner = self.hidden_rel();
        let both = left.into_iter().zip(right);
        let outputs = both.map(|(left, right)| self.set_output(owner, limited, left, &right)).collect();
        Seen { outputs: Some(outputs), ..Seen::default() }
    }

    /// A column of a set operation: a filter on it reaches both sides, what one side knows does not
    /// hold for the other.
    fn set_output(&mut self, owner: usize, limited: bool, left: Output, right: &Output) -> Output {
        let natures = [&left, right].map(|side| side.term.map_or(Nature::UNKNOWN, |term| self.terms.nature(term)));
        let [a, b] = natures;
        let collation = left.collation.max_with(right.collation);
        // With another type on one side, the values of the other are cast to it.
        let kind = if a.kind == b.kind { a.kind } else { ColumnKind::Foreign };
        let nullable = a.nullable || b.nullable;
        let term = self.terms.add(owner, Nature { kind, collation, nullable, characters_max: None });
        for side in [&left, right] {
            if let Some(inside) = side.term
                && side.transparent
                && self.terms.comparable(term, inside)
            {
                self.terms.edge(term, inside);
            }
        }
        Output { term: Some(term), transparent: !limited, ..Output::computed(left.name, collation) }
    }

    /// A relation that no name finds, to own terms.
    fn hidden_rel(&mut self) -> usize {
        let block = self.block();
        let (name, columns) = ("".into(), Columns::Unknown);
        let terms = Default::default();
        let renamed = Vec::new();
        self.rels.push(Rel { name, schema: None, columns, renamed, block, nullable: false, terms, written: None });
        self.rels.len() - 1
    }

    /// One entry of FROM; returns the relations it brings.
    pub(crate) fn table_item(&mut self, item: &From, preserved: bool) -> Vec<usize> {
        match item {
            From::Table(table) => vec![self.table(table, preserved)],
            From::Query(derived) => vec![self.derived_query(derived, preserved)],
            From::Func(function) => {
                for call in &function.calls {
                    self.expr(call);
                }
                vec![self.push_rel(rel(function.alias.as_ref(), Columns::Unknown, !preserved))]
            }
            From::Join(join) => self.join(join, preserved),
        }
    }

    fn derived_query(&mut self, derived: &Derived, preserved: bool) -> usize {
        let hidden = if derived.lateral { None } else { self.sight.pop() };
        let seen = self.query(&derived.query);
        self.sight.extend(hidden);
        let columns = columns_of(seen.outputs.as_deref());
        let rel = rel(derived.alias.as_ref(), columns, !preserved);
        self.derived(rel, seen.outputs.as_deref().unwrap_or_default(), seen.roots, preserved)
    }

    fn join(&mut self, join: &Join, preserved: bool) -> Vec<usize> {
        let keeps = |side: JoinKind| join.kind == JoinKind::Inner || join.kind == side;
        let left = self.table_item(&join.left, preserved && keeps(JoinKind::Left));
        let right = self.table_item(&join.right, preserved && keeps(JoinKind::Right));
        let nullable = match join.kind {
            JoinKind::Inner | JoinKind::Full => Vec::new(),
            JoinKind::Left => right.clone(),
            JoinKind::Right => left.clone(),
        };
        let reach = match join.kind {
            JoinKind::Inner => Reach::Rels(left.iter().chain(&right).copied().collect()),
            JoinKind::Full => Reach::Rels(Vec::new()),
            JoinKind::Left | JoinKind::Right => Reach::Rels(nullable.clone()),
        };
        let mut missing = self.using(join, &left, &right, &reach);
        if let Some(on) = &join.on {
            self.join_condition(on, join);
            missing.extend(self.predicates(on, &reach, false));
        }
        let block = self.block();
        if !nullable.is_empty() {
            self.blocks[block].outer.push((nullable, missing));
        }
        self.facts.opaque |= join.alias.is_some();
        left.into_iter().chain(right).collect()
    }

    /// An ON whose text is found: behind a table, and of a join that says which rows there are.
    fn join_condition(&mut self, on: &Expr, join: &Join) {
        let place = match &join.right {
            From::Table(table) => ClausePlace::On(table.at.0 as usize),
            _ => return self.expr(on),
        };
        let block = self.block();
        let right = self.blocks[block].rels.last().copied();
        let keeps = match (join.kind, right) {
            (JoinKind::Inner, _) => Keeps::Fulfilled,
            (JoinKind::Left, Some(nullable)) => Keeps::Matches { nullable },
            _ => return self.expr(on),
        };
        self.filter(on, block, place, keeps);
    }

    /// USING and NATURAL: equal columns that become one.
    fn using(&mut self, join: &Join, left: &[usize], right: &[usize], reach: &Reach) -> Vec<(Term, Term)> {
        let names = if join.natural { self.common_names(left, right) } else { Some(join.using.clone()) };
        let block = self.block();
        self.blocks[block].all_columns |= join.natural;
        let Some(names) = names else {
            self.blocks[block].merged.push(("".into(), None));
            return Vec::new();
        };
        let mut missing = Vec::new();
        for name in names {
            let a = self.column_among(left, &name);
            let b = self.column_among(right, &name);
            if let (Some(a), Some(b)) = (a, b) {
                missing.extend(self.equal_columns(a, b, reach));
            }
            let merged = match join.kind {
                JoinKind::Full => None,
                JoinKind::Right => b,
                JoinKind::Inner | JoinKind::Left => a,
            };
            self.blocks[block].merged.push((name, merged));
        }
        missing
    }

    fn column_among(&mut self, rels: &[usize], name: &str) -> Option<Term> {
        let block = self.block();
        let merged = self.blocks[block].merged.iter().rev().find(|(merged, _)| &**merged == name).cloned();
        if let Some((_, term)) = merged
            && term.is_none_or(|term| rels.contains(&self.terms.owner(term)))
        {
            return term;
        }
        let mut found = rels.iter().filter_map(|rel| Some((*rel, self.rels[*rel].position(name)?)));
        let (rel, position) = found.next()?;
        found.next().is_none().then(|| self.term(rel, position))
    }

    fn common_names(&self, left: &[usize], right: &[usize]) -> Option<Vec<Box<str>>> {
        let names = |rels: &[usize]| -> Option<Vec<String>> {
            let lists: Option<Vec<_>> = rels.iter().map(|rel| self.rels[*rel].names()).collect();
            Some(lists?.concat())
        };
        let right = names(right)?;
        Some(names(left)?.into_iter().filter(|name| right.contains(name)).map(String::into_boxed_str).collect())
    }

    /// A LEFT JOIN whose nullable side WHERE needs to be there is an inner join.
    pub(crate) fn reduce_outer_joins(&mut self, block: usize) {
        for (nullable, missing) in std::mem::take(&mut self.blocks[block].outer) {
            if nullable.iter().any(|rel| self.blocks[block].strict.contains(rel)) {
                for (from, to) in missing {
                    self.terms.edge(from, to);
                }
            }
        }
    }

    /// The columns a SELECT gives out; `None` when a star hides them.
    fn outputs(&mut self, query: &Query, select: &Select, block: usize) -> Option<Vec<Output>> {
        let open = query.limit.is_none() && query.offset.is_none() && !select.grouping_sets;
        let open = open && !matches!(select.distinct, Distinct::On(_));
        let grouped = self.blocks[block].aggregates || !select.group.is_empty();
        let group: Vec<Term> = self.columns_of_exprs(&select.group);
        let mut outputs = self.shown(&select.targets, block)?;
        let block = &self.blocks[block];
        for output in &mut outputs {
            let Some(term) = output.term else { continue };
            let owner = &self.rels[self.terms.owner(term)];
            let own = block.rels.contains(&self.terms.owner(term)) && !owner.nullable;
            let windows = block.windows.iter().all(|partition| partition.contains(&term));
            output.transparent = open && own && windows && (!grouped || group.contains(&term));
        }
        Some(outputs)
    }

    /// What a target list shows; `None` when a star hides it.
    pub(crate) fn shown(&mut self, targets: &[Target], block: usize) -> Option<Vec<Output>> {
        let mut outputs = Vec::with_capacity(targets.len());
        for target in targets {
            if expands(&target.expr) {
                return None;
            }
            if let Expr::Star(names) = &target.expr {
                outputs.extend(self.star(names, block)?);
            } else {
                outputs.push(self.output(target));
            }
        }
        Some(outputs)
    }

    fn output(&mut self, target: &Target) -> Output {
        let name = target.name.clone().or_else(|| implicit_name(&target.expr));
        let term = match &target.expr {
            Expr::Column(names) => self.column(names),
            _ => None,
        };
        let values = if term.is_none() { self.value(&target.expr) } else { None };
        Output { carries: term.is_some(), term, values, ..Output::computed(name, self.collation_of(&target.expr)) }
    }

    fn star(&mut self, names: &[Box<str>], block: usize) -> Option<Vec<Output>> {
        if names.is_empty() && !self.blocks[block].merged.is_empty() {
            return None;
        }
        let mut outputs = Vec::new();
        let mut any = false;
        for rel in self.blocks[block].rels.clone() {
            if names.last().is_some_and(|name| *name != self.rels[rel].name) {
                continue;
            }
            any = true;
            for (position, name) in self.rels[rel].names()?.into_iter().enumerate() {
                let term = self.term(rel, position);
                let collation = self.terms.nature(term).collation;
                let output = Output::computed(Some(name.into()), collation);
                outputs.push(Output { term: Some(term), carries: true, ..output });
            }
        }
        any.then_some(outputs)
    }

    /// The columns among some expressions.
    pub(crate) fn columns_of_exprs(&mut self, exprs: &[Expr]) -> Vec<Term> {
        let columns = exprs.iter().filter_map(|expr| match expr {
            Expr::Column(names) => self.column(names),
            _ => None,
        });
        columns.collect()
    }

    /// The roots that still cut the query into parts by key once grouping, DISTINCT, windows and
    /// LIMIT are done.
    fn roots_through(&mut self, query: &Query, select: &Select, block: usize, outputs: Option<&[Output]>) -> Vec<Root> {
        let limited =
            query.limit.is_some() || query.offset.is_some() || select.grouping_sets || !query.locking.is_empty();
        let Block { aggregates, windows, roots, .. } = &self.blocks[block];
        if limited || *aggregates && select.group.is_empty() {
            return Vec::new();
        }
        let (mut lists, roots) = (windows.clone(), roots.clone());
        if !select.group.is_empty() {
            lists.push(self.columns_of_exprs(&select.group));
        }
        match &select.distinct {
            Distinct::No => {}
            Distinct::Yes => lists.push(outputs.unwrap_or_default().iter().filter_map(|output| output.term).collect()),
            Distinct::On(exprs) => {
                // A bare name means the column of the answer first, which may be another one.
                let hidden = |expr: &&Expr| {
                    let Expr::Column(names) = expr else { return true };
                    let [name] = &**names else { return false };
                    select.targets.iter().any(|target| target.name.as_ref() == Some(name) && target.expr != **expr)
                };
                let plain: Vec<Expr> = exprs.iter().filter(|expr| !hidden(expr)).cloned().collect();
                lists.push(self.columns_of_exprs(&plain));
            }
        }
        let through = roots.into_iter().map(|mut root| {
            root.lists.extend(lists.iter().cloned());
            root
        });
        through.collect()
    }

    /// Notes the columns a window is partitioned by.
    pub(crate) fn window(&mut self, window: &Window, defined: &[Window]) {
        let bounds = window.bounds.iter();
        for expr in window.partition.iter().chain(window.order.iter().map(|item| &item.expr)).chain(bounds) {
            self.expr(expr);
        }
        let base = window.base.as_ref().and_then(|base| defined.iter().find(|found| found.name.as_ref() == Some(base)));
        let partition = self.columns_of_exprs(&base.unwrap_or(window).partition);
        let block = self.block();
        self.blocks[block].windows.push(partition);
    }

    pub(crate) fn plain_cte(&mut self, cte: &Cte, scope: CteScope) {
        let seen = self.cte_body(&cte.statement);
        self.ctes.push(fill(scope, cte, seen));
    }

    /// A CTE that may read itself: what it gives out is unknown unless nobody has read it yet.
    pub(crate) fn recursive_cte(&mut self, index: usize, cte: &Cte) {
        self.ctes[index].columns = first_names(cte);
        let seen = self.cte_body(&cte.statement);
        let CteScope { id, ref name, .. } = self.ctes[index];
        if self.cte_uses[id] == 0 {
            let scope = CteScope { name: name.clone(), id, columns: None, outputs: Vec::new(), roots: Vec::new() };
            self.ctes[index] = fill(scope, cte, seen);
        }
    }

    /// The statement of a CTE sees nothing of the block around it but the blocks further out.
    fn cte_body(&mut self, statement: &Dml) -> Seen {
        match statement {
            Dml::Query(query) => self.query(query),
            _ => {
                self.statement(statement);
                Seen::default()
            }
        }
    }
}

fn fill(mut scope: CteScope, cte: &Cte, seen: Seen) -> CteScope {
    let outputs = if cte.extended { None } else { seen.outputs };
    if let Some(outputs) = outputs {
        let mut columns: Vec<_> = outputs.iter().map(|output| output.name.clone()).collect();
        for (column, name) in columns.iter_mut().zip(&cte.columns) {
            *column = Some(name.clone());
        }
        scope.columns = Some(columns);
        scope.outputs = outputs;
    }
    scope.roots = seen.roots;
    scope
}

/// The columns of a CTE as its first SELECT names them.
fn first_names(cte: &Cte) -> Option<Vec<Option<Box<str>>>> {
    let Dml::Query(query) = &cte.statement else { return None };
    let mut body = &query.body;
    while let Body::SetOp { left, .. } = body {
        body = &left.body;
    }
    let Body::Select(select) = body else { return None };
    if cte.extended || select.targets.iter().any(|target| matches!(target.expr, Expr::Star(_)) || expands(&target.expr))
    {
        return None;
    }
    let names = select.targets.iter().map(|target| target.name.clone().or_else(|| implicit_name(&target.expr)));
    let given = cte.columns.iter().cloned().map(Some);
    Some(given.chain(names.skip(cte.columns.len())).collect())
}

fn columns_of(outputs: Option<&[Output]>) -> Columns<'static> {
    match outputs {
        Some(outputs) => Columns::Derived(outputs.iter().map(|output| output.name.clone()).collect()),
        None => Columns::Unknown,
    }
}

fn rel<'c>(alias: Option<&Alias>, columns: Columns<'c>, nullable: bool) -> Rel<'c> {
    let name = alias.map_or_else(|| "".into(), |alias| alias.name.clone());
    let renamed = alias.map(|alias| alias.columns.clone()).unwrap_or_default();
    Rel { name, schema: None, columns, renamed, block: 0, nullable, terms: Default::default(), written: None }
}

/// Whether a target stands for all fields of a value: `(a.b).*`.
pub(crate) fn expands(expr: &Expr) -> bool {
    matches!(expr, Expr::Other(other) if other.what.starts_with("part.") && other.what.ends_with(".*"))
}

/// The name PostgreSQL gives to a target without one.
pub(crate) fn implicit_name(expr: &Expr) -> Option<Box<str>> {
    match expr {
        Expr::Column(names) => names.last().cloned(),
        Expr::Func(call) => Some(call.name.clone()),
        Expr::Cast(cast) => implicit_name(&cast.arg).or_else(|| Some(cast.target.name.clone())),
        Expr::Array(_) => Some("array".into()),
        Expr::Row(_) => Some("row".into()),
        Expr::Const(constant) if matches!(constant.value, Value::Bool(_)) => Some("bool".into()),
        Expr::Sublink(link) => match (link.kind, &link.query.body) {
            (SublinkKind::Exists, _) => Some("exists".into()),
            (SublinkKind::Array, _) => Some("array".into()),
            (SublinkKind::Scalar, Body::Select(select)) => {
                let target = select.targets.first()?;
                target.name.clone().or_else(|| implicit_name(&target.expr))
            }
            _ => None,
        },
        Expr::Other(other) => implicit_name_of_other(other),
        _ => None,
    }
}

fn implicit_name_of_other(other: &Other) -> Option<Box<str>> {
    let what = &*other.what;
    if matches!(what, "coalesce" | "greatest" | "least" | "grouping" | "xmlserialize") {
        return Some(what.into());
    }
    if what.starts_with("case") {
        // CASE takes the name of its ELSE if that has a strong one.
        let last = if what.ends_with("else") { other.args.last() } else { None };
        return last.and_then(implicit_name).or_else(|| Some("case".into()));
    }
    if what.starts_with("operator 5 ") {
        return Some("nullif".into());
    }
    if what.starts_with("collate ") {
        return implicit_name(other.args.first()?);
    }
    if let Some(steps) = what.strip_prefix("part") {
        let field = steps.rsplit('.').next().filter(|_| steps.contains('.'));
        return field.map(|field| field.trim_end_matches("[]").into()).or_else(|| implicit_name(other.args.first()?));
    }
    None
}
