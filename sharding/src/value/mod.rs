//! PostgreSQL values, text and binary: decode, compare in PostgreSQL's order, add, print.

pub mod float;
pub mod int;
pub mod numeric;
pub mod oid;
pub mod order;
pub mod uuid;

pub use numeric::{Moments, Numeric};
