//! The program `sluice`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgsluice::cli::run()
}
