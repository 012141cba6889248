//! The rows of an INSERT that come back with their numbers.
//!
//! Where ON CONFLICT or a trigger passes rows over, what comes back does not show which rows it is: they may be alike, and defaults,
//! triggers and DO UPDATE fill them. But a server stores one row after another, and shows each before it takes the next. So a value of every row leaves the
//! row's number in a setting that lasts as long as the transaction, and RETURNING reads it there.

use crate::key::KeyType;
use crate::sql::lex::Lexer;
use crate::sql::rows::RowSpans;

/// The setting; nobody else knows of it.
const SETTING: &str = "sluice.row";

/// How the rows of an INSERT leave their numbers. They are counted from 1 on each shard, and stand as text behind the columns of RETURNING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowNumbers {
    /// Which value of a row is the key, the one of which it is known what the server makes of it.
    pub(super) key: usize,
    pub(super) key_type: KeyType,
}

impl RowNumbers {
    /// An item of FROM with `width` columns and the number of the row behind them, as a query of those columns that leaves the number.
    pub(super) fn source(from: &str, width: usize) -> String {
        let names: Vec<String> = (1..=width).map(|n| format!("c{n}")).collect();
        let names = names.join(", ");
        format!(
            "SELECT {names} FROM {from} WITH ORDINALITY AS given({names}, n) \
             WHERE pg_catalog.set_config('{SETTING}', n::pg_catalog.text, true) IS NOT NULL"
        )
    }

    /// The text of an INSERT with these of its rows, which leave their numbers.
    pub fn text_with(self, text: &str, spans: &RowSpans, rows: &[usize]) -> String {
        let [head, tail] = spans.around(text);
        let mut sql = format!("{head}VALUES ");
        for (n, row) in rows.iter().enumerate() {
            sql.push_str(if n == 0 { "" } else { ", " });
            let row = spans.rows[*row].clone();
            match spans.value_of(text, &row, self.key) {
                Some(key) => {
                    sql.push_str(&text[row.start..key.start]);
                    sql.push_str(&self.leaving(n + 1, &text[key.clone()]));
                    sql.push_str(&text[key.end..row.end]);
                }
                // PostgreSQL has something to say against rows of unlike lengths.
                None => sql.push_str(&text[row]),
            }
        }
        sql.push_str(&told(tail));
        sql
    }

    /// A key of the same value and type. A constant or parameter that has no type yet gets the one of the column, as in VALUES.
    fn leaving(self, number: usize, key: &str) -> String {
        let is_left = format!("pg_catalog.set_config('{SETTING}', '{number}', true) IS NULL");
        let type_name = match self.key_type {
            KeyType::Int2 => "int2",
            KeyType::Int4 => "int4",
            KeyType::Int8 => "int8",
            KeyType::Uuid => "uuid",
            // Numbers are stored as text, too.
            KeyType::Text => return format!("CASE WHEN {is_left} THEN NULL ELSE ({key})::pg_catalog.text END"),
        };
        format!("CASE WHEN {is_left} THEN NULL::pg_catalog.{type_name} ELSE {key} END")
    }
}

/// What stands behind the rows of an INSERT with RETURNING, which gives the number too.
pub(super) fn told(tail: &str) -> String {
    let last = Lexer::new(tail).filter(|token| &tail[token.start..token.end] != ";").last();
    let end = last.map_or(0, |token| token.end);
    format!("{}, pg_catalog.current_setting('{SETTING}'){}", &tail[..end], &tail[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(key_type: KeyType, text: &str, rows: &[usize]) -> String {
        let spans = RowSpans::of(text).expect("has rows");
        RowNumbers { key: 1, key_type }.text_with(text, &spans, rows)
    }

    #[test]
    fn the_key_leaves_the_number() {
        let text = "INSERT INTO t (a, id) VALUES (f(1, 2), $1 /* key */), (3, -4) , ((5), 6) RETURNING a -- all\n;";
        let expected = "INSERT INTO t (a, id) VALUES \
            (f(1, 2), CASE WHEN pg_catalog.set_config('sluice.row', '1', true) IS NULL THEN NULL::pg_catalog.int8 ELSE $1 END /* key */), \
            ((5), CASE WHEN pg_catalog.set_config('sluice.row', '2', true) IS NULL THEN NULL::pg_catalog.int8 ELSE 6 END) \
            RETURNING a, pg_catalog.current_setting('sluice.row') -- all\n;";
        assert_eq!(numbered(KeyType::Int8, text, &[0, 2]), expected);
    }

    #[test]
    fn a_key_of_text_stays_text() {
        let text = "INSERT INTO t VALUES (1, 5), (2) RETURNING *";
        let expected = "INSERT INTO t VALUES \
            (1, CASE WHEN pg_catalog.set_config('sluice.row', '1', true) IS NULL THEN NULL ELSE (5)::pg_catalog.text END), \
            (2) RETURNING *, pg_catalog.current_setting('sluice.row')";
        assert_eq!(numbered(KeyType::Text, text, &[0, 1]), expected);
    }
}
