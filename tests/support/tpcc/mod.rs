//! TPC-C: the schema by warehouse, rows made from a seed, the five transactions and the conditions of consistency, of the standard's
//! shape though in small.

use std::fmt::Write;

pub const SCHEMA: &str = include_str!("schema.sql");

const CONDITIONS: &str = include_str!("conditions.sql");

/// Everything by warehouse, items everywhere.
pub const RULES: &str = r#"
tables.warehouse.key = "w_id"
tables.district.key = "d_w_id"
tables.customer.key = "c_w_id"
tables.history.key = "h_w_id"
tables.orders.key = "o_w_id"
tables.new_order.key = "no_w_id"
tables.order_line.key = "ol_w_id"
tables.stock.key = "s_w_id"
tables.item.kind = "reference"
"#;

pub const TABLES: [&str; 9] =
    ["item", "warehouse", "district", "customer", "history", "orders", "new_order", "order_line", "stock"];

pub const WAREHOUSES: u64 = 6;
pub const DISTRICTS: u64 = 4;
pub const CUSTOMERS: u64 = 30;
pub const ITEMS: u64 = 60;
/// In each district, one of each customer.
pub const ORDERS: u64 = CUSTOMERS;
/// The first order that is not delivered yet.
const FIRST_NEW: u64 = 22;

const SYLLABLES: [&str; 10] = ["BAR", "OUGHT", "ABLE", "PRI", "PRES", "ESE", "ANTI", "CALLY", "ATION", "EING"];

/// The queries of all conditions; each gives the rows that break it.
pub fn conditions() -> Vec<&'static str> {
    CONDITIONS.split(';').map(str::trim).collect()
}

pub fn last_name(number: u64) -> String {
    [number / 100, number / 10 % 10, number % 10].map(|n| SYLLABLES[usize::try_from(n).unwrap()]).concat()
}

/// The rows of every table but the history: its name and its data for COPY.
pub fn tables(random: &mut Random) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&str, String)> = TABLES.map(|table| (table, String::new())).to_vec();
    all.remove(4);
    let [items, warehouses, districts, customers, orders, news, lines, stocks] = all.as_mut_slice() else {
        unreachable!("one for each table but the history")
    };
    for item in 1..=ITEMS {
        writeln!(items.1, "{item}\titem {item}\t{}.{:02}", 1 + random.below(99), random.below(100)).unwrap();
    }
    for w in 1..=WAREHOUSES {
        writeln!(warehouses.1, "{w}\twarehouse {w}\t0.{:04}\t{}", random.below(2000), DISTRICTS * CUSTOMERS * 10)
            .unwrap();
        for item in 1..=ITEMS {
            writeln!(stocks.1, "{w}\t{item}\t{}\t0\t0\t0", 10 + random.below(91)).unwrap();
        }
        for d in 1..=DISTRICTS {
            let (tax, ytd) = (random.below(2000), CUSTOMERS * 10);
            writeln!(districts.1, "{w}\t{d}\tdistrict {d}\t0.{tax:04}\t{ytd}\t{}", ORDERS + 1).unwrap();
            for c in 1..=CUSTOMERS {
                let (last, credit) = (last_name(c % 10), if random.below(10) == 0 { "BC" } else { "GC" });
                let discount = random.below(5000);
                writeln!(
                    customers.1,
                    "{w}\t{d}\t{c}\tfirst {c}\t{last}\t{credit}\t0.{discount:04}\t-10\t10\t1\t0\tdata"
                )
                .unwrap();
            }
            for o in 1..=ORDERS {
                let (is_new, count) = (o >= FIRST_NEW, 5 + random.below(11));
                // A permutation of the customers: 7 and 30 have no common divisor.
                let customer = o * 7 % CUSTOMERS + 1;
                let carrier = if is_new { "\\N".to_owned() } else { (1 + random.below(10)).to_string() };
                writeln!(orders.1, "{w}\t{d}\t{o}\t{customer}\t2026-01-01 00:00:00+00\t{carrier}\t{count}\t1").unwrap();
                if is_new {
                    writeln!(news.1, "{w}\t{d}\t{o}").unwrap();
                }
                for line in 1..=count {
                    let item = 1 + random.below(ITEMS);
                    let (delivered, cents) =
                        if is_new { ("\\N", random.below(999_999)) } else { ("2026-01-02 00:00:00+00", 0) };
                    let amount = format!("{}.{:02}", cents / 100, cents % 100);
                    writeln!(lines.1, "{w}\t{d}\t{o}\t{line}\t{item}\t{w}\t{delivered}\t5\t{amount}").unwrap();
                }
            }
        }
    }
    all
}

/// The INSERTs of what customers have paid before, ids left to the sequence: rows of all warehouses in each.
pub fn history() -> Vec<String> {
    let districts = (1..=DISTRICTS).flat_map(|d| (1..=CUSTOMERS).map(move |c| (d, c)));
    let insert = |(d, c): (u64, u64)| {
        let row = |w| format!("({c}, {d}, {w}, {d}, {w}, 10.00, 'before')");
        let rows = (1..=WAREHOUSES).map(row).collect::<Vec<_>>().join(", ");
        format!("INSERT INTO history (h_c_id, h_c_d_id, h_c_w_id, h_d_id, h_w_id, h_amount, h_data) VALUES {rows}")
    };
    districts.map(insert).collect()
}

/// SplitMix64: the same numbers everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }

    pub fn one_to(&mut self, last: u64) -> u64 {
        1 + self.below(last)
    }

    /// Another warehouse in one of ten cases.
    pub fn warehouse_near(&mut self, home: u64) -> u64 {
        if self.below(10) > 0 {
            return home;
        }
        (home - 1 + self.one_to(WAREHOUSES - 1)) % WAREHOUSES + 1
    }
}
