//! The command line.

mod check;
mod explain;
mod placement;
mod report;
mod signals;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::config::{Config, Listen, Problem};
use crate::demo::{Demo, Outcome};
use crate::router::{Reread, Router};
use explain::ExplainArguments;
use report::ReportArguments;
use signals::{Signals, Wish};

/// Where the configuration is when no option says so.
const CONFIG_FILES: [&str; 2] = ["sluice.toml", "/etc/sluice/sluice.toml"];
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);
const DEMO_PATIENCE: Duration = Duration::from_secs(20);

/// One binary in front of PostgreSQL: pools connections, splits reads, routes by user, fans out.
#[derive(Parser)]
#[command(name = "sluice", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Subcommands>,
    #[command(flatten)]
    source: Source,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Run the router (the default)
    Serve(Source),
    /// Tell everything that is wrong with the configuration, with line and remedy, and with the servers
    Check(CheckArguments),
    /// Start a local PostgreSQL cluster with sample data and a router in front of it
    Demo(DemoArguments),
    /// Print the plan of a statement without running it
    Explain(ExplainArguments),
    /// Tell how the statements of an application would be answered over several shards: the dry run
    Report(ReportArguments),
    /// Print a sluice.toml made of a pgbouncer.ini or a pgcat.toml; what has no counterpart is told
    Import(ImportArguments),
    /// Ask a running router whether it is well; exit code 0 if so
    Health(HealthArguments),
}

/// Which configuration to use.
#[derive(Args, Clone)]
struct Source {
    /// Configuration file [default: sluice.toml, else /etc/sluice/sluice.toml]
    #[arg(short, long, value_name = "FILE", env = "SLUICE_CONFIG")]
    config: Option<PathBuf>,
    /// Instead of a file: pool connections to this database
    #[arg(long, value_name = "URL", env = "SLUICE_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// With --database-url: where clients connect [default: 127.0.0.1:6432]
    #[arg(long, value_name = "ADDRESS", env = "SLUICE_LISTEN")]
    listen: Option<SocketAddr>,
    /// With --database-url: where /metrics and /health are
    #[arg(long, value_name = "ADDRESS", env = "SLUICE_HTTP")]
    http: Option<SocketAddr>,
}

#[derive(Args)]
struct CheckArguments {
    /// Only read the configuration; ask no server
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    source: Source,
}

#[derive(Args)]
struct DemoArguments {
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    shards: u16,
    /// Replicas of each shard
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=4))]
    replicas: u16,
    /// Users in the sample data
    #[arg(long, default_value_t = 10_000)]
    users: u32,
    /// Where the router listens, on 127.0.0.1
    #[arg(long, default_value_t = 6432)]
    port: u16,
    /// Run this file of SQL through the router and exit with psql's status
    #[arg(long, value_name = "FILE.sql")]
    exec: Option<PathBuf>,
}

#[derive(Args)]
struct HealthArguments {
    /// The router's HTTP address [default: listen.http of the configuration]
    #[arg(long)]
    address: Option<SocketAddr>,
    #[command(flatten)]
    source: Source,
}

/// Does what the arguments of this process ask for.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        None => serve(&arguments.source),
        Some(Subcommands::Serve(source)) => serve(&source),
        Some(Subcommands::Check(arguments)) => check(&arguments),
        Some(Subcommands::Demo(demo)) => show_demo(&demo),
        Some(Subcommands::Explain(arguments)) => explain::lines(&arguments).map(|lines| {
            println!("{}", lines.join("\n"));
            ExitCode::SUCCESS
        }),
        Some(Subcommands::Report(arguments)) => report::text(&arguments).map(|text| {
            print!("{text}");
            ExitCode::SUCCESS
        }),
        Some(Subcommands::Import(arguments)) => import(&arguments),
        Some(Subcommands::Health(health)) => ask_health(&health),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

#[derive(Args)]
struct ImportArguments {
    /// pgbouncer.ini (its auth_file is read too) or pgcat.toml
    file: PathBuf,
}

/// The configuration goes to standard output, everything else to standard error.
fn import(arguments: &ImportArguments) -> Result<ExitCode, String> {
    let name = arguments.file.display().to_string();
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let text = read(&arguments.file)?;
    // PgBouncer reads relative names from where it runs; beside the file is the better guess here.
    let beside = |included: &str| read(&arguments.file.parent().unwrap_or(Path::new(".")).join(included));
    let imported = crate::import::import(&name, &text, beside).map_err(|error| format!("{name}: {error}"))?;
    print!("{}", imported.toml);
    for note in &imported.notes {
        eprintln!("{note}");
    }
    Ok(ExitCode::SUCCESS)
}

impl Source {
    /// The file that is read; None when a URL stands in its place.
    ///
    /// # Errors
    /// Two sources, or none.
    fn file(&self) -> Result<Option<PathBuf>, String> {
        let typed =
            |value: Option<&OsStr>, variable: &str| value.is_some() && value != env::var_os(variable).as_deref();
        let config = self.config.as_deref().map(Path::as_os_str);
        let url = self.database_url.as_deref().map(OsStr::new);
        let by_url = match (config, url) {
            (None, None) => {
                let found = CONFIG_FILES.iter().map(PathBuf::from).find(|file| file.exists());
                let [first, second] = CONFIG_FILES;
                return found.map(Some).ok_or_else(|| {
                    format!("there is no {first} and no {second}: name a file with --config, or a database with --database-url")
                });
            }
            (Some(_), None) => false,
            (None, Some(_)) => true,
            // What was typed counts more than what the environment says.
            (Some(_), Some(_)) => match (typed(config, "SLUICE_CONFIG"), typed(url, "SLUICE_DATABASE_URL")) {
                (true, false) => false,
                (false, true) => true,
                _ => return Err("there is a configuration file and a database URL: choose one".to_owned()),
            },
        };
        if by_url {
            return Ok(None);
        }
        let listen = [(self.listen, "listen", "SLUICE_LISTEN", "address"), (self.http, "http", "SLUICE_HTTP", "http")];
        for (address, option, variable, key) in listen {
            if address.is_some() && env::var_os(variable).is_none() {
                return Err(format!(
                    "--{option} goes with --database-url; a file says it itself: [listen] {key} = \"...\""
                ));
            }
        }
        Ok(self.config.clone())
    }

