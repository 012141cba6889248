//! The tree and the SQL of a merge while they are made: what the shards run is the client's text with
//! pieces put in and taken out.

use std::ops::Range;

use super::{Gather, Node, Shards};
use crate::sql::spans::{self, SelectSpans};

/// What becomes of a clause in the SQL for shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Clause {
    Keep,
    Remove,
    Replace(String),
}

/// A merge in the making. Runnable at every moment: `tree` and the SQL always fit each other.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    text: &'a str,
    span: Range<usize>,
    spans: &'a SelectSpans,
    helpers: Vec<String>,
    pub tree: Node,
    pub order: Clause,
    pub limit: Clause,
    pub distinct: Clause,
    pub having: Clause,
    /// The SQL of the group keys, by helper.
    pub group: Vec<String>,
    /// Every group key is of a type that the router can order.
    pub group_is_ordered: bool,
    /// The types that the parameters of LIMIT and OFFSET are cast to in the text.
    pub limit_types: [&'static str; 2],
}

impl<'a> Draft<'a> {
    pub(super) fn new(text: &'a str, span: Range<usize>, spans: &'a SelectSpans) -> Self {
        Self {
            text,
            span,
            spans,
            helpers: Vec::new(),
            tree: Node::Route,
            order: Clause::Remove,
            limit: Clause::Remove,
            distinct: Clause::Keep,
            having: Clause::Keep,
            group: Vec::new(),
            group_is_ordered: false,
            limit_types: ["int8"; 2],
        }
    }

    /// Puts a node above the tree.
    pub(super) fn push(&mut self, node: impl FnOnce(Box<Node>) -> Node) {
        let input = Box::new(std::mem::replace(&mut self.tree, Node::Route));
        self.tree = node(input);
    }

    /// The number of the helper column that shows `sql`.
    pub(super) fn helper(&mut self, sql: &str) -> u16 {
        let found = self.helpers.iter().position(|helper| helper == sql).unwrap_or_else(|| {
            self.helpers.push(sql.to_owned());
            self.helpers.len() - 1
        });
        u16::try_from(found).unwrap_or(u16::MAX)
    }

    /// How many targets the client wrote; as many as there are visible columns when none is a star.
    pub(super) fn targets(&self) -> usize {
        self.spans.targets.len()
    }

    pub(super) fn text_of(&self, span: Range<usize>) -> &'a str {
        &self.text[span]
    }

    /// Where the statement ends in the text.
    pub(super) fn end(&self) -> usize {
        self.span.end
    }

    pub(super) fn finish(mut self, shards: Shards, params: u16, timed: bool) -> Gather {
        if !self.helpers.is_empty() {
            self.push(|input| Node::Project { input });
        }
        let helpers = u16::try_from(self.helpers.len()).unwrap_or(u16::MAX);
        let sql = self.sql();
        let timed_sql = timed.then(|| spans::with_clock(&sql, usize::from(params) + 1));
        Gather { shards, sql, timed_sql, helpers, tree: self.tree, params, or_else: None, locks: false }
    }

    fn sql(&self) -> String {
        let spans = self.spans;
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        let end = spans.targets.last().map_or(self.span.end, |target| target.end);
        let columns = self.helpers.iter().enumerate();
        let columns: String = columns.map(|(index, sql)| format!(", ({sql}) AS sluice_h{}", index + 1)).collect();
        edits.push((end..end, columns));
        for (clause, span) in [(&self.distinct, &spans.distinct), (&self.having, &spans.having)] {
            self.edit(clause, span, &mut edits);
        }
        match (&self.order, &spans.order) {
            (Clause::Replace(sql), None) => edits.push((spans.body_end..spans.body_end, format!(" {sql}"))),
            (clause, span) => self.edit(clause, span, &mut edits),
        }
        self.edit(&self.limit, &spans.limit, &mut edits);
        let offset = if self.limit == Clause::Keep { Clause::Keep } else { Clause::Remove };
        self.edit(&offset, &spans.offset, &mut edits);
        edits.sort_by_key(|(span, _)| (span.start, span.end));
        let mut sql = String::with_capacity(self.span.len() + 64);
        let mut at = self.span.start;
        for (span, new) in edits {
            sql.push_str(&self.text[at..span.start]);
            sql.push_str(&new);
            at = span.end;
        }
        sql.push_str(&self.text[at..self.span.end]);
        sql.truncate(sql.trim_end().len());
        sql
    }

    fn edit(&self, clause: &Clause, span: &Option<Range<usize>>, edits: &mut Vec<(Range<usize>, String)>) {
        let Some(span) = span.clone() else { return };
        match clause {
            Clause::Keep => {}
            Clause::Replace(sql) => edits.push((span, sql.clone())),
            Clause::Remove => {
                // A line end may close a comment, so only blanks go with the clause.
                let before = self.text[..span.start].trim_end_matches([' ', '\t']).len();
                edits.push((before.max(self.span.start)..span.end, String::new()));
            }
        }
    }
}
