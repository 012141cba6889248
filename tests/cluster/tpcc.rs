//! TPC-C by warehouse over two and three shards: several clients at once, then the conditions of consistency, and that the tables are the
//! sum of what was acknowledged.
//!
//! `TPCC_SEED` and `TPCC_SECONDS` choose another run, as long as one likes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::running::{Running, database_config, databases, shared, superuser};
use crate::support::tpcc::{self, CUSTOMERS, DISTRICTS, ITEMS, ORDERS, Random, WAREHOUSES};
use crate::support::wire::{self, Answer, Row, Wire};

const CLIENTS: u64 = 6;

/// No item has this number: the order is to be rolled back.
const NO_ITEM: u64 = ITEMS + 1;

/// Tells that a transaction is to be run again, or why that would not help.
type Attempt<T> = Result<T, String>;

/// How a client says what it wants.
enum Protocol {
    Simple,
    /// By statements that it has prepared, under their names.
    Extended(HashMap<String, String>),
}

struct Client {
    wire: Wire,
    protocol: Protocol,
    random: Random,
    tag: u64,
    done: Done,
}

/// What was acknowledged.
#[derive(Default)]
struct Done {
    /// Warehouse, district and number of an order; its customer and how many lines it has.
    orders: BTreeMap<(u64, u64, u64), (u64, u64)>,
    /// What they say of themselves: warehouse, district, the customer's, amount in cents.
    payments: BTreeMap<String, [u64; 6]>,
    deliveries: BTreeSet<(u64, u64, u64)>,
    /// Quantities and lines taken from stock, the latter also for other warehouses.
    taken: [u64; 3],
    rolled_back: u64,
    /// Transactions over more than one warehouse.
    remote: u64,
    again: u64,
}

/// A line of a new order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    supplier: u64,
    item: u64,
    quantity: u64,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn the_transactions_of_tpcc_are_consistent_over_two_shards() {
    run(2);
}

#[test]
fn the_transactions_of_tpcc_are_consistent_over_three_shards() {
    run(3);
}

fn run(shards: usize) {
    let (seed, seconds) = (number("TPCC_SEED", 1), number("TPCC_SECONDS", 5));
    let names = databases("tpcc", shards);
    let router = Running::start(&database_config(shared(), &names, tpcc::RULES));
    router.wait_until_ready();
    load(&mut router.client(), &mut Random(seed));
    check_conditions(&router, &names);
    let until = Instant::now() + Duration::from_secs(seconds);
    let done = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|tag| {
                let protocol = if tag % 2 == 0 { Protocol::Simple } else { Protocol::Extended(HashMap::new()) };
                let random = Random(seed << 16 | tag << 8 | shards as u64);
                let mut client = Client { wire: router.client(), protocol, random, tag, done: Done::default() };
                scope.spawn(move || {
                    while Instant::now() < until {
                        client.work();
                    }
                    client.done
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).reduce(Done::and).unwrap()
    });
    let mut judge = check_conditions(&router, &names);
    done.check(&mut judge, seed);
}

/// COPY for most tables, INSERTs over all shards for the history.
fn load(wire: &mut Wire, random: &mut Random) {
    for statement in tpcc::SCHEMA.split(';') {
        assert_eq!(wire.query(statement).error, None, "{statement}");
    }
    for (table, rows) in tpcc::tables(random) {
        let loaded = wire.copy(&format!("COPY {table} FROM STDIN"), rows.as_bytes());
        assert_eq!(loaded.tag(), format!("COPY {}", rows.lines().count()), "{table}");
    }
    for insert in tpcc::history() {
        assert_eq!(wire.query(&insert).tag(), format!("INSERT 0 {WAREHOUSES}"));
    }
}

