//! COPY ... FROM STDIN: in which field of a row the sharding key is.

use super::computed::{check_copied, missing_fields};
use super::final_query::quoted;
use super::reasons;
use crate::catalog::{Column, Origin, Reading, Relation, Table, TableKind};
use crate::copy::{
    AddedField, CopyFormat, CopyFrom, CopyTarget, Encoding, FieldValue, ForceNull, ForceQuote, KeyOptions, MomentField,
    MomentKind, PartialRows, PrintForm,
};
use crate::refusal::Refusal;
use crate::sql::tree::{Copy, CopyOption, TableRef};

pub(super) fn copy_from(found: &Table, name: &str, table: &TableRef, copy: &Copy) -> Result<CopyFrom, Refusal> {
    let added = match found.relation {
        Relation::Table if !copy.columns.is_empty() => missing_fields(found, name, &copy.columns)?,
        _ => Vec::new(),
    };
    let (target, key_column) = match found.kind {
        TableKind::Sharded { column, key_type } => {
            let key = &found.columns[column].name;
            let field = data_columns(found, copy).position(|column| column.name == *key);
            let field = if added.iter().any(|field| field.is_key) { Some(0) } else { field };
            let field = field.and_then(|field| u16::try_from(field).ok());
            let field = field.ok_or_else(|| reasons::insert_without_key(name, key))?;
            let stored_in = found.columns[column].characters_max();
            (CopyTarget::Sharded { field, key_type, stored_in }, key.clone())
        }
        TableKind::Reference | TableKind::Local(_) => (CopyTarget::Reference, String::new()),
    };
    let added_names = added.iter().map(|field| field.name.as_str().into());
    let known: Vec<Box<str>> = copy.columns.iter().cloned().chain(added_names).collect();
    check_copied(found, name, &known)?;
    check_marked(found, name, copy)?;
    check_added(copy, &added, &format(copy)?)?;
    let format = format(copy)?;
    let moments = match format {
        CopyFormat::Binary => Vec::new(),
        CopyFormat::Text { .. } | CopyFormat::Csv { .. } => moments(found, copy),
    };
    let mut key = key_options(copy, &key_column);
    if matches!(target, CopyTarget::Sharded { .. }) {
        check_options(copy)?;
        key.not_null = found.columns.iter().any(|column| column.name == key_column && column.not_null);
    }
    if !moments.is_empty() {
        check_encoding(copy, "a table with dates or times")?;
    }
    let relation = match &table.schema {
        Some(schema) => format!("{}.{}", quoted(schema), quoted(name)),
        None => quoted(name),
    };
    let is_partial = !copy.columns.is_empty() && copy.columns.len() < found.columns.len();
    let partial = is_partial.then(|| PartialRows { relation, columns: copy.columns.clone() });
    Ok(CopyFrom { target, format, table: name.to_owned(), key_column, key, partial, added, moments })
}

/// The columns that the data have, in their order.
fn data_columns<'t>(found: &'t Table, copy: &'t Copy) -> impl Iterator<Item = &'t Column> {
    let all = found.columns.iter().filter(|column| copy.columns.is_empty() && column.origin == Origin::Given);
    let named = |name: &str| found.columns.iter().find(|column| column.name == name);
    all.chain(copy.columns.iter().filter_map(move |name| named(name)))
}

/// The fields whose texts may say `now`.
fn moments(found: &Table, copy: &Copy) -> Vec<MomentField> {
    let fields = data_columns(found, copy).zip(0..).filter(|(column, _)| column.reading == Reading::Clock);
    let moment = |(column, field): (&Column, u16)| MomentField {
        field,
        column: column.name.clone(),
        kind: MomentKind::of_type(column.type_oid),
        null: force_null(copy, &column.name),
    };
    fields.map(moment).collect()
}

