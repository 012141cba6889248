//! Whether the parts of a statement could tell that they run one after another: what the text shows of it, and what the servers are asked.

use std::fmt::Write as _;

use super::final_query::quoted;
use super::reasons;
use crate::map::ShardId;
use crate::refusal::Refusal;
use crate::sql::tree::Dml;

/// A table in a stage.
pub(super) struct Use {
    pub stage: usize,
    /// The name of the stage's CTE.
    pub cte: Option<Box<str>>,
    pub schema: String,
    pub table: String,
    /// The only shard that has it.
    pub home: Option<ShardId>,
    /// What is done to it, if it is written.
    pub written: Option<Change>,
}

/// What a stage does to its table.
pub(super) enum Change {
    Insert,
    /// INSERT ... ON CONFLICT, which sets these columns.
    Upsert(Vec<Box<str>>),
    /// Of these columns.
    Update(Vec<Box<str>>),
    Delete,
    /// MERGE.
    Any,
}

impl Change {
    pub(super) fn of(dml: &Dml) -> Self {
        match dml {
            Dml::Insert(insert) => match &insert.conflict {
                None => Self::Insert,
                Some(conflict) => Self::Upsert(conflict.set.iter().map(|set| set.column.clone()).collect()),
            },
            Dml::Update(update) => Self::Update(update.set.iter().map(|set| set.column.clone()).collect()),
            Dml::Delete(_) => Self::Delete,
            Dml::Query(_) | Dml::Merge(_) => Self::Any,
        }
    }

    fn inserts(&self) -> bool {
        matches!(self, Self::Insert | Self::Upsert(_) | Self::Any)
    }

    fn deletes(&self) -> bool {
        matches!(self, Self::Delete | Self::Any)
    }

    fn sets(&self) -> &[Box<str>] {
        match self {
            Self::Upsert(columns) | Self::Update(columns) => columns,
            Self::Insert | Self::Delete | Self::Any => &[],
        }
    }
}

/// Refuses that a stage looks at a table which one before it has written, or writes it again.
///
/// An INSERT without ON CONFLICT does not look at the rows of its table but for what is unique: it may follow another one, or an UPDATE (which
/// must leave unique columns alone: the servers are asked).
pub(super) fn check(uses: &[Use]) -> Result<(), Refusal> {
    for first in uses {
        let Some(change) = &first.written else { continue };
        let is_same =
            |then: &&Use| then.stage > first.stage && then.table == first.table && then.schema == first.schema;
        for then in uses.iter().filter(is_same) {
            let name = first.cte.as_deref().unwrap_or_default();
            match (change, &then.written) {
                (Change::Insert | Change::Update(_), Some(Change::Insert)) => {}
                (_, Some(_)) => return Err(reasons::staged_write(name, &first.table)),
                (_, None) => return Err(reasons::staged_read(name, &first.table)),
            }
        }
    }
    Ok(())
}

/// What is looked at of the code of a trigger's function `p`.
pub(super) const SOURCE_OF_CODE: &str = "pg_catalog.regexp_replace(pg_catalog.lower(p.prosrc), '''[^'']*''', '', 'g')";

/// Whether `code.source`, in language `l`, shows that the trigger looks at its own row only.
pub(super) const HARMLESS_CODE: &str = r"(l.lanname = 'plpgsql'
  AND code.source !~ '\m(select|insert|update|delete|merge|perform|execute|from|truncate|copy|call|table)\M'
  AND pg_catalog.regexp_replace(code.source,
    '\m(now|coalesce|nullif|lower|upper|btrim|trim|length|greatest|least|if|elsif|and|or|not|in|return)\s*\(', '', 'g') !~ '\w\s*\(')";

/// `used` are the tables of the stages; `kin` those that a stage writes, with their partitions and those they are partitions of; `reached`
/// also those whose rows follow by foreign keys. A trigger is taken for harmless if its text shows that it looks at its own row only.
const QUESTION: &str = r"WITH RECURSIVE used(stage, class, writes, inserts, deletes, sets) AS (VALUES $used),
kin(stage, class) AS (
  SELECT stage, class FROM used WHERE writes
  UNION
  SELECT k.stage, CASE WHEN i.inhparent = k.class THEN i.inhrelid ELSE i.inhparent END
  FROM kin k JOIN pg_catalog.pg_inherits i ON k.class IN (i.inhparent, i.inhrelid)),
