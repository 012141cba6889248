//! COPY ... FROM STDIN: in which field of a row the sharding key is.

use super::computed::check_copied;
use super::reasons;
use crate::catalog::{Table, TableKind};
use crate::copy::{CopyFormat, CopyFrom, CopyTarget};
use crate::refusal::Refusal;
use crate::sql::tree::{Copy, CopyOption, TableRef};

pub(super) fn copy_from(found: &Table, name: &str, table: &TableRef, copy: &Copy) -> Result<CopyFrom, Refusal> {
    let (target, key_column) = match found.kind {
        TableKind::Sharded { column, key_type } => {
            let key = &found.columns[column].name;
            let field = if copy.columns.is_empty() {
                Some(column)
            } else {
                copy.columns.iter().position(|column| **column == **key)
            };
            let field = field.and_then(|field| u16::try_from(field).ok());
            let field = field.ok_or_else(|| reasons::insert_without_key(name, key))?;
            let stored_in = found.columns[column].characters_max();
            (CopyTarget::Sharded { field, key_type, stored_in }, key.clone())
        }
        TableKind::Reference | TableKind::Local(_) => (CopyTarget::Reference, String::new()),
    };
    check_copied(found, name, &copy.columns)?;
    let table = match &table.schema {
        Some(schema) => format!("{schema}.{name}"),
        None => name.to_owned(),
    };
    if matches!(target, CopyTarget::Sharded { .. }) {
        check_options(copy)?;
    }
    Ok(CopyFrom { target, format: format(copy)?, table, key_column })
}

/// Refuses what the key of a row, or whether there is a row at all, depends on beyond its own field.
fn check_options(copy: &Copy) -> Result<(), Refusal> {
    for (name, value) in &copy.options {
        match (&**name, value) {
            ("format" | "delimiter" | "null" | "header" | "quote" | "escape" | "encoding" | "freeze", _)
            | ("log_verbosity", _) => {}
            // They change what is NULL, maybe in the key.
            ("force_null" | "force_not_null", _) => {
                let what = format!("COPY with {} into a sharded table", name.to_uppercase());
                return Err(reasons::utility(&what, "Write NULL and empty strings apart in the data."));
            }
            ("on_error", CopyOption::Text(stop)) if stop.eq_ignore_ascii_case("stop") => {}
            ("on_error" | "reject_limit", _) => {
                let hint = "Leave rows that cannot be stored out of the data.";
                return Err(reasons::utility("COPY that passes over errors into a sharded table", hint));
            }
            ("default", _) => {
                let hint = "Write the values, or leave the column out.";
                return Err(reasons::utility("COPY with a DEFAULT marker into a sharded table", hint));
            }
            _ => {
                let what = format!("COPY with option \"{name}\" into a sharded table");
                return Err(reasons::utility(&what, "Leave the option out."));
            }
        }
    }
    Ok(())
}

fn format(copy: &Copy) -> Result<CopyFormat, Refusal> {
    let text = |name: &str| match copy.options.iter().find(|(found, _)| &**found == name) {
        Some((_, CopyOption::Text(text))) => Some(&**text),
        _ => None,
    };
    let byte = |name: &str, default: u8| match text(name).map(str::as_bytes) {
        None => Ok(default),
        Some([byte]) => Ok(*byte),
        Some(_) => Err(Refusal::error("0A000", format!("COPY {name} must be a single one-byte character"))),
    };
    if let Some(encoding) = text("encoding")
        && !["utf8", "utf-8", "unicode"].iter().any(|utf8| encoding.eq_ignore_ascii_case(utf8))
    {
        return Err(reasons::utility("COPY with another encoding than UTF8", "Convert the data to UTF8."));
    }
    let header = has_header(copy);
    let null = |default: &str| text("null").unwrap_or(default).as_bytes().to_vec();
    match text("format").unwrap_or("text") {
        "binary" => Ok(CopyFormat::Binary),
        "csv" => {
            let quote = byte("quote", b'"')?;
            let escape = byte("escape", quote)?;
            Ok(CopyFormat::Csv { delimiter: byte("delimiter", b',')?, null: null(""), quote, escape, header })
        }
        _ => Ok(CopyFormat::Text { delimiter: byte("delimiter", b'\t')?, null: null("\\N"), header }),
    }
}

/// Whether a line of names comes before the rows.
pub(super) fn has_header(copy: &Copy) -> bool {
    copy.options.iter().any(|(name, value)| &**name == "header" && is_header(value))
}

fn is_header(value: &CopyOption) -> bool {
    match value {
        CopyOption::Flag(on) => *on,
        CopyOption::Text(text) => ["true", "on", "1", "match"].iter().any(|on| text.eq_ignore_ascii_case(on)),
        CopyOption::Other => false,
    }
}
