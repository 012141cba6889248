//! Names -> catalog, predicates -> what is known of the sharding keys.
//!
//! One pass over a statement collects everything the router decides by: every place where a sharded
//! table is read or written, what is equal to what, which functions are called. Nothing is decided
//! here.

use super::KeyValue;
use super::bind_dml::UsedKey;
use super::bind_query::Seen;
use super::conditions::{Clause, Condition};
use super::scope::{Columns, Found, Names, Rel, is_sharded, is_view};
use super::terms::{ColumnKind, Family, Nature, Term, Terms, ValueSet};
use crate::catalog::{Collation, Hazard, Table, TableKind};
use crate::key::KeyType;
use crate::map::ShardId;
use crate::refusal::Refusal;
use crate::sql::Pin;
use crate::sql::tree::{Expr, RowsOf, TableRef, With};

/// One place in a statement where a sharded table stands.
#[derive(Debug)]
pub(crate) struct Occurrence {
    pub schema: String,
    pub table: String,
    pub key: Term,
    pub key_type: KeyType,
    pub rel: usize,
    pub written: Written,
    /// Rows are put into it, so that the key must be a value of its type.
    pub inserts: bool,
    /// It is written.
    pub target: bool,
}

/// How a table stands in the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Where its name begins, schema included.
    pub at: usize,
    /// With ONLY before it.
    pub only: bool,
    /// With another name behind it, by which it is called.
    pub aliased: bool,
}

impl Written {
    fn of(table: &TableRef) -> Self {
        Self { at: table.at.0 as usize, only: table.rows == RowsOf::Only, aliased: table.alias.is_some() }
    }
}

/// One place in a statement where a table of a single shard stands.
#[derive(Debug)]
pub(crate) struct LocalTable {
    pub home: ShardId,
    pub schema: String,
    pub name: String,
    pub rel: usize,
    /// It is written.
    pub target: bool,
}

/// One place in a statement where a table of the catalog stands, whatever kind it is of.
#[derive(Debug)]
pub(crate) struct TableUse<'c> {
    pub schema: &'c str,
    pub name: &'c str,
    pub table: &'c Table,
    /// It is written.
    pub target: bool,
}

/// A view whose rows the router cannot place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ViewUse<'c> {
    pub rel: usize,
    /// What may be written in its place.
    pub definition: Option<&'c str>,
}

/// A sharded table whose rows may cut a query into parts by key: what must hold on the way out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Root {
    pub occurrence: usize,
    /// Each list (GROUP BY, PARTITION BY, DISTINCT of a subquery) must contain the key.
    pub lists: Vec<Vec<Term>>,
    /// CTEs it is reached through, which must be used once.
    pub ctes: Vec<usize>,
}

/// What was seen of functions and other things that are not tables.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, seen or not")]
pub(crate) struct Facts {
    /// A volatile function, by name.
    pub volatile: Option<String>,
    /// A function that tells the time, other than those in `clocks`.
    pub clock: Option<String>,
    /// How often the time is asked for that a transaction began: now(), CURRENT_DATE and the like.
    pub clocks: usize,
    /// How many of them stand in WHERE or ON.
    pub clocks_in_conditions: usize,
    /// Shards are told the time wherever a condition asks for it.
    pub tells_time: bool,
    /// A user-defined function that may read tables.
    pub reader: Option<String>,
    /// A function that means something only on the first shard.
    pub home: Option<String>,
    pub pin: Option<Pin>,
    /// It gives back advisory locks.
    pub unlocks: bool,
    /// It moves sequences.
    pub moves_sequences: bool,
    /// Every volatile function seen only takes locks.
    pub only_locks: bool,
    /// Something the router does not look into.
    pub opaque: bool,
    /// How many queries have FOR UPDATE or FOR SHARE.
    pub locking: usize,
    pub sampled: bool,
    /// `ctid`, `xmin` ...
    pub system_column: Option<String>,
    /// 'now', 'today' ... which PostgreSQL turns into the moment.
    pub time_word: bool,
    pub user_view: bool,
    pub unknown_table: bool,
    /// The first table that the catalog does not have, as it is written.
    pub missing_table: Option<String>,
    pub writes: bool,
    /// An aggregate in a subquery that belongs to the query around it.
    pub outer_aggregate: bool,
    /// A table that is written and that the router does not know.
    pub unknown_target: Option<String>,
}

