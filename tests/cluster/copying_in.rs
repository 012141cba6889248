//! COPY FROM STDIN over several shards beside one PostgreSQL: the same rows and tags, and of a broken line the same error with the
//! same place.

use crate::generated::random::Random;
use crate::support::running::{Running, databases, shared};
use crate::support::wire::{self, Answer, Wire};

const SCHEMA: &str = "CREATE TABLE notes (w text, user_id bigint NOT NULL, v int CHECK (v < 1000), d date, UNIQUE (user_id, v)); \
                      CREATE TABLE plans (id int PRIMARY KEY, name text, rank int DEFAULT 7, made timestamptz DEFAULT now(), \
                      code text DEFAULT upper('x'))";

/// One PostgreSQL, and routers over two and three shards.
struct Sides {
    plain: Wire,
    routers: Vec<Running>,
    clients: Vec<Wire>,
}

impl Sides {
    fn new(name: &str) -> Self {
        let plain = databases(&format!("{name}_plain"), 1);
        let mut plain = Wire::connect(shared().port(), "app", &plain[0]);
        assert_eq!(plain.query(SCHEMA).sqlstate(), "");
        let routers: Vec<Running> = (2..=3).map(|count| Running::over(&databases(name, count))).collect();
        for router in &routers {
            assert_eq!(router.client().query(SCHEMA).sqlstate(), "");
        }
        let clients = routers.iter().map(Running::client).collect();
        Self { plain, routers, clients }
    }

    /// Copies everywhere and compares; gives what PostgreSQL said.
    #[track_caller]
    fn check(&mut self, sql: &str, data: &[u8]) -> Answer {
        let expected = self.plain.copy(sql, data);
        let rows = "SELECT * FROM notes ORDER BY user_id, v, w, d; SELECT id, name, rank FROM plans ORDER BY id";
        let kept = self.plain.text(rows);
        for (client, shards) in self.clients.iter_mut().zip(2..) {
            let seen = client.copy(sql, data);
            let at = format!("over {shards} shards: {sql}\n{}", String::from_utf8_lossy(data));
            assert_eq!(told(&seen), told(&expected), "{at}");
            assert_eq!(client.text(rows), kept, "{at}");
        }
        expected
    }

    fn clear(&mut self) {
        for wire in self.clients.iter_mut().chain([&mut self.plain]) {
            assert_eq!(wire.query("TRUNCATE notes, plans").sqlstate(), "");
        }
    }
}

/// What a user sees of an answer.
fn told(answer: &Answer) -> Vec<String> {
    match &answer.error {
        None => vec![answer.tag().to_owned()],
        Some(error) => b"CMDHWtcn".iter().map(|field| error.field(*field).to_owned()).collect(),
    }
}

struct Case {
    sql: String,
    data: Vec<u8>,
}

/// One value as text: none for NULL.
type Value = Option<String>;

struct Dialect {
    csv: bool,
    delimiter: char,
    null: &'static str,
    quote: char,
    escape: char,
    end: &'static str,
}

impl Dialect {
    fn random(random: &mut Random) -> Self {
        let csv = random.chance(60);
        let quote = *random.pick(&['"', '"', '\'']);
        Self {
            csv,
            delimiter: *random.pick(if csv { &[',', ',', ';', '|'] } else { &['\t', '\t', ';', '|'] }),
            null: if csv { *random.pick(&["", "", "nil"]) } else { *random.pick(&["\\N", "\\N", "nil"]) },
            quote,
            escape: if random.chance(30) { '\\' } else { quote },
            end: *random.pick(&["\n", "\n", "\r\n", "\r"]),
        }
    }

    fn field(&self, value: &Value, random: &mut Random) -> String {
        let Some(value) = value else { return self.null.to_owned() };
        if !self.csv {
            let escaped = value.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
            return escaped.replace(self.delimiter, &format!("\\{}", self.delimiter));
        }
        let special = [self.delimiter, self.quote, self.escape, '\n', '\r'];
        if value.contains(special) || value == self.null || value == "\\." || random.chance(20) {
            let mut text = String::from(self.quote);
            for letter in value.chars() {
                if letter == self.quote || letter == self.escape {
                    text.push(self.escape);
                }
                text.push(letter);
            }
            text.push(self.quote);
            return text;
        }
        value.clone()
    }

    fn line(&self, values: &[Value], random: &mut Random) -> String {
        let fields: Vec<String> = values.iter().map(|value| self.field(value, random)).collect();
        fields.join(&self.delimiter.to_string()) + self.end
    }

