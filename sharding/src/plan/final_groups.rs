//! A grouped query whose groups the router puts together and PostgreSQL looks at: what crosses is one row for each group, with the keys and
//! the aggregates. The text keeps its targets, HAVING, windows and order; every aggregate in it gives way to a column.

use std::collections::BTreeMap;
use std::ops::Range;

use super::bind::Binder;
use super::bind_query::{Seen, implicit_name};
use super::decide::Context;
use super::final_query::{check, quoted};
use super::scope::Names;
use super::targets::{Targets, parts};
use super::{FinalQuery, Input, Node, Shards, Source, aggregates, build};
use crate::catalog::{Column, CrossingForm, FunctionKind, element_type, is_built_in_type};
use crate::sql::Limits;
use crate::sql::parse::{Parsed, parse};
use crate::sql::spans::{self, SelectSpans};
use crate::sql::tree::{Body, Distinct, Dml, Expr, Query, Select, Stmt};
use crate::sql::walk::{self, Visited};
use crate::value::oid;

/// How the stand-ins of types begin that may be texts of the database's collation, and of those that may not be texts.
const LATE_COLLATED: &str = "\"sluice any type ";
const LATE: &str = "\"sluice uncollated type ";

/// The final query over the groups; `None` when the router cannot put them together, or when their parts cannot be told apart in the text.
pub(super) fn final_groups(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    query: &Query,
    seen: &Seen,
    shards: Shards,
    parsed: &Parsed,
) -> Option<FinalQuery> {
    let (Body::Select(select), Some(block)) = (&query.body, seen.block) else { return None };
    if !is_grouped(binder, query, select, block) {
        return None;
    }
    let first = select.targets.first()?.at.0 as usize;
    let spans = spans::select(context.text, &parsed.span, first).filter(|spans| build::fits(spans, query, select))?;
    binder.sight.push(block);
    let mut draft = Draft {
        context,
        parsed,
        spans: &spans,
        columns: Vec::new(),
        keys: 0,
        edits: Vec::new(),
        shown: BTreeMap::new(),
    };
    let done = draft.take_apart(binder, query, select, block);
    binder.sight.pop();
    done?;
    draft.finish(shards)
}

/// Whether the query has groups, and nothing that stands in the way.
fn is_grouped(binder: &Binder<'_>, query: &Query, select: &Select, block: usize) -> bool {
    let found = &binder.blocks[block];
    let grouped = found.aggregates || !select.group.is_empty() || select.having.is_some();
    let plain = query.with.is_none() && query.locking.is_empty() && select.into.is_none() && !select.grouping_sets;
    let clear = !found.set_returning && found.merged.is_empty() && !binder.facts.outer_aggregate;
    grouped && plain && clear && check(binder).is_ok()
}

/// What crosses in one column.
struct GroupColumn {
    sql: String,
    crossing: Kind,
}

enum Kind {
    /// A column of a table: the type in SQL, and the collation if it is not the type's own.
    Known { type_name: String, collation: Option<String> },
    /// Its type is known when a shard has described it. `collated` when a text has the database's collation for sure.
    Late { collated: bool },
}

/// The group keys that are columns of one relation.
struct ShownKeys {
    alias: String,
    /// Their names, with the numbers of the columns in which they cross.
    keys: Vec<(String, usize)>,
}

struct Draft<'a> {
    context: Context<'a>,
    parsed: &'a Parsed,
    spans: &'a SelectSpans,
    columns: Vec<GroupColumn>,
    /// How many of them are keys; those come first.
    keys: usize,
    edits: Vec<(Range<usize>, String)>,
    shown: BTreeMap<usize, ShownKeys>,
}