/// Refuses the option DEFAULT where what the marker stands for in a row is not a shard's to make.
fn check_marked(found: &Table, name: &str, copy: &Copy) -> Result<(), Refusal> {
    if option(copy, "default").is_none() {
        return Ok(());
    }
    let is_listed = |column: &str| copy.columns.is_empty() || copy.columns.iter().any(|listed| **listed == *column);
    // A key that is to have its default is refused where it stands.
    let key = match found.kind {
        TableKind::Sharded { column, .. } => found.columns.get(column).map(|column| &*column.name),
        TableKind::Reference | TableKind::Local(_) => None,
    };
    let others = found.columns.iter().map(|column| &*column.name);
    let others: Vec<Box<str>> = others.filter(|name| !is_listed(name) || key == Some(name)).map(Box::from).collect();
    check_copied(found, name, &others)?;
    match missing_fields(found, name, &others)?.first() {
        None => Ok(()),
        Some(field) => {
            let what = format!("COPY with the option DEFAULT into column \"{}\", whose default", field.name);
            let hint = "Leave the column out of the list, or write its values into the data.";
            Err(reasons::utility(&format!("{what} is not the same for all rows and shards,"), hint))
        }
    }
}

/// Refuses formats in which a value of the router could be read as something else.
fn check_added(copy: &Copy, added: &[AddedField], format: &CopyFormat) -> Result<(), Refusal> {
    let Some(first) = added.first() else { return Ok(()) };
    let no = || {
        let what = format!("COPY in this format without column \"{}\"", first.name);
        Err(reasons::utility(&what, "Write the values of the column into the data."))
    };
    let is_of_value = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b'-';
    let (null, marks) = match format {
        CopyFormat::Binary => {
            let is_binary = |field: &AddedField| match &field.value {
                FieldValue::Next { bytes, .. } => *bytes > 0,
                FieldValue::Uuid | FieldValue::Once(_) => true,
            };
            return if added.iter().all(is_binary) { Ok(()) } else { no() };
        }
        CopyFormat::Text { delimiter, null, .. } => (null, vec![*delimiter]),
        CopyFormat::Csv { delimiter, null, quote, escape, .. } => (null, vec![*delimiter, *quote, *escape]),
    };
    let default = match option(copy, "default") {
        Some(CopyOption::Text(marker)) => marker.as_bytes(),
        _ => &[],
    };
    let is_value = |marker: &[u8]| marker.iter().any(u8::is_ascii_digit);
    let odd_name = |field: &AddedField| !field.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let unclear = is_value(null) || is_value(default) || marks.iter().any(is_of_value);
    if unclear || has_header(copy) && added.iter().any(odd_name) { no() } else { Ok(()) }
}

/// Refuses what the key of a row, or whether there is a row at all, depends on beyond its own field.
fn check_options(copy: &Copy) -> Result<(), Refusal> {
    for (name, value) in &copy.options {
        match (&**name, value) {
            ("format" | "delimiter" | "null" | "header" | "quote" | "escape" | "encoding" | "freeze", _)
            | ("force_null" | "force_not_null" | "default" | "log_verbosity", _) => {}
            ("on_error", CopyOption::Text(stop)) if stop.eq_ignore_ascii_case("stop") => {}
            ("on_error" | "reject_limit", _) => {
                let hint = "Leave rows that cannot be stored out of the data.";
                return Err(reasons::utility("COPY that passes over errors into a sharded table", hint));
            }
            _ => {
                let what = format!("COPY with option \"{name}\" into a sharded table");
                return Err(reasons::utility(&what, "Leave the option out."));
            }
        }
    }
    check_encoding(copy, "a sharded table")
}

fn check_encoding(copy: &Copy, table: &str) -> Result<(), Refusal> {
    match option(copy, "encoding") {
        Some(CopyOption::Text(name)) if embeds_ascii(name) => {
            let what = format!("COPY in encoding {name} into {table}");
            Err(reasons::utility(&what, "Convert the data to UTF8."))
        }
        _ => Ok(()),
    }
}

fn option<'c>(copy: &'c Copy, name: &str) -> Option<&'c CopyOption> {
    copy.options.iter().find(|(found, _)| &**found == name).map(|(_, value)| value)
}

fn force_null(copy: &Copy, column: &str) -> ForceNull {
    let is_named = |name: &str| match option(copy, name) {
        Some(CopyOption::Names(columns)) => columns.iter().any(|named| **named == *column),
        Some(CopyOption::All) => true,
        _ => false,
    };
    match (is_named("force_not_null"), is_named("force_null")) {
        // Of both PostgreSQL applies the first, and what that leaves is no NULL string.
        (true, _) => ForceNull::NotNull,
        (false, true) => ForceNull::Null,
        (false, false) => ForceNull::AsWritten,
    }
}