    fn options(&self, random: &mut Random) -> Vec<String> {
        let mut options = vec![format!("DELIMITER E'{}'", self.delimiter.escape_default())];
        options.push(format!("NULL '{}'", self.null));
        if self.csv {
            options.push("FORMAT csv".to_owned());
            options.push(format!("QUOTE '{}'", self.quote.to_string().replace('\'', "''")));
            options.push(format!("ESCAPE '{}'", self.escape.to_string().replace('\'', "''")));
            for (name, columns) in [("FORCE_NULL", "(w)"), ("FORCE_NOT_NULL", "(w)"), ("FORCE_NULL", "(user_id, w)")] {
                if random.chance(10) {
                    options.push(format!("{name} {columns}"));
                    break;
                }
            }
        }
        if random.chance(10) {
            options.push("ENCODING 'UTF-8'".to_owned());
        }
        options
    }
}

const COLUMNS: [&str; 4] = ["w", "user_id", "v", "d"];

fn case(random: &mut Random) -> Case {
    let dialect = Dialect::random(random);
    let mut columns: Vec<usize> = (0..4).collect();
    let listed = random.chance(60);
    if listed {
        for at in (1..4).rev() {
            columns.swap(at, random.below(at + 1));
        }
        if random.chance(30) {
            columns.retain(|column| *column != 3);
        }
    }
    let names: Vec<&str> = columns.iter().map(|column| COLUMNS[*column]).collect();
    let mut options = dialect.options(random);
    let mut data = String::new();
    let header = random.below(4);
    if header > 0 {
        options.push(["", "HEADER", "HEADER true", "HEADER match"][header].to_owned());
        data = dialect.line(&names.iter().map(|name| Some((*name).to_owned())).collect::<Vec<_>>(), random);
    }
    let words =
        ["", "a", "two words", "ä€", "\\.", "x\ny", "q\"q", "it's", "back\\slash", "p|i;p,e", "nil", "tab\there"];
    let count = *random.pick(&[0, 1, 5, 20, 60]);
    // Of several broken lines the first is told.
    let broken: Vec<usize> = match random.below(4) {
        0 | 1 => Vec::new(),
        2 => vec![random.below(count + 1)],
        _ => (0..1 + random.below(3)).map(|_| random.below(count + 1)).collect(),
    };
    for number in 0..=count {
        let mut row: [Value; 4] = [
            random.chance(85).then(|| (*random.pick(&words)).to_owned()),
            Some((random.below(50) + 1).to_string()),
            Some(number.to_string()),
            random.chance(70).then(|| "2024-02-29".to_owned()),
        ];
        if !broken.contains(&number) {
            if number < count {
                data += &dialect.line(&columns.iter().map(|column| row[*column].clone()).collect::<Vec<_>>(), random);
            }
            continue;
        }
        data += &break_line(&dialect, &mut row, &columns, random);
    }
    if random.chance(20) && data.ends_with(dialect.end) {
        data.truncate(data.len() - dialect.end.len());
    } else if random.chance(20) {
        data += &format!("\\.{}", dialect.end);
    }
    let list = if listed { format!(" ({})", names.join(", ")) } else { String::new() };
    let filter = if random.chance(20) { " WHERE v % 3 <> 0" } else { "" };
    Case { sql: format!("COPY notes{list} FROM STDIN ({}){filter}", options.join(", ")), data: data.into_bytes() }
}

/// A line with which something is wrong.
fn break_line(dialect: &Dialect, row: &mut [Value; 4], columns: &[usize], random: &mut Random) -> String {
    let wrong = random.below(12);
    match wrong {
        0 => row[1] = Some("x1".to_owned()),
        1 => row[1] = None,
        2 => row[1] = Some("99999999999999999999".to_owned()),
        3 => row[2] = Some("no number".to_owned()),
        4 => row[2] = Some("1000".to_owned()),
        5 => row[3] = Some("2024-02-30".to_owned()),
        6 => row[1] = Some(String::new()),
        _ => {}
    }
    let mut values: Vec<Value> = columns.iter().map(|column| row[*column].clone()).collect();
    match wrong {
        7 => values.push(Some("more".to_owned())),
        8 => drop(values.pop()),
        9 => values.truncate(1),
        _ => {}
    }
    let mut line = dialect.line(&values, random);
    match wrong {
        10 if dialect.csv => line.insert(0, dialect.quote),
        11 => line = line.replace(dialect.end, if dialect.end == "\n" { "\r\n" } else { "\n" }),
        _ => {}
    }
    line
}

