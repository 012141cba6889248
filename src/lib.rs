//! Sluice: one binary in front of PostgreSQL.
