//! `postgres://user:password@host:port/database?parameters` -> an instance.

use tokio_postgres::config::Host as UrlHost;

use super::problem::nearest;
use super::{Host, Instance};

/// Parameters that change nothing for a router: clients bring their own application names.
const WITHOUT_EFFECT: [&str; 3] = ["application_name", "fallback_application_name", "gssencmode"];
const UNDERSTOOD: [&str; 5] = ["host", "port", "user", "password", "dbname"];

/// Reads a URL. A URL without a database means `default_database`, if there is one. The error never
/// repeats the URL, which may hold a password.
pub(super) fn instance(url: &str, default_database: Option<&str>) -> Result<Instance, String> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err("not a PostgreSQL URL: write \"postgres://user@host:5432/database\"".to_owned());
    }
    let (address, parameters) = url.split_once('?').unwrap_or((url, ""));
    let mut understood = Vec::new();
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name {
            "sslmode" => check_sslmode(value)?,
            _ if UNDERSTOOD.contains(&name) => understood.push(parameter),
            _ if WITHOUT_EFFECT.contains(&name) => {}
            _ => return Err(unknown_parameter(name)),
        }
    }
    let config: tokio_postgres::Config = format!("{address}?{}", understood.join("&"))
        .parse()
        .map_err(|error: tokio_postgres::Error| format!("not a PostgreSQL URL: {}", root_cause(&error)))?;
    let host = match config.get_hosts() {
        [UrlHost::Tcp(name)] if name.contains('@') => return Err("write @ in a password as %40".to_owned()),
        [UrlHost::Tcp(name)] => Host::Tcp(name.clone()),
        [UrlHost::Unix(folder)] => Host::Unix(folder.clone()),
        [] => return Err("the URL has no host".to_owned()),
        _ => return Err("one host per URL; further servers belong into replicas = [..]".to_owned()),
    };
    let database = config.get_dbname().or(default_database).ok_or("the URL has no database")?;
    let password = config.get_password().map(|password| String::from_utf8(password.to_vec()));
    Ok(Instance {
        host,
        port: config.get_ports().last().copied().unwrap_or(5432),
        database: database.to_owned(),
        user: config.get_user().filter(|user| !user.is_empty()).map(str::to_owned),
        password: password.transpose().map_err(|_| "the password is not UTF-8")?,
    })
}

fn root_cause(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn check_sslmode(value: &str) -> Result<(), String> {
    match value {
        "disable" | "allow" | "prefer" => Ok(()),
        "require" | "verify-ca" | "verify-full" => Err(format!(
            "sslmode={value}: TLS towards servers is not there yet; use sslmode=prefer on a network you trust"
        )),
        _ => Err(format!("sslmode={value} is unknown: write disable, allow or prefer")),
    }
}

fn unknown_parameter(name: &str) -> String {
    if name == "connect_timeout" {
        return "connect_timeout in a URL: write it once, under [pool]".to_owned();
    }
    let known = UNDERSTOOD.into_iter().chain(WITHOUT_EFFECT).chain(["sslmode"]);
    match nearest(name, known) {
        Some(near) => format!("unknown parameter `{name}` in the URL, did you mean `{near}`?"),
        None => format!("unknown parameter `{name}` in the URL"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Instance, String> {
        instance(url, Some("app"))
    }

    #[test]
    fn the_forms_of_a_url() {
        let full = read("postgres://us%40er:p%2Fw%3A@10.0.0.1:6000/da%20ta?sslmode=prefer").unwrap();
        assert_eq!(full.host, Host::Tcp("10.0.0.1".to_owned()));
        assert_eq!((full.port, full.database.as_str()), (6000, "da ta"));
        assert_eq!((full.user.as_deref(), full.password.as_deref()), (Some("us@er"), Some("p/w:")));

        let bare = read("postgresql://db").unwrap();
        assert_eq!((bare.port, bare.database.as_str(), bare.user), (5432, "app", None));

        let v6 = read("postgres://[2001:db8::1]:5433/x").unwrap();
        assert_eq!((v6.host, v6.port), (Host::Tcp("2001:db8::1".to_owned()), 5433));

        let socket = read("postgres:///x?host=/run/postgresql&port=5433").unwrap();
        assert_eq!((socket.host, socket.port), (Host::Unix("/run/postgresql".into()), 5433));
        assert_eq!(read("postgres://%2Frun%2Fpg/x").unwrap().host, Host::Unix("/run/pg".into()));
    }

    #[test]
    fn what_a_url_may_not_say() {
        for (url, word) in [
            ("mysql://a/b", "postgres://"),
            ("postgres://a,b/c", "replicas"),
            ("postgres:///x", "no host"),
            ("postgres://u:p@ss@a/c", "%40"),
            ("postgres://a:99999/c", "port"),
            ("postgres://a/c?sslmode=require", "TLS"),
            ("postgres://a/c?sslmode=verify-full", "TLS"),
            ("postgres://a/c?sslmod=prefer", "sslmode"),
            ("postgres://a/c?connect_timeout=3", "[pool]"),
            ("postgres://[::1/c", "host"),
        ] {
            let error = read(url).unwrap_err();
            assert!(error.contains(word), "{url}: {error}");
        }
        assert!(!read("postgres://u:geheim@a:x/c").unwrap_err().contains("geheim"));
    }
}