#[test]
fn random_data_are_taken_or_refused_as_by_one_postgresql() {
    let cases: usize = std::env::var("COPY_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(250);
    let mut sides = Sides::new("random_copy");
    let mut random = Random::new(7);
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..cases {
        let Case { sql, data } = case(&mut random);
        match sides.check(&sql, &data).error {
            Some(_) => refused += 1,
            None => taken += 1,
        }
        sides.clear();
    }
    assert!(refused > cases / 5 && taken > cases / 5, "{refused} refused, {taken} taken");
}

/// What goes wrong in binary data, and what does not.
#[test]
fn binary_data_are_taken_or_refused_as_by_one_postgresql() {
    let mut sides = Sides::new("binary_copy");
    let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
    let row = |fields: &[Option<&[u8]>]| {
        let mut row = u16::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
        for field in fields {
            let length = field.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap());
            row.extend_from_slice(&length.to_be_bytes());
            row.extend_from_slice(field.unwrap_or_default());
        }
        row
    };
    let good = |user: i64| row(&[Some(&user.to_be_bytes()), Some(&7_i32.to_be_bytes())]);
    let many: Vec<u8> = (1..=40).flat_map(good).collect();
    let bad: [Vec<u8>; 9] = [
        Vec::new(),
        vec![0xff, 0xff],
        row(&[Some(&[0, 1]), Some(&7_i32.to_be_bytes())]),
        row(&[None, Some(&7_i32.to_be_bytes())]),
        row(&[Some(&41_i64.to_be_bytes()), Some(&[1, 2, 3])]),
        row(&[Some(&41_i64.to_be_bytes()), Some(&1000_i32.to_be_bytes())]),
        row(&[Some(&41_i64.to_be_bytes())]),
        row(&[Some(&41_i64.to_be_bytes()), None, None]),
        good(40),
    ];
    for bad in bad {
        let data = [header.as_slice(), &many, &bad].concat();
        sides.check("COPY notes (user_id, v) FROM STDIN (FORMAT binary)", &data);
        sides.clear();
    }
}

/// The other options, one after another.
#[test]
fn options_mean_the_same_over_shards() {
    let mut sides = Sides::new("copy_options");
    let cases: [(&str, &[u8]); 15] = [
        ("COPY notes FROM STDIN (ENCODING latin1)", b"\xe4\xf6\t1\t1\t\\N\nx\t2\t2\t\\N\n"),
        ("COPY notes (user_id, w) FROM STDIN", b"1\t\xff\n2\ta\n"),
        ("COPY notes (user_id, w) FROM STDIN (FORMAT csv, HEADER match)", b"user_id,W\n1,a\n"),
        ("COPY notes (user_id, w) FROM STDIN (FORMAT csv, HEADER match)", b"user_id\n1,a\n"),
        ("COPY notes (user_id, w) FROM STDIN (FORMAT csv, FORCE_NOT_NULL (user_id))", b"1,a\n,b\n"),
        ("COPY notes (user_id, w) FROM STDIN (FORMAT csv, FORCE_NULL (user_id))", b"1,a\n\"\",b\n"),
        ("COPY notes (user_id, w) FROM STDIN (FORMAT csv, FORCE_NULL (user_id), NULL '5')", b"1,a\n\"5\",b\n"),
        ("COPY notes (user_id, user_id) FROM STDIN", b"1\ta\n"),
        ("COPY public.notes (user_id, w) FROM STDIN", b"1\ta\nx\tb\n"),
        ("COPY notes (user_id, w) FROM STDIN (DELIMITER 'ab')", b"1\ta\n"),
        ("COPY plans (id, name, rank, made, code) FROM STDIN", b"1\tone\t1\t2024-01-01\tx\n2\ttwo\tx\t2024-01-01\ty\n"),
        ("COPY plans (id, name, rank, made, code) FROM STDIN", b"1\tone\t1\t2024-01-01\tx\n1\ttwo\t2\t2024-01-01\ty\n"),
        ("COPY plans FROM STDIN WHERE id > 1", b"1\tone\t1\t2024-01-01\tx\n2\ttwo\t2\t2024-01-01\ty\n"),
        ("COPY plans FROM STDIN CSV HEADER", b"a,b,c,d,e\n3,one,1,2024-01-01,x\n"),
        ("COPY notes (user_id, w) FROM STDIN", b"1\ta\n\\.\nnonsense"),
    ];
    for (sql, data) in cases {
        sides.check(sql, data);
        sides.clear();
    }
    // A default that each shard would evaluate by itself.
    for client in &mut sides.clients {
        for columns in ["id, name", "id, made", "id, name, made"] {
            let refused = client.copy(&format!("COPY plans ({columns}) FROM STDIN"), b"1\n");
            assert_eq!(refused.sqlstate(), "0A000", "{columns}");
        }
        let answer = client.copy("COPY plans (id, made, code) FROM STDIN", b"1\t2024-01-01\tx\n");
        assert_eq!(answer.tag(), "COPY 1");
        assert_eq!(client.text("SELECT rank FROM plans"), "7");
        assert_eq!(client.copy("COPY plans (id, code) FROM STDIN", b"2\tx\n").tag(), "COPY 1");
        assert_eq!(client.text("SELECT made > '2026-01-01' FROM plans WHERE id = 2"), "t");
        assert_eq!(client.query("CREATE TABLE counted (id serial, user_id bigint)").sqlstate(), "");
        assert_eq!(client.copy("COPY counted (user_id) FROM STDIN", b"1\n").tag(), "COPY 1");
        assert_eq!(client.text("SELECT id FROM counted"), "1");
        assert_eq!(client.copy("COPY counted FROM STDIN", b"1\t1\n").tag(), "COPY 1");
    }
}

