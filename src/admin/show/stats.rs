//! SHOW STATS and its relatives: all from [`crate::stats::STATS_COLUMNS`].

use crate::admin::table::{Cell, Table, Type, cell};
use crate::stats::{DatabaseStats, Per, STATS_COLUMNS, StatsColumn, Sums};
use crate::view::View;

/// Histograms whose quantiles are appended to PgBouncer's columns.
const QUANTILES: [(&str, f64, &str); 9] = [
    ("query", 0.5, "query_time_p50"),
    ("query", 0.95, "query_time_p95"),
    ("query", 0.99, "query_time_p99"),
    ("transaction", 0.5, "xact_time_p50"),
    ("transaction", 0.95, "xact_time_p95"),
    ("transaction", 0.99, "xact_time_p99"),
    ("wait", 0.5, "wait_time_p50"),
    ("wait", 0.95, "wait_time_p95"),
    ("wait", 0.99, "wait_time_p99"),
];

/// Counters that PgBouncer does not have.
const OURS: [&str; 6] = ["routed", "gathered", "refused", "replica_reads", "errors", "shapes_forgotten"];

/// The name of `total_query_count` before PgBouncer 1.8, which Debian's exporter still reads.
const OLD_QUERY_COUNT: &str = "total_requests";

/// One row per database with these numbers.
fn rows(view: &View, names: Vec<String>, numbers: impl Fn(&DatabaseStats) -> Vec<u64>) -> Table {
    let columns: Vec<(&str, Type)> = std::iter::once(("database", Type::Text))
        .chain(names.iter().map(|name| (name.as_str(), Type::Numeric)))
        .collect();
    Table::new(&columns).with_rows(view.stats.iter().map(|stats| {
        let numbers = numbers(stats).into_iter().map(cell);
        std::iter::once(cell(&stats.database)).chain(numbers).collect::<Vec<Cell>>()
    }))
}

fn named(prefix: &str, name: impl Fn(&StatsColumn) -> &'static str) -> Vec<String> {
    STATS_COLUMNS.iter().map(|column| format!("{prefix}{}", name(column))).collect()
}

fn totals_of(sums: &Sums) -> impl Iterator<Item = u64> {
    STATS_COLUMNS.iter().map(|column| column.total_of(sums))
}

pub(super) fn stats(view: &View) -> Table {
    let mut names = named("total_", |column| column.total);
    names.extend(named("avg_", |column| column.average));
    names.extend(OURS.iter().map(|name| format!("total_{name}_count")));
    names.extend(QUANTILES.iter().map(|(.., name)| (*name).to_owned()));
    names.push(OLD_QUERY_COUNT.to_owned());
    rows(view, names, |stats| {
        let ours = OURS.iter().map(|name| stats.sums.count(name));
        let quantiles = QUANTILES.iter().map(|(metric, q, _)| stats.sums.quantile_us(metric, *q));
        let queries = stats.sums.count("queries");
        totals_of(&stats.sums).chain(stats.averages).chain(ours).chain(quantiles).chain([queries]).collect()
    })
}

pub(super) fn totals(view: &View) -> Table {
    rows(view, named("", |column| column.bare), |stats| totals_of(&stats.sums).collect())
}

pub(super) fn averages(view: &View) -> Table {
    rows(view, named("", |column| column.bare_average), |stats| stats.averages.to_vec())
}

/// SHOW TOTALS: PgBouncer's names for the sums over all databases, then every metric that it has not.
pub(super) fn sums(view: &View) -> Table {
    let mut all = Sums::default();
    view.stats.iter().for_each(|stats| all.merge(&stats.sums));
    let row = |name: String, value: u64| vec![cell(name), cell(value)];
    let totals = STATS_COLUMNS.iter().map(|column| row(format!("total_{}", column.internal), column.total_of(&all)));
    let averages = STATS_COLUMNS.iter().enumerate().map(|(at, column)| {
        let average = view.stats.iter().map(|stats| stats.averages[at]);
        let value = match column.per {
            Per::Second => average.sum(),
            // Of what took place at the same time, the busiest database speaks for all.
            Per::Event => average.max().unwrap_or(0),
        };
        row(format!("avg_{}", column.internal), value)
    });
    let ours = OURS.iter().map(|name| row(format!("total_{name}"), all.count(name)));
    Table::new(&[("name", Type::Text), ("value", Type::Numeric)]).with_rows(totals.chain(averages).chain(ours))
}
