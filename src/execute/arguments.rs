//! What came with a statement over several shards: its text and the values of its parameters.

use std::borrow::Cow;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use pgsluice_sharding::plan::row_arrays::ArrayValue;

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{put_count, put_cstr, put_value};
use crate::protocol::frontend::Bind;
use crate::session::statements::{ManyPortal, PreparedStatement};

use super::Failure;
use super::gather::{Attempt, bind_for_shard};
use super::timed::bind_with;
use super::worker::{Description, shape_of_row};

/// The Bind of a statement without parameters whose results are text.
const NO_ARGUMENTS: &[u8] = b"\0\0\0\0\0\0\0\0";

/// The same with results in binary.
const NO_ARGUMENTS_IN_BINARY: &[u8] = b"\0\0\0\0\0\0\0\x01\0\x01";

/// A statement over several shards with what its Bind brought.
#[derive(Clone)]
pub(super) struct Arguments {
    /// As the client wrote it.
    pub(super) text: Rc<str>,
    pub(super) param_types: Rc<[u32]>,
    /// The body of the Bind message.
    bind: Bytes,
    /// The shape of the rows, if the client was told.
    row: Option<u64>,
}

impl Arguments {
    /// Those of a simple query.
    pub(super) fn none(text: &str) -> Self {
        Self { text: text.into(), param_types: Rc::new([]), bind: Bytes::from_static(NO_ARGUMENTS), row: None }
    }

    /// The same with all results in binary.
    pub(super) fn none_in_binary(text: &str) -> Self {
        Self { bind: Bytes::from_static(NO_ARGUMENTS_IN_BINARY), ..Self::none(text) }
    }

    /// A statement with the body of its Bind message.
    pub(super) fn bound(statement: &PreparedStatement, bind: Bytes) -> Self {
        let (text, param_types) = (statement.text.clone(), statement.param_types.clone());
        Self { text, param_types, bind, row: statement.row.get() }
    }

    pub(super) fn of_portal(portal: &ManyPortal) -> Self {
        Self { row: portal.row_told, ..Self::bound(&portal.statement, portal.bind.clone()) }
    }

    /// The shape of the rows, if the client was told.
    pub(super) fn row_told(&self) -> Option<u64> {
        self.row
    }

    /// The same for a part of the statement, which is a query.
    pub(super) fn of_part(&self, text: &str) -> Self {
        Self { text: text.into(), param_types: self.param_types.clone(), bind: self.bind.clone(), row: None }
    }

    /// At a second attempt the rows must be those that clients were told of, if any were.
    pub(super) fn check_told(&self, description: &Description, attempt: Attempt) -> Result<(), Failure> {
        let told = self.row.is_none_or(|row| row == shape_of_row(&description.client_row));
        if attempt == Attempt::First || told {
            return Ok(());
        }
        Err(ErrorFields::outdated_plan().into())
    }

    /// The same with these types of the parameters.
    pub(super) fn with_types(self, types: &[u32]) -> Self {
        Self { param_types: types.into(), ..self }
    }

    /// The same with the results in these formats, for the router itself, which nobody has told what they are.
    pub(super) fn with_formats(&self, formats: &[i16]) -> Result<Self, Failure> {
        let mut message = BytesMut::new();
        bind_for_shard(&mut message, b"", "", &self.bind()?, formats);
        let bind = message.freeze().slice(5..);
        Ok(Self { bind, row: None, ..self.clone() })
    }

    /// The same with the results in these formats, of which the client gets all or some.
    pub(super) fn told_in_formats(&self, formats: &[i16]) -> Result<Self, Failure> {
        Ok(Self { row: self.row, ..self.with_formats(formats)? })
    }

    /// The same with all results as text.
    pub(super) fn as_text(&self) -> Result<Self, Failure> {
        self.with_formats(&[])
    }

    /// The same with one more value behind the others, in binary.
    pub(super) fn with(&self, value: &[u8]) -> Result<Self, Failure> {
        self.with_all(&[value])
    }

    /// The same with more values behind the others, in binary.
    pub(super) fn with_all(&self, values: &[&[u8]]) -> Result<Self, Failure> {
        let values: Vec<Option<&[u8]>> = values.iter().map(|value| Some(*value)).collect();
        let bind = bind_with(&self.bind()?, &values);
        Ok(Self { text: self.text.clone(), param_types: self.param_types.clone(), bind, row: self.row })
    }

    /// Other values, in the place of the client's.
    pub(super) fn replaced(&self, values: &[ArrayValue]) -> Result<Self, Failure> {
        let formats = self.bind()?.result_formats;
        let mut out = BytesMut::new();
        put_cstr(&mut out, b"");
        put_cstr(&mut out, b"");
        put_count(&mut out, values.len());
        values.iter().for_each(|value| out.put_i16(value.format));
        put_count(&mut out, values.len());
        values.iter().for_each(|value| put_value(&mut out, Some(&value.bytes)));
        put_count(&mut out, formats.count());
        formats.codes().for_each(|code| out.put_i16(code));
        Ok(Self { text: self.text.clone(), param_types: Rc::new([]), bind: out.freeze(), row: self.row })
    }

    /// Values in the place of the client's, with their formats.
    pub(super) fn with_values(&self, values: &[(i16, Option<Cow<'_, [u8]>>)]) -> Result<Self, Failure> {
        let formats = self.bind()?.result_formats;
        let mut out = BytesMut::new();
        put_cstr(&mut out, b"");
        put_cstr(&mut out, b"");
        put_count(&mut out, values.len());
        values.iter().for_each(|(format, _)| out.put_i16(*format));
        put_count(&mut out, values.len());
        values.iter().for_each(|(_, value)| put_value(&mut out, value.as_deref()));
        put_count(&mut out, formats.count());
        formats.codes().for_each(|code| out.put_i16(code));
        Ok(Self { bind: out.freeze(), ..self.clone() })
    }

    /// What follows the client's parameters has its place by how many the statement names.
    pub(super) fn check_count(&self, params: u16) -> Result<(), Failure> {
        let given = self.bind()?.values.count();
        if given == usize::from(params) {
            return Ok(());
        }
        let message = format!("the statement names {params} parameters, but {given} are given");
        let refusal = ErrorFields::error("0A000", message);
        Err(refusal.with_hint("Declare only the parameters that the statement uses.").into())
    }

    pub(super) fn bind(&self) -> Result<Bind<'_>, Failure> {
        Ok(Bind::read(&self.bind).map_err(ErrorFields::from)?)
    }
}