impl Draft<'_> {
    /// Finds keys and aggregates wherever they stand.
    fn take_apart(&mut self, binder: &mut Binder<'_>, query: &Query, select: &Select, block: usize) -> Option<()> {
        let keys = self.keys(binder, select, block)?;
        self.keys = self.columns.len();
        let mut found = Vec::new();
        let mut plain = true;
        for expr in outer_exprs(query, select) {
            walk::expr(expr, &mut |visited| match visited {
                Visited::Expr(Expr::Sublink(_) | Expr::Opaque) | Visited::Join(_) => plain = false,
                Visited::Expr(part @ Expr::Func(_)) => found.push(part),
                Visited::Expr(_) | Visited::Query(_) | Visited::Table(_) => {}
            });
        }
        let star = select.targets.iter().any(|target| matches!(target.expr, Expr::Star(_)));
        if !plain || star {
            return None;
        }
        for part in found {
            self.take_call(binder, part, &keys)?;
        }
        let order = query.order.iter().map(|item| &item.expr).zip(self.spans.order_items.clone());
        for (expr, span) in order {
            self.take_key(expr, span, &keys);
        }
        for (target, span) in select.targets.iter().zip(self.spans.targets.clone()) {
            let value =
                if target.name.is_some() { spans::without_alias(self.context.text, &span)? } else { span.clone() };
            self.take_key(&target.expr, value, &keys);
            if target.name.is_none() {
                // As PostgreSQL would have named it.
                let name = implicit_name(&target.expr).unwrap_or_else(|| "?column?".into());
                self.edits.push((span.end..span.end, format!(" AS {}", quoted(&name))));
            }
        }
        Some(())
    }

    /// The keys of the groups, each with its column.
    fn keys(&mut self, binder: &mut Binder<'_>, select: &Select, block: usize) -> Option<Vec<(Expr, usize)>> {
        let spans = self.spans;
        let targets = Targets::new(self.context.text, select, spans, binder, block);
        let mut keys = Vec::with_capacity(select.group.len());
        for (expr, span) in select.group.iter().zip(&spans.group) {
            let item = targets.group_item(binder, expr, span).ok()?;
            if matches!(item.expr, Expr::Const(_)) {
                return None;
            }
            let crossing = match binder.table_column(&item.expr) {
                Some(column) => known(&column)?,
                None => Kind::Late { collated: has_default_collation(binder, &item.expr) },
            };
            let number = self.column(&item.sql, crossing);
            if let Expr::Column(names) = &item.expr {
                let term = binder.column(names)?;
                let owner = binder.terms.owner(term);
                let rel = &binder.rels[owner];
                let (name, alias) = (names.last()?.to_string(), rel.name.to_string());
                if rel.block != block {
                    return None;
                }
                let shown = &mut self.shown.entry(owner).or_insert(ShownKeys { alias, keys: Vec::new() }).keys;
                if !shown.iter().any(|(other, _)| *other == name) {
                    shown.push((name, number));
                }
            }
            keys.push((item.expr, number));
        }
        Some(keys)
    }

    /// An aggregate, or a key that is a call, gives way to its column.
    fn take_call(&mut self, binder: &mut Binder<'_>, part: &Expr, keys: &[(Expr, usize)]) -> Option<()> {
        let Expr::Func(call) = part else { return Some(()) };
        let is_aggregate = aggregates::is_aggregate(binder, part);
        let key = keys.iter().find(|(key, _)| key == part).map(|(_, number)| *number);
        if !is_aggregate && key.is_none() {
            return Some(());
        }
        let text = self.context.text;
        let span = spans::call(text, self.parsed.span.end, call.at.0 as usize)?.whole;
        let number = match key {
            Some(number) => number,
            None => {
                let collated = call.args.iter().all(|arg| has_default_collation(binder, arg));
                self.column(&text[span.clone()], Kind::Late { collated })
            }
        };
        self.edits.push((span, name_of(number)));
        Some(())
    }

    /// An expression that is a key as a whole.
    fn take_key(&mut self, expr: &Expr, span: Range<usize>, keys: &[(Expr, usize)]) {
        let is_name = matches!(expr, Expr::Column(_));
        if let Some((_, number)) = keys.iter().find(|(key, _)| key == expr).filter(|_| !is_name) {
            self.edits.push((span, name_of(*number)));
        }
    }

    /// The number of the column that shows this, counted from 1.
    fn column(&mut self, sql: &str, crossing: Kind) -> usize {
        let found = self.columns.iter().position(|column| column.sql == sql);
        1 + found.unwrap_or_else(|| {
            self.columns.push(GroupColumn { sql: sql.to_owned(), crossing });
            self.columns.len() - 1
        })
    }

    fn finish(self, shards: Shards) -> Option<FinalQuery> {
        let (text, span) = (self.context.text, &self.parsed.span);
        let gather = self.groups(shards.clone())?;
        let timed = gather.timed_sql.is_some();
        let first = usize::from(self.parsed.params) + usize::from(timed) + 1;
        let source = self.source(first);
        let targets_end = self.spans.targets.last()?.end;
        let having = self.spans.having.clone();
        let rows_end = [
            Some(self.spans.rows_end),
            self.spans.group.last().map(|span| span.end),
            having.clone().map(|span| span.end),
        ];
        let rows_end = rows_end.into_iter().flatten().max()?;
        let mut edits = outermost(self.edits);
        let (of_rows, others): (Vec<_>, Vec<_>) =
            edits.drain(..).partition(|(span, _)| span.start > targets_end && span.end <= rows_end);
        let filter = match having {
            Some(having) => {
                let inside = of_rows.into_iter().filter(|(span, _)| having.contains(&span.start)).collect();
                let having = spans::spliced(text, having.start + "HAVING".len()..having.end, inside);
                format!(" WHERE{having}")
            }
            None => String::new(),
        };
        let laterals = laterals(&self.shown, &self.columns);
        let mut edits = others;
        let piece = |source: &str| format!(" FROM {source}{laterals}{filter}");
        let with = |edits: &[(Range<usize>, String)], source: &str| {
            let mut edits = edits.to_vec();
            edits.push((targets_end..rows_end, piece(source)));
            spans::spliced(text, span.clone(), edits)
        };
        edits.sort_by_key(|(span, _)| (span.start, span.end));
        let (sql, shown) = (with(&edits, &source.arrays), with(&edits, "(input 1 groups) sluice_groups"));
        // A server that looks at its own clock would not tell the time that the shards were told.
        if timed && spans::clocks(&sql, &(0..sql.len())) > 0 {
            return None;
        }
        let input = Input { table: "groups".into(), gather, source, narrowed: None };
        Some(FinalQuery {
            timed,
            shards,
            home: None,
            inputs: vec![input],
            order: vec![0],
            sql,
            shown,
            params: self.parsed.params,
            or_else: None,
        })
    }

    /// How the router puts the groups together.
    fn groups(&self, shards: Shards) -> Option<super::Gather> {
        let text = self.context.text;
        let targets: Vec<&str> = self.columns.iter().map(|column| &*column.sql).collect();
        let rows = &text[self.spans.targets.last()?.end..self.spans.rows_end];
        let mut inner = format!("SELECT {}{rows}", targets.join(", "));
        if self.keys > 0 {
            let positions: Vec<String> = (1..=self.keys).map(|number| number.to_string()).collect();
            inner.push_str(&format!(" GROUP BY {}", positions.join(", ")));
        }
        let mut parsed = parse(&inner, &[], &Limits::default()).ok()?;
        let mut parsed = parsed.pop().filter(|_| parsed.is_empty())?;
        parsed.params = self.parsed.params;
        let Stmt::Dml(Dml::Query(query)) = &parsed.stmt else { return None };
        let context = Context { text: &inner, ..self.context };
        let mut binder = Binder::new(Names::new(context.catalog, context.search_path));
        let seen = binder.query(query);
        binder.finish();
        build::gather(context, &mut binder, query, &seen, shards, &parsed).ok()
    }

    fn source(&self, first: usize) -> Source {
        let types: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(n, column)| match &column.crossing {
                Kind::Known { type_name, .. } => type_name.clone(),
                Kind::Late { collated } => late_type(n, *collated),
            })
            .collect();
        let arrays = types.iter().enumerate();
        let arrays: Vec<String> =
            arrays.map(|(n, name)| format!("pg_catalog.unnest(${}::{name}[])", first + n)).collect();
        let numbers = 1..=self.columns.len();
        let own: Vec<String> = numbers.clone().map(|number| format!("c{number}")).collect();
        let names: Vec<String> = numbers.map(name_of).collect();
        let alias = format!(" AS sluice_groups({})", names.join(", "));
        Source {
            arrays: format!("ROWS FROM({}){alias}", arrays.join(", ")),
            table: [format!("(SELECT {} FROM ", own.join(", ")), format!("){alias}")],
            types,
        }
    }
}