/// Brings the rows of all shards together on one plain PostgreSQL, past the router, and asks it and the router for what is wrong.
fn check_conditions(router: &Running, shards: &[String]) -> Wire {
    let mut judge = Wire::connect(shared().port(), "app", &databases("tpcc_judge", 1)[0]);
    for statement in tpcc::SCHEMA.split(';') {
        assert_eq!(judge.query(statement).error, None);
    }
    for table in tpcc::TABLES {
        let sorted = format!("COPY (SELECT * FROM {table} ORDER BY 1, 2) TO STDOUT");
        let mut parts: Vec<Vec<u8>> =
            shards.iter().map(|name| superuser(shared(), name).query(&sorted).copied).collect();
        if table == "item" {
            assert!(parts.iter().all(|part| *part == parts[0]), "the shards have different items");
            parts.truncate(1);
        }
        for part in parts {
            assert_eq!(judge.copy(&format!("COPY {table} FROM STDIN"), &part).error, None, "{table}");
        }
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(router.client().text(&count), judge.text(&count), "{table}");
    }
    let mut client = router.client();
    for condition in tpcc::conditions() {
        assert_eq!(judge.text(condition), "", "{condition}");
        assert_eq!(client.text(condition), "", "{condition}");
    }
    judge
}

impl Done {
    fn and(mut self, other: Self) -> Self {
        self.orders.extend(other.orders);
        self.payments.extend(other.payments);
        self.deliveries.extend(other.deliveries);
        self.taken = std::array::from_fn(|n| self.taken[n] + other.taken[n]);
        self.rolled_back += other.rolled_back;
        self.remote += other.remote;
        self.again += other.again;
        self
    }

    fn check(&self, judge: &mut Wire, seed: u64) {
        let sql =
            format!("SELECT o_w_id, o_d_id, o_id, o_c_id, o_ol_cnt FROM orders WHERE o_id > {ORDERS} ORDER BY 1, 2, 3");
        let orders: Vec<String> =
            self.orders.iter().map(|((w, d, o), (c, lines))| format!("{w}|{d}|{o}|{c}|{lines}")).collect();
        assert_eq!(judge.text(&sql), orders.join("\n"), "seed {seed}");
        let sql = "SELECT h_data, h_w_id, h_d_id, h_c_w_id, h_c_d_id, h_c_id, (h_amount * 100)::int FROM history \
                   WHERE h_data <> 'before' ORDER BY h_data COLLATE \"C\"";
        let payments: Vec<String> = self
            .payments
            .iter()
            .map(|(tag, numbers)| format!("{tag}|{}", numbers.map(|n| n.to_string()).join("|")))
            .collect();
        assert_eq!(judge.text(sql), payments.join("\n"), "seed {seed}");
        let ids = "SELECT count(*) - count(DISTINCT h_id) FROM history";
        assert_eq!(judge.text(ids), "0", "seed {seed}: an id was given twice");
        // Condition 11, with what was delivered since.
        let sql = "SELECT o_w_id, o_d_id, o_id FROM orders WHERE o_carrier_id = 77 ORDER BY 1, 2, 3";
        let deliveries: Vec<String> = self.deliveries.iter().map(|(w, d, o)| format!("{w}|{d}|{o}")).collect();
        assert_eq!(judge.text(sql), deliveries.join("\n"), "seed {seed}");
        let sql = "SELECT sum(s_ytd), sum(s_order_cnt), sum(s_remote_cnt) FROM stock";
        assert_eq!(judge.text(sql), self.taken.map(|n| n.to_string()).join("|"), "seed {seed}");
        let Self { rolled_back, remote, again, .. } = self;
        let [orders, payments, deliveries] = [self.orders.len(), self.payments.len(), self.deliveries.len()];
        println!(
            "seed {seed}: {orders} orders, {payments} payments, {deliveries} deliveries, {rolled_back} rolled back, \
             {remote} remote, {again} run again"
        );
        assert!(orders.min(payments).min(deliveries) > 20 && *remote > 10, "seed {seed}: hardly anything was done");
    }
}

impl Client {
    /// One transaction of the mix, until it has passed.
    fn work(&mut self) {
        let (kind, state) = (self.random.below(100), self.random.0);
        loop {
            self.random.0 = state;
            let attempt = match kind {
                0..45 => self.new_order(),
                45..88 => self.payment(),
                88..92 => self.order_status(),
                92..96 => self.delivery(),
                _ => self.stock_level(),
            };
            let Err(sqlstate) = attempt else { return };
            assert!(matches!(&*sqlstate, "40001" | "40P01"), "client {}: {sqlstate}", self.tag);
            self.done.again += 1;
            assert_eq!(self.wire.query("ROLLBACK").error, None);
        }
    }

