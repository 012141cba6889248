//! The rows of an INSERT as one array for each column: a server reads these in about half the time that it needs for VALUES, which it
//! parses, analyses and plans value by value.
//!
//! What a column then holds must be what VALUES would have put there. So only values are taken whose text means the same in both: numbers
//! for numbers, strings for what is read from strings, parameters of the column's own type. Anything else leaves the rows as they are.

use super::Returns;
use super::row_numbers::{RowNumbers, told};
use crate::catalog::{Column, ColumnDefault, Identity, Origin};
use crate::sql::cells::Cell;
use crate::sql::rows::RowSpans;
use crate::value::oid;

const JSON: u32 = 114;
const JSONB: u32 = 3802;

/// Types of which an element of an array is read as a value of a column is.
const ELEMENTS: [(u32, &str); 25] = [
    (oid::BOOL, "bool"),
    (oid::BYTEA, "bytea"),
    (oid::INT8, "int8"),
    (oid::INT2, "int2"),
    (oid::INT4, "int4"),
    (oid::TEXT, "text"),
    (JSON, "json"),
    (oid::CIDR, "cidr"),
    (oid::FLOAT4, "float4"),
    (oid::FLOAT8, "float8"),
    (oid::MACADDR8, "macaddr8"),
    (oid::MACADDR, "macaddr"),
    (oid::INET, "inet"),
    (oid::BPCHAR, "bpchar"),
    (oid::VARCHAR, "varchar"),
    (oid::DATE, "date"),
    (oid::TIME, "time"),
    (oid::TIMESTAMP, "timestamp"),
    (oid::TIMESTAMPTZ, "timestamptz"),
    (oid::INTERVAL, "interval"),
    (oid::TIMETZ, "timetz"),
    (oid::NUMERIC, "numeric"),
    (oid::UUID, "uuid"),
    (oid::PG_LSN, "pg_lsn"),
    (JSONB, "jsonb"),
];

/// The columns that an INSERT fills, each of a type whose values can be elements of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowArrays {
    /// The type of each.
    pub elements: Vec<u32>,
    /// What stands in the place of VALUES, with the arrays as the first parameters.
    pub source: Box<str>,
    pub returns: Returns,
}

/// One array as a parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArrayValue {
    /// 0 for text, 1 for binary.
    pub format: i16,
    pub bytes: Vec<u8>,
}

/// What the values in the rows mean.
#[derive(Clone, Copy, Debug)]
pub struct RowValues<'a> {
    pub text: &'a str,
    pub spans: &'a RowSpans,
    /// Format and bytes of every parameter.
    pub params: &'a [(i16, Option<&'a [u8]>)],
    /// The types that the client has declared for them; 0, or nothing, leaves one to the server.
    pub declared: &'a [u32],
}

impl RowValues<'_> {
    /// Whether each parameter stands in one place: else its type need not be that of its column.
    fn are_used_once(&self) -> bool {
        let mut left = vec![true; self.params.len()];
        let mut uses = self.spans.cells.iter().filter_map(|cell| match cell {
            Cell::Param(number) => Some(usize::from(*number)),
            _ => None,
        });
        uses.all(|number| left.get_mut(number).is_some_and(std::mem::take)) && !left.contains(&true)
    }
}

impl RowArrays {
    /// With fewer rows for a shard VALUES cost no more.
    pub const ROWS_MIN: usize = 8;

    /// None when a column has another type.
    pub(super) fn of(columns: &[&Column], returns: Returns) -> Option<Self> {
        let mut sources = Vec::with_capacity(columns.len());
        for (n, column) in columns.iter().enumerate() {
            let (_, name) = ELEMENTS.iter().find(|(oid, _)| *oid == column.type_oid)?;
            let always = matches!(column.default, ColumnDefault::Sequence { identity: Identity::Always, .. });
            let is_plain = column.crossing.domain.is_none() && column.origin == Origin::Given && !always;
            // The fields of an interval are part of how a string is read.
            if !is_plain || (column.type_oid == oid::INTERVAL && column.typmod >= 0) {
                return None;
            }
            sources.push(format!("pg_catalog.unnest(${}::pg_catalog.{name}[])", n + 1));
        }
        let source = format!("ROWS FROM ({})", sources.join(", "));
        let source = match returns {
            Returns::Nothing | Returns::EveryRow => format!("SELECT * FROM {source}"),
            Returns::Numbered(_) => RowNumbers::source(&source, columns.len()),
        };
        Some(Self { elements: columns.iter().map(|column| column.type_oid).collect(), source: source.into(), returns })
    }

