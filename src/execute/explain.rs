//! EXPLAIN over several shards: the route and the router's own work, then each shard's plan.

use std::rc::Rc;

use bytes::BytesMut;
use pgsluice_sharding::ShardId;
use pgsluice_sharding::plan::Values;
use pgsluice_sharding::sql::{Access, Command, Explain};

use crate::protocol::backend::{self, Field};
use crate::protocol::error::ErrorFields;
use crate::protocol::reply;

use super::decide::{Decision, decide};
use super::{Conversation, Failure};

/// The one column of EXPLAIN.
pub(super) fn describe(out: &mut BytesMut) {
    backend::row_description(out, &[Field::text("QUERY PLAN")]);
}

/// What of an explained statement runs where.
struct Parts {
    lines: Vec<String>,
    shards: Vec<ShardId>,
    sql: String,
    access: Access,
}

impl Conversation {
    pub(super) async fn explain(&mut self, command: &Command, text: &Rc<str>, with_names: bool) -> Result<(), Failure> {
        let Command::Explain(explain) = command else {
            return Err(ErrorFields::error("XX000", "only EXPLAIN is explained").into());
        };
        let parts = self.explained(explain, text)?;
        if explain.analyze && parts.shards.len() > 1 && parts.access == Access::Write {
            return Err(ErrorFields::error("0A000", "EXPLAIN ANALYZE of a statement that writes on several shards")
                .with_hint("Leave ANALYZE out.")
                .into());
        }
        let mut lines = parts.lines;
        for shard in &parts.shards {
            let i = self.link(Some(*shard), parts.access).await?;
            if explain.analyze {
                self.note_access(i, parts.access)?;
            }
            let sql = format!("{}{}", &text[explain.prefix.clone()], parts.sql);
            let answer = self.ask(i, &sql).await?;
            let link = &self.links[i];
            let role = if link.is_replica() { "replica" } else { "primary" };
            lines.push(format!("Shard {} ({role})", self.served.shard(*shard).name));
            for row in answer.rows() {
                if let Some(Ok(Some(cell))) = reply::data_row(row).ok().and_then(|mut cells| cells.next()) {
                    lines.push(format!("  {}", String::from_utf8_lossy(cell)));
                }
            }
            answer.into_result(self)?;
        }
        if with_names {
            describe(&mut self.client.out);
        }
        for line in &lines {
            backend::data_row(&mut self.client.out, &[Some(line)]);
        }
        self.complete("EXPLAIN");
        Ok(())
    }

    fn explained(&self, explain: &Explain, text: &str) -> Result<Parts, Failure> {
        let inner = &text[explain.inner.clone()];
        let catalog = self.catalog()?;
        let mut planner = self.served.planner.borrow_mut();
        let script = planner.plan(&catalog, self.session.search_path(), inner)?;
        let Some(statement) = script.statements.first() else {
            return Err(ErrorFields::error("42601", "there is nothing to explain").into());
        };
        let values = Values { text: inner, literals: planner.literals(), params: &[] };
        let decision = decide(statement, &self.served.map, values)?;
        let lines: Vec<String> = statement.plan.to_string().lines().map(str::to_owned).collect();
        let (shards, sql) = match decision {
            Decision::Forward { shard, .. } => (vec![shard.unwrap_or(super::worker::Served::HOME)], inner.to_owned()),
            Decision::Gather { gather, shards } => (shards, gather.sql.clone()),
            _ => (self.served.all_shards().collect(), inner.to_owned()),
        };
        Ok(Parts { lines, shards, sql, access: statement.access })
    }
}
