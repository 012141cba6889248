//! PostgreSQL values, text and binary: decode, compare in PostgreSQL's order, add.