    /// The text that takes arrays, from the client's; none when what stands around its rows names parameters.
    pub fn text(&self, text: &str, spans: &RowSpans) -> Option<String> {
        if spans.params_around(text) {
            return None;
        }
        let [head, tail] = spans.around(text);
        Some(match self.returns {
            Returns::Nothing | Returns::EveryRow => format!("{head}{}{tail}", self.source),
            Returns::Numbered(_) => format!("{head}{}{}", self.source, told(tail)),
        })
    }

    /// The arrays for `parts` shards, where `part_of` tells the one of each row; none when a value is not plain, or rows are few.
    pub fn fill(&self, values: RowValues<'_>, part_of: &[usize], parts: usize) -> Option<Vec<Vec<ArrayValue>>> {
        if part_of.len() >= parts * Self::ROWS_MIN { self.fill_any(values, part_of, parts) } else { None }
    }

    fn fill_any(&self, values: RowValues<'_>, part_of: &[usize], parts: usize) -> Option<Vec<Vec<ArrayValue>>> {
        let width = self.elements.len();
        if values.spans.cells.len() != width * part_of.len() || !values.are_used_once() {
            return None;
        }
        let mut filled = vec![Vec::with_capacity(width); parts];
        for (n, element) in self.elements.iter().enumerate() {
            let cells = || values.spans.cells.iter().skip(n).step_by(width);
            let form = Form::of(*element, values, cells())?;
            let mut arrays = vec![Array::new(form); parts];
            for (cell, part) in cells().zip(part_of) {
                arrays.get_mut(*part)?.push(*element, cell, values)?;
            }
            for (filled, array) in filled.iter_mut().zip(arrays) {
                filled.push(array.finish(*element));
            }
        }
        Some(filled)
    }
}

/// How the elements of an array are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Binary, from text or binary: integers of so many bytes.
    Integers(usize),
    /// Binary, and the same as text.
    Characters,
    /// Binary, as parameters bring them.
    Binary,
    Text,
}

impl Form {
    /// By the first value that is there.
    fn of<'a>(element: u32, values: RowValues<'_>, mut cells: impl Iterator<Item = &'a Cell>) -> Option<Self> {
        Some(match element {
            oid::INT2 => Self::Integers(2),
            oid::INT4 => Self::Integers(4),
            oid::INT8 => Self::Integers(8),
            oid::TEXT | oid::VARCHAR | oid::BPCHAR => Self::Characters,
            _ => {
                let first = cells.find_map(|cell| match cell {
                    Cell::Null => None,
                    Cell::Param(number) => match values.params.get(usize::from(*number)) {
                        Some((_, None)) => None,
                        Some((format, Some(_))) => Some(*format),
                        None => Some(0),
                    },
                    _ => Some(0),
                });
                if first == Some(1) { Self::Binary } else { Self::Text }
            }
        })
    }
}

#[derive(Clone, Debug)]
struct Array {
    form: Form,
    count: u32,
    has_nulls: bool,
    elements: Vec<u8>,
}

impl Array {
    fn new(form: Form) -> Self {
        Self { form, count: 0, has_nulls: false, elements: Vec::new() }
    }

    fn push(&mut self, element: u32, cell: &Cell, values: RowValues<'_>) -> Option<()> {
        self.count += 1;
        let text = values.text;
        match cell {
            Cell::Null => self.push_null(),
            Cell::Bool(value) if element == oid::BOOL => self.push_text(if *value { b"t" } else { b"f" }),
            Cell::Number { digits, negative } => self.push_number(element, &text[digits.clone()], *negative),
            Cell::Text { quoted, cast } => {
                let is_own = |name: &str| type_named(name) == Some(element);
                if cast.as_ref().is_some_and(|cast| !is_own(&text[cast.clone()])) {
                    return None;
                }
                let inner = text.get(quoted.start + 1..quoted.end - 1)?;
                match inner.contains('\'') {
                    true => self.push_text(inner.replace("''", "'").as_bytes()),
                    false => self.push_text(inner.as_bytes()),
                }
            }
            Cell::Param(number) => self.push_param(element, usize::from(*number), values),
            Cell::Bool(_) | Cell::Other => None,
        }
    }

