//! Texts that a statement reads as times: one may say `now`, and each copy of a reference table would read another time in it.

use super::bind::Binder;
use crate::catalog::{Reading, is_built_in_type, is_of_time};
use crate::copy::MomentKind;
use crate::sql::moments::holds_moment;
use crate::sql::tree::{Body, Const, Dml, Expr, Value};
use crate::sql::walk::{self, Visited};
use crate::value::oid;

/// Functions that read fields of a JSON value as whatever type a column has.
const FROM_JSON: [&str; 8] = [
    "json_populate_record",
    "json_populate_recordset",
    "json_to_record",
    "json_to_recordset",
    "jsonb_populate_record",
    "jsonb_populate_recordset",
    "jsonb_to_record",
    "jsonb_to_recordset",
];

/// Types of columns whose values may be texts, or hold them.
const TEXTS: [u32; 3] = [oid::TEXT, oid::VARCHAR, 1042];

/// What of a write may read a text as a time, for people. Constants are known, and parameters of such a type are told apart when they come.
pub(super) fn text_of_time(binder: &Binder<'_>, dml: &Dml) -> Option<String> {
    let mut found = None;
    let mut targets = binder.tables.iter().filter(|used| used.target).flat_map(|used| &used.table.columns);
    let has_parts = targets
        .any(|column| column.reading == Reading::Clock && MomentKind::of_type(column.type_oid) == MomentKind::Parts);
    walk::dml(dml, &mut |visited| {
        let (name, arg) = match visited {
            Visited::Expr(Expr::Cast(cast)) if is_of_time(&cast.target.name) => (&cast.target.name, &cast.arg),
            Visited::Expr(Expr::Func(call)) if is_of_time(&call.name) && call.args.len() == 1 => {
                (&call.name, &call.args[0])
            }
            Visited::Expr(Expr::Func(call)) if FROM_JSON.contains(&&*call.name) => {
                found.get_or_insert_with(|| format!("what {}() reads", call.name));
                return;
            }
            Visited::Expr(Expr::Const(constant)) if has_parts && is_moment_of_parts(constant) => {
                found.get_or_insert_with(|| "'now' or 'today' within a value".to_owned());
                return;
            }
            _ => return,
        };
        if !matches!(arg, Expr::Param(_)) && may_be_text(binder, arg) {
            found.get_or_insert_with(|| format!("a text that is read as {name}"));
        }
    });
    found
}

fn is_moment_of_parts(constant: &Const) -> bool {
    matches!(&constant.value, Value::Text(text) if holds_moment(text))
}

/// Whether the value of an expression may be a text that is not known, or made of one.
fn may_be_text(binder: &Binder<'_>, expr: &Expr) -> bool {
    let any = |exprs: &[Expr]| exprs.iter().any(|expr| may_be_text(binder, expr));
    match expr {
        Expr::Const(constant) => is_moment_of_parts(constant),
        Expr::Column(names) => names.last().is_none_or(|name| {
            let columns = binder.tables.iter().flat_map(|used| &used.table.columns);
            let mut meant = columns.filter(|column| *column.name == **name).peekable();
            meant.peek().is_none()
                || meant
                    .any(|column| TEXTS.contains(&column.type_oid) || column.type_oid == 0 || column.type_oid >= 16384)
        }),
        Expr::Cast(cast) => {
            let is_text = matches!(&*cast.target.name, "text" | "varchar" | "bpchar" | "name" | "unknown")
                || !is_built_in_type(&cast.target.name);
            is_text && may_be_text(binder, &cast.arg)
        }
        Expr::Op(op) => match &*op.name {
            "+" | "-" | "*" | "/" => false,
            "->>" | "#>>" => true,
            _ => op.left.iter().chain([&op.right]).any(|expr| may_be_text(binder, expr)),
        },
        Expr::Func(call) => !is_of_time(&call.name) && &*call.name != "date_trunc" && any(&call.args),
        Expr::Sublink(link) => match &link.query.body {
            Body::Select(select) => select.targets.iter().any(|target| may_be_text(binder, &target.expr)),
            Body::SetOp { .. } | Body::Values(_) => true,
        },
        Expr::Other(other) => any(&other.args),
        Expr::Array(parts) | Expr::Row(parts) => any(parts),
        Expr::Param(_) | Expr::Star(_) | Expr::Opaque => true,
        Expr::In(_) | Expr::Quantified(_) | Expr::And(_) | Expr::Or(_) | Expr::Not(_) | Expr::IsNull(..) => false,
        Expr::Clock | Expr::Default => false,
    }
}
