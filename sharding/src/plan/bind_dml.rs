//! INSERT, UPDATE, DELETE, MERGE: the rows that are written, and what decides where they live.

use super::KeyValue;
use super::bind::{Binder, Moves, Output, Usage};
use super::bind_values::{Reach, conjuncts};
use super::reasons;
use super::scope::{Columns, Rel};
use super::terms::{Family, Term, ValueSet};
use crate::catalog::{Table, TableKind};
use crate::key::KeyType;
use crate::sql::tree::{
    Assignment, Body, Conflict, Const, Delete, Dml, Expr, From, Insert, Merge, TableRef, Target, Update, Value,
};
use crate::value::numeric::Numeric;

/// The column of what a MERGE uses that equals the key of the rows it writes.
#[derive(Debug)]
pub(crate) struct UsedKey {
    /// By which name it is called.
    pub table: String,
    pub column: String,
    /// It is the key of a sharded table: its rows are where those are that are written.
    pub is_tied: bool,
    /// Its rows are those of a sharded table.
    pub is_sharded: bool,
}

/// The key column of a sharded table that is written.
struct KeyColumn<'c> {
    table: &'c Table,
    position: usize,
    name: &'c str,
}

impl KeyColumn<'_> {
    /// Whether the key is known that such a value becomes. A number with a point is rounded; as text a number or uuid would be printed anew.
    fn stores(&self, family: Family) -> bool {
        let TableKind::Sharded { key_type, .. } = self.table.kind else { return false };
        family.suits(key_type)
    }

    fn is_text(&self) -> bool {
        matches!(self.table.kind, TableKind::Sharded { key_type: KeyType::Text, .. })
    }
}

/// What a constant that is cast to numeric is as an integer.
pub(super) fn rounded_constant(expr: &Expr) -> Option<i64> {
    let Expr::Cast(cast) = expr else { return None };
    let Expr::Const(constant) = &cast.arg else { return None };
    if &*cast.target.name != "numeric" || cast.target.array || cast.target.modified {
        return None;
    }
    let text = match &constant.value {
        Value::Integer(value) => return Some(i64::from(*value)),
        Value::Float(text) | Value::Text(text) => text,
        _ => return None,
    };
    Numeric::parse(text.as_bytes()).ok()?.round_to_i64()
}

impl<'c> Binder<'c> {
    pub(crate) fn statement(&mut self, statement: &Dml) {
        match statement {
            Dml::Query(query) => {
                self.query(query);
            }
            Dml::Insert(insert) => self.insert(insert),
            Dml::Update(update) => self.update(update),
            Dml::Delete(delete) => self.delete(delete),
            Dml::Merge(merge) => self.merge(merge),
        }
        self.facts.writes |= !matches!(statement, Dml::Query(_));
    }

    /// Opens the block of a write with its target in it.
    fn open_target(&mut self, table: &TableRef) -> (usize, Option<KeyColumn<'c>>) {
        self.open();
        self.targets += 1;
        let rel = self.stored_table(table, Usage::Target);
        let key = match self.rels[rel].columns {
            Columns::Table(table) => match table.kind {
                TableKind::Sharded { column, .. } => {
                    Some(KeyColumn { table, position: column, name: &table.columns[column].name })
                }
                TableKind::Reference | TableKind::Local(_) => None,
            },
            Columns::Derived(_) | Columns::Unknown => None,
        };
        (rel, key)
    }

    fn returning(&mut self, targets: &[Target]) {
        self.exprs(targets.iter().map(|target| &target.expr));
        let block = self.block();
        self.returned = self.shown(targets, block);
    }

    fn insert(&mut self, insert: &Insert) {
        let before = self.with(insert.with.as_deref());
        let (rel, key) = self.open_target(&insert.table);
        if let Some(key) = &key {
            if let Some(target) = self.occurrences.last_mut() {
                target.inserts = true;
            }
            self.insert_key(insert, rel, key);
        } else if let Some(source) = &insert.source {
            self.apart(|binder| binder.query(source));
        }
        if let Some(conflict) = &insert.conflict {
            self.conflict(conflict, key.as_ref());
        }
        self.returning(&insert.returning);
        self.close();
        self.forget_ctes(before);
    }