    fn push_null(&mut self) -> Option<()> {
        self.has_nulls = true;
        match self.form {
            Form::Text => self.push_raw(b"NULL"),
            _ => self.elements.extend_from_slice(&(-1i32).to_be_bytes()),
        }
        Some(())
    }

    fn push_number(&mut self, element: u32, digits: &str, negative: bool) -> Option<()> {
        let is_integer = digits.bytes().all(|byte| byte.is_ascii_digit());
        if let Form::Integers(_) = self.form {
            let value = digits.parse::<i64>().ok().filter(|_| is_integer)?;
            return self.push_integer(if negative { -value } else { value });
        }
        let is_decimal = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            && digits.bytes().filter(|byte| *byte == b'.').count() <= 1;
        let is_zero = digits.bytes().all(|byte| matches!(byte, b'0' | b'.'));
        let is_number = match element {
            oid::NUMERIC => true,
            // Longer ones are numbers that have been rounded; a negative zero is none of SQL's.
            oid::FLOAT4 | oid::FLOAT8 => digits.len() <= 17 && !(is_zero && negative),
            _ => false,
        };
        if !is_decimal || !is_number || self.form != Form::Text {
            return None;
        }
        self.push_raw(if negative { b"-" } else { b"" });
        self.elements.extend_from_slice(digits.as_bytes());
        Some(())
    }

    fn push_integer(&mut self, value: i64) -> Option<()> {
        let Form::Integers(bytes) = self.form else { return None };
        match bytes {
            2 => self.push_binary(&i16::try_from(value).ok()?.to_be_bytes()),
            4 => self.push_binary(&i32::try_from(value).ok()?.to_be_bytes()),
            _ => self.push_binary(&value.to_be_bytes()),
        }
    }

    fn push_text(&mut self, value: &[u8]) -> Option<()> {
        match self.form {
            Form::Integers(_) => self.push_integer(integer(value)?),
            Form::Characters => self.push_binary(value),
            Form::Binary => None,
            Form::Text => {
                self.push_raw(b"\"");
                for byte in value {
                    if matches!(byte, b'"' | b'\\') {
                        self.elements.push(b'\\');
                    }
                    self.elements.push(*byte);
                }
                self.elements.push(b'"');
                Some(())
            }
        }
    }

    fn push_binary(&mut self, value: &[u8]) -> Option<()> {
        self.elements.extend_from_slice(&i32::try_from(value.len()).ok()?.to_be_bytes());
        self.elements.extend_from_slice(value);
        Some(())
    }

    /// An element of the array as text, behind those before.
    fn push_raw(&mut self, value: &[u8]) {
        if self.count > 1 {
            self.elements.push(b',');
        }
        self.elements.extend_from_slice(value);
    }

    fn push_param(&mut self, element: u32, number: usize, values: RowValues<'_>) -> Option<()> {
        let (format, value) = values.params.get(number)?;
        let declared = match values.declared.get(number) {
            None | Some(0) => element,
            Some(declared) => *declared,
        };
        let fits = match self.form {
            Form::Integers(_) => matches!(declared, oid::INT2 | oid::INT4 | oid::INT8),
            Form::Characters => declared == element || matches!(declared, oid::TEXT | oid::VARCHAR),
            Form::Binary | Form::Text => declared == element,
        };
        if !fits {
            return None;
        }
        let Some(value) = value else { return self.push_null() };
        match (self.form, *format) {
            (Form::Integers(_), 1) => self.push_integer(binary_integer(declared, value)?),
            (Form::Integers(_), 0) => self.push_integer(integer(value).filter(|value| has_room(declared, *value))?),
            (Form::Binary, 1) => self.push_binary(value).filter(|()| has_length(element, value.len())),
            (Form::Characters, 0 | 1) => self.push_binary(value),
            (_, 0) => self.push_text(value),
            _ => None,
        }
    }