reached(stage, class) AS (
  SELECT stage, class FROM kin
  UNION
  SELECT r.stage, c.conrelid FROM reached r
  JOIN used w ON w.stage = r.stage AND w.writes
  JOIN pg_catalog.pg_constraint c ON c.confrelid = r.class AND c.contype = 'f'
  WHERE c.confupdtype IN ('c', 'n', 'd') AND (w.deletes OR w.sets <> '{}') OR c.confdeltype IN ('c', 'n', 'd') AND w.deletes),
keys AS (
  SELECT c.conname AS name, child.stage AS child_stage, parent.stage AS parent_stage,
    child.inserts AS child_inserts, child.deletes AS child_deletes,
    parent.inserts AS parent_inserts, parent.deletes AS parent_deletes,
    EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
      AND a.attname::pg_catalog.text = ANY (child.sets)) AS child_moves,
    EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.confrelid AND a.attnum = ANY (c.confkey)
      AND a.attname::pg_catalog.text = ANY (parent.sets)) AS parent_moves
  FROM pg_catalog.pg_constraint c
  JOIN kin below ON below.class = c.conrelid JOIN used child ON child.stage = below.stage AND child.writes
  JOIN kin above ON above.class = c.confrelid JOIN used parent ON parent.stage = above.stage AND parent.writes
  WHERE c.contype = 'f' AND NOT c.condeferred)
SELECT 'trigger ' || pg_catalog.quote_ident(t.tgname)
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
JOIN pg_catalog.pg_language l ON l.oid = p.prolang,
  LATERAL (SELECT $source AS source) code
WHERE NOT t.tgisinternal AND t.tgrelid IN (SELECT class FROM reached) AND NOT $harmless
UNION ALL
SELECT 'rule ' || pg_catalog.quote_ident(rulename) FROM pg_catalog.pg_rewrite
WHERE ev_type <> '1' AND ev_class IN (SELECT class FROM kin)
UNION ALL
SELECT 'table ' || pg_catalog.quote_ident(c.relname) || ', whose rows are or follow those of another,'
FROM reached r JOIN used u ON u.class = r.class AND u.stage > r.stage JOIN pg_catalog.pg_class c ON c.oid = r.class
WHERE NOT EXISTS (SELECT FROM used w WHERE w.stage = r.stage AND w.writes AND w.class = r.class)
UNION ALL
SELECT 'foreign key ' || pg_catalog.quote_ident(name) FROM keys
WHERE child_stage < parent_stage AND (child_inserts OR child_moves) AND (parent_inserts OR parent_moves)
  OR parent_stage < child_stage AND (parent_deletes OR parent_moves) AND (child_deletes OR child_moves)
UNION ALL
SELECT 'unique index ' || pg_catalog.quote_ident(c.relname)
FROM used earlier
JOIN used later ON later.class = earlier.class AND later.stage > earlier.stage AND earlier.writes AND later.writes
JOIN pg_catalog.pg_index i ON i.indrelid = earlier.class AND (i.indisunique OR i.indisexclusion)
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE earlier.sets <> '{}' AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL OR EXISTS (
  SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    AND a.attname::pg_catalog.text = ANY (earlier.sets)))
LIMIT 1";

/// Asks a server for what the text does not show: one row for each hindrance, which names it.
pub(super) fn question(uses: &[Use]) -> String {
    let mut used = String::new();
    for (n, item) in uses.iter().enumerate() {
        let class = [quoted(&item.schema), quoted(&item.table)].join(".");
        let (inserts, deletes, sets) = match &item.written {
            Some(change) => (change.inserts(), change.deletes(), change.sets()),
            None => (false, false, &[][..]),
        };
        let sets: Vec<String> = sets.iter().map(|column| literal(column)).collect();
        let (comma, writes, sets) = (if n == 0 { "" } else { ", " }, item.written.is_some(), sets.join(", "));
        let _ = write!(
            used,
            "{comma}({}, pg_catalog.to_regclass({})::pg_catalog.oid, {writes}, {inserts}, {deletes}, ARRAY[{sets}]::pg_catalog.text[])",
            item.stage,
            literal(&class)
        );
    }
    QUESTION
        .replace("$used", &used)
        .replace("$harmless", HARMLESS_CODE)
        .replace("$source", SOURCE_OF_CODE)
        .replace(" = ", " OPERATOR(pg_catalog.=) ")
        .replace(" || ", " OPERATOR(pg_catalog.||) ")
}

/// A string constant.
pub(super) fn literal(text: &str) -> String {
    let mark = if text.contains('\\') { " E" } else { "" };
    format!("{mark}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
