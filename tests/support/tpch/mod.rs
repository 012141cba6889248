//! TPC-H: the schema, the 22 queries with the parameters the standard validates them by, and rows made
//! from a seed, of the standard's shape though not its very rows.

use std::fmt::Write;

const QUERIES: &str = include_str!("queries.sql");
pub const SCHEMA: &str = include_str!("schema.sql");

/// Orders and their items by order, customers by customer, the rest everywhere.
pub const RULES: &str = r#"
sharding_key = "l_orderkey"
tables.orders.key = "o_orderkey"
tables.customer.key = "c_custkey"
tables.part.kind = "reference"
tables.partsupp.kind = "reference"
tables.supplier.kind = "reference"
tables.nation.kind = "reference"
tables.region.kind = "reference"
"#;

/// The days from 1970 on of 1992-01-01, 1995-06-17 and 1998-08-02.
const FIRST_DAY: i64 = 8_035;
const CURRENT_DAY: i64 = 9_298;
const LAST_ORDER_DAY: i64 = 10_440;

const REGIONS: [&str; 5] = ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"];
const NATIONS: [(&str, usize); 25] = [
    ("ALGERIA", 0),
    ("ARGENTINA", 1),
    ("BRAZIL", 1),
    ("CANADA", 1),
    ("EGYPT", 4),
    ("ETHIOPIA", 0),
    ("FRANCE", 3),
    ("GERMANY", 3),
    ("INDIA", 2),
    ("INDONESIA", 2),
    ("IRAN", 4),
    ("IRAQ", 4),
    ("JAPAN", 2),
    ("JORDAN", 4),
    ("KENYA", 0),
    ("MOROCCO", 0),
    ("MOZAMBIQUE", 0),
    ("PERU", 1),
    ("CHINA", 2),
    ("ROMANIA", 3),
    ("SAUDI ARABIA", 4),
    ("VIETNAM", 2),
    ("RUSSIA", 3),
    ("UNITED KINGDOM", 3),
    ("UNITED STATES", 1),
];
const COLORS: [&str; 24] = [
    "almond", "azure", "beige", "blue", "brown", "coral", "cream", "cyan", "dodger", "forest", "frosted", "green",
    "indian", "ivory", "khaki", "lemon", "linen", "maroon", "navy", "olive", "peach", "plum", "salmon", "violet",
];
const SIZES: [&str; 6] = ["STANDARD", "SMALL", "MEDIUM", "LARGE", "ECONOMY", "PROMO"];
const FINISHES: [&str; 5] = ["ANODIZED", "BURNISHED", "PLATED", "POLISHED", "BRUSHED"];
const METALS: [&str; 5] = ["TIN", "NICKEL", "BRASS", "STEEL", "COPPER"];
const BOXES: [&str; 5] = ["SM", "LG", "MED", "JUMBO", "WRAP"];
const CONTAINERS: [&str; 8] = ["CASE", "BOX", "BAG", "JAR", "PKG", "PACK", "CAN", "DRUM"];
const SEGMENTS: [&str; 5] = ["AUTOMOBILE", "BUILDING", "FURNITURE", "MACHINERY", "HOUSEHOLD"];
const PRIORITIES: [&str; 5] = ["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW"];
const MODES: [&str; 7] = ["REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB"];
const INSTRUCTIONS: [&str; 4] = ["DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"];
const WORDS: [&str; 16] = [
    "accounts",
    "bold",
    "carefully",
    "deposits",
    "even",
    "final",
    "furiously",
    "ideas",
    "ironic",
    "packages",
    "pending",
    "quickly",
    "regular",
    "silent",
    "theodolites",
    "unusual",
];

/// The queries in order, the first being Q1.
pub fn queries() -> Vec<&'static str> {
    let queries = QUERIES.split("-- Q").skip(1).filter_map(|text| text.split_once('\n'));
    queries.map(|(_, query)| query.trim()).collect()
}

/// How much is made.
#[derive(Clone, Copy)]
pub struct Size {
    /// The standard's scale factor 1 has 1.5 million orders.
    pub orders: usize,
    /// Of 100 parts and orders, so many are such as the queries ask for, lest few rows give empty answers.
    pub favoured: u64,
}