/// A CTE in sight.
#[derive(Debug)]
pub(crate) struct CteScope {
    pub name: Box<str>,
    pub id: usize,
    /// `None` when they cannot be told: a name may be one of theirs.
    pub columns: Option<Vec<Option<Box<str>>>>,
    pub outputs: Vec<Output>,
    pub roots: Vec<Root>,
}

/// A column that a query gives out.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub name: Option<Box<str>>,
    /// The column it shows unchanged.
    pub term: Option<Term>,
    /// A filter on it may be applied inside the query without changing anything else.
    pub transparent: bool,
    /// In every row it equals the inner column, never something else.
    pub carries: bool,
    /// The values it is limited to, for INSERT.
    pub values: Option<(Vec<KeyValue>, Family)>,
    /// How its values are compared, if they turn out to be text.
    pub collation: Collation,
}

impl Output {
    /// A column that shows no column unchanged.
    pub(crate) fn computed(name: Option<Box<str>>, collation: Collation) -> Self {
        Self { name, term: None, transparent: false, carries: false, values: None, collation }
    }
}

/// What follows from what.
pub(crate) type Edges = Vec<(Term, Term)>;

/// How a table is used where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Read, and every row can be in the answer.
    Preserved,
    /// Read on the nullable side of an outer join.
    Nullable,
    /// Written.
    Target,
}

/// Whether an UPDATE may change the sharding key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moves {
    No,
    /// The next one that is bound.
    May,
    Does,
}

/// One level of names: a SELECT, an UPDATE ...
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, seen or not")]
pub(crate) struct Block {
    pub rels: Vec<usize>,
    /// Columns merged by USING, which stand for the preserved side's.
    pub merged: Vec<(Box<str>, Option<Term>)>,
    /// The nullable sides of LEFT JOINs with the edges that are missing only because of it.
    pub outer: Vec<(Vec<usize>, Edges)>,
    /// Relations that a strict predicate of WHERE needs to be there.
    pub strict: Vec<usize>,
    pub roots: Vec<Root>,
    pub aggregates: bool,
    /// The plain columns of GROUP BY; none with GROUPING SETS.
    pub group: Vec<Term>,
    /// PARTITION BY of every window, as columns.
    pub windows: Vec<Vec<Term>>,
    pub set_returning: bool,
    /// A bare star or a NATURAL join asks for every column of its relations.
    pub all_columns: bool,
    /// The conditions of WHERE and ON that are true wherever they are asked.
    pub conditions: Vec<Condition>,
    /// WHERE first, if there is one; then every ON whose text is found by the table before it.
    pub clauses: Vec<Clause>,
    /// The block for whose rows this one is asked, once for each that fulfils its WHERE.
    pub around: Option<usize>,
    /// How far the walk is with it.
    pub stage: Stage,
}

/// What of a block its expressions are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Rows that FROM has yet to make, or that GROUPING SETS have changed.
    #[default]
    Other,
    /// Rows of FROM, of which only those matter that fulfil WHERE.
    Rows,
}

/// Walks a statement; see the module.
#[derive(Debug)]
pub(crate) struct Binder<'c> {
    pub names: Names<'c>,
    pub terms: Terms,
    pub rels: Vec<Rel<'c>>,
    pub blocks: Vec<Block>,
    /// The blocks in sight, innermost last.
    pub sight: Vec<usize>,
    pub ctes: Vec<CteScope>,
    pub cte_uses: Vec<usize>,
    pub occurrences: Vec<Occurrence>,
    pub views: Vec<ViewUse<'c>>,
    pub locals: Vec<LocalTable>,
    pub tables: Vec<TableUse<'c>>,
    /// What the RETURNING shows that was bound last; none when it cannot be told.
    pub returned: Option<Vec<Output>>,
    pub reference_writes: Vec<String>,
    pub reference_reads: Vec<String>,
    /// How many tables are written.
    pub targets: usize,
    /// What may act when tables are read and written, each with its table.
    pub hazards: Vec<(&'c str, &'c Hazard, Usage)>,
    /// What is known of the query of an INSERT ... SELECT.
    pub selected: Option<Seen>,
    /// By what a MERGE ties the rows that it uses to those that it writes, if it may insert.
    pub used: Option<UsedKey>,
    /// Whether the statement may, and does, change the key of rows.
    pub moves: Moves,
    /// Edges from the use of a CTE to its inside, good only if it is used once.
    pub cte_edges: Vec<(usize, Term, Term)>,
    pub system: bool,
    pub facts: Facts,
    /// What is refused whenever there are two shards.
    pub problem: Option<Refusal>,
    /// Some literal's value was looked at, so the plan holds for this text only.
    pub value_seen: bool,
    /// The relations of the columns in the conditions being walked, so many inside each other; `None` for what is no column of a known one.
    pub touched: Vec<Option<usize>>,
    pub noting: usize,
}