    /// Runs a statement in this client's protocol; parameters are numbers or text without quotes.
    fn run(&mut self, sql: &str, parameters: &[&str]) -> Attempt<Answer> {
        let answer = match &mut self.protocol {
            Protocol::Simple => self.wire.query(&with_literals(sql, parameters)),
            Protocol::Extended(names) => {
                let next = format!("s{}", names.len());
                let mut out = Vec::new();
                let name = names.entry(sql.to_owned()).or_insert_with(|| {
                    out.extend(wire::parse(&next, sql));
                    next
                });
                let parameters: Vec<Option<&str>> = parameters.iter().map(|text| Some(*text)).collect();
                out.extend(wire::bind("", name, &parameters, false));
                out.extend(wire::execute(""));
                out.extend(wire::sync());
                self.wire.send(&out);
                self.wire.answer(&[])
            }
        };
        match &answer.error {
            None => Ok(answer),
            Some(error) if matches!(error.sqlstate(), "40001" | "40P01") => Err(error.sqlstate().to_owned()),
            Some(error) => Err(format!("{error:?} of {sql} with {parameters:?}")),
        }
    }

    /// With numbers for parameters; the rows.
    fn ask(&mut self, sql: &str, parameters: &[u64]) -> Attempt<Vec<Row>> {
        let texts: Vec<String> = parameters.iter().map(u64::to_string).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Ok(self.run(sql, &texts)?.results.into_iter().flat_map(|result| result.rows).collect())
    }

    /// A statement that changes as many rows.
    fn change(&mut self, sql: &str, parameters: &[&str], rows: u64) -> Attempt<()> {
        let answer = self.run(sql, parameters)?;
        let counted = answer.tag().rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        if counted == rows { Ok(()) } else { Err(format!("{} instead of {rows} rows of {sql}", answer.tag())) }
    }

    fn place(&mut self) -> (u64, u64) {
        (self.random.one_to(WAREHOUSES), self.random.one_to(DISTRICTS))
    }

    fn new_order(&mut self) -> Attempt<()> {
        let (w, d) = self.place();
        let c = self.random.one_to(CUSTOMERS);
        let fails = self.random.below(100) == 0;
        let mut lines: Vec<Line> = (0..5 + self.random.below(11))
            .map(|_| Line {
                supplier: self.random.warehouse_near(w),
                item: self.random.one_to(ITEMS),
                quantity: self.random.one_to(10),
            })
            .collect();
        // In one order, so that few wait for each other; the item that is missing comes last.
        lines.sort_unstable();
        if fails {
            lines.last_mut().unwrap().item = NO_ITEM;
        }
        self.run("BEGIN", &[])?;
        let customer = "SELECT c_discount, w_tax FROM customer, warehouse WHERE w_id = $1 AND c_w_id = w_id AND c_d_id = $2 AND c_id = $3";
        assert_eq!(self.ask(customer, &[w, d, c])?.len(), 1);
        let next = "UPDATE district SET d_next_o_id = d_next_o_id + 1 WHERE d_w_id = $1 AND d_id = $2 RETURNING d_next_o_id - 1";
        let o = integer(&self.ask(next, &[w, d])?, 0);
        let is_local = lines.iter().all(|line| line.supplier == w);
        let order = "INSERT INTO orders VALUES ($1, $2, $3, $4, now(), NULL, $5, $6)";
        self.ask(order, &[w, d, o, c, lines.len() as u64, u64::from(is_local)])?;
        self.ask("INSERT INTO new_order VALUES ($1, $2, $3)", &[w, d, o])?;
        let mut rows = Vec::new();
        for (n, line) in lines.iter().enumerate() {
            let Some(row) = self.ask("SELECT (i_price * 100)::int FROM item WHERE i_id = $1", &[line.item])?.pop()
            else {
                self.run("ROLLBACK", &[])?;
                self.done.rolled_back += 1;
                return Ok(());
            };
            let cents = integer(&[row], 0) * line.quantity;
            self.take_from_stock(w, *line)?;
            let (Line { supplier, item, quantity }, n) = (*line, n + 1);
            rows.push(format!("({w}, {d}, {o}, {n}, {item}, {supplier}, NULL, {quantity}, {cents} / 100.0)"));
        }
        self.run(&format!("INSERT INTO order_line VALUES {}", rows.join(", ")), &[])?;
        self.run("COMMIT", &[])?;
        self.done.orders.insert((w, d, o), (c, lines.len() as u64));
        let remote = lines.iter().filter(|line| line.supplier != w).count() as u64;
        self.done.remote += u64::from(!is_local);
        let more = [lines.iter().map(|line| line.quantity).sum(), lines.len() as u64, remote];
        self.done.taken = std::array::from_fn(|n| self.done.taken[n] + more[n]);
        Ok(())
    }

