//! What is known of the functions that PostgreSQL itself brings: generated from `pg_proc` of
//! PostgreSQL 15, with the additions of 16 to 18.

use crate::catalog::{Catalog, Function, FunctionKind, Volatility};

/// One line per name, sorted: `name`, a blank, the worst volatility (`i`, `s`, `v`) and the kind
/// (`f`unction, set-returning `fs`, `a`ggregate, `w`indow).
const BUILT_IN: &str = include_str!("tables/functions.txt");

/// What calling a function may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub function: Function,
    /// Comes with PostgreSQL, so it reads no table behind the router's back unless listed in [`READERS`].
    pub built_in: bool,
}

/// Built-in functions that run SQL or read tables named in their arguments.
const READERS: [&str; 12] = [
    "cursor_to_xml",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "ts_rewrite",
    "ts_stat",
];

/// Functions of well-known extensions that are not immutable and yet read no tables.
const HARMLESS: [&str; 9] = [
    "gen_random_bytes",
    "gen_salt",
    "similarity",
    "unaccent",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v3",
    "uuid_generate_v4",
    "uuid_generate_v5",
];

/// Functions whose answer depends on the moment, and would differ between shards.
const CLOCKS: [&str; 6] =
    ["age", "current_query", "pg_conf_load_time", "pg_postmaster_start_time", "statement_timestamp", "txid_current"];

/// Whose functions a call without schema means if both PostgreSQL and a user have one of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precedence {
    /// PostgreSQL's, as long as the search path does not say otherwise.
    BuiltIn,
    /// The search path names other schemas before `pg_catalog`.
    Unclear,
}

/// The function of this name, if there is one.
pub(crate) fn lookup(catalog: &Catalog, precedence: Precedence, schema: Option<&str>, name: &str) -> Option<Known> {
    let built_in = built_in(name).map(|function| Known { function, built_in: true });
    let own = catalog.functions.get(name).map(|function| Known { function: *function, built_in: false });
    match (schema, built_in, own) {
        (None, Some(built_in), Some(own)) => Some(either(precedence, built_in, own)),
        (None | Some("pg_catalog"), built_in @ Some(_), _) => built_in,
        (Some("pg_catalog"), None, _) => None,
        (_, built_in, own) => own.or(built_in),
    }
}

/// What is true of two functions, one of which is called.
fn either(precedence: Precedence, built_in: Known, own: Known) -> Known {
    let is_aggregate = |known: Known| known.function.kind == FunctionKind::Aggregate;
    match precedence {
        // Any could read tables, and its answer be another one on every shard.
        Precedence::Unclear => {
            let volatility = own.function.volatility.max(built_in.function.volatility).max(Volatility::Stable);
            Known { function: Function { volatility, ..own.function }, built_in: false }
        }
        // The types of the arguments decide; nothing is known of how to merge what a user's aggregate gives.
        Precedence::BuiltIn if is_aggregate(built_in) && is_aggregate(own) => own,
        Precedence::BuiltIn => built_in,
    }
}

pub(crate) fn reads_tables(name: &str) -> bool {
    READERS.contains(&name)
}

pub(crate) fn is_harmless(name: &str) -> bool {
    HARMLESS.contains(&name)
}

/// Stable functions whose answer depends on nothing but their arguments and on settings, which all servers of a session have in common.
pub(crate) fn follows_settings(name: &str) -> bool {
    matches!(
        name,
        "age"
            | "array_to_string"
            | "concat"
            | "concat_ws"
            | "date"
            | "date_bin"
            | "date_part"
            | "date_trunc"
            | "extract"
            | "format"
            | "json_build_array"
            | "json_build_object"
            | "jsonb_build_array"
            | "jsonb_build_object"
            | "make_timestamptz"
            | "time"
            | "timestamp"
            | "timestamptz"
            | "timezone"
            | "to_char"
            | "to_date"
            | "to_json"
            | "to_jsonb"
            | "to_number"
            | "to_timestamp"
            | "to_tsquery"
            | "to_tsvector"
    )
}

/// The time at which the transaction began: the same for the whole of it.
pub(crate) fn is_transaction_clock(name: &str) -> bool {
    matches!(name, "now" | "transaction_timestamp")
}

/// Other functions whose answer depends on when or where they are asked.
pub(crate) fn is_clock(name: &str) -> bool {
    CLOCKS.contains(&name)
}

/// Whether all calls must meet on one shard to mean what they mean on one PostgreSQL: sequences,
/// advisory locks, notifications, large objects, and what tells of the server itself.
pub(crate) fn lives_at_home(name: &str) -> bool {
    matches!(name, "nextval" | "currval" | "lastval" | "setval" | "loread" | "lowrite")
        || ["pg_", "txid_", "lo_"].iter().any(|prefix| name.starts_with(prefix)) && !is_session_function(name)
}

/// `pg_*` functions that say the same on every shard.
fn is_session_function(name: &str) -> bool {
    matches!(
        name,
        "pg_typeof"
            | "pg_sleep"
            | "pg_sleep_for"
            | "pg_sleep_until"
            | "pg_size_pretty"
            | "pg_size_bytes"
            | "pg_column_size"
            | "pg_client_encoding"
            | "pg_input_is_valid"
            | "pg_my_temp_schema"
            | "pg_char_to_encoding"
            | "pg_encoding_to_char"
    )
}

fn built_in(name: &str) -> Option<Function> {
    let bytes = BUILT_IN.as_bytes();
    let (mut low, mut high) = (0, bytes.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let start = memchr::memrchr(b'\n', &bytes[low..middle]).map_or(low, |found| low + found + 1);
        let end = memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |found| start + found);
        let (found, what) = BUILT_IN[start..end].split_once(' ')?;
        match found.cmp(name) {
            std::cmp::Ordering::Equal => return Some(function(what)),
            std::cmp::Ordering::Less => low = end + 1,
            std::cmp::Ordering::Greater => high = start,
        }
    }
    None
}

fn function(what: &str) -> Function {
    let volatility = match what.as_bytes().first() {
        Some(b'i') => Volatility::Immutable,
        Some(b's') => Volatility::Stable,
        _ => Volatility::Volatile,
    };
    let kind = match what.get(1..) {
        Some("a") => FunctionKind::Aggregate,
        Some("w") => FunctionKind::Window,
        Some("fs") => FunctionKind::SetReturning,
        _ => FunctionKind::Plain,
    };
    Function { volatility, kind, pin: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_found() {
        for line in BUILT_IN.lines() {
            let (name, _) = line.split_once(' ').unwrap();
            assert!(built_in(name).is_some(), "{name}");
        }
        assert_eq!(built_in("no_such_function"), None);
        assert_eq!(built_in(""), None);
        assert_eq!(built_in("zzz"), None);
    }

    #[test]
    fn kinds_and_volatility() {
        let kind = |name: &str| built_in(name).map(|function| (function.volatility, function.kind));
        assert_eq!(kind("count"), Some((Volatility::Immutable, FunctionKind::Aggregate)));
        assert_eq!(kind("now"), Some((Volatility::Stable, FunctionKind::Plain)));
        assert_eq!(kind("random"), Some((Volatility::Volatile, FunctionKind::Plain)));
        assert_eq!(kind("generate_series"), Some((Volatility::Stable, FunctionKind::SetReturning)));
    }
}