/// All tables with their rows in the text format of COPY.
pub fn tables(size: Size) -> Vec<(&'static str, String)> {
    let mut maker = Maker {
        random: Random(20_260_101),
        favoured: size.favoured,
        customers: (size.orders / 10).max(10),
        suppliers: (size.orders / 150).max(40),
        parts: (size.orders / 15 * 2).max(100),
    };
    let (orders, lineitem) = maker.orders(size.orders);
    vec![
        ("region", maker.regions()),
        ("nation", maker.nations()),
        ("supplier", maker.suppliers()),
        ("part", maker.parts()),
        ("partsupp", maker.partsupp()),
        ("customer", maker.customers()),
        ("orders", orders),
        ("lineitem", lineitem),
    ]
}

struct Maker {
    random: Random,
    favoured: u64,
    customers: usize,
    suppliers: usize,
    parts: usize,
}

impl Maker {
    fn regions(&mut self) -> String {
        let mut out = String::new();
        for (key, name) in REGIONS.iter().enumerate() {
            writeln!(out, "{key}\t{name}\t{}", self.random.words(4)).unwrap();
        }
        out
    }

    fn nations(&mut self) -> String {
        let mut out = String::new();
        for (key, (name, region)) in NATIONS.iter().enumerate() {
            writeln!(out, "{key}\t{name}\t{region}\t{}", self.random.words(4)).unwrap();
        }
        out
    }

    fn suppliers(&mut self) -> String {
        let mut out = String::new();
        for key in 1..=self.suppliers {
            let nation = key % NATIONS.len();
            let (address, phone, balance) = (self.random.words(2), self.phone(nation), self.balance());
            let comment = match self.random.below(100) {
                0..2 => format!("Customer {} Complaints", self.random.words(1)),
                _ => self.random.words(5),
            };
            writeln!(out, "{key}\tSupplier#{key:09}\t{address}\t{nation}\t{phone}\t{balance}\t{comment}").unwrap();
        }
        out
    }

    fn parts(&mut self) -> String {
        let mut out = String::new();
        for key in 1..=self.parts {
            let random = &mut self.random;
            let favoured = random.below(100) < self.favoured;
            let (first, second) = (random.one_of(&COLORS), random.one_of(&COLORS));
            let first = if favoured { random.one_of(&["forest", "green"]) } else { first };
            let maker = random.below(5) + 1;
            let brand = format!("Brand#{maker}{}", random.below(5) + 1);
            let brand = if favoured { random.one_of(&["Brand#12", "Brand#23", "Brand#34"]).to_owned() } else { brand };
            let kind = format!("{} {} {}", random.one_of(&SIZES), random.one_of(&FINISHES), random.one_of(&METALS));
            let favourites = ["ECONOMY ANODIZED STEEL", "PROMO PLATED BRASS"];
            let kind = if favoured { random.one_of(&favourites).to_owned() } else { kind };
            let size = if favoured { *random.of(&[3, 15]) } else { random.below(50) + 1 };
            let container = format!("{} {}", random.one_of(&BOXES), random.one_of(&CONTAINERS));
            let container =
                if favoured { random.one_of(&["SM CASE", "MED BOX", "LG PACK"]).to_owned() } else { container };
            let (price, comment) = (money(price(key)), random.words(2));
            let comment = &comment[..comment.len().min(23)];
            writeln!(
                out,
                "{key}\t{first} {second}\tManufacturer#{maker}\t{brand}\t{kind}\t{size}\t{container}\t{price}\t{comment}"
            )
            .unwrap();
        }
        out
    }

    fn partsupp(&mut self) -> String {
        let mut out = String::new();
        for part in 1..=self.parts {
            for nth in 0..4 {
                let (supplier, available) = (self.supplier_of(part, nth), self.random.below(9_999) + 1);
                let cost = money(self.random.below(99_901) + 100);
                writeln!(out, "{part}\t{supplier}\t{available}\t{cost}\t{}", self.random.words(8)).unwrap();
            }
        }
        out
    }

    fn customers(&mut self) -> String {
        let mut out = String::new();
        for key in 1..=self.customers {
            let nation = usize::try_from(self.random.below(25)).unwrap();
            let (address, phone, balance) = (self.random.words(2), self.phone(nation), self.balance());
            let (segment, comment) = (self.random.one_of(&SEGMENTS), self.random.words(8));
            writeln!(out, "{key}\tCustomer#{key:09}\t{address}\t{nation}\t{phone}\t{balance}\t{segment}\t{comment}")
                .unwrap();
        }
        out
    }

