//! Keys at hand -> shards.

use std::borrow::Cow;

use super::{InsertRows, KeyColumn, KeyValue, NullKey, ShardSet, Shards, Values};
use crate::key::{Format, Input, Key, KeyType};
use crate::map::{ShardId, ShardMap};
use crate::refusal::Refusal;
use crate::sql::shape::LiteralKind;
use crate::value::oid;

/// Type ids as PostgreSQL counts them.
const INT4: u32 = 23;
const INT8: u32 = 20;
const NUMERIC: u32 = 1700;

impl Shards {
    /// Whether [`Shards::resolve`] looks at the literals of the text.
    pub fn uses_literals(&self) -> bool {
        match self {
            Self::Keys { keys, .. } => keys.iter().any(|key| matches!(key, KeyValue::Literal { .. })),
            Self::Home { keys, .. } => keys.uses_literals(),
            Self::Any | Self::One(_) | Self::All => false,
        }
    }

    /// The shards that hold the rows concerned, under `map`.
    ///
    /// # Errors
    /// A value that cannot be coerced to the key's type gives PostgreSQL's error for it (`22P02`,
    /// `22003`); a NULL key where a row would be stored gives `23502`.
    pub fn resolve(&self, map: &ShardMap, values: Values<'_>) -> Result<ShardSet, Refusal> {
        match self {
            Self::Any => Ok(ShardSet::Any),
            Self::One(shard) => Ok(ShardSet::One(*shard)),
            Self::All => Ok(several((0..map.shards()).map(ShardId).collect())),
            Self::Keys { key_type, keys, null, stored_in } => {
                let (key_type, null, stored_in) = (*key_type, null.clone(), *stored_in);
                let mut found = Found { map, values, key_type, null, stored_in, shards: Vec::new() };
                for key in keys {
                    found.add(key)?;
                }
                Ok(several(found.shards))
            }
            Self::Home { home, keys } => Ok(match keys.resolve(map, values)? {
                ShardSet::Any => ShardSet::One(*home),
                ShardSet::One(shard) => several(vec![shard, *home]),
                ShardSet::Many(mut shards) => {
                    shards.push(*home);
                    several(shards)
                }
            }),
        }
    }
}

impl InsertRows {
    /// The shard of every row, in order.
    ///
    /// # Errors
    /// As [`Shards::resolve`].
    pub fn places(&self, map: &ShardMap, values: Values<'_>) -> Result<Vec<ShardId>, Refusal> {
        let Shards::Keys { key_type, keys, null, stored_in } = &self.keys else {
            return Err(Refusal::error("XX000", "the rows of an INSERT have no keys"));
        };
        let (key_type, null, stored_in) = (*key_type, null.clone(), *stored_in);
        let mut found = Found { map, values, key_type, null, stored_in, shards: Vec::with_capacity(keys.len()) };
        for key in keys {
            found.add(key)?;
        }
        Ok(found.shards)
    }
}

fn several(mut shards: Vec<ShardId>) -> ShardSet {
    shards.sort_unstable();
    shards.dedup();
    match shards.as_slice() {
        [] => ShardSet::Any,
        [shard] => ShardSet::One(*shard),
        _ => ShardSet::Many(shards),
    }
}

/// Shards found so far.
struct Found<'a> {
    map: &'a ShardMap,
    values: Values<'a>,
    key_type: KeyType,
    null: NullKey,
    stored_in: Option<u32>,
    shards: Vec<ShardId>,
}

impl<'a> Found<'a> {
    fn add(&mut self, key: &KeyValue) -> Result<(), Refusal> {
        match key {
            KeyValue::Null => self.add_null(),
            KeyValue::Constant(text) => self.add_text(text, 0),
            KeyValue::Literal { slot, negative } => self.add_literal(*slot, *negative),
            KeyValue::Param(index) => {
                let input = self.param(*index)?;
                self.add_input(input)
            }
            KeyValue::ParamElements(index) => {
                let input = self.param(*index)?;
                self.add_elements(input)
            }
        }
    }