impl<'c> Binder<'c> {
    pub(crate) fn new(names: Names<'c>) -> Self {
        Self {
            names,
            terms: Terms::default(),
            rels: Vec::new(),
            blocks: Vec::new(),
            sight: Vec::new(),
            ctes: Vec::new(),
            cte_uses: Vec::new(),
            occurrences: Vec::new(),
            views: Vec::new(),
            locals: Vec::new(),
            tables: Vec::new(),
            returned: None,
            reference_writes: Vec::new(),
            reference_reads: Vec::new(),
            targets: 0,
            hazards: Vec::new(),
            selected: None,
            used: None,
            moves: Moves::No,
            cte_edges: Vec::new(),
            system: false,
            facts: Facts { only_locks: true, ..Facts::default() },
            problem: None,
            value_seen: false,
            touched: Vec::new(),
            noting: 0,
        }
    }

    /// All is seen: what depends on how often a CTE was used becomes known.
    pub(crate) fn finish(&mut self) {
        for (cte, outside, inside) in std::mem::take(&mut self.cte_edges) {
            if self.cte_uses[cte] == 1 {
                self.terms.edge(outside, inside);
            }
        }
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.problem.get_or_insert(refusal);
    }

    /// Opens a level of names.
    pub(crate) fn open(&mut self) -> usize {
        self.blocks.push(Block::default());
        let block = self.blocks.len() - 1;
        self.sight.push(block);
        block
    }

    pub(crate) fn close(&mut self) {
        self.sight.pop();
    }

    pub(crate) fn block(&mut self) -> usize {
        self.sight.last().copied().unwrap_or(0)
    }

    /// A table in FROM: a CTE, or what the catalog says.
    pub(crate) fn table(&mut self, table: &TableRef, preserved: bool) -> usize {
        self.facts.sampled |= table.rows == RowsOf::Sample;
        if table.schema.is_none()
            && let Some(cte) = self.ctes.iter().rposition(|cte| cte.name == table.name)
        {
            return self.use_cte(cte, table, preserved);
        }
        self.stored_table(table, if preserved { Usage::Preserved } else { Usage::Nullable })
    }

    /// A table of the catalog, read or written.
    pub(crate) fn stored_table(&mut self, table: &TableRef, usage: Usage) -> usize {
        let found = self.names.find(table);
        let columns = match found {
            Found::Table { table: found, .. } => Columns::Table(found),
            Found::System | Found::Unknown => Columns::Unknown,
        };
        let rel = self.add_rel(table, columns, usage == Usage::Nullable);
        match found {
            Found::Table { schema, table: found, name } => self.note_table(found, [schema, name], table, rel, usage),
            Found::System => self.system = true,
            Found::Unknown => {
                self.facts.unknown_table = true;
                self.facts.missing_table.get_or_insert_with(|| written_name(table));
                if usage == Usage::Target {
                    self.facts.unknown_target.get_or_insert_with(|| table.name.to_string());
                }
            }
        }
        rel
    }

