//! The SQL console: statement -> command -> rows.
//!
//! - [`command`]: the language; text -> [`Command`], and who may say what
//! - [`show`]: the list of SHOW commands; each makes a [`Table`] of a [`View`]
//! - [`Console`]: one session, both query protocols; asks an [`Operator`] for whatever it shows or
//!   changes
//! - [`serve()`]: drives a [`Console`] over a stream

pub mod command;
mod console;
mod serve;
mod settings;
pub mod show;
mod table;

pub use command::{Command, Control, Shutdown};
pub use console::{After, Console};
pub use serve::serve;
pub use settings::{MAX_USER_CONNECTIONS, config_rows};
pub use show::{List, Needs};
pub use table::{Cell, Table, Type};

use crate::protocol::ErrorFields;
use crate::view::View;

/// The router as the console sees it.
pub trait Operator {
    /// What is now; the long lists only as far as they are needed.
    fn view(&self, needs: Needs) -> impl Future<Output = View>;

    /// Does it and returns when it is done: PAUSE when all transactions have ended. Gives what the
    /// operator should know, one notice each.
    fn control(&self, control: Control) -> impl Future<Output = Result<Vec<String>, ErrorFields>>;

    /// The lines of a plan. Without a database: the only one, or an error that asks which.
    fn explain(
        &self,
        database: Option<String>,
        statement: String,
    ) -> impl Future<Output = Result<Vec<String>, ErrorFields>>;
}