    fn take_from_stock(&mut self, home: u64, line: Line) -> Attempt<()> {
        let Line { supplier, item, quantity } = line;
        let sql = "UPDATE stock SET s_quantity = CASE WHEN s_quantity >= $3::int + 10 THEN s_quantity - $3::int \
                   ELSE s_quantity - $3::int + 91 END, s_ytd = s_ytd + $3::int, s_order_cnt = s_order_cnt + 1, \
                   s_remote_cnt = s_remote_cnt + $4::int WHERE s_w_id = $1 AND s_i_id = $2";
        let parameters = [supplier, item, quantity, u64::from(supplier != home)].map(|n| n.to_string());
        self.change(sql, &parameters.each_ref().map(String::as_str), 1)
    }

    fn payment(&mut self) -> Attempt<()> {
        let (w, d) = self.place();
        let customer_w = self.random.warehouse_near(w);
        let customer_d = if customer_w == w { d } else { self.random.one_to(DISTRICTS) };
        let cents = 100 + self.random.below(499_900);
        let amount = format!("{}.{:02}", cents / 100, cents % 100);
        self.run("BEGIN", &[])?;
        let place = [w, d].map(|n| n.to_string());
        let [w_text, d_text] = place.each_ref().map(String::as_str);
        self.change("UPDATE warehouse SET w_ytd = w_ytd + $2 WHERE w_id = $1", &[w_text, &amount], 1)?;
        let district = "UPDATE district SET d_ytd = d_ytd + $3 WHERE d_w_id = $1 AND d_id = $2";
        self.change(district, &[w_text, d_text, &amount], 1)?;
        let c = self.customer(customer_w, customer_d)?;
        let numbers = [customer_w, customer_d, c].map(|n| n.to_string());
        let [cw, cd, c_text] = numbers.each_ref().map(String::as_str);
        let tag = format!("{}-{}", self.tag, self.done.payments.len());
        let customer = "UPDATE customer SET c_balance = c_balance - $4, c_ytd_payment = c_ytd_payment + $4, \
                        c_payment_cnt = c_payment_cnt + 1, \
                        c_data = CASE c_credit WHEN 'BC' THEN left($5 || c_data, 500) ELSE c_data END \
                        WHERE c_w_id = $1 AND c_d_id = $2 AND c_id = $3";
        self.change(customer, &[cw, cd, c_text, &amount, &tag], 1)?;
        let history = "INSERT INTO history (h_c_id, h_c_d_id, h_c_w_id, h_d_id, h_w_id, h_amount, h_data) \
                       VALUES ($1, $2, $3, $4, $5, $6, $7)";
        self.change(history, &[c_text, cd, cw, d_text, w_text, &amount, &tag], 1)?;
        self.run("COMMIT", &[])?;
        self.done.payments.insert(tag, [w, d, customer_w, customer_d, c, cents]);
        self.done.remote += u64::from(customer_w != w);
        Ok(())
    }

    /// By name in six of ten cases: the one in the middle.
    fn customer(&mut self, w: u64, d: u64) -> Attempt<u64> {
        if self.random.below(10) >= 6 {
            return Ok(self.random.one_to(CUSTOMERS));
        }
        let (last, numbers) = (tpcc::last_name(self.random.below(10)), [w, d].map(|n| n.to_string()));
        let sql = "SELECT c_id FROM customer WHERE c_w_id = $1 AND c_d_id = $2 AND c_last = $3 ORDER BY c_first";
        let answer = self.run(sql, &[&numbers[0], &numbers[1], &last])?;
        let rows: Vec<Row> = answer.results.into_iter().flat_map(|result| result.rows).collect();
        Ok(integer(&rows[rows.len() / 2..], 0))
    }