    fn listen(&self) -> Listen {
        let default = Listen::default();
        Listen { address: self.listen.unwrap_or(default.address), http: self.http, ..default }
    }

    fn load(&self) -> Result<Config, String> {
        let file = self.file()?;
        let result = match &file {
            Some(file) => Config::load(file),
            None => Config::for_url_at(self.database_url.as_deref().unwrap_or_default(), self.listen()),
        };
        result.map_err(|problems| describe(file.as_deref(), &problems))
    }
}

/// `sluice.toml:12: ...`, one problem a line, as compilers write them.
fn describe(file: Option<&Path>, problems: &[Problem]) -> String {
    let name = file.map_or("--database-url".to_owned(), |file| file.display().to_string());
    let lines = problems.iter().map(|problem| match problem.line {
        0 => format!("{name}: {}", problem.text),
        line => format!("{name}:{line}: {}", problem.text),
    });
    lines.collect::<Vec<String>>().join("\n")
}

fn serve(source: &Source) -> Result<ExitCode, String> {
    let runtime = runtime()?;
    let mut signals = Signals::listen(&runtime)?;
    let again = source.clone();
    let reread: Reread = Box::new(move || again.load().map_err(|text| text.lines().map(str::to_owned).collect()));
    let router = start_router(source.load()?, Some(reread))?;
    runtime.block_on(async {
        loop {
            tokio::select! {
                wish = signals.next() => match wish {
                    // The router logs what came of it, and goes on with what it has if it must.
                    Wish::Reload => drop(router.reload().await),
                    Wish::Pause => router.pause(),
                    Wish::Resume => router.resume(),
                    Wish::Stop(how) => router.shutdown(how),
                },
                () = router.ended() => break,
            }
        }
    });
    router.stop();
    Ok(ExitCode::SUCCESS)
}

fn check(arguments: &CheckArguments) -> Result<ExitCode, String> {
    let config = arguments.source.load()?;
    if !arguments.offline {
        let problems = runtime()?.block_on(check::problems(&config));
        if !problems.is_empty() {
            return Err(problems.join("\n"));
        }
    }
    let databases: Vec<String> = config
        .databases
        .iter()
        .map(|database| match database.shards.len() {
            1 => format!("{} (1 shard)", database.name),
            shards => format!("{} ({shards} shards)", database.name),
        })
        .collect();
    let servers = if arguments.offline { "" } else { " and so are the servers" };
    println!("The configuration is right{servers}. Databases: {}", databases.join(", "));
    Ok(ExitCode::SUCCESS)
}

fn show_demo(arguments: &DemoArguments) -> Result<ExitCode, String> {
    if let Some(file) = &arguments.exec {
        fs::File::open(file).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let demo = Demo {
        shards: usize::from(arguments.shards),
        replicas: usize::from(arguments.replicas),
        users: arguments.users,
        port: arguments.port,
        exec: arguments.exec.clone(),
    };
    let runtime = runtime()?;
    let mut signals = Signals::listen(&runtime)?;
    // A closed terminal ends a demonstration too.
    match demo
        .run(start_ready_router, || {
            let stopped = async { while matches!(signals.next().await, Wish::Pause | Wish::Resume) {} };
            runtime.block_on(stopped);
        })
        .map_err(|error| error.to_string())?
    {
        Outcome::Stopped => Ok(ExitCode::SUCCESS),
        Outcome::Ran(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
    }
}

/// Starts the router of this process; it stops when what this gives is dropped.
fn start_router(config: Config, reread: Option<Reread>) -> Result<Router, String> {
    crate::log::init(&config.log).map_err(|error| error.to_string())?;
    let router = Router::start_with(config, reread).map_err(|error| error.to_string())?;
    tracing::info!(address = %router.address(), "clients may connect");
    Ok(router)
}

/// For those who want to use it at once: with the tables of all shards known.
fn start_ready_router(config: Config) -> Result<Router, String> {
    let router = start_router(config, None)?;
    if runtime()?.block_on(router.ready(DEMO_PATIENCE)) {
        Ok(router)
    } else {
        Err("the shards do not answer".to_owned())
    }
}

fn runtime() -> Result<Runtime, String> {
    Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}

/// HTTP/1.0 by hand: a client library would be many times this program's own need.
fn ask_health(arguments: &HealthArguments) -> Result<ExitCode, String> {
    let address = match arguments.address {
        Some(address) => address,
        None => arguments.source.load()?.listen.http.ok_or("listen.http is not set, so there is nobody to ask")?,
    };
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&reachable(address), HEALTH_TIMEOUT)?;
        stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
        stream.write_all(b"GET /health/ready HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(64 * 1024).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| format!("{address}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    println!("{}", body.trim());
    let well = head.split_whitespace().nth(1) == Some("200");
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What listens on all addresses is asked on this machine's own.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