/// The messages of one COPY in the extended protocol, cut and ended in every way, with what PostgreSQL answers.
#[test]
fn the_extended_protocol_copies_in() {
    let mut sides = Sides::new("extended_copy");
    let start = |sql: &str| [wire::parse("", sql), wire::bind("", "", &[], false), wire::execute("")].concat();
    let rows = wire::message(b'd', b"1\t1\n2\t2\n3\t3\n");
    let (done, failed) = (wire::message(b'c', b""), wire::message(b'f', b"no more\0"));
    let bad = wire::message(b'd', b"4\tx\n5\t5\n");
    let copy = start("COPY notes (user_id, v) FROM STDIN");
    let select = start("SELECT 7");
    let (sync, flush) = (wire::sync(), wire::message(b'H', b""));
    let after = wire::query("SELECT count(*), sum(v) FROM notes");
    let talks: Vec<(&str, Vec<&[u8]>)> = vec![
        ("plain", vec![&copy, &rows, &done, &sync]),
        ("early Sync", vec![&copy, &sync, &rows, &done, &sync]),
        ("Flush within", vec![&copy, &flush, &rows, &flush, &rows[..0], &done, &sync]),
        ("CopyFail", vec![&copy, &sync, &rows, &failed, &sync]),
        ("a bad row", vec![&copy, &rows, &bad, &done, &sync]),
        ("a bad row and an early Sync", vec![&copy, &sync, &rows, &bad, &done, &sync]),
        ("in a pipeline", vec![&select, &copy, &rows, &done, &select, &sync]),
    ];
    for (name, messages) in talks {
        let talk = messages.concat();
        let mut answers = Vec::new();
        for wire in sides.clients.iter_mut().chain([&mut sides.plain]) {
            wire.send(&talk);
            wire.send(&after);
            let mut seen = Vec::new();
            while seen.iter().filter(|(tag, _)| *tag == b'Z').count() < 2 {
                let message = wire.message().unwrap();
                // Errors are compared by code, message and context; of the rest the tag and the bytes.
                let body = match message.tag {
                    b'E' => b"CMW"
                        .iter()
                        .map(|f| wire::Fields::read(&message.body).field(*f).to_owned())
                        .collect::<Vec<_>>()
                        .join("|")
                        .into_bytes(),
                    _ => message.body,
                };
                seen.push((message.tag, String::from_utf8_lossy(&body).into_owned()));
            }
            answers.push(seen);
        }
        let expected = answers.pop().unwrap();
        for seen in answers {
            assert_eq!(seen, expected, "{name}");
        }
        sides.clear();
    }
}

/// In a block the copy ends with the block; a client that leaves within one keeps nothing.
#[test]
fn a_copy_in_the_extended_protocol_is_left_in_the_middle() {
    let mut sides = Sides::new("left_copy");
    let start =
        [wire::parse("", "COPY notes (user_id, v) FROM STDIN"), wire::bind("", "", &[], false), wire::execute("")];
    let rows: String = (1..=500).map(|user| format!("{user}\t1\n")).collect();
    let data = wire::message(b'd', rows.as_bytes());
    for router in &sides.routers {
        let mut client = router.client();
        assert_eq!(client.query("BEGIN").tag(), "BEGIN");
        client.send(&[start.concat(), wire::sync(), data.clone(), wire::message(b'c', b""), wire::sync()].concat());
        assert_eq!(client.answer(b"").tag(), "COPY 500");
        assert_eq!(client.text("SELECT count(*) FROM notes"), "500");
        assert_eq!(client.query("ROLLBACK").tag(), "ROLLBACK");
        assert_eq!(client.text("SELECT count(*) FROM notes"), "0");
        client.send(&[start.concat(), wire::sync(), data.clone()].concat());
        while client.message().unwrap().tag != b'G' {}
        drop(client);
    }
    for client in &mut sides.clients {
        assert_eq!(client.text("SELECT count(*) FROM notes"), "0");
        assert_eq!(client.query("TRUNCATE notes").sqlstate(), "", "nobody holds a lock");
    }
}