    /// Orders and the lines of each.
    fn orders(&mut self, count: usize) -> (String, String) {
        let (mut orders, mut lines) = (String::new(), String::new());
        for number in 0..count {
            // Eight of every 32 keys are used.
            let key = number / 8 * 32 + number % 8 + 1;
            // One customer in three never orders.
            let customer = self.random.index(self.customers / 3 * 2);
            let customer = customer / 2 * 3 + customer % 2 + 1;
            let day = FIRST_DAY + self.random.days(LAST_ORDER_DAY - FIRST_DAY);
            let big = self.random.below(1_000) < self.favoured;
            let count = if big { 7 } else { self.random.below(7) + 1 };
            let (mut total, mut open) = (0, 0);
            for line in 1..=count {
                let quantity = if big { 44 + self.random.below(7) } else { self.random.below(50) + 1 };
                let (price, is_open) = self.line(&mut lines, (key, line), day, quantity);
                total += price;
                open += u64::from(is_open);
            }
            let status = if open == 0 {
                "F"
            } else if open == count {
                "O"
            } else {
                "P"
            };
            let (total, day) = (money(total), date(day));
            let (priority, clerk) = (self.random.one_of(&PRIORITIES), self.random.below(1_000) + 1);
            let comment = match self.random.below(100) {
                0 => format!("special {} requests", self.random.words(2)),
                _ => self.random.words(5),
            };
            writeln!(orders, "{key}\t{customer}\t{status}\t{total}\t{day}\t{priority}\tClerk#{clerk:09}\t0\t{comment}")
                .unwrap();
        }
        (orders, lines)
    }

    /// One line of an order; its price in cents and whether it is yet to be shipped.
    fn line(&mut self, out: &mut String, (order, line): (usize, u64), ordered: i64, quantity: u64) -> (u64, bool) {
        let part = self.random.index(self.parts) + 1;
        let nth = self.random.index(4);
        let supplier = self.supplier_of(part, nth);
        let random = &mut self.random;
        let full = quantity * price(part);
        let (discount, tax) = (random.below(11), random.below(9));
        let shipped = ordered + 1 + random.days(121);
        let promised = ordered + 30 + random.days(61);
        let received = shipped + 1 + random.days(30);
        let flag = if received > CURRENT_DAY { "N" } else { random.one_of(&["R", "A"]) };
        let open = shipped > CURRENT_DAY;
        let status = if open { "O" } else { "F" };
        let (shown, shipped, promised, received) = (money(full), date(shipped), date(promised), date(received));
        let (instruction, mode, comment) = (random.one_of(&INSTRUCTIONS), random.one_of(&MODES), random.words(2));
        writeln!(
            out,
            "{order}\t{part}\t{supplier}\t{line}\t{quantity}\t{shown}\t0.{discount:02}\t0.{tax:02}\t{flag}\t{status}\t\
             {shipped}\t{promised}\t{received}\t{instruction}\t{mode}\t{comment}"
        )
        .unwrap();
        (full * (100 - discount) * (100 + tax) / 10_000, open)
    }

    /// Each part is sold by four suppliers.
    fn supplier_of(&self, part: usize, nth: usize) -> usize {
        (part + nth * (self.suppliers / 4)) % self.suppliers + 1
    }

    fn phone(&mut self, nation: usize) -> String {
        let mut digits = || self.random.below(900) + 100;
        format!("{}-{}-{}-{}", nation + 10, digits(), digits(), digits() * 10)
    }

    fn balance(&mut self) -> String {
        let cents = self.random.below(1_100_000);
        if cents < 100_000 { format!("-{}", money(cents)) } else { money(cents - 100_000) }
    }
}

/// What a part costs, in cents.
fn price(part: usize) -> u64 {
    let part = u64::try_from(part).unwrap();
    90_000 + part / 10 % 20_001 + 100 * (part % 1_000)
}

fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// A day of these decades, counted from 1970-01-01.
fn date(days: i64) -> String {
    let mut left = days;
    let mut year = 1970;
    let is_leap = |year: i64| year % 4 == 0;
    while left >= 365 + i64::from(is_leap(year)) {
        left -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let months = [31, 28 + i64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= months[month] {
        left -= months[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, left + 1)
}

/// SplitMix64: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(u64::try_from(end).unwrap())).unwrap()
    }

    fn days(&mut self, end: i64) -> i64 {
        i64::try_from(self.below(u64::try_from(end).unwrap())).unwrap()
    }

    fn of<'t, T>(&mut self, list: &'t [T]) -> &'t T {
        &list[self.index(list.len())]
    }

    fn one_of<'t>(&mut self, list: &[&'t str]) -> &'t str {
        list[self.index(list.len())]
    }

    fn words(&mut self, count: usize) -> String {
        (0..count).map(|_| self.one_of(&WORDS)).collect::<Vec<_>>().join(" ")
    }
}
