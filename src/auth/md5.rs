//! PostgreSQL's md5 passwords.

use std::fmt::Write;

use md5::{Digest, Md5};

/// The stored form: `md5` and the digest of password and user.
pub fn stored(user: &str, password: &str) -> String {
    hashed(&[password.as_bytes(), user.as_bytes()])
}

/// What a client answers that is challenged with `salt`; `stored` is the stored form of its password.
pub fn response(stored: &str, salt: [u8; 4]) -> String {
    hashed(&[stored.strip_prefix("md5").unwrap_or(stored).as_bytes(), &salt])
}

fn hashed(parts: &[&[u8]]) -> String {
    let mut digest = Md5::new();
    for part in parts {
        digest.update(part);
    }
    let mut text = String::from("md5");
    for byte in digest.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_postgresql_and_its_clients_compute_it() {
        let stored = stored("md5_user", "password");
        assert_eq!(stored, postgres_protocol::password::md5(b"password", "md5_user"));
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        assert_eq!(response(&stored, salt), "md562af4dd09bbb41884907a838a3233294");
        assert_eq!(
            response(&stored, salt),
            postgres_protocol::authentication::md5_hash(b"md5_user", b"password", salt)
        );
    }
}