    /// Runs something that does not see the innermost block.
    fn apart<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        let hidden = self.sight.pop();
        let result = run(self);
        self.sight.extend(hidden);
        result
    }

    fn insert_key(&mut self, insert: &Insert, rel: usize, key: &KeyColumn<'c>) {
        let table = &*insert.table.name;
        let field = if insert.columns.is_empty() {
            Some(key.position)
        } else {
            insert.columns.iter().position(|column| **column == *key.name)
        };
        let Some(source) = &insert.source else {
            return self.refuse(reasons::insert_without_key(table, key.name));
        };
        if let (Body::Values(rows), None) = (&source.body, &source.with) {
            self.exprs(rows.iter().flatten());
            let rows = rows.iter().map(|row| field.and_then(|field| row.get(field)));
            let values = rows.map(|value| value.and_then(|value| self.stored(value, key))).collect::<Option<Vec<_>>>();
            let Some(values) = values else {
                return self.refuse(match field {
                    None => reasons::insert_without_key(table, key.name),
                    Some(_) => reasons::insert_unknown_key(table, key.name),
                });
            };
            return self.limit_key(rel, key, values.concat());
        }
        let seen = self.apart(|binder| binder.query(source));
        let outputs = seen.outputs.as_ref().map(|outputs| field.and_then(|field| outputs.get(field).cloned()));
        self.selected = Some(seen);
        match (field, outputs) {
            (None, _) | (Some(_), Some(None)) => self.refuse(reasons::insert_without_key(table, key.name)),
            (Some(_), Some(Some(output))) => self.insert_selected(rel, key, output),
            // What columns there are is known when it runs.
            (Some(_), None) => {}
        }
    }

    fn insert_selected(&mut self, rel: usize, key: &KeyColumn<'c>, output: Output) {
        let target = self.term(rel, key.position);
        match output {
            Output { term: Some(source), .. } if self.terms.comparable(source, target) && self.fits(source, target) => {
                self.terms.edge(source, target);
            }
            Output { values: Some((keys, family)), .. } if key.stores(family) => self.limit_key(rel, key, keys),
            // Each row has to be looked at.
            _ => {}
        }
    }

    /// Whether every value of `source` is stored in `target` as it is.
    fn fits(&self, source: Term, target: Term) -> bool {
        let [source, target] = [source, target].map(|term| self.terms.nature(term).characters_max);
        target.is_none_or(|most| source.is_some_and(|source| source <= most))
    }

    /// The key of a row to be stored.
    fn stored(&mut self, value: &Expr, key: &KeyColumn<'c>) -> Option<Vec<KeyValue>> {
        if let (Some(number), false) = (rounded_constant(value), key.is_text()) {
            self.value_seen = true;
            return Some(vec![KeyValue::Constant(number.to_string().into())]);
        }
        let (keys, family) = self.value(value)?;
        let is_integer = matches!(value, Expr::Const(Const { value: Value::Integer(_), .. }));
        (key.stores(family) || is_integer && key.is_text()).then_some(keys)
    }

    fn limit_key(&mut self, rel: usize, key: &KeyColumn<'c>, keys: Vec<KeyValue>) {
        let term = self.term(rel, key.position);
        let stored_in = self.terms.nature(term).characters_max;
        self.terms.values.push(ValueSet { term, keys, family: Family::Any, stored: true, stored_in });
    }

    fn conflict(&mut self, conflict: &Conflict, key: Option<&KeyColumn<'c>>) {
        let columns = match key {
            Some(key) => Columns::Table(key.table),
            None => Columns::Unknown,
        };
        let terms = Default::default();
        let excluded = Rel {
            name: "excluded".into(),
            schema: None,
            columns,
            renamed: Vec::new(),
            block: 0,
            nullable: false,
            terms,
            written: None,
        };
        let rel = self.push_rel(excluded);
        self.exprs(&conflict.exprs);
        self.exprs(conflict.set.iter().map(|assignment| &assignment.value));
        // Unqualified names in SET and WHERE mean the table, never `excluded`.
        let block = self.block();
        self.blocks[block].rels.retain(|found| *found != rel);
        if let Some(key) = key {
            // On a conflict over columns with the key among them, the two rows have the same key.
            let unchanged = |assignment: &Assignment| {
                matches!(&assignment.value, Expr::Column(names)
                    if matches!(&**names, [table, column] if &**table == "excluded" && **column == *key.name))
                    && conflict.columns.iter().any(|column| **column == *key.name)
            };
            if conflict.set.iter().any(|assignment| *assignment.column == *key.name && !unchanged(assignment)) {
                self.refuse(reasons::changes_key(key.name));
            }
        }
    }

    fn update(&mut self, update: &Update) {
        let moves = std::mem::replace(&mut self.moves, Moves::No);
        let before = self.with(update.with.as_deref());
        let (_, key) = self.open_target(&update.table);
        let changes = key.as_ref().is_some_and(|key| update.set.iter().any(|found| *found.column == *key.name));
        match (changes, moves) {
            (true, Moves::May) => self.moves = Moves::Does,
            _ => self.assignments(&update.set, key.as_ref()),
        }
        self.joined(&update.from, update.filter.as_ref());
        self.exprs(update.set.iter().map(|assignment| &assignment.value));
        self.returning(&update.returning);
        self.close();
        self.forget_ctes(before);
    }

    fn assignments(&mut self, set: &[Assignment], key: Option<&KeyColumn<'c>>) {
        if let Some(key) = key
            && set.iter().any(|assignment| *assignment.column == *key.name)
        {
            self.refuse(reasons::changes_key(key.name));
        }
    }

    /// The other tables and the condition of an UPDATE or DELETE, and what is assigned.
    fn joined(&mut self, from: &[From], filter: Option<&Expr>) {
        let block = self.block();
        for item in from {
            self.table_item(item, true);
        }
        if let Some(filter) = filter {
            self.expr(filter);
            self.predicates(filter, &Reach::Block(block), true);
        }
        self.reduce_outer_joins(block);
    }

    fn delete(&mut self, delete: &Delete) {
        let before = self.with(delete.with.as_deref());
        self.open_target(&delete.table);
        self.joined(&delete.using, delete.filter.as_ref());
        self.returning(&delete.returning);
        self.close();
        self.forget_ctes(before);
    }

    /// MERGE: the target is written where its rows are; a row that matches nothing is inserted where its key is.
    fn merge(&mut self, merge: &Merge) {
        let before = self.with(merge.with.as_deref());
        let (rel, key) = self.open_target(&merge.table);
        let block = self.block();
        let first = self.rels.len();
        self.table_item(&merge.source, true);
        if let Some(on) = &merge.on {
            self.expr(on);
            self.predicates(on, &Reach::Rels(vec![rel]), false);
        }
        for action in &merge.actions {
            self.exprs(&action.condition);
            self.exprs(&action.values);
            self.exprs(action.set.iter().map(|assignment| &assignment.value));
            if !action.inserts {
                self.assignments(&action.set, key.as_ref());
            }
        }
        if let Some(key) = &key
            && merge.actions.iter().any(|action| action.inserts)
        {
            let sources: Vec<usize> =
                self.blocks[block].rels.iter().copied().filter(|source| *source >= first).collect();
            self.merge_inserts(merge, rel, key, &sources);
        }
        self.returning(&merge.returning);
        self.close();
        self.forget_ctes(before);
    }

    /// What is inserted must have the key by which it was compared: then one shard alone knows whether it is there.
    fn merge_inserts(&mut self, merge: &Merge, rel: usize, key: &KeyColumn<'c>, sources: &[usize]) {
        let unclear = reasons::merge(&merge.table.name);
        let target = self.term(rel, key.position);
        let mut used = None;
        for action in merge.actions.iter().filter(|action| action.inserts) {
            let field = match action.set.as_slice() {
                [] => Some(key.position),
                set => set.iter().position(|assignment| *assignment.column == *key.name),
            };
            let value = field.and_then(|field| action.values.get(field));
            let Some(Expr::Column(names)) = value else { return self.refuse(unclear) };
            let Some(source) = self.column(names) else { return self.refuse(unclear) };
            let is_compared = self.equates(merge.on.as_ref(), target, source);
            if !is_compared || used.is_some_and(|used| used != source) {
                return self.refuse(unclear);
            }
            used = Some(source);
        }
        let (Some(source), [only]) = (used, sources) else { return self.refuse(unclear) };
        let owner = self.terms.owner(source);
        let rel = &self.rels[*only];
        let column = rel.terms.iter().find(|(_, term)| **term == source).map(|(position, _)| *position);
        let names = rel.names();
        let column = column.and_then(|position| names.as_ref()?.get(position).cloned());
        let (Some(column), true) = (column, owner == *only) else { return self.refuse(unclear) };
        let of_source = |occurrence: &&super::bind::Occurrence| !occurrence.target;
        let mut others = self.occurrences.iter().filter(of_source).peekable();
        let is_sharded = others.peek().is_some();
        let fits = self.terms.comparable(source, target) && self.fits(source, target);
        let is_tied = is_sharded && fits && others.all(|occurrence| self.terms.same(occurrence.key, source));
        let table = rel.name.to_string();
        self.used = Some(UsedKey { table, column: column.to_string(), is_tied, is_sharded });
    }

    /// Whether a condition demands that two columns are equal, whatever types they have.
    fn equates(&mut self, on: Option<&Expr>, a: Term, b: Term) -> bool {
        on.into_iter().flat_map(conjuncts).any(|condition| {
            let Expr::Op(op) = condition else { return false };
            let (Some(Expr::Column(left)), Expr::Column(right)) = (&op.left, &op.right) else { return false };
            let sides = [self.column(left), self.column(right)];
            &*op.name == "=" && (sides == [Some(a), Some(b)] || sides == [Some(b), Some(a)])
        })
    }
}
