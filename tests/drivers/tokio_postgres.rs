//! What tokio-postgres sees: types in binary, pipelining, COPY, portals, cancelling.

use std::error::Error;
use std::fmt::Write;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{AsyncMessage, Client, NoTls, Row, SimpleQueryMessage, Statement};

use crate::sides::Part;

/// The transcript so far.
struct Page(String);

impl Page {
    fn show(&mut self, label: &str, value: impl std::fmt::Debug) {
        writeln!(self.0, "  {label}: {value:?}").unwrap();
    }

    fn failure<T: std::fmt::Debug>(&mut self, label: &str, result: Result<T, tokio_postgres::Error>) {
        match result {
            Ok(value) => self.show(label, ("no error", value)),
            Err(error) => match error.as_db_error() {
                Some(db) => self.show(label, (db.code().code(), db.message(), db.detail(), db.hint(), db.constraint())),
                None => self.show(label, error.to_string()),
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Uuid([u8; 16]);

impl ToSql for Uuid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Uuid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.try_into()?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }
}

pub(crate) fn transcript(url: &str, part: Part) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut page = Page(String::new());
        match part {
            Part::Whole => {
                types(url, &mut page).await;
                pipelining(url, &mut page).await;
                transactions(url, &mut page).await;
                copy(url, &mut page).await;
                cancelling(url, &mut page).await;
                messages(url, &mut page).await;
            }
            Part::Keyed => keyed(url, &mut page).await,
        }
        page.0
    })
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn types(url: &str, page: &mut Page) {
    page.0.push_str("types\n");
    let c = connect(url).await;
    let statement = c.prepare("SELECT $1::int4, $2::text, $3::bytea, $4::float8, $5::bool, $6::int8[], $7::uuid").await;
    let statement = statement.unwrap();
    page.show("parameters", statement.params());
    page.show("columns", statement.columns().iter().map(|column| column.type_().name()).collect::<Vec<_>>());
    for n in 0..5_i32 {
        let text = (n != 2).then(|| format!("ż {n}"));
        let array = vec![Some(i64::MAX - i64::from(n)), None];
        let bytes = vec![0, u8::try_from(n).unwrap()];
        let values: [&(dyn ToSql + Sync); 7] =
            [&n, &text, &bytes, &f64::from(n), &(n % 2 == 0), &array, &Uuid([n.to_be_bytes()[3]; 16])];
        let row = c.query_one(&statement, &values).await.unwrap();
        let (a, b, bytes): (i32, Option<&str>, &[u8]) = (row.get(0), row.get(1), row.get(2));
        let (d, e, f): (f64, bool, Vec<Option<i64>>) = (row.get(3), row.get(4), row.get(5));
        page.show("row", (a, b, bytes, d, e, f, row.get::<_, Uuid>(6)));
    }
    let time: SystemTime = c.query_one("SELECT timestamptz '2024-02-29 12:00Z'", &[]).await.unwrap().get(0);
    page.show("time", time);
    c.batch_execute("CREATE TYPE tokio_mood AS ENUM ('sad', 'glad'); CREATE TABLE tokio_types (m tokio_mood)")
        .await
        .unwrap();
    let insert = c.prepare("INSERT INTO tokio_types VALUES ($1)").await.unwrap();
    page.show("enum", insert.params()[0].kind());
    page.failure("rows", c.execute("DELETE FROM tokio_types", &[]).await);
    page.failure("syntax", c.prepare("SELEC").await.map(drop));
    page.failure("missing", c.query("SELECT * FROM tokio_nowhere", &[]).await.map(|rows| rows.len()));
    page.failure("zero", c.query("SELECT 1 / $1::int", &[&0_i32]).await.map(|rows| rows.len()));
    let typed = c.query_typed("SELECT $1 + 1", &[(&41_i32, Type::INT4)]).await.unwrap();
    page.show("typed", typed[0].get::<_, i32>(0));
    for message in
        c.simple_query("SELECT 1 AS a; SELECT 'x', NULL; DROP TABLE tokio_types; DROP TYPE tokio_mood").await.unwrap()
    {
        match message {
            SimpleQueryMessage::Row(row) => page.show("simple", (0..row.len()).map(|n| row.get(n)).collect::<Vec<_>>()),
            SimpleQueryMessage::CommandComplete(count) => page.show("complete", count),
            _ => {}
        }
    }
}

