//! Rows as COPY TO prints them. The values are those that PostgreSQL has sent: in text what its output functions gave, in binary what
//! its send functions gave, which COPY uses, too.

use crate::refusal::Refusal;

/// A COPY (query) TO STDOUT whose rows the router has merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyQuery {
    /// The query as the client wrote it, without COPY.
    pub sql: String,
    pub form: PrintForm,
}

/// The options of a COPY TO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrintForm {
    Text { delimiter: u8, null: Vec<u8>, header: bool },
    Csv { delimiter: u8, null: Vec<u8>, quote: u8, escape: u8, header: bool, force: ForceQuote },
    Binary,
}

/// Which columns are quoted whatever they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForceQuote {
    All,
    Named(Vec<Box<str>>),
}

/// Prints one row after another.
#[derive(Debug)]
pub struct Printer {
    form: PrintForm,
    /// For each column, whether it is always quoted.
    forced: Vec<bool>,
}

/// What the binary form begins with: signature, flags, the length of an extension that no version has.
const BINARY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What ends the binary form: a row of -1 columns.
const BINARY_TRAILER: [u8; 2] = [0xff, 0xff];

impl Printer {
    /// For rows of columns with these names.
    ///
    /// # Errors
    /// PostgreSQL's, for a FORCE_QUOTE of a column that there is none of.
    pub fn new(form: &PrintForm, names: &[&[u8]]) -> Result<Self, Refusal> {
        let forced = match form {
            PrintForm::Csv { force: ForceQuote::All, .. } => vec![true; names.len()],
            PrintForm::Csv { force: ForceQuote::Named(columns), .. } => {
                if let Some(unknown) = columns.iter().find(|column| !names.contains(&column.as_bytes())) {
                    return Err(Refusal::error("42703", format!("column \"{unknown}\" does not exist")));
                }
                names.iter().map(|name| columns.iter().any(|column| column.as_bytes() == *name)).collect()
            }
            _ => vec![false; names.len()],
        };
        Ok(Self { form: form.clone(), forced })
    }

    pub fn is_binary(&self) -> bool {
        self.form == PrintForm::Binary
    }

    /// What stands before the rows: a line of names, or the binary header, which is one message with what follows it.
    pub fn begin(&self, names: &[&[u8]], out: &mut Vec<u8>) {
        match &self.form {
            PrintForm::Binary => out.extend_from_slice(BINARY_HEADER),
            PrintForm::Text { header: true, .. } | PrintForm::Csv { header: true, .. } => {
                let values = names.iter().map(|name| Some(*name));
                self.line(values, |_| false, out);
            }
            PrintForm::Text { .. } | PrintForm::Csv { .. } => {}
        }
    }

    /// One row, by the body of its DataRow message: a count, then values with their lengths.
    pub fn row(&self, body: &[u8], out: &mut Vec<u8>) {
        match &self.form {
            PrintForm::Binary => out.extend_from_slice(body),
            _ => self.line(Values(body.get(2..).unwrap_or_default()), |at| self.forced.get(at) == Some(&true), out),
        }
    }

    /// What stands behind the rows.
    pub fn end(&self, out: &mut Vec<u8>) {
        if self.is_binary() {
            out.extend_from_slice(&BINARY_TRAILER);
        }
    }

    fn line<'a>(
        &self,
        values: impl Iterator<Item = Option<&'a [u8]>>,
        is_forced: impl Fn(usize) -> bool,
        out: &mut Vec<u8>,
    ) {
        let single = self.forced.len() == 1;
        for (at, value) in values.enumerate() {
            match &self.form {
                PrintForm::Text { delimiter, null, .. } => {
                    if at > 0 {
                        out.push(*delimiter);
                    }
                    match value {
                        Some(value) => text(value, *delimiter, out),
                        None => out.extend_from_slice(null),
                    }
                }
                PrintForm::Csv { delimiter, null, quote, escape, .. } => {
                    if at > 0 {
                        out.push(*delimiter);
                    }
                    let Some(value) = value else {
                        out.extend_from_slice(null);
                        continue;
                    };
                    let special = |byte: &u8| [*delimiter, *quote, b'\n', b'\r'].contains(byte);
                    let quoted =
                        is_forced(at) || value == null || single && value == b"\\." || value.iter().any(special);
                    if quoted { csv(value, *quote, *escape, out) } else { out.extend_from_slice(value) }
                }
                PrintForm::Binary => {}
            }
        }
        out.push(b'\n');
    }
}

/// The values of a DataRow.
struct Values<'a>(&'a [u8]);

impl<'a> Iterator for Values<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => {
                let (value, rest) = rest.split_at_checked(length)?;
                self.0 = rest;
                Some(Some(value))
            }
            Err(_) => Some(None),
        }
    }
}

fn text(value: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    for byte in value {
        let letter = match byte {
            8 => b'b',
            9 => b't',
            b'\n' => b'n',
            11 => b'v',
            12 => b'f',
            b'\r' => b'r',
            b'\\' => b'\\',
            byte if *byte == delimiter => delimiter,
            byte => {
                out.push(*byte);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', letter]);
    }
}

fn csv(value: &[u8], quote: u8, escape: u8, out: &mut Vec<u8>) {
    out.push(quote);
    for byte in value {
        if [quote, escape].contains(byte) {
            out.push(escape);
        }
        out.push(*byte);
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::{ForceQuote, PrintForm, Printer};

    fn printed(form: &PrintForm, values: &[Option<&[u8]>]) -> String {
        let names: Vec<&[u8]> = [b"a".as_slice(), b"b,c"][..values.len()].to_vec();
        let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            body.extend_from_slice(&value.map_or(-1, |value| i32::try_from(value.len()).unwrap()).to_be_bytes());
            body.extend_from_slice(value.unwrap_or_default());
        }
        let printer = Printer::new(form, &names).unwrap();
        let mut out = Vec::new();
        printer.begin(&names, &mut out);
        printer.row(&body, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_printed_as_postgresql_does() {
        let text = PrintForm::Text { delimiter: b'|', null: b"\\N".to_vec(), header: true };
        assert_eq!(printed(&text, &[Some(b"x|\t\\\n\x01"), None]), "a|b,c\nx\\|\\t\\\\\\n\x01|\\N\n");
        let force = ForceQuote::Named(vec!["a".into()]);
        let csv = PrintForm::Csv { delimiter: b',', null: Vec::new(), quote: b'"', escape: b'\\', header: true, force };
        assert_eq!(printed(&csv, &[Some(b"x"), Some(b"")]), "a,\"b,c\"\n\"x\",\"\"\n");
        assert_eq!(printed(&csv, &[None, Some(b"\"\\")]), "a,\"b,c\"\n,\"\\\"\\\\\"\n");
        let PrintForm::Csv { delimiter, null, quote, escape, header, .. } = csv else { return };
        let force = ForceQuote::Named(Vec::new());
        let csv = PrintForm::Csv { delimiter, null, quote, escape, header, force };
        assert_eq!(printed(&csv, &[Some(b"\\.")]), "a\n\"\\\\.\"\n");
    }

    #[test]
    fn a_column_that_is_not_there_cannot_be_quoted() {
        let force = ForceQuote::Named(vec!["z".into()]);
        let form =
            PrintForm::Csv { delimiter: b',', null: Vec::new(), quote: b'"', escape: b'"', header: false, force };
        assert_eq!(Printer::new(&form, &[b"a"]).unwrap_err().sqlstate, "42703");
    }
}