/// What stands for a type until it is known, which is no name that anything else in the text can have.
fn late_type(column: usize, collated: bool) -> String {
    format!("{}{column}\"", if collated { LATE_COLLATED } else { LATE })
}

impl FinalQuery {
    /// The text with the types of all columns, once the shards have told their ids, input by input. `None` when a column is of a type that
    /// has another id on every shard, that is an array, or that is a text whose collation is not known.
    pub fn typed_sql(&self, types: &[Vec<u32>]) -> Option<String> {
        let mut sql = self.sql.clone();
        for (input, found) in self.inputs.iter().zip(types) {
            for (name, type_oid) in input.source.types.iter().zip(found) {
                let collated = name.starts_with(LATE_COLLATED);
                if collated || name.starts_with(LATE) {
                    let is_text = matches!(*type_oid, oid::TEXT | oid::VARCHAR | oid::BPCHAR);
                    let known = element_type(*type_oid).filter(|_| collated || !is_text)?;
                    sql = sql.replace(name, &known);
                }
            }
        }
        Some(sql)
    }

    /// Whether the rows of its inputs can go through tables as they come from the shards.
    pub fn fits_tables(&self) -> bool {
        let is_late = |name: &String| name.starts_with(LATE_COLLATED) || name.starts_with(LATE);
        self.inputs.iter().all(|input| {
            let appended = matches!(&input.gather.tree, Node::Append { input } if **input == Node::Route);
            appended && !input.source.types.iter().any(is_late)
        })
    }
}