async fn pipelining(url: &str, page: &mut Page) {
    page.0.push_str("pipelining\n");
    let c = connect(url).await;
    let statement = c.prepare("SELECT $1::int * 2").await.unwrap();
    let doubled = (0..50).map(|n| {
        let (c, statement) = (&c, &statement);
        async move { c.query_one(statement, &[&n]).await.unwrap().get::<_, i32>(0) }
    });
    page.show("doubled", join_all(doubled).await);
    let divided = (0..6).map(|n| {
        let c = &c;
        async move {
            let result = c.query_one("SELECT 12 / ($1::int - 3)", &[&n]).await;
            result.map(|row| row.get::<_, i32>(0)).map_err(|error| error.code().unwrap().code().to_owned())
        }
    });
    page.show("divided", join_all(divided).await);
    let many = connect(url).await;
    let (one, two) = tokio::join!(c.query("SELECT pg_sleep(0.05)::text", &[]), many.query("SELECT 'meanwhile'", &[]));
    page.show("two clients", (one.unwrap().len(), two.unwrap()[0].get::<_, &str>(0)));
}

async fn transactions(url: &str, page: &mut Page) {
    page.0.push_str("transactions\n");
    let mut c = connect(url).await;
    c.batch_execute("CREATE TABLE tokio_t (a int PRIMARY KEY)").await.unwrap();
    let mut outer = c.transaction().await.unwrap();
    outer.execute("INSERT INTO tokio_t VALUES (1)", &[]).await.unwrap();
    let inner = outer.transaction().await.unwrap();
    page.failure("unique", inner.execute("INSERT INTO tokio_t VALUES (1)", &[]).await);
    page.failure("failed", inner.query("SELECT 1", &[]).await.map(|rows| rows.len()));
    inner.rollback().await.unwrap();
    outer.execute("INSERT INTO tokio_t SELECT generate_series(2, 100)", &[]).await.unwrap();
    let portal = outer.bind("SELECT a FROM tokio_t ORDER BY a", &[]).await.unwrap();
    for count in [3, 10, 0] {
        let rows = outer.query_portal(&portal, count).await.unwrap();
        page.show("portal", (rows.len(), rows[0].get::<_, i32>(0)));
    }
    outer.commit().await.unwrap();
    drop(c.transaction().await.unwrap());
    let serializable =
        c.build_transaction().isolation_level(tokio_postgres::IsolationLevel::Serializable).read_only(true);
    let serializable = serializable.start().await.unwrap();
    page.failure("read only", serializable.execute("DELETE FROM tokio_t", &[]).await);
    drop(serializable);
    page.failure("dropped", c.execute("DROP TABLE tokio_t", &[]).await);
}

async fn copy(url: &str, page: &mut Page) {
    page.0.push_str("copy\n");
    let c = connect(url).await;
    c.batch_execute("CREATE TABLE tokio_copy (a int, b text)").await.unwrap();
    for chunk in [1, 100, 100_000] {
        let text: String = (0..3000).map(|n| format!("{n}\tline {n}\n")).collect();
        let parts: Vec<Bytes> = text.as_bytes().chunks(chunk).map(Bytes::copy_from_slice).collect();
        page.failure("in", copy_in(&c, "COPY tokio_copy FROM STDIN", parts).await);
    }
    let wrong = vec![Bytes::from_static(b"x\ty\n"); 20_000];
    page.failure("wrong", copy_in(&c, "COPY tokio_copy FROM STDIN", wrong).await);
    page.failure("no table", copy_in(&c, "COPY tokio_nowhere FROM STDIN", Vec::new()).await);
    let c = connect(url).await;
    drop(c.copy_in::<_, Bytes>("COPY tokio_copy FROM STDIN").await.unwrap());
    page.show("given up", c.query_one("SELECT count(*), sum(a) FROM tokio_copy", &[]).await.unwrap().get::<_, i64>(0));
    let stream = c.copy_out("COPY (SELECT a, b FROM tokio_copy ORDER BY a, b LIMIT 5000) TO STDOUT").await.unwrap();
    let parts: Vec<Bytes> = stream.map(Result::unwrap).collect().await;
    page.show("out", parts.iter().map(Bytes::len).sum::<usize>());
    c.batch_execute("DROP TABLE tokio_copy").await.unwrap();
}

async fn copy_in(c: &Client, sql: &str, parts: Vec<Bytes>) -> Result<u64, tokio_postgres::Error> {
    let mut sink = pin!(c.copy_in::<_, Bytes>(sql).await?);
    for part in parts {
        sink.feed(part).await?;
    }
    sink.finish().await
}