    fn order_status(&mut self) -> Attempt<()> {
        let (w, d) = self.place();
        self.run("BEGIN READ ONLY", &[])?;
        let c = self.customer(w, d)?;
        let last = "SELECT o_id, o_ol_cnt FROM orders WHERE o_w_id = $1 AND o_d_id = $2 AND o_c_id = $3 ORDER BY o_id DESC LIMIT 1";
        let order = self.ask(last, &[w, d, c])?;
        let lines = "SELECT ol_i_id, ol_supply_w_id, ol_quantity, ol_amount, ol_delivery_d FROM order_line \
                     WHERE ol_w_id = $1 AND ol_d_id = $2 AND ol_o_id = $3";
        let lines = self.ask(lines, &[w, d, integer(&order, 0)])?;
        assert_eq!(lines.len() as u64, integer(&order, 1), "an order was seen with other lines than its own");
        self.run("COMMIT", &[]).map(drop)
    }

    fn delivery(&mut self) -> Attempt<()> {
        let w = self.random.one_to(WAREHOUSES);
        let mut delivered = Vec::new();
        self.run("BEGIN", &[])?;
        for d in 1..=DISTRICTS {
            let oldest =
                "SELECT no_o_id FROM new_order WHERE no_w_id = $1 AND no_d_id = $2 ORDER BY no_o_id LIMIT 1 FOR UPDATE";
            // Nothing is left, or another delivery was quicker.
            let Some(row) = self.ask(oldest, &[w, d])?.pop() else { continue };
            let o = integer(&[row], 0);
            let numbers = [w, d, o].map(|n| n.to_string());
            let order = numbers.each_ref().map(String::as_str);
            self.change("DELETE FROM new_order WHERE no_w_id = $1 AND no_d_id = $2 AND no_o_id = $3", &order, 1)?;
            let carrier = "UPDATE orders SET o_carrier_id = 77 WHERE o_w_id = $1 AND o_d_id = $2 AND o_id = $3 RETURNING o_c_id, o_ol_cnt";
            let rows = self.ask(carrier, &[w, d, o])?;
            let (c, count) = (integer(&rows, 0), integer(&rows, 1));
            let lines =
                "UPDATE order_line SET ol_delivery_d = now() WHERE ol_w_id = $1 AND ol_d_id = $2 AND ol_o_id = $3";
            self.change(lines, &order, count)?;
            let customer = "UPDATE customer SET c_delivery_cnt = c_delivery_cnt + 1, c_balance = c_balance + \
                            (SELECT sum(ol_amount) FROM order_line WHERE ol_w_id = $1 AND ol_d_id = $2 AND ol_o_id = $3) \
                            WHERE c_w_id = $1 AND c_d_id = $2 AND c_id = $4";
            let c = c.to_string();
            self.change(customer, &[order[0], order[1], order[2], &c], 1)?;
            delivered.push((w, d, o));
        }
        self.run("COMMIT", &[])?;
        self.done.deliveries.extend(delivered);
        Ok(())
    }

    fn stock_level(&mut self) -> Attempt<()> {
        let (w, d) = self.place();
        let next = integer(&self.ask("SELECT d_next_o_id FROM district WHERE d_w_id = $1 AND d_id = $2", &[w, d])?, 0);
        let sql = "SELECT count(DISTINCT s_i_id) FROM order_line, stock WHERE ol_w_id = $1 AND ol_d_id = $2 \
                   AND ol_o_id >= $3 AND s_w_id = $1 AND s_i_id = ol_i_id AND s_quantity < $4";
        let threshold = 10 + self.random.below(11);
        let count = integer(&self.ask(sql, &[w, d, next - 20, threshold])?, 0);
        assert!(count <= ITEMS);
        Ok(())
    }
}

/// The text with its parameters written into it, the last one first so that `$1` is not found in `$10`.
fn with_literals(sql: &str, parameters: &[&str]) -> String {
    let mut text = sql.to_owned();
    for (n, parameter) in parameters.iter().enumerate().rev() {
        let is_number = parameter.parse::<f64>().is_ok();
        let literal = if is_number { (*parameter).to_owned() } else { format!("'{parameter}'") };
        text = text.replace(&format!("${}", n + 1), &literal);
    }
    text
}

fn integer(rows: &[Row], column: usize) -> u64 {
    let cell = rows[0][column].as_deref().unwrap();
    std::str::from_utf8(cell).unwrap().parse().unwrap()
}