    fn param(&self, index: u16) -> Result<Input<'a>, Refusal> {
        self.values
            .params
            .get(usize::from(index))
            .copied()
            .ok_or_else(|| Refusal::error("42P02", format!("there is no parameter ${}", u32::from(index) + 1)))
    }

    fn add_null(&mut self) -> Result<(), Refusal> {
        match &self.null {
            NullKey::Nothing | NullKey::Left => Ok(()),
            NullKey::Refused(column) => Err(column.is_null()),
        }
    }

    fn add_input(&mut self, input: Input<'_>) -> Result<(), Refusal> {
        if input.bytes.is_none() {
            return self.add_null();
        }
        match self.key_type.coerce(input)? {
            Some(key) => self.add_key(key),
            None => match self.null {
                NullKey::Nothing => {}
                NullKey::Refused(_) | NullKey::Left => self.add_key(self.key_type.rounded(input)?),
            },
        }
        Ok(())
    }

    fn add_key(&mut self, key: Key) {
        let key = match self.stored_in {
            Some(characters) => key.stored_in(characters),
            None => key,
        };
        self.shards.push(self.map.shard_of(&key));
    }

    fn add_text(&mut self, text: &str, type_oid: u32) -> Result<(), Refusal> {
        self.add_input(Input { bytes: Some(text.as_bytes()), format: Format::Text, type_oid })
    }

    fn add_literal(&mut self, slot: u16, negative: bool) -> Result<(), Refusal> {
        let literal = self.values.literals.get(usize::from(slot));
        let written = literal.and_then(|found| self.values.text.get(found.start as usize..found.end as usize));
        let (Some(literal), Some(written)) = (literal, written) else {
            return Err(Refusal::error("XX000", "the plan does not belong to this text"));
        };
        match literal.kind {
            LiteralKind::Text => {
                let inner = written.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(written);
                if inner.contains('\'') { self.add_text(&inner.replace("''", "'"), 0) } else { self.add_text(inner, 0) }
            }
            LiteralKind::Integer | LiteralKind::Number | LiteralKind::Other => {
                let number = if negative { Cow::Owned(format!("-{written}")) } else { Cow::Borrowed(written) };
                match (self.null != NullKey::Nothing, self.key_type, literal.kind) {
                    (false, ..) => self.add_text(&number, number_type(literal.kind, &number)),
                    // As text a number is printed anew.
                    (true, KeyType::Text, LiteralKind::Integer) => self.add_text(&printed(&number), 0),
                    (true, KeyType::Text | KeyType::Uuid, _) => Err(not_text()),
                    (true, _, LiteralKind::Number) => self.add_text(&number, NUMERIC),
                    // It takes the column's type, with its error when it does not fit.
                    (true, ..) => self.add_text(&number, 0),
                }
            }
        }
    }

    fn add_elements(&mut self, array: Input<'_>) -> Result<(), Refusal> {
        let Some(bytes) = array.bytes else { return self.add_null() };
        match array.format {
            Format::Binary => self.add_binary_elements(bytes).unwrap_or_else(|| Err(bad_array())),
            Format::Text => {
                let text = std::str::from_utf8(bytes).map_err(|_| bad_array())?;
                let type_oid = element_type(array.type_oid).ok_or_else(|| unknown_elements(array.type_oid))?;
                for element in text_elements(text).ok_or_else(bad_array)? {
                    match element {
                        Some(element) => self.add_text(&element, type_oid)?,
                        None => self.add_null()?,
                    }
                }
                Ok(())
            }
        }
    }

    /// The elements of a binary array; `None` when it is cut off.
    fn add_binary_elements(&mut self, bytes: &[u8]) -> Option<Result<(), Refusal>> {
        let word = |at: usize| Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let dimensions = usize::try_from(word(0)?).ok()?;
        let type_oid = u32::try_from(word(8)?).ok()?;
        let mut at = 12 + dimensions.checked_mul(8)?;
        bytes.get(..at)?;
        while at < bytes.len() {
            let length = word(at)?;
            at += 4;
            let element = match usize::try_from(length) {
                Err(_) => None,
                Ok(length) => Some(bytes.get(at..at.checked_add(length)?)?),
            };
            at += element.map_or(0, <[u8]>::len);
            let input = Input { bytes: element, format: Format::Binary, type_oid };
            if let Err(refusal) = self.add_input(input) {
                return Some(Err(refusal));
            }
        }
        Some(Ok(()))
    }
}