    /// `array_in` and `array_recv` take what this makes.
    fn finish(self, element: u32) -> ArrayValue {
        if self.form == Form::Text {
            let bytes = [b"{".as_slice(), &self.elements, b"}"].concat();
            return ArrayValue { format: 0, bytes };
        }
        let header = [u32::from(self.count > 0), u32::from(self.has_nulls), element, self.count, 1];
        let header = if self.count > 0 { &header[..] } else { &header[..3] };
        let mut bytes = Vec::with_capacity(self.elements.len() + 20);
        header.iter().for_each(|word| bytes.extend_from_slice(&word.to_be_bytes()));
        bytes.extend_from_slice(&self.elements);
        ArrayValue { format: 1, bytes }
    }
}

/// A number as every integer type reads it; PostgreSQL knows more forms, and says what is wrong with others.
fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()
}

/// Whether an integer is one of the type that the client has declared.
fn has_room(declared: u32, value: i64) -> bool {
    match declared {
        oid::INT2 => i16::try_from(value).is_ok(),
        oid::INT4 => i32::try_from(value).is_ok(),
        _ => true,
    }
}

fn binary_integer(declared: u32, value: &[u8]) -> Option<i64> {
    Some(match declared {
        oid::INT2 => i16::from_be_bytes(value.try_into().ok()?).into(),
        oid::INT4 => i32::from_be_bytes(value.try_into().ok()?).into(),
        _ => i64::from_be_bytes(value.try_into().ok()?),
    })
}

/// Whether a value in binary can have so many bytes; PostgreSQL has its own words for one that cannot.
fn has_length(element: u32, bytes: usize) -> bool {
    match element {
        oid::BOOL => bytes == 1,
        oid::FLOAT4 | oid::DATE => bytes == 4,
        oid::FLOAT8 | oid::TIME | oid::TIMESTAMP | oid::TIMESTAMPTZ | oid::PG_LSN | oid::MACADDR8 => bytes == 8,
        oid::MACADDR => bytes == 6,
        oid::TIMETZ => bytes == 12,
        oid::INTERVAL | oid::UUID => bytes == 16,
        _ => true,
    }
}