async fn cancelling(url: &str, page: &mut Page) {
    page.0.push_str("cancelling\n");
    let c = connect(url).await;
    let watcher = connect(url).await;
    for n in 0..5 {
        let text = format!("SELECT pg_sleep(60 + {n})");
        let running = "SELECT FROM pg_stat_activity WHERE state = 'active' AND query = $1";
        let stop = async {
            while watcher.query(running, &[&text]).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            c.cancel_token().cancel_query(NoTls).await.unwrap();
            std::future::pending().await
        };
        // PostgreSQL signals a backend twice for one request, so that a cancel may end the
        // next statement too, before the watcher has seen it.
        let result = tokio::select! {
            result = c.simple_query(&text) => result,
            never = stop => never,
        };
        page.failure("cancelled", result.map(|messages| messages.len()));
        let fine = loop {
            match c.query_one("SELECT 'fine'", &[]).await {
                Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {}
                other => break other.unwrap(),
            }
        };
        page.show("then", fine.get::<_, &str>(0));
    }
    c.cancel_token().cancel_query(NoTls).await.unwrap();
    page.show("nothing to cancel", watcher.query_one("SELECT 'fine'", &[]).await.unwrap().get::<_, &str>(0));
}

async fn messages(url: &str, page: &mut Page) {
    page.0.push_str("messages\n");
    let (c, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(std::future::poll_fn(move |cx| {
        loop {
            match connection.poll_message(cx) {
                std::task::Poll::Ready(Some(Ok(message))) => sender.send(message).unwrap_or_default(),
                std::task::Poll::Ready(_) => return std::task::Poll::Ready(()),
                std::task::Poll::Pending => return std::task::Poll::Pending,
            }
        }
    }));
    c.batch_execute("LISTEN tokio_channel; DO $$ BEGIN RAISE WARNING 'careful'; END $$").await.unwrap();
    connect(url).await.batch_execute("NOTIFY tokio_channel, 'payload'").await.unwrap();
    for _ in 0..2 {
        match heard.recv().await.unwrap() {
            AsyncMessage::Notice(notice) => page.show("notice", (notice.severity(), notice.message())),
            AsyncMessage::Notification(n) => page.show("notification", (n.channel(), n.payload())),
            _ => {}
        }
    }
}

async fn keyed(url: &str, page: &mut Page) {
    page.0.push_str("keyed\n");
    let mut c = connect(url).await;
    let integers: Vec<i64> = vec![1, 2, 3, 9, 1 << 33, -8];
    keys(&mut c, page, "by_int", &integers).await;
    let texts: Vec<String> = ["", "ann", "o'neil", "żuk"].map(String::from).to_vec();
    keys(&mut c, page, "by_text", &texts).await;
    let uuids: Vec<Uuid> = (0..6).map(|n| Uuid([n * 37; 16])).collect();
    keys(&mut c, page, "by_uuid", &uuids).await;
    let twice = "SELECT n FROM by_int WHERE user_id = 1; SELECT n FROM by_int WHERE user_id = 1";
    for message in c.simple_query(twice).await.unwrap() {
        if let SimpleQueryMessage::CommandComplete(count) = message {
            page.show("complete", count);
        }
    }
}

async fn keys<K: ToSql + Sync>(c: &mut Client, page: &mut Page, table: &str, keys: &[K]) {
    let insert = c.prepare(&format!("INSERT INTO {table} (user_id, n) VALUES ($1, $2) RETURNING n")).await.unwrap();
    let update = c.prepare(&format!("UPDATE {table} SET n = n + $2 WHERE user_id = $1")).await.unwrap();
    let select = c.prepare(&format!("SELECT n FROM {table} WHERE user_id = $1")).await.unwrap();
    page.show("described", (insert.params(), select.columns().len()));
    for (n, key) in (0_i32..).zip(keys) {
        page.show("insert", c.query_one(&insert, &[key, &n]).await.unwrap().get::<_, i32>(0));
        page.failure("again", c.query(&insert, &[key, &n]).await.map(|rows| rows.len()));
    }
    let updates = join_all(keys.iter().map(|key| execute(c, &update, key))).await;
    page.show("updates", updates.into_iter().map(Result::unwrap).collect::<Vec<u64>>());
    let selects = join_all(keys.iter().map(|key| query_one(c, &select, key))).await;
    page.show("selects", selects.into_iter().map(|row| row.unwrap().get::<_, i32>(0)).collect::<Vec<_>>());
    for key in keys {
        let block = c.transaction().await.unwrap();
        block.execute(&update, &[key, &-1_i32]).await.unwrap();
        page.show("in a block", block.query_one(&select, &[key]).await.unwrap().get::<_, i32>(0));
        block.rollback().await.unwrap();
        let delete = format!("DELETE FROM {table} WHERE user_id = $1");
        page.failure("delete", c.execute(&delete, &[key]).await);
    }
}

async fn execute<K: ToSql + Sync>(c: &Client, statement: &Statement, key: &K) -> Result<u64, tokio_postgres::Error> {
    c.execute(statement, &[key, &100_i32]).await
}

async fn query_one<K: ToSql + Sync>(c: &Client, statement: &Statement, key: &K) -> Result<Row, tokio_postgres::Error> {
    c.query_one(statement, &[key]).await
}
