//! Everything in a query, subqueries and CTEs included.

use super::tree::{Body, Distinct, Dml, Expr, From, Func, Join, Query, Select, TableRef, Window, With};

/// What a walk comes by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Visited<'a> {
    Expr(&'a Expr),
    Join(&'a Join),
    /// The parts of it come after.
    Query(&'a Query),
    /// In a FROM; what is written is no part of the walk.
    Table(&'a TableRef),
}

/// Shows `visit` every expression, join and table of a statement, in no special order.
pub(crate) fn dml<'a>(root: &'a Dml, visit: &mut dyn FnMut(Visited<'a>)) {
    match root {
        Dml::Query(inner) => query(inner, visit),
        Dml::Insert(insert) => {
            ctes(insert.with.as_deref(), visit);
            insert.source.iter().for_each(|source| query(source, visit));
            if let Some(conflict) = &insert.conflict {
                exprs(conflict.exprs.iter().chain(conflict.set.iter().map(|found| &found.value)), visit);
            }
            exprs(insert.returning.iter().map(|target| &target.expr), visit);
        }
        Dml::Update(update) => {
            ctes(update.with.as_deref(), visit);
            update.from.iter().for_each(|item| from(item, visit));
            let values = update.set.iter().map(|found| &found.value);
            let returning = update.returning.iter().map(|target| &target.expr);
            exprs(values.chain(&update.filter).chain(returning), visit);
        }
        Dml::Delete(delete) => {
            ctes(delete.with.as_deref(), visit);
            delete.using.iter().for_each(|item| from(item, visit));
            exprs(delete.filter.iter().chain(delete.returning.iter().map(|target| &target.expr)), visit);
        }
        Dml::Merge(merge) => {
            ctes(merge.with.as_deref(), visit);
            from(&merge.source, visit);
            exprs(merge.on.iter().chain(merge.returning.iter().map(|target| &target.expr)), visit);
            for action in &merge.actions {
                let values = action.set.iter().map(|found| &found.value);
                exprs(action.condition.iter().chain(&action.values).chain(values), visit);
            }
        }
    }
}

fn ctes<'a>(with: Option<&'a With>, visit: &mut dyn FnMut(Visited<'a>)) {
    with.iter().flat_map(|with| &with.ctes).for_each(|cte| dml(&cte.statement, visit));
}

/// Shows `visit` every expression, join and table of a query, in no special order.
pub(crate) fn query<'a>(root: &'a Query, visit: &mut dyn FnMut(Visited<'a>)) {
    visit(Visited::Query(root));
    ctes(root.with.as_deref(), visit);
    let order = root.order.iter().map(|item| &item.expr);
    exprs(order.chain(&root.limit).chain(&root.offset), visit);
    match &root.body {
        Body::Select(inner) => select(inner, visit),
        Body::Values(rows) => exprs(rows.iter().flatten(), visit),
        Body::SetOp { left, right, .. } => {
            query(left, visit);
            query(right, visit);
        }
    }
}

fn select<'a>(select: &'a Select, visit: &mut dyn FnMut(Visited<'a>)) {
    select.from.iter().for_each(|item| from(item, visit));
    let distinct = match &select.distinct {
        Distinct::On(exprs) => exprs.as_slice(),
        Distinct::No | Distinct::Yes => &[],
    };
    let targets = select.targets.iter().map(|target| &target.expr);
    let groups = select.group.iter().chain(&select.in_sets);
    exprs(targets.chain(&select.filter).chain(groups).chain(&select.having).chain(distinct), visit);
    select.windows.iter().for_each(|defined| window(defined, visit));
}

fn from<'a>(item: &'a From, visit: &mut dyn FnMut(Visited<'a>)) {
    match item {
        From::Table(table) => visit(Visited::Table(table)),
        From::Query(derived) => query(&derived.query, visit),
        From::Func(function) => exprs(&function.calls, visit),
        From::Join(join) => {
            visit(Visited::Join(join));
            from(&join.left, visit);
            from(&join.right, visit);
            exprs(&join.on, visit);
        }
    }
}

fn window<'a>(window: &'a Window, visit: &mut dyn FnMut(Visited<'a>)) {
    let order = window.order.iter().map(|item| &item.expr);
    exprs(window.partition.iter().chain(order).chain(&window.bounds), visit);
}

fn exprs<'a>(list: impl IntoIterator<Item = &'a Expr>, visit: &mut dyn FnMut(Visited<'a>)) {
    list.into_iter().for_each(|found| expr(found, visit));
}

/// Shows `visit` an expression and everything in it.
pub(crate) fn expr<'a>(found: &'a Expr, visit: &mut dyn FnMut(Visited<'a>)) {
    visit(Visited::Expr(found));
    match found {
        Expr::Cast(cast) => expr(&cast.arg, visit),
        Expr::Op(op) => exprs(op.left.iter().chain([&op.right]), visit),
        Expr::In(list) => exprs(list.list.iter().chain([&list.arg]), visit),
        Expr::Quantified(any) => exprs([&any.arg, &any.array], visit),
        Expr::And(parts) | Expr::Or(parts) | Expr::Array(parts) | Expr::Row(parts) => exprs(parts, visit),
        Expr::Not(inner) | Expr::IsNull(inner, _) => expr(inner, visit),
        Expr::Func(call) => function(call, visit),
        Expr::Sublink(link) => {
            exprs(&link.test, visit);
            query(&link.query, visit);
        }
        Expr::Other(other) => exprs(&other.args, visit),
        Expr::Column(_) | Expr::Star(_) | Expr::Param(_) | Expr::Const(_) => {}
        Expr::Clock | Expr::Default | Expr::Opaque => {}
    }
}

fn function<'a>(call: &'a Func, visit: &mut dyn FnMut(Visited<'a>)) {
    let order = call.order.iter().map(|item| &item.expr);
    exprs(call.args.iter().chain(order).chain(&call.filter), visit);
    if let Some(over) = &call.over {
        window(over, visit);
    }
}
