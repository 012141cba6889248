//! COPY (query) TO STDOUT of a query that several shards answer: it runs as the SELECT that it is, and what leaves for the client is
//! printed as COPY prints it.

use std::rc::Rc;

use bytes::BytesMut;
use pgsluice_sharding::Refusal;
use pgsluice_sharding::copy::{CopyQuery, PrintForm, Printer};
use pgsluice_sharding::sql::SharedScript;

use crate::protocol::backend;
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{Header, put_message};
use crate::protocol::reply;
use crate::session::statements::ManyRead;

use super::arguments::Arguments;
use super::decide::Decision;
use super::gather::ManyRequest;
use super::{Conversation, Failure};

/// Turns the messages of a SELECT's answer into those of a COPY.
pub(super) struct CopyWriter {
    form: PrintForm,
    printer: Option<Printer>,
    /// The options do not fit the columns: nothing is printed.
    refused: Option<Refusal>,
    /// A message whose end has not come yet.
    pending: BytesMut,
    /// What is to be in one message with the next row.
    owed: Vec<u8>,
}

impl CopyWriter {
    fn new(form: PrintForm) -> Self {
        Self { form, printer: None, refused: None, pending: BytesMut::new(), owed: Vec::new() }
    }

    /// Takes the next bytes of the answer, cut anywhere.
    pub(super) fn take(&mut self, bytes: &[u8], out: &mut BytesMut) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(bytes);
        while let Ok(Some(header)) = Header::parse(&pending)
            && header.total <= pending.len()
        {
            let message = pending.split_to(header.total);
            self.message(header.tag, &message, out);
        }
        self.pending = pending;
    }

    fn message(&mut self, tag: u8, message: &[u8], out: &mut BytesMut) {
        let body = &message[5..];
        match (tag, &self.printer) {
            (b'T', _) => self.begins(body, out),
            (b'D', Some(printer)) => {
                let mut line = std::mem::take(&mut self.owed);
                printer.row(body, &mut line);
                put_message(out, b'd', |out| out.extend_from_slice(&line));
                line.clear();
                self.owed = line;
            }
            (b'C', Some(printer)) => {
                let mut rest = std::mem::take(&mut self.owed);
                printer.end(&mut rest);
                if !rest.is_empty() {
                    put_message(out, b'd', |out| out.extend_from_slice(&rest));
                }
                put_message(out, b'c', |_| {});
                let rows = reply::tag_rows(body.strip_suffix(&[0]).unwrap_or(body)).unwrap_or(0);
                backend::command_complete(out, &format!("COPY {rows}"));
            }
            (b'D' | b'C', None) => {}
            _ => out.extend_from_slice(message),
        }
    }

    /// RowDescription: CopyOutResponse, and a line of names.
    fn begins(&mut self, body: &[u8], out: &mut BytesMut) {
        let fields = reply::row_description(body).unwrap_or_default();
        let names: Vec<&[u8]> = fields.iter().map(|field| field.name.as_bytes()).collect();
        let printer = match Printer::new(&self.form, &names) {
            Ok(printer) => printer,
            Err(refusal) => return self.refused = Some(refusal),
        };
        let format = u8::from(printer.is_binary());
        put_message(out, b'H', |out| {
            out.extend_from_slice(&[format]);
            out.extend_from_slice(&u16::try_from(names.len()).unwrap_or(u16::MAX).to_be_bytes());
            names.iter().for_each(|_| out.extend_from_slice(&[0, format]));
        });
        let mut first = Vec::new();
        printer.begin(&names, &mut first);
        match printer.is_binary() {
            true => self.owed = first,
            false if first.is_empty() => {}
            false => put_message(out, b'd', |out| out.extend_from_slice(&first)),
        }
        self.printer = Some(printer);
    }
}

impl Conversation {
    /// Runs the query by itself, wherever its rows are.
    pub(super) async fn copy_query(
        &mut self,
        copy: &CopyQuery,
        script: &SharedScript,
        index: usize,
        text: &Rc<str>,
    ) -> Result<(), Failure> {
        let (_, decision) = self.plan_part(&copy.sql, 0)?;
        let (read, access) = match decision {
            Decision::Many { read: read @ (ManyRead::Merged { .. } | ManyRead::Finished(_)), access } => (read, access),
            forward @ Decision::Forward { .. } => {
                return Box::pin(self.run_in_router(script, index, text, forward, false)).await;
            }
            _ => {
                return Err(
                    ErrorFields::error("0A000", "COPY of this query is not supported over several shards").into()
                );
            }
        };
        self.served.stats.gathered.add(1);
        self.client.flush().await?;
        let arguments = match copy.form {
            PrintForm::Binary => Arguments::none_in_binary(&copy.sql),
            PrintForm::Text { .. } | PrintForm::Csv { .. } => Arguments::none(&copy.sql),
        };
        self.client.copy_writer = Some(Box::new(CopyWriter::new(copy.form.clone())));
        let request = ManyRequest { arguments: &arguments, access, describe: true };
        let result = self.read_many(&read, request).await;
        let flushed = self.client.flush().await;
        let writer = self.client.copy_writer.take();
        flushed?;
        result?;
        writer.and_then(|writer| writer.refused).map_or(Ok(()), |refusal| Err(refusal.into()))
    }
}
