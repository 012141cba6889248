//! EXPLAIN over several shards: the route and the router's own work, then each shard's plan.

use std::rc::Rc;

use bytes::BytesMut;
use pgsluice_sharding::ShardId;
use pgsluice_sharding::plan::Values;
use pgsluice_sharding::sql::{Access, Command, Explain};

use crate::protocol::backend::{self, Field};
use crate::protocol::error::ErrorFields;
use crate::protocol::reply;
use crate::session::statements::ManyRead;

use super::decide::{Decision, decide};
use super::{Conversation, Failure};

/// The one column of EXPLAIN.
pub(super) fn describe(out: &mut BytesMut) {
    backend::row_description(out, &[Field::text("QUERY PLAN")]);
}

/// What of an explained statement runs where.
struct Parts {
    lines: Vec<String>,
    on_shards: Vec<OnShards>,
    access: Access,
}

/// What some shards run.
struct OnShards {
    /// Which input of a final query it is.
    input: Option<String>,
    shards: Vec<ShardId>,
    sql: String,
}

impl Conversation {
    pub(super) async fn explain(&mut self, command: &Command, text: &Rc<str>, with_names: bool) -> Result<(), Failure> {
        let Command::Explain(explain) = command else {
            return Err(ErrorFields::error("XX000", "only EXPLAIN is explained").into());
        };
        let parts = self.explained(explain, text)?;
        let several = parts.on_shards.iter().any(|part| part.shards.len() > 1);
        if explain.analyze && several && parts.access == Access::Write {
            return Err(ErrorFields::error("0A000", "EXPLAIN ANALYZE of a statement that writes on several shards")
                .with_hint("Leave ANALYZE out.")
                .into());
        }
        self.measure.touches(parts.on_shards.iter().map(|part| part.shards.len()).max().unwrap_or(0));
        let mut lines = parts.lines;
        for part in &parts.on_shards {
            self.explain_on_shards(explain, &text[explain.prefix.clone()], part, parts.access, &mut lines).await?;
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

    /// Adds each shard's plan of a part to the lines.
    async fn explain_on_shards(
        &mut self,
        explain: &Explain,
        prefix: &str,
        part: &OnShards,
        access: Access,
        lines: &mut Vec<String>,
    ) -> Result<(), Failure> {
        for shard in &part.shards {
            let i = self.link(Some(*shard), access).await?;
            if explain.analyze {
                self.note_access(i, access)?;
            }
            let answer = self.ask(i, &format!("{prefix}{}", part.sql)).await?;
            let link = &self.links[i];
            let role = if link.is_replica() { "replica" } else { "primary" };
            let input = part.input.as_ref().map(|table| format!(", input {table}")).unwrap_or_default();
            lines.push(format!("Shard {} ({role}){input}", self.served.shard(*shard).name));
            for row in answer.rows() {
                if let Some(Ok(Some(cell))) = reply::data_row(row).ok().and_then(|mut cells| cells.next()) {
                    lines.push(format!("  {}", String::from_utf8_lossy(cell)));
                }
            }
            answer.into_result(self)?;
        }
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
        let whole = |shards| vec![OnShards { input: None, shards, sql: inner.to_owned() }];
        let on_shards = match decision {
            Decision::Forward { shard, .. } => whole(vec![shard.unwrap_or(super::worker::Served::HOME)]),
            Decision::Many { read: ManyRead::Merged { gather, shards, .. }, .. } => {
                vec![OnShards { input: None, shards, sql: gather.sql.clone() }]
            }
            Decision::Many { read: ManyRead::Finished(last), .. } => {
                let inputs = last.query.inputs.iter().zip(last.inputs);
                let part = inputs.map(|(input, shards)| OnShards {
                    input: Some(input.table.clone()),
                    shards,
                    sql: input.gather.sql.clone(),
                });
                part.collect()
            }
            _ => whole(self.served.all_shards().collect()),
        };
        Ok(Parts { lines, on_shards, access: statement.access })
    }
}