/// The keys again, as columns of relations with the names they had.
fn laterals(shown: &BTreeMap<usize, ShownKeys>, columns: &[GroupColumn]) -> String {
    let mut sql = String::new();
    for ShownKeys { alias, keys } in shown.values() {
        let keys = keys.iter().map(|(name, number)| {
            let collation = match &columns[number - 1].crossing {
                Kind::Known { collation: Some(collation), .. } => format!(" COLLATE {collation}"),
                _ => String::new(),
            };
            format!("{}{collation} AS {}", name_of(*number), quoted(name))
        });
        let keys: Vec<String> = keys.collect();
        sql.push_str(&format!(" CROSS JOIN LATERAL (SELECT {}) AS {}", keys.join(", "), quoted(alias)));
    }
    sql
}

fn name_of(number: usize) -> String {
    format!("sluice_c{number}")
}

fn known(column: &Column) -> Option<Kind> {
    let crossing = &column.crossing;
    let fits = crossing.form == CrossingForm::Binary && crossing.domain.is_none();
    fits.then(|| Kind::Known { type_name: crossing.type_name.clone(), collation: crossing.collation.clone() })
}

/// Every expression that is asked of groups.
fn outer_exprs<'q>(query: &'q Query, select: &'q Select) -> Vec<&'q Expr> {
    let distinct = match &select.distinct {
        Distinct::On(exprs) => exprs.as_slice(),
        Distinct::No | Distinct::Yes => &[],
    };
    let windows = select.windows.iter().flat_map(|window| {
        let order = window.order.iter().map(|item| &item.expr);
        window.partition.iter().chain(order).chain(&window.bounds)
    });
    let order = query.order.iter().map(|item| &item.expr);
    let targets = select.targets.iter().map(|target| &target.expr);
    targets.chain(&select.having).chain(order).chain(distinct).chain(windows).collect()
}

/// Whether an expression surely has the database's collation, if it is a text.
fn has_default_collation(binder: &mut Binder<'_>, expr: &Expr) -> bool {
    parts(expr).into_iter().all(|part| match part {
        Expr::Column(_) => binder.table_column(part).is_some_and(|column| column.crossing.collation.is_none()),
        Expr::Cast(cast) => is_built_in_type(&cast.target.name) && &*cast.target.name != "name",
        Expr::Other(other) => !other.what.starts_with("collate ") && !other.what.starts_with("part"),
        Expr::Func(call) => {
            let known = binder.names.function(call);
            known.is_some_and(|known| known.built_in && known.function.kind != FunctionKind::SetReturning)
        }
        Expr::Sublink(_) | Expr::Opaque => false,
        _ => true,
    })
}

/// Edits without those that lie within another.
fn outermost(mut edits: Vec<(Range<usize>, String)>) -> Vec<(Range<usize>, String)> {
    edits.sort_by_key(|(span, _)| (span.start, std::cmp::Reverse(span.end)));
    let mut kept: Vec<(Range<usize>, String)> = Vec::with_capacity(edits.len());
    for edit in edits {
        let within = kept.last().is_some_and(|(last, _)| edit.0.end <= last.end && !edit.0.is_empty());
        if !within {
            kept.push(edit);
        }
    }
    kept
}