    fn note_table(
        &mut self,
        found: &'c Table,
        [schema, name]: [&'c str; 2],
        table: &TableRef,
        rel: usize,
        usage: Usage,
    ) {
        let hazards = self.names.catalog.hazards.get(schema).and_then(|tables| tables.get(name));
        self.hazards.extend(hazards.into_iter().flatten().map(|hazard| (name, hazard, usage)));
        self.tables.push(TableUse { schema, name, table: found, target: usage == Usage::Target });
        if is_view(found) {
            self.facts.user_view = true;
            if !self.names.has_rule(table.schema.as_deref(), name) {
                self.views.push(ViewUse { rel, definition: self.names.definition_of(table) });
                self.refuse(super::reasons::view(name));
            }
        }
        match found.kind {
            TableKind::Sharded { column, key_type } => {
                let key = self.term(rel, column);
                self.occurrences.push(Occurrence {
                    schema: schema.to_owned(),
                    table: name.to_owned(),
                    key,
                    key_type,
                    rel,
                    written: Written::of(table),
                    inserts: false,
                    target: usage == Usage::Target,
                });
                let block = self.rels[rel].block;
                if usage != Usage::Nullable && is_sharded(found) {
                    let occurrence = self.occurrences.len() - 1;
                    self.blocks[block].roots.push(Root { occurrence, ..Root::default() });
                }
            }
            TableKind::Reference if usage == Usage::Target => self.reference_writes.push(name.to_owned()),
            TableKind::Reference => self.reference_reads.push(name.to_owned()),
            TableKind::Local(home) => {
                let target = usage == Usage::Target;
                self.locals.push(LocalTable { home, schema: schema.to_owned(), name: name.to_owned(), rel, target });
            }
        }
    }

    fn add_rel(&mut self, table: &TableRef, columns: Columns<'c>, nullable: bool) -> usize {
        let (name, renamed, schema) = match &table.alias {
            Some(alias) => (alias.name.clone(), alias.columns.clone(), None),
            None => (table.name.clone(), Vec::new(), table.schema.clone()),
        };
        self.push_rel(Rel {
            name,
            schema,
            columns,
            renamed,
            block: 0,
            nullable,
            terms: Default::default(),
            written: Some(Written::of(table)),
        })
    }

    /// Adds a relation to the innermost block.
    pub(crate) fn push_rel(&mut self, mut rel: Rel<'c>) -> usize {
        let block = self.block();
        rel.block = block;
        self.rels.push(rel);
        let rel = self.rels.len() - 1;
        self.blocks[block].rels.push(rel);
        rel
    }

    fn use_cte(&mut self, index: usize, table: &TableRef, preserved: bool) -> usize {
        let cte = &self.ctes[index];
        let (id, columns, outputs, roots) = (cte.id, cte.columns.clone(), cte.outputs.clone(), cte.roots.clone());
        self.cte_uses[id] += 1;
        let rel = self.add_rel(table, columns.map_or(Columns::Unknown, Columns::Derived), !preserved);
        for (position, output) in outputs.iter().enumerate() {
            let outside = self.shown_term(rel, position, output);
            if let Some(inside) = output.term
                && output.transparent
            {
                self.cte_edges.push((id, outside, inside));
            }
        }
        if preserved {
            let block = self.block();
            for mut root in roots {
                root.ctes.push(id);
                self.blocks[block].roots.push(root);
            }
        }
        rel
    }

    /// A subquery in FROM with these columns.
    pub(crate) fn derived(&mut self, rel: Rel<'c>, outputs: &[Output], roots: Vec<Root>, preserved: bool) -> usize {
        let rel = self.push_rel(rel);
        for (position, output) in outputs.iter().enumerate() {
            let outside = self.shown_term(rel, position, output);
            if let Some(inside) = output.term
                && output.transparent
            {
                self.terms.edge(outside, inside);
            }
        }
        if preserved {
            let block = self.block();
            self.blocks[block].roots.extend(roots);
        }
        rel
    }

    /// The term of a column of a subquery or CTE, with what its query says of it.
    fn shown_term(&mut self, rel: usize, position: usize, output: &Output) -> Term {
        let outside = self.term(rel, position);
        let inside = output.term.map(|inside| self.terms.nature(inside));
        let nature = Nature {
            kind: inside.map_or(ColumnKind::Foreign, |inside| inside.kind),
            collation: output.collation,
            nullable: self.rels[rel].nullable || inside.is_none_or(|inside| inside.nullable),
            characters_max: inside.and_then(|inside| inside.characters_max),
        };
        self.terms.set_nature(outside, nature);
        if let Some(inside) = output.term
            && output.carries
        {
            self.terms.edge(inside, outside);
        }
        outside
    }

    /// The term of a relation's column.
    pub(crate) fn term(&mut self, rel: usize, position: usize) -> Term {
        if let Some(term) = self.rels[rel].terms.get(&position) {
            return *term;
        }
        let nature = match &self.rels[rel].columns {
            Columns::Table(table) => table.columns.get(position).map_or(Nature::UNKNOWN, |column| Nature {
                kind: ColumnKind::of(column),
                collation: column.collation,
                nullable: self.rels[rel].nullable,
                characters_max: column.characters_max(),
            }),
            Columns::Derived(_) | Columns::Unknown => Nature::UNKNOWN,
        };
        let term = self.terms.add(rel, nature);
        self.rels[rel].terms.insert(position, term);
        term
    }

    /// What a column name means here: the innermost block that has it wins.
    pub(crate) fn column(&mut self, names: &[Box<str>]) -> Option<Term> {
        let sight = self.sight.clone();
        for block in sight.into_iter().rev() {
            match self.column_in(block, names) {
                Lookup::Found(term) => return term,
                Lookup::Absent => {}
            }
        }
        None
    }

    /// The relation of this block that an expression is about alone, if its value follows from the row whenever and wherever it is asked.
    pub(crate) fn sole_relation(&mut self, block: usize, expr: &Expr) -> Option<usize> {
        let mut sole = None;
        for part in super::targets::parts(expr) {
            if let Expr::Column(names) = part {
                let Lookup::Found(Some(term)) = self.column_in(block, names) else { return None };
                let rel = self.terms.owner(term);
                if *sole.get_or_insert(rel) != rel {
                    return None;
                }
            } else if !self.is_constant_part(part) || self.is_clock(part) {
                return None;
            }
        }
        sole.filter(|rel| self.rels[*rel].block == block)
    }

    fn column_in(&mut self, block: usize, names: &[Box<str>]) -> Lookup {
        let (qualifier, name) = match names {
            [name] => (None, name),
            [table, name] => (Some((None, table)), name),
            [schema, table, name] => (Some((Some(schema), table)), name),
            _ => return Lookup::Found(None),
        };
        let Some((schema, table)) = qualifier else { return self.bare_column_in(block, name) };
        let rels = &self.blocks[block].rels;
        let found = rels.iter().copied().find(|rel| {
            let rel = &self.rels[*rel];
            rel.name == *table && (schema.is_none() || rel.schema.is_none() || rel.schema.as_ref() == schema)
        });
        match found {
            None => Lookup::Absent,
            Some(rel) => Lookup::Found(self.rels[rel].position(name).map(|position| self.term(rel, position))),
        }
    }

    fn bare_column_in(&mut self, block: usize, name: &str) -> Lookup {
        if let Some((_, term)) = self.blocks[block].merged.iter().rev().find(|(merged, _)| &**merged == name) {
            return Lookup::Found(*term);
        }
        let mut found = None;
        let mut unknown = false;
        for rel in self.blocks[block].rels.clone() {
            match self.rels[rel].position(name) {
                Some(_) if found.is_some() => return Lookup::Found(None),
                Some(position) => found = Some((rel, position)),
                None => unknown |= matches!(self.rels[rel].columns, Columns::Unknown),
            }
        }
        match found {
            Some((rel, position)) => Lookup::Found(Some(self.term(rel, position))),
            // It may be a column of the relation we know nothing of, and hide one further out.
            None if unknown => Lookup::Found(None),
            None => Lookup::Absent,
        }
    }

    /// `term` is one of `keys` in every row that matters.
    pub(crate) fn limit(&mut self, term: Term, keys: Vec<KeyValue>, family: Family) {
        self.terms.values.push(ValueSet { term, keys, family, stored: false, stored_in: None });
    }

    /// The CTEs of a WITH come in sight; returns how many, for [`Binder::forget_ctes`].
    pub(crate) fn with(&mut self, with: Option<&With>) -> usize {
        let before = self.ctes.len();
        let Some(with) = with else { return before };
        for cte in &with.ctes {
            let id = self.cte_uses.len();
            self.cte_uses.push(0);
            let (name, columns) = (cte.name.clone(), None);
            let scope = CteScope { name, id, columns, outputs: Vec::new(), roots: Vec::new() };
            if with.recursive {
                self.ctes.push(scope);
            } else {
                self.plain_cte(cte, scope);
            }
        }
        // Each of them may read itself and those behind it.
        for (index, cte) in with.ctes.iter().enumerate().filter(|_| with.recursive) {
            self.recursive_cte(before + index, cte);
        }
        before
    }

    pub(crate) fn forget_ctes(&mut self, before: usize) {
        self.ctes.truncate(before);
    }
}

/// Whether a block has a column of some name, and which.
enum Lookup {
    /// It has one, or hides what is further out; `None` when the router cannot say which.
    Found(Option<Term>),
    Absent,
}

fn written_name(table: &TableRef) -> String {
    match &table.schema {
        Some(schema) => format!("{schema}.{}", table.name),
        None => table.name.to_string(),
    }
}