/// An integer as PostgreSQL prints it.
fn printed(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    match digits.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => format!("{sign}{digits}"),
    }
}

fn not_text() -> Refusal {
    Refusal::unsupported("a number for a sharding key that is none", "Write it as a string.")
}

/// The type that PostgreSQL gives to a number as it is written.
fn number_type(kind: LiteralKind, number: &str) -> u32 {
    if kind != LiteralKind::Integer {
        return NUMERIC;
    }
    match number.parse::<i64>() {
        Ok(number) if i32::try_from(number).is_ok() => INT4,
        Ok(_) => INT8,
        Err(_) => NUMERIC,
    }
}

/// The type of the elements of an array type; 0, which leaves it to the column, for no type.
fn element_type(array: u32) -> Option<u32> {
    Some(match array {
        0 => 0,
        1005 => 21,
        1007 => INT4,
        1016 => INT8,
        1009 => 25,
        1015 => 1043,
        1231 => NUMERIC,
        2951 => 2950,
        _ => return None,
    })
}

fn unknown_elements(array: u32) -> Refusal {
    Refusal::unsupported(
        format!("elements of {} cannot be used as sharding keys", oid::name(array)),
        "Declare the parameter as an array of the key's type, or leave its type to the server.",
    )
}

/// The elements of an array in PostgreSQL's text form, of any number of dimensions.
fn text_elements(text: &str) -> Option<Vec<Option<String>>> {
    let body = match text.trim_start() {
        bounds if bounds.starts_with('[') => bounds.split_once('=')?.1,
        body => body,
    };
    let mut elements = Vec::new();
    let mut characters = body.trim().chars().peekable();
    let mut depth = 0u32;
    while let Some(character) = characters.next() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            ',' => {}
            space if space.is_ascii_whitespace() => {}
            _ if depth == 0 => return None,
            '"' => {
                let mut element = String::new();
                loop {
                    match characters.next()? {
                        '"' => break,
                        '\\' => element.push(characters.next()?),
                        other => element.push(other),
                    }
                }
                elements.push(Some(element));
            }
            first => {
                let mut element = String::from(first);
                while let Some(next) = characters.next_if(|next| !matches!(next, ',' | '}' | '{')) {
                    element.push(next);
                }
                let element = element.trim_end();
                elements.push((!element.eq_ignore_ascii_case("null")).then(|| element.to_owned()));
            }
        }
    }
    (depth == 0).then_some(elements)
}

fn bad_array() -> Refusal {
    Refusal::error("22P02", "malformed array literal")
}

impl KeyColumn {
    /// What PostgreSQL says of a row to be stored that has no key.
    pub fn is_null(&self) -> Refusal {
        let Self { table, column } = self;
        let message = format!("null value in column \"{column}\" of relation \"{table}\" violates not-null constraint");
        Refusal::error("23502", message)
            .with_hint("Give every row a sharding key: it decides which shard holds the row.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed() {
        let printed = ["007", "-0", "-12", "0", "99999999999999999999"].map(printed);
        assert_eq!(printed, ["7", "0", "-12", "0", "99999999999999999999"]);
    }

    #[test]
    fn text_arrays() {
        let elements = |text| {
            text_elements(text).map(|found| found.into_iter().map(|e| e.unwrap_or("NULL!".into())).collect::<Vec<_>>())
        };
        assert_eq!(elements("{1,2, 3}").unwrap(), ["1", "2", "3"]);
        assert_eq!(elements("{}").unwrap(), Vec::<String>::new());
        assert_eq!(elements("{NULL,\"NULL\",\"a,\\\"b\"}").unwrap(), ["NULL!", "NULL", "a,\"b"]);
        assert_eq!(elements("[2:3]={4,5}").unwrap(), ["4", "5"]);
        assert_eq!(elements("1,2"), None);
        assert_eq!(elements("{1"), None);
    }
}
