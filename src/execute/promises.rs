//! Looks at what DDL has made of the tables, in the transaction that has run it.

use std::sync::Arc;

use pgsluice_sharding::Refusal;
use pgsluice_sharding::catalog::Catalog;
use pgsluice_sharding::plan::TriggerCode;
use pgsluice_sharding::plan::promises::{self, Default, ForeignKey, Promises, TableName, Trigger, Unique};
use pgsluice_sharding::sql::Access;
use serde_json::Value;

use crate::protocol::error::ErrorFields;
use crate::protocol::reply;

use super::worker::Served;
use super::{CatalogChange, Conversation, Failure};

/// One JSON array for each unique index, foreign key, default, trigger, policy: the letter of its kind, schema, table, whether this transaction has
/// made it, and what [`read`] takes.
const QUESTION: &str = "\
SELECT pg_catalog.json_build_array('u', n.nspname, c.relname, pg_catalog.age(i.xmin) OPERATOR(pg_catalog.<=) 0, \
  CASE WHEN i.indisprimary THEN 'p' WHEN i.indisexclusion THEN 'x' ELSE 'u' END, \
  ARRAY(SELECT a.attname FROM pg_catalog.generate_series(1, i.indnkeyatts) k \
    JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
      AND a.attnum OPERATOR(pg_catalog.=) i.indkey[k OPERATOR(pg_catalog.-) 1] \
    WHERE NOT i.indisexclusion OR EXISTS (SELECT FROM pg_catalog.pg_constraint x \
      JOIN pg_catalog.pg_operator o ON o.oid OPERATOR(pg_catalog.=) x.conexclop[k] \
      WHERE x.conindid OPERATOR(pg_catalog.=) i.indexrelid AND o.oprname OPERATOR(pg_catalog.=) '='))) \
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indrelid \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
WHERE (i.indisunique OR i.indisexclusion) AND c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
UNION ALL \
SELECT pg_catalog.json_build_array('f', n.nspname, c.relname, pg_catalog.age(x.xmin) OPERATOR(pg_catalog.<=) 0, \
  m.nspname, r.relname, x.confupdtype OPERATOR(pg_catalog.=) ANY ('{c,n,d}'::pg_catalog.\"char\"[]), \
  ARRAY(SELECT a.attname FROM pg_catalog.unnest(x.conkey) WITH ORDINALITY k(n, at) \
    JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) x.conrelid AND a.attnum OPERATOR(pg_catalog.=) k.n ORDER BY k.at), \
  ARRAY(SELECT a.attname FROM pg_catalog.unnest(x.confkey) WITH ORDINALITY k(n, at) \
    JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) x.confrelid AND a.attnum OPERATOR(pg_catalog.=) k.n ORDER BY k.at)) \
FROM pg_catalog.pg_constraint x JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) x.conrelid \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
JOIN pg_catalog.pg_class r ON r.oid OPERATOR(pg_catalog.=) x.confrelid \
JOIN pg_catalog.pg_namespace m ON m.oid OPERATOR(pg_catalog.=) r.relnamespace \
WHERE x.contype OPERATOR(pg_catalog.=) 'f' \
UNION ALL \
SELECT pg_catalog.json_build_array('d', n.nspname, c.relname, true, a.attname, \
  CASE WHEN a.attidentity OPERATOR(pg_catalog.=) '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END) \
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid OPERATOR(pg_catalog.=) a.attrelid AND d.adnum OPERATOR(pg_catalog.=) a.attnum \
WHERE pg_catalog.age(a.xmin) OPERATOR(pg_catalog.<=) 0 AND (d.oid IS NOT NULL OR a.attidentity OPERATOR(pg_catalog.<>) '') \
  AND a.attgenerated OPERATOR(pg_catalog.=) '' AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped \
UNION ALL \
SELECT pg_catalog.json_build_array('t', n.nspname, c.relname, true, p.proname, l.lanname, p.prosrc, t.tgtype) \
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid \
JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang \
WHERE NOT t.tgisinternal \
  AND (pg_catalog.age(t.xmin) OPERATOR(pg_catalog.<=) 0 OR pg_catalog.age(p.xmin) OPERATOR(pg_catalog.<=) 0) \
UNION ALL \
SELECT pg_catalog.json_build_array('p', n.nspname, c.relname, true, p.polname) \
FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.polrelid \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
WHERE pg_catalog.age(p.xmin) OPERATOR(pg_catalog.<=) 0";

impl Conversation {
    /// Refuses what this transaction's DDL has done to the tables of `before`, if they cannot be held to what is promised of them any more.
    pub(super) async fn keep_promises(&mut self, before: &Arc<Catalog>) -> Result<(), Failure> {
        self.catalog_change = CatalogChange::Own;
        let known = self.served.catalog.borrow().watch().problems();
        let problems = Box::pin(self.read_own_catalog()).await?;
        let is_new = |problem: &&String| !known.contains(problem) && !problem.contains("may be NULL");
        if let Some(problem) = problems.iter().find(is_new) {
            return Err(promises::unplaced(problem).into());
        }
        let found = self.read_promises().await?;
        let after = self.catalog()?;
        for (table, refusal) in promises::check(before, &after, &found)? {
            self.must_be_empty(&table, refusal).await?;
        }
        Ok(())
    }

    async fn read_promises(&mut self) -> Result<Promises, Failure> {
        let home = self.link(Some(Served::HOME), Access::Write).await?;
        let answer = self.ask(home, QUESTION).await?;
        let mut found = Promises::default();
        for row in answer.rows() {
            let cell = reply::data_row(row).map_err(ErrorFields::from)?.next();
            let text = cell.transpose().map_err(ErrorFields::from)?.flatten().unwrap_or_default();
            let value: Option<Value> = serde_json::from_slice(text).ok();
            value
                .and_then(|value| read(&value, &mut found))
                .ok_or_else(|| ErrorFields::error("XX000", "the server's tables cannot be read"))?;
        }
        answer.into_result(self)?;
        Ok(found)
    }

    async fn must_be_empty(&mut self, table: &TableName, refusal: Refusal) -> Result<(), Failure> {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let sql = format!("SELECT 1 FROM {}.{} LIMIT 1", quoted(&table.0), quoted(&table.1));
        for shard in self.served.all_shards() {
            let i = self.link(Some(shard), Access::Write).await?;
            let answer = self.ask(i, &sql).await?;
            let has_rows = answer.rows().next().is_some();
            answer.into_result(self)?;
            if has_rows {
                return Err(refusal.into());
            }
        }
        Ok(())
    }
}

/// Takes one answer to [`QUESTION`]; `None` if it is none.
fn read(value: &Value, found: &mut Promises) -> Option<()> {
    let cells = value.as_array()?;
    let text = |at: usize| Some(cells.get(at)?.as_str()?.to_owned());
    let optional = |at: usize| cells.get(at).and_then(Value::as_str).map(str::to_owned);
    let list = |at: usize| -> Option<Vec<String>> {
        cells.get(at)?.as_array()?.iter().map(|cell| cell.as_str().map(str::to_owned)).collect()
    };
    let table = (text(1)?, text(2)?);
    let new = cells.get(3)?.as_bool()?;
    match text(0)?.as_str() {
        "u" => {
            let what = match text(4)?.as_str() {
                "p" => "the primary key",
                "x" => "an exclusion constraint",
                _ => "a unique index",
            };
            found.uniques.push(Unique { table, what, columns: list(5)?, new });
        }
        "f" => found.foreign_keys.push(ForeignKey {
            table,
            other: (text(4)?, text(5)?),
            follows: cells.get(6)?.as_bool()?,
            columns: list(7)?,
            referenced: list(8)?,
            new,
        }),
        "d" => found.defaults.push(Default { table, column: text(4)?, expression: optional(5) }),
        "p" => found.policies.push((table, text(4)?)),
        _ => {
            let kind = i16::try_from(cells.get(7)?.as_i64()?).ok()?;
            let code = TriggerCode { kind, function: text(4)?, language: text(5)?, body: text(6)? };
            found.triggers.push(Trigger { table, code });
        }
    }
    Some(())
}