/// The type of this name in the grammar.
fn type_named(name: &str) -> Option<u32> {
    let name = name.to_ascii_lowercase();
    let name = match &*name {
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "smallint" => "int2",
        "boolean" => "bool",
        "decimal" => "numeric",
        "real" => "float4",
        // Alone it is one character.
        "char" | "character" | "bpchar" => return None,
        other => other,
    };
    ELEMENTS.iter().find(|(_, known)| *known == name).map(|(oid, _)| *oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrays(elements: &[u32]) -> RowArrays {
        RowArrays { elements: elements.to_vec(), source: "ROWS".into(), returns: Returns::Nothing }
    }

    /// The arrays of one shard: as text, or the elements in hex.
    fn filled(elements: &[u32], rows: &str, params: &[(i16, Option<&[u8]>)], declared: &[u32]) -> Option<Vec<String>> {
        let text = format!("INSERT INTO t VALUES {rows}");
        let spans = RowSpans::of(&text)?;
        let values = RowValues { text: &text, spans: &spans, params, declared };
        let parts = arrays(elements).fill_any(values, &vec![0; spans.rows.len()], 1)?;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let shown = |array: &ArrayValue| match array.format {
            0 => String::from_utf8_lossy(&array.bytes).into_owned(),
            _ => hex(&array.bytes[20..]),
        };
        Some(parts[0].iter().map(shown).collect())
    }

    fn one(element: u32, rows: &str) -> Option<String> {
        filled(&[element], rows, &[], &[]).map(|found| found[0].clone())
    }

    #[test]
    fn literals_become_elements() {
        let integers = one(oid::INT2, "(1), (-2), ('3'), (NULL)");
        assert_eq!(integers.as_deref(), Some("00000002000100000002fffe000000020003ffffffff"));
        assert_eq!(one(oid::NUMERIC, "(1.50), (-7), ('x\"\\'), (NULL)").as_deref(), Some(r#"{1.50,-7,"x\"\\",NULL}"#));
        assert_eq!(one(oid::TEXT, "('it''s'), ('')").as_deref(), Some("000000046974277300000000"));
        assert_eq!(one(oid::BOOL, "(TRUE), ('no')").as_deref(), Some(r#"{"t","no"}"#));
        assert_eq!(one(oid::DATE, "('2024-02-29'::date), (NULL)").as_deref(), Some(r#"{"2024-02-29",NULL}"#));
    }

    #[test]
    fn what_could_mean_something_else_is_left() {
        for (element, rows) in [
            (oid::INT4, "(1.5)"),
            (oid::INT4, "(2147483648)"),
            (oid::INT2, "(40000)"),
            (oid::INT4, "(' 5 ')"),
            (oid::INT8, "(9223372036854775808)"),
            (oid::TEXT, "(5)"),
            (oid::TEXT, "('a' || 'b')"),
            (oid::FLOAT8, "(-0)"),
            (oid::FLOAT8, "(1e5)"),
            (oid::TIMESTAMPTZ, "('2024-02-29'::date)"),
            (oid::VARCHAR, "('abc'::char)"),
            (oid::BOOL, "(1)"),
            (oid::INT4, "(true)"),
            (oid::INT4, "(DEFAULT)"),
            (oid::DATE, "(now())"),
        ] {
            assert_eq!(one(element, rows), None, "{rows}");
        }
    }

    #[test]
    fn parameters_become_elements() {
        let five = 5i32.to_be_bytes();
        let params = [(1, Some(&five[..])), (0, Some(&b"-6"[..])), (0, None)];
        let first = &params[..1];
        let found = filled(&[oid::INT8], "($1), ($2), ($3), (7)", &params, &[oid::INT4]);
        let expected = "000000080000000000000005\
            00000008fffffffffffffffaffffffff000000080000000000000007";
        assert_eq!(found, Some(vec![expected.to_owned()]));
        let binary = [(1, Some(&[0u8; 16][..])), (1, None)];
        let found = filled(&[oid::UUID], "($2), ($1)", &binary, &[]);
        assert_eq!(found, Some(vec![format!("ffffffff00000010{}", "00".repeat(16))]));
        // Of another type, in two formats, of a wrong length, or not there at all.
        assert_eq!(filled(&[oid::NUMERIC], "($1)", first, &[oid::INT4]), None);
        assert_eq!(filled(&[oid::UUID], "($1), ('x')", &binary[..1], &[]), None);
        assert_eq!(filled(&[oid::TIMESTAMP], "($1)", &binary[..1], &[]), None);
        assert_eq!(filled(&[oid::TEXT], "($2)", first, &[]), None);
        // Too big for the type that the client has declared.
        let big = [(0, Some(&b"3000000000"[..]))];
        assert_eq!(filled(&[oid::INT8], "($1)", &big, &[oid::INT4]), None);
        assert!(filled(&[oid::INT8], "($1)", &big, &[oid::INT8]).is_some());
        // Twice, or not at all.
        assert_eq!(filled(&[oid::INT4], "($1), ($1)", first, &[]), None);
        assert_eq!(filled(&[oid::INT4], "($1)", &params, &[]), None);
    }

    #[test]
    fn each_shard_gets_its_own_rows() {
        let text = "INSERT INTO t VALUES (1), (2), (3)";
        let spans = RowSpans::of(text).expect("has rows");
        let values = RowValues { text, spans: &spans, params: &[], declared: &[] };
        let parts = arrays(&[oid::NUMERIC]).fill_any(values, &[1, 0, 1], 2).expect("are plain");
        let texts: Vec<&[u8]> = parts.iter().map(|part| &*part[0].bytes).collect();
        assert_eq!(texts, [b"{2}".as_slice(), b"{1,3}"]);
        assert_eq!(arrays(&[oid::INT4, oid::INT4]).fill_any(values, &[0, 0, 0], 1), None);
        assert_eq!(arrays(&[oid::NUMERIC]).fill(values, &[1, 0, 1], 2), None, "too few to be worth it");
    }
}
