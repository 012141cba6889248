//! Expressions: which functions are called, which subqueries stand in them.

use super::bind::{Binder, Stage};
use super::targets::parts;
use crate::catalog::{FunctionKind, Volatility};
use crate::sql::Pin;
use crate::sql::functions;
use crate::sql::moments::is_moment;
use crate::sql::tree::{Const, Expr, Func, Sublink, Value};

impl Binder<'_> {
    pub(crate) fn exprs<'e>(&mut self, exprs: impl IntoIterator<Item = &'e Expr>) {
        for expr in exprs {
            self.expr(expr);
        }
    }

    /// Takes note of everything in an expression.
    pub(crate) fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Param(_) | Expr::Star(_) | Expr::Default => {}
            Expr::Column(names) => self.note_column(names),
            Expr::Const(constant) => self.note_time_word(constant),
            Expr::Cast(cast) => self.expr(&cast.arg),
            Expr::Op(op) => self.exprs(op.left.iter().chain([&op.right])),
            Expr::In(list) => self.exprs(list.list.iter().chain([&list.arg])),
            Expr::Quantified(any) => self.exprs([&any.arg, &any.array]),
            Expr::And(parts) | Expr::Or(parts) | Expr::Array(parts) | Expr::Row(parts) => self.exprs(parts),
            Expr::Not(inner) | Expr::IsNull(inner, _) => self.expr(inner),
            Expr::Func(call) => self.call(call),
            Expr::Sublink(link) => self.sublink(link),
            Expr::Clock => {
                self.note_clock();
            }
            Expr::Other(other) => self.exprs(&other.args),
            Expr::Opaque => self.facts.opaque = true,
        }
    }

    fn sublink(&mut self, link: &Sublink) {
        self.exprs(&link.test);
        let seen = self.query(&link.query);
        let around = self.block();
        if let Some(inner) = seen.block
            && self.blocks.get(around).is_some_and(|block| block.stage == Stage::Rows)
        {
            self.blocks[inner].around = Some(around);
        }
        if link.operator.as_deref().is_none_or(|operator| operator == "=") {
            self.membership(link.test.as_ref(), seen.outputs.as_deref().unwrap_or_default(), link.kind);
        }
    }

    fn note_column(&mut self, names: &[Box<str>]) {
        if self.noting > 0 {
            let term = self.column(names);
            self.touched.push(term.map(|term| self.terms.owner(term)));
        }
        self.note_system_column(names);
    }

    fn note_system_column(&mut self, names: &[Box<str>]) {
        let Some(name) = names.last() else { return };
        if matches!(&**name, "ctid" | "xmin" | "xmax" | "cmin" | "cmax" | "tableoid") {
            self.facts.system_column.get_or_insert_with(|| name.to_string());
        }
    }

    fn note_time_word(&mut self, constant: &Const) {
        if let Value::Text(text) = &constant.value {
            self.facts.time_word |= is_moment(text);
        }
    }

    fn call(&mut self, call: &Func) {
        let order = call.order.iter().map(|item| &item.expr);
        self.exprs(call.args.iter().chain(order).chain(&call.filter));
        self.note_function(call);
        if let Some(window) = &call.over {
            // OVER w means the window of that name, which the WINDOW clause has brought already.
            if window.name.is_none() {
                self.window(window, &[]);
            }
        }
    }

    fn note_function(&mut self, call: &Func) {
        let name = &*call.name;
        self.note_pin(call);
        let Some(known) = self.names.function(call) else {
            self.facts.reader.get_or_insert_with(|| name.to_owned());
            self.note_volatile(name);
            self.facts.unknown_table = true;
            return;
        };
        if let Some(pin) = known.function.pin {
            self.pin(pin);
        }
        let block = self.block();
        match known.function.kind {
            FunctionKind::Aggregate if call.over.is_none() => {
                self.note_outer_aggregate(call);
                if let Some(block) = self.blocks.get_mut(block) {
                    block.aggregates = true;
                }
            }
            FunctionKind::SetReturning => {
                if let Some(block) = self.blocks.get_mut(block) {
                    block.set_returning = true;
                }
            }
            _ => {}
        }
        if known.function.volatility == Volatility::Volatile {
            self.note_volatile(name);
        }
        if known.built_in {
            self.note_built_in(call);
        } else if known.function.volatility != Volatility::Immutable && !functions::is_harmless(name) {
            self.facts.reader.get_or_insert_with(|| name.to_owned());
        }
    }

    /// An aggregate over columns of an outer query only is evaluated there.
    fn note_outer_aggregate(&mut self, call: &Func) {
        let block = self.block();
        let columns = call.args.iter().flat_map(parts).filter_map(|part| match part {
            Expr::Column(names) => Some(names),
            _ => None,
        });
        let owners: Vec<bool> = columns
            .map(|names| self.column(names).is_some_and(|term| self.rels[self.terms.owner(term)].block == block))
            .collect();
        self.facts.outer_aggregate |= self.sight.len() > 1 && !owners.is_empty() && !owners.contains(&true);
    }

    fn note_clock(&mut self) {
        self.facts.clocks += 1;
        self.facts.clocks_in_conditions += usize::from(self.noting > 0);
    }

    fn note_built_in(&mut self, call: &Func) {
        let name = &*call.name;
        if functions::is_transaction_clock(name) {
            self.note_clock();
        } else if functions::is_clock(name) && !(name == "age" && call.args.len() == 2) {
            self.facts.clock.get_or_insert_with(|| format!("{name}()"));
        }
        if functions::reads_tables(name) {
            self.facts.reader.get_or_insert_with(|| name.to_owned());
        }
        self.facts.moves_sequences |= matches!(name, "nextval" | "setval");
        if functions::lives_at_home(name) {
            self.facts.home.get_or_insert_with(|| name.to_owned());
        }
    }

    fn note_volatile(&mut self, name: &str) {
        self.facts.only_locks &= name.contains("advisory_");
        self.facts.volatile.get_or_insert_with(|| name.to_owned());
    }

    fn note_pin(&mut self, call: &Func) {
        let name = &*call.name;
        self.facts.unlocks |= name.starts_with("pg_advisory_unlock");
        let pin = match name {
            "currval" | "lastval" => Pin::Sequence,
            "set_config" if !is_local_setting(call) => Pin::SetConfig,
            "set_config" if changes_no_meaning(call) => return,
            "set_config" => Pin::UntilCommit,
            "pg_advisory_lock" | "pg_advisory_lock_shared" | "pg_try_advisory_lock" | "pg_try_advisory_lock_shared" => {
                Pin::AdvisoryLock
            }
            _ => return,
        };
        self.pin(pin);
    }

    fn pin(&mut self, pin: Pin) {
        self.facts.pin = Some(self.facts.pin.map_or(pin, |found| found.min(pin)));
    }
}

/// set_config() of a custom setting, or of one after whose change PostgreSQL looks at prepared statements
/// anew by itself.
fn changes_no_meaning(call: &Func) -> bool {
    match call.args.first() {
        Some(Expr::Const(Const { value: Value::Text(name), .. })) => {
            name.contains('.') || ["search_path", "role"].iter().any(|known| name.eq_ignore_ascii_case(known))
        }
        _ => false,
    }
}

/// set_config(..., true): gone at the end of the transaction.
fn is_local_setting(call: &Func) -> bool {
    matches!(call.args.get(2), Some(Expr::Const(Const { value: Value::Bool(true), .. })))
}