fn key_options(copy: &Copy, key: &str) -> KeyOptions {
    let default = match option(copy, "default") {
        Some(CopyOption::Text(marker)) => Some(marker.as_bytes().to_vec()),
        _ => None,
    };
    let encoding = match option(copy, "encoding") {
        Some(CopyOption::Text(name)) => match &*plain(name) {
            "utf8" | "unicode" => Encoding::Utf8,
            "latin1" | "iso88591" => Encoding::Latin1,
            _ => Encoding::Other,
        },
        _ => Encoding::Utf8,
    };
    KeyOptions { not_null: false, null: force_null(copy, key), default, encoding }
}

/// The name of an encoding as PostgreSQL compares it.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

/// Whether a part of a character may look like ASCII in an encoding: a delimiter, a quote, the end of a line.
fn embeds_ascii(encoding: &str) -> bool {
    [
        "sjis",
        "shiftjis",
        "mskanji",
        "win932",
        "windows932",
        "shiftjis2004",
        "big5",
        "win950",
        "windows950",
        "gbk",
        "win936",
    ]
    .iter()
    .chain(&["windows936", "uhc", "win949", "windows949", "gb18030", "johab"])
    .any(|known| plain(encoding) == *known)
}

/// How the router prints the rows of a query.
///
/// # Errors
/// Options that PostgreSQL may refuse, or that the router does not know.
pub(super) fn print_form(copy: &Copy) -> Result<PrintForm, Refusal> {
    let no = || reasons::utility("COPY of a query with these options", "SELECT the rows, or leave the options out.");
    let known = ["format", "delimiter", "null", "header", "quote", "escape", "force_quote", "encoding"];
    for (at, (name, _)) in copy.options.iter().enumerate() {
        let again = copy.options[..at].iter().any(|(other, _)| other == name);
        if again || !known.contains(&&**name) {
            return Err(no());
        }
    }
    if let Some(encoding) = option(copy, "encoding")
        && !matches!(encoding, CopyOption::Text(name) if plain(name) == "utf8")
    {
        return Err(no());
    }
    let force = match option(copy, "force_quote") {
        None => ForceQuote::Named(Vec::new()),
        Some(CopyOption::All) => ForceQuote::All,
        Some(CopyOption::Names(columns)) => ForceQuote::Named(columns.clone()),
        Some(_) => return Err(no()),
    };
    let is_set = |name: &str| option(copy, name).is_some();
    let is_match = matches!(option(copy, "header"), Some(CopyOption::Text(text)) if text.eq_ignore_ascii_case("match"));
    match (option(copy, "format"), format(copy)?) {
        (Some(CopyOption::Text(name)), _) if !["text", "csv", "binary"].contains(&&**name) => Err(no()),
        _ if is_match => Err(no()),
        (_, CopyFormat::Binary) if copy.options.iter().any(|(name, _)| !["format", "encoding"].contains(&&**name)) => {
            Err(no())
        }
        (_, CopyFormat::Binary) => Ok(PrintForm::Binary),
        (_, CopyFormat::Text { delimiter, null, header }) => {
            let odd =
                delimiter == b'\\' || delimiter == b'.' || delimiter.is_ascii_lowercase() || delimiter.is_ascii_digit();
            let foreign = is_set("quote") || is_set("escape") || is_set("force_quote");
            if odd || foreign || !fits(&null, &[delimiter]) || !is_visible(delimiter) {
                return Err(no());
            }
            Ok(PrintForm::Text { delimiter, null, header })
        }
        (_, CopyFormat::Csv { delimiter, null, quote, escape, header }) => {
            if delimiter == quote
                || !fits(&null, &[delimiter, quote])
                || ![delimiter, quote, escape].into_iter().all(is_visible)
            {
                return Err(no());
            }
            Ok(PrintForm::Csv { delimiter, null, quote, escape, header, force })
        }
    }
}

/// Whether a NULL string can be told from everything else.
fn fits(null: &[u8], marks: &[u8]) -> bool {
    !null.iter().any(|byte| marks.contains(byte) || [b'\n', b'\r'].contains(byte))
}

/// Whether a mark is a character of its own and no line end.
fn is_visible(mark: u8) -> bool {
    mark.is_ascii() && ![0, b'\n', b'\r'].contains(&mark)
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
        CopyOption::Names(_) | CopyOption::All | CopyOption::Other => false,
    }
}
