//! The first packets of a connection.
