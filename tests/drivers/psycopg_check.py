"""What psycopg 3 sees of a server: `psycopg_check.py URL whole|keyed` prints it.

Nothing that may differ between two runs against one PostgreSQL is printed.
"""

import asyncio
import sys
import threading
import time
import uuid
from datetime import date, datetime, time as clock, timedelta, timezone
from decimal import Decimal

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg.types.range import Range

URL, PART = sys.argv[1:3]
CHECKS = {"whole": [], "keyed": []}


def check(part="whole"):
    def add(function):
        CHECKS[part].append(function)
        return function

    return add


def show(label, *values):
    print(f"  {label}:", *(repr(value) for value in values), flush=True)


def failure(label, function):
    try:
        show(label, "no error", function())
    except psycopg.Error as error:
        diag = error.diag
        show(
            label,
            type(error).__name__,
            error.sqlstate,
            diag.severity,
            diag.message_primary,
            diag.message_detail,
            diag.message_hint,
            diag.statement_position,
            diag.context,
            diag.table_name,
            diag.column_name,
            diag.constraint_name,
        )


def connect(**options):
    return psycopg.connect(URL, **options)


def status(connection):
    return connection.info.transaction_status.name


@check()
def greeting():
    with connect(application_name="greeting", options="-c statement_timeout=7s -c geqo=off") as c:
        names = "server_version server_encoding client_encoding is_superuser session_authorization DateStyle IntervalStyle TimeZone integer_datetimes standard_conforming_strings application_name in_hot_standby default_transaction_read_only"
        for name in names.split():
            show(name, c.info.parameter_status(name))
        show("options", c.execute("SHOW statement_timeout").fetchone(), c.execute("SHOW geqo").fetchone())
        show("application", c.execute("SHOW application_name").fetchone())
        show("who", c.execute("SELECT current_user, session_user, current_schema, current_database()").fetchone())
    failure("no such database", lambda: psycopg.connect(URL, dbname="nowhere").close())


VALUES = [
    0, -1, 2**31, 2**62, 2**80, True, None, 1.5, float("inf"), Decimal("123456789012345678901234567890.0123"),
    "", "a'b\\c", "śluza 水門 🚪", b"", b"\x00\xff'\\", date(2024, 2, 29), datetime(2024, 2, 29, 12, 34, 56, 789),
    datetime(1999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=5, minutes=30))), clock(1, 2, 3, 4),
    timedelta(days=3, microseconds=7), uuid.UUID(int=2**127 + 5), [1, 2, None], ["x", "y,z", '"'], Jsonb({"a": [1, None]}),
    Range(1, 5), Range(date(2020, 1, 1), None, "()"),
]  # fmt: skip


@check()
def types():
    with connect() as c:
        for binary in False, True:
            cursor = c.cursor(binary=binary)
            for value in VALUES:
                mark = "%b" if binary else "%t"
                if isinstance(value, list) and None in value and binary:
                    mark = "%s"
                row = cursor.execute(f"SELECT {mark}", (value,)).fetchone()
                show("value", row, cursor.description[0].type_code)
        c.execute("CREATE TYPE psycopg_pair AS (a int, b text); CREATE DOMAIN psycopg_small AS int CHECK (VALUE < 10)")
        show("composite", c.execute("SELECT ROW(1, 'x y')::psycopg_pair, 7::psycopg_small").fetchone())
        failure("domain", lambda: c.execute("SELECT 11::psycopg_small"))
        c.rollback()


@check()
def prepared():
    with connect(autocommit=True) as c:
        c.prepare_threshold = 2
        c.execute("CREATE TABLE psycopg_prepared (a int PRIMARY KEY, b text)")
        for n in range(8):
            c.execute("INSERT INTO psycopg_prepared VALUES (%s, %s)", (n, f"row {n}"))
        for n in range(8):
            show("row", c.execute("SELECT * FROM psycopg_prepared WHERE a = %s", (n,)).fetchone())
        query = "SELECT * FROM psycopg_prepared ORDER BY a LIMIT 1"
        show("before DDL", c.execute(query, prepare=True).fetchone())
        with connect(autocommit=True) as other:
            show("another's", other.execute(query, prepare=True).fetchone())
            c.execute("ALTER TABLE psycopg_prepared ALTER b TYPE varchar(20)")
            show("same text after", other.execute("SELECT count(*) FROM psycopg_prepared", prepare=True).fetchone())
        with connect(autocommit=True) as other:
            other.execute(query, prepare=True)
            other.execute("DEALLOCATE ALL")
            failure("after DEALLOCATE ALL", lambda: other.execute(query, prepare=True).fetchone())
        c.execute("PREPARE psycopg_by_name (int) AS SELECT b FROM psycopg_prepared WHERE a = $1")
        show("EXECUTE", c.execute("EXECUTE psycopg_by_name (5)").fetchone())
        c.execute("DEALLOCATE psycopg_by_name")
        failure("deallocated", lambda: c.execute("EXECUTE psycopg_by_name (5)"))
        c.execute("DROP TABLE psycopg_prepared")


@check()
def pipeline():
    with connect(autocommit=True) as c:
        with c.pipeline() as p:
            cursors = [c.execute("SELECT %s::int * 2", (n,)) for n in range(20)]
            p.sync()
            show("doubled", [cursor.fetchone()[0] for cursor in cursors])
        c.execute("CREATE TABLE psycopg_pipeline (a int PRIMARY KEY)")

        def broken():
            with c.pipeline() as p:
                c.execute("INSERT INTO psycopg_pipeline VALUES (1)")
                p.sync()
                c.execute("INSERT INTO psycopg_pipeline VALUES (2)")
                c.execute("INSERT INTO psycopg_pipeline VALUES (1)")
                c.execute("INSERT INTO psycopg_pipeline VALUES (3)")
                p.sync()

        failure("unique", broken)
        show("left", c.execute("SELECT a FROM psycopg_pipeline ORDER BY 1").fetchall(), status(c))

        def divided():
            with c.pipeline():
                c.execute("SELECT 1 / %s", (0,))
                c.execute("INSERT INTO psycopg_pipeline VALUES (4)")

        failure("division", divided)
        show("left", c.execute("SELECT a FROM psycopg_pipeline ORDER BY 1").fetchall(), status(c))
        with c.pipeline(), c.transaction():
            c.execute("INSERT INTO psycopg_pipeline VALUES (%s)", (10,))
            with c.transaction():
                c.execute("INSERT INTO psycopg_pipeline VALUES (%s)", (11,))
        with c.pipeline():
            c.cursor().executemany("INSERT INTO psycopg_pipeline VALUES (%s)", [(n,) for n in range(100, 150)])
        cursor = c.cursor()
        cursor.executemany("INSERT INTO psycopg_pipeline VALUES (%s) RETURNING a", [(201,), (202,)], returning=True)
        returned = []
        while True:
            returned.append(cursor.fetchall())
            if not cursor.nextset():
                break
        show("returning", returned)
        show("all", c.execute("SELECT count(*), sum(a) FROM psycopg_pipeline").fetchone())
        c.execute("DROP TABLE psycopg_pipeline")


@check()
def cursors():
    with connect() as c:
        with c.cursor("psycopg_named") as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT g, repeat('x', g % 5) FROM generate_series(1, 40) g")
            show("columns", [column.name for column in cursor.description])
            show("one", cursor.fetchone(), "many", cursor.fetchmany(3))
            show("rest", sum(row[0] for row in cursor))
        with c.cursor("psycopg_scroll", scrollable=True) as cursor:
            cursor.execute("SELECT generate_series(1, 9)")
            cursor.scroll(4)
            show("scrolled", cursor.fetchone())
            cursor.scroll(-3)
            show("back", cursor.fetchone())
            cursor.scroll(0, mode="absolute")
            show("again", cursor.fetchmany(2))
        with c.cursor("psycopg_hold", withhold=True, binary=True) as cursor:
            cursor.execute("SELECT generate_series(1, 5)")
            show("before commit", cursor.fetchmany(2))
            c.commit()
            show("after commit", cursor.fetchall(), status(c))
        c.commit()
        failure("closed with its transaction", lambda: lost_cursor(c))
        c.rollback()
        with c.cursor() as cursor:
            rows = list(cursor.stream("SELECT g, md5(g::text) FROM generate_series(1, %s) g", (300,)))
            show("streamed", len(rows), rows[-1])
        with psycopg.ClientCursor(c) as cursor:
            show("client side", cursor.execute("SELECT %s, %s", ("it's", 3)).fetchone())
        with psycopg.RawCursor(c) as cursor:
            show("raw", cursor.execute("SELECT $1::int + $2", (1, 2)).fetchone())
        show("dict", c.cursor(row_factory=dict_row).execute("SELECT 1 AS a, 2 AS b").fetchall())


def lost_cursor(c):
    cursor = c.cursor("psycopg_lost")
    cursor.execute("SELECT generate_series(1, 5)")
    c.commit()
    return cursor.fetchone()


@check()
def copy():
    with connect() as c:
        c.execute("CREATE TABLE psycopg_copy (a int PRIMARY KEY, b text, c bytea)")
        cursor = c.cursor()
        with cursor.copy("COPY psycopg_copy FROM STDIN") as copy:
            for n in range(5):
                copy.write_row((n, None if n == 2 else f"tab\there {n}\\", bytes([n, 255])))
        show("text", cursor.rowcount, cursor.statusmessage)
        with cursor.copy("COPY psycopg_copy (a, b) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            for n in range(5, 3000):
                copy.write_row((n, "binary " * (n % 40)))
        show("binary", cursor.rowcount)
        with cursor.copy("COPY psycopg_copy (a, b) FROM STDIN (FORMAT csv, HEADER)") as copy:
            copy.write("a,b\n9000,\"quoted, \"\"x\"\"\"\n")
            copy.write("9001,split")
            copy.write(" over writes\n")
        show("csv", cursor.rowcount)
        with cursor.copy("COPY (SELECT * FROM psycopg_copy WHERE a < 4 ORDER BY a) TO STDOUT") as copy:
            show("out", [bytes(block) for block in copy])
        with cursor.copy("COPY psycopg_copy (a, b) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            rows = list(copy.rows())
            show("rows out", len(rows), sum(row[0] for row in rows), sum(len(row[1] or "") for row in rows))
        c.commit()

        def left_early():
            with cursor.copy("COPY (SELECT generate_series(1, 1000000)) TO STDOUT") as copy:
                show("first", bytes(copy.read()))
                raise psycopg.DataError("seen enough")

        failure("left early", left_early)
        show("then", status(c))
        c.rollback()

        def bad_row():
            with c.cursor().copy("COPY psycopg_copy (a, b) FROM STDIN") as copy:
                copy.write("10000\tgood\n")
                copy.write("wrong\tbad\n")
                for _ in range(500):
                    copy.write("1\tmore after the error\n" * 100)

        failure("bad row", bad_row)
        c.rollback()

        def given_up():
            with c.cursor().copy("COPY psycopg_copy (a) FROM STDIN") as copy:
                copy.write("10001\n")
                raise psycopg.DataError("given up")

        failure("given up", given_up)
        show("then", status(c))
        c.rollback()
        failure("duplicate", lambda: copy_rows(c, [(1, "x")]))
        c.rollback()
        failure("no table", lambda: copy_rows(c, [], "psycopg_nowhere"))
        c.rollback()
        show("kept", c.execute("SELECT count(*), sum(a), sum(length(b)) FROM psycopg_copy").fetchone())
        c.execute("DROP TABLE psycopg_copy")


def copy_rows(c, rows, table="psycopg_copy"):
    with c.cursor().copy(f"COPY {table} (a, b) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


@check()
def transactions():
    with connect() as c:
        c.execute("CREATE TABLE psycopg_transactions (a int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
        show("in", status(c))
        c.commit()
        show("out", status(c))
        with c.transaction() as outer:
            c.execute("INSERT INTO psycopg_transactions VALUES (1)")
            try:
                with c.transaction("psycopg_inner"):
                    c.execute("INSERT INTO psycopg_transactions VALUES (2)")
                    c.execute("SELECT nothing")
            except psycopg.Error as error:
                show("inner", error.sqlstate, status(c), outer.savepoint_name)
            with c.transaction():
                c.execute("INSERT INTO psycopg_transactions VALUES (3)")
                raise psycopg.Rollback()
        show("rows", c.execute("SELECT a FROM psycopg_transactions ORDER BY 1").fetchall())
        c.commit()
        failure("error", lambda: c.execute("SELECT * FROM psycopg_nowhere"))
        failure("aborted", lambda: c.execute("SELECT 1"))
        show("status", status(c))
        show("COMMIT of a failed one", c.execute("COMMIT").statusmessage, status(c))
        c.execute("INSERT INTO psycopg_transactions VALUES (1)")
        failure("deferred", c.commit)
        show("status", status(c))
        c.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        c.read_only = True
        show("level", c.execute("SHOW transaction_isolation").fetchone(), c.execute("SHOW transaction_read_only").fetchone())
        failure("read only", lambda: c.execute("INSERT INTO psycopg_transactions VALUES (4)"))
        c.rollback()
        c.isolation_level = c.read_only = None
        xid = c.xid(1, "psycopg", "branch")
        c.tpc_begin(xid)
        c.execute("INSERT INTO psycopg_transactions VALUES (5)")
        c.tpc_prepare()
        c.tpc_commit()
        show("two phases", c.execute("SELECT a FROM psycopg_transactions ORDER BY 1").fetchall())
        c.rollback()
        with connect() as other:
            other.execute("UPDATE psycopg_transactions SET a = a WHERE a = 1")
            failure("locked", lambda: c.execute("SELECT * FROM psycopg_transactions WHERE a = 1 FOR UPDATE NOWAIT"))
            other.rollback()
            c.rollback()
        c.execute("DROP TABLE psycopg_transactions")
        c.commit()
        c.execute("BEGIN; SELECT 1")
        show("BEGIN in BEGIN", status(c))
        c.rollback()
        c.autocommit = True
        cursor = c.execute("SELECT 1; SELECT 'two', 2; CREATE TEMP TABLE psycopg_many (a int); INSERT INTO psycopg_many VALUES (1), (2)")
        answers = []
        while True:
            answers.append((cursor.statusmessage, cursor.fetchall() if cursor.description else None))
            if not cursor.nextset():
                break
        show("many", answers)
        failure("half of many", lambda: c.execute("INSERT INTO psycopg_many VALUES (3); SELECT 1/0; SELECT 2"))
        show("undone", c.execute("SELECT count(*) FROM psycopg_many").fetchone(), status(c))
        c.execute("DROP TABLE psycopg_many")
        failure("VACUUM in a transaction", lambda: c.execute("BEGIN; VACUUM"))
        c.execute("ROLLBACK")
        show("empty", c.execute("").statusmessage, c.execute(" ; ").statusmessage, c.execute("-- nothing").statusmessage)


@check()
def notices():
    with connect(autocommit=True) as c:
        c.add_notice_handler(
            lambda d: show("notice", d.severity, d.sqlstate, d.message_primary, d.message_detail, d.message_hint, d.context)
        )
        c.execute("DO $$ BEGIN RAISE NOTICE 'from %', 'do' USING DETAIL = 'd', HINT = 'h'; RAISE WARNING 'w'; END $$")
        c.execute("DROP TABLE IF EXISTS psycopg_nowhere")
        c.execute("ROLLBACK")
        c.execute("BEGIN; BEGIN; COMMIT")
        c.execute("SET client_min_messages = error")
        c.execute("DROP TABLE IF EXISTS psycopg_nowhere")
        c.execute("RESET client_min_messages")
        failure("exception", lambda: c.execute("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'P0999', COLUMN = 'c', TABLE = 't'; END $$"))
        c.execute("LISTEN psycopg_channel")
        with connect(autocommit=True) as other:
            other.execute("NOTIFY psycopg_channel, 'first'")
            other.execute("SELECT pg_notify('psycopg_channel', 'second')")
        heard = [(n.channel, n.payload) for n in c.notifies(timeout=10, stop_after=2)]
        show("heard", heard)
        c.execute("UNLISTEN *")
        c.execute("NOTIFY psycopg_channel, 'third'")
        show("not heard", list(c.notifies(timeout=0.1)))


@check()
def large_objects():
    with connect() as c:
        oid = c.execute("SELECT lo_from_bytea(0, %s)", (bytes(range(256)) * 2000,)).fetchone()[0]
        number = c.execute("SELECT lo_open(%s, 393216)", (oid,)).fetchone()[0]
        show("seek", c.execute("SELECT lo_lseek64(%s, 1000, 0), lowrite(%s, %s)", (number, number, b"here")).fetchone())
        show("tell", c.execute("SELECT lo_tell64(%s), lo_truncate(%s, 1010)", (number, number)).fetchone())
        show("closed", c.execute("SELECT lo_close(%s)", (number,)).fetchone())
        c.commit()
        show("read", c.execute("SELECT lo_get(%s, 996, 30)", (oid,), binary=True).fetchone())
        failure("not open", lambda: c.execute("SELECT loread(%s, 5)", (number,)))
        c.rollback()
        show("unlinked", c.execute("SELECT lo_unlink(%s)", (oid,)).fetchone())


@check()
def held_cursors():
    connections = [connect(autocommit=True) for _ in range(8)]
    for round in range(2):
        for n, c in enumerate(connections):
            with c.cursor(f"held {n}", withhold=True) as cursor:
                cursor.execute("SELECT generate_series(1, 300)")
                show("first", cursor.fetchmany(2))
                c.execute("SELECT pg_catalog.set_config('psycopg.held', 'here', false)")
            show("set", c.execute("SELECT current_setting('psycopg.held', true)").fetchone())
        for n, c in enumerate(connections):
            if n % 2:
                c.execute("BEGIN; SELECT 1")
                c.execute(f"SELECT set_config('psycopg.held', '{n}', false)")
                c.execute("ROLLBACK")
            show("still", c.execute("SELECT current_setting('psycopg.held', true)").fetchone())
    failure("both fail", lambda: c.execute("SELECT set_config('psycopg.held', 'lost', false); SELECT 1/0"))
    show("kept", c.execute("SELECT current_setting('psycopg.held', true)").fetchone())
    show("cursors", c.execute("SELECT count(*) FROM pg_cursors").fetchone())
    for c in connections:
        c.close()


@check()
def session():
    with connect(autocommit=True) as c, connect(autocommit=True) as other:
        c.execute("SET search_path = pg_catalog; SET TimeZone = 'Asia/Kolkata'")
        c.execute("SET work_mem = '9MB'")
        c.execute("SELECT set_config('psycopg.mine', 'set', false)")

        def settings(connection):
            query = "SELECT current_setting('search_path'), current_setting('TimeZone'), current_setting('work_mem'), current_setting('psycopg.mine', true)"
            return connection.execute(query).fetchone()

        for _ in range(3):
            show("mine", settings(c), c.info.parameter_status("TimeZone"))
            show("other", settings(other)[:3], other.info.parameter_status("TimeZone"))
        with c.transaction():
            c.execute("SET LOCAL work_mem = '7MB'")
            show("local", settings(c))
        show("after", settings(c))
        with c.transaction(force_rollback=True):
            c.execute("SET TimeZone = 'UTC'")
            show("in", c.info.parameter_status("TimeZone"))
        show("rolled back", settings(c), c.info.parameter_status("TimeZone"))
        c.execute("RESET ALL")
        show("reset", settings(c)[:3], c.info.parameter_status("TimeZone"))
        failure("wrong", lambda: c.execute("SET work_mem = 'much'"))
        failure("unknown", lambda: c.execute("SET no_such_setting = 1"))
        c.execute("CREATE TEMP TABLE psycopg_temp (a int)")
        c.execute("INSERT INTO psycopg_temp VALUES (1), (2)")
        for _ in range(3):
            show("temp", c.execute("SELECT count(*) FROM psycopg_temp").fetchone())
            failure("not the other's", lambda: other.execute("SELECT count(*) FROM psycopg_temp"))
        show("lock", c.execute("SELECT pg_advisory_lock(77)").fetchone())
        show("try", other.execute("SELECT pg_try_advisory_lock(77)").fetchone())
        show("unlock", c.execute("SELECT pg_advisory_unlock(77), pg_advisory_unlock(77)").fetchone())
        show("try again", other.execute("SELECT pg_try_advisory_lock(77)").fetchone())
        show("and unlock", other.execute("SELECT pg_advisory_unlock_all()").fetchone())
        c.execute("DISCARD ALL")
        failure("discarded", lambda: c.execute("SELECT count(*) FROM psycopg_temp"))
        c.execute("SET ROLE app")
        show("role", c.execute("SELECT current_user").fetchone())
        failure("no role", lambda: c.execute("SET ROLE nobody"))
        c.execute("CREATE SEQUENCE psycopg_sequence")
        failure("currval", lambda: c.execute("SELECT currval('psycopg_sequence')"))
        show("nextval", c.execute("SELECT nextval('psycopg_sequence')").fetchone())
        c.execute("DROP SEQUENCE psycopg_sequence")


def wait_until_running(text):
    with connect(autocommit=True) as watcher:
        query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()"
        for _ in range(2000):
            if watcher.execute(query, (text + "%",)).fetchone()[0]:
                return
            time.sleep(0.005)
    raise RuntimeError(f"{text} never ran")


@check()
def cancelling():
    with connect(autocommit=True) as c:
        for how in "cancel", "cancel_safe":
            text = f"SELECT /* psycopg {how} */ pg_sleep(60)"

            def stop():
                wait_until_running(text)
                getattr(c, how)()

            thread = threading.Thread(target=stop)
            thread.start()
            failure(how, lambda: c.execute(text))
            thread.join()
            show("then", c.execute("SELECT 'fine'").fetchone(), status(c))
        c.cancel()
        show("nothing to cancel", c.execute("SELECT 'fine'").fetchone())
        c.execute("SET statement_timeout = '50ms'")
        failure("timeout", lambda: c.execute("SELECT pg_sleep(60)"))
        c.execute("RESET statement_timeout")
        with c.transaction(force_rollback=True):
            c.execute("SET LOCAL statement_timeout = '50ms'")
            failure("timeout in a transaction", lambda: c.execute("SELECT pg_sleep(60)"))
        show("then", c.execute("SELECT 'fine'").fetchone(), status(c))
    c = connect(autocommit=True)
    failure("terminated", lambda: c.execute("SELECT pg_terminate_backend(pg_backend_pid())"))
    show("closed", c.closed, c.broken)
    asyncio.run(cancelled_task())


async def cancelled_task():
    async with await psycopg.AsyncConnection.connect(URL, autocommit=True) as c:
        text = "SELECT /* psycopg task */ pg_sleep(60)"
        task = asyncio.create_task(c.execute(text))
        await asyncio.to_thread(wait_until_running, text)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            show("task cancelled", c.info.transaction_status.name)
        rows = await asyncio.gather(*(one_more(n) for n in range(12)))
        show("many clients", rows)


async def one_more(n):
    async with await psycopg.AsyncConnection.connect(URL) as c:
        cursor = await c.execute("SELECT %s::int, pg_sleep(0.01)::text", (n,))
        return (await cursor.fetchone())[0]


@check()
def errors():
    with connect(autocommit=True) as c:
        c.execute("CREATE TABLE psycopg_errors (a int PRIMARY KEY, b text NOT NULL, c int CHECK (c > 0))")
        c.execute("INSERT INTO psycopg_errors VALUES (1, 'x', 1)")
        for text in [
            "SELEC 1",
            "SELECT 'open",
            "SELECT * FROM psycopg_errors WHERE wrong = 1",
            "SELECT no_such_function(1)",
            "INSERT INTO psycopg_errors VALUES (1, 'x', 1)",
            "INSERT INTO psycopg_errors VALUES (2, NULL, 1)",
            "INSERT INTO psycopg_errors VALUES (2, 'x', 0)",
            "INSERT INTO psycopg_errors VALUES ('x', 'x', 0)",
            "SELECT 1 / 0",
            "SELECT 'x'::int",
            "SELECT 1 FROM generate_series(1, 100000) g WHERE 1 / (99999 - g) > 5",
            "CREATE TABLE psycopg_errors (a int)",
            "SELECT 1; SELECT 2 FROM psycopg_nowhere",
            "COMMIT PREPARED 'psycopg nothing'",
            "FETCH psycopg_nothing",
            "SAVEPOINT outside",
        ]:
            failure(text, lambda: c.execute(text).fetchall())
        failure("two in one prepared", lambda: c.execute("SELECT %s; SELECT 2", (1,)))
        failure("type", lambda: c.execute("SELECT %s + 1", ("x",)))
        failure("binary", lambda: c.execute("SELECT %b::text::int", ("x",)))
        failure("long", lambda: c.execute("SELECT " + "1 + " * 3 + "x"))
        show("still", c.execute("SELECT count(*) FROM psycopg_errors").fetchone())
        c.execute("DROP TABLE psycopg_errors")


@check()
def large():
    with connect(autocommit=True) as c:
        big = "0123456789abcdef" * 200_000
        show("back", c.execute("SELECT %s::text = %s, length(%s)", (big, big, big)).fetchone())
        show("one row", len(c.execute("SELECT repeat('x', 5000000)").fetchone()[0]))
        rows = c.execute("SELECT g, repeat('y', g % 300) FROM generate_series(1, 50000) g").fetchall()
        show("rows", len(rows), sum(len(row[1]) for row in rows), rows[-1][0])
        show("columns", len(c.execute("SELECT " + ", ".join(str(n) for n in range(1600))).fetchone()))
        show("parameters", sum(c.execute("SELECT " + ", ".join(["%s::int"] * 1600), list(range(1600))).fetchone()))
        show("long text", c.execute("SELECT 1 /* " + "z" * 1_000_000 + " */").fetchone())


KEYS = [1, 2, 3, 7, 100, 2**40, -5]


@check("keyed")
def by_int():
    with connect(autocommit=True) as c:
        for binary in False, True:
            mark = "%b" if binary else "%t"
            for key in KEYS:
                show("insert", c.execute(f"INSERT INTO by_int VALUES ({mark}, {mark}, 0)", (key, f"int {key}")).rowcount)
            for key in KEYS:
                c.execute(f"UPDATE by_int SET n = n + {mark} WHERE user_id = {mark}", (5, key))
                cursor = c.cursor(binary=binary)
                show("select", cursor.execute(f"SELECT * FROM by_int WHERE user_id = {mark}", (key,)).fetchall())
            show("none", c.execute(f"SELECT * FROM by_int WHERE user_id = {mark}", (99999,)).fetchall())
            show("prepared", [c.execute(f"SELECT note FROM by_int WHERE user_id = {mark}", (key,), prepare=True).fetchone() for key in KEYS])
            for key in KEYS:
                cursor = c.execute(f"DELETE FROM by_int WHERE user_id = {mark} RETURNING user_id, n", (key,))
                show("delete", cursor.fetchall(), cursor.statusmessage)


@check("keyed")
def by_text():
    with connect(autocommit=True) as c:
        for binary in False, True:
            mark = "%b" if binary else "%t"
            for key in ["", "ann", "bob", "żółw", "x" * 500]:
                c.execute(f"INSERT INTO by_text VALUES ({mark}, {mark})", (key, len(key)))
                c.execute(f"UPDATE by_text SET n = n + 1 WHERE user_id = {mark}", (key,))
                show("select", c.execute(f"SELECT length(user_id), n FROM by_text WHERE user_id = {mark}", (key,)).fetchall())
                show("literal", psycopg.ClientCursor(c).execute("SELECT n FROM by_text WHERE user_id = %s", (key,)).fetchall())
                show("delete", c.execute(f"DELETE FROM by_text WHERE user_id = {mark}", (key,)).statusmessage)


@check("keyed")
def by_uuid():
    with connect(autocommit=True) as c:
        for binary in False, True:
            mark = "%b" if binary else "%t"
            for n in range(6):
                key = uuid.UUID(int=n * 2**99 + n)
                c.execute(f"INSERT INTO by_uuid VALUES ({mark}, {mark})", (key, n))
                c.execute(f"UPDATE by_uuid SET n = n * 2 WHERE user_id = {mark}", (key,))
                show("select", c.execute(f"SELECT * FROM by_uuid WHERE user_id = {mark}", (key,)).fetchall())
                show("as text", c.execute("SELECT n FROM by_uuid WHERE user_id = %s::uuid", (str(key),)).fetchall())
                show("delete", c.execute(f"DELETE FROM by_uuid WHERE user_id = {mark}", (key,)).statusmessage)


@check("keyed")
def keyed_transactions():
    with connect() as c:
        for key in KEYS:
            with c.transaction():
                c.execute("INSERT INTO by_int VALUES (%s, 'block', 1)", (key,))
                try:
                    with c.transaction():
                        c.execute("INSERT INTO by_int VALUES (%s, 'again', 1)", (key,))
                except psycopg.errors.UniqueViolation as error:
                    show("unique", error.diag.message_detail, error.diag.constraint_name)
                show("locked", c.execute("SELECT n FROM by_int WHERE user_id = %s FOR UPDATE", (key,)).fetchone())
        with c.pipeline():
            cursors = [c.execute("SELECT note, n FROM by_int WHERE user_id = %s", (key,)) for key in KEYS]
            show("pipeline", [cursor.fetchone() for cursor in cursors])
        c.rollback()
        for key in KEYS:
            with c.cursor("psycopg_keyed") as cursor:
                cursor.execute("SELECT user_id FROM by_int WHERE user_id = %s", (key,))
                show("cursor", cursor.fetchall())
            with c.cursor().copy("COPY (SELECT user_id, note FROM by_int WHERE user_id = %s) TO STDOUT", (key,)) as copy:
                show("copy", [bytes(block) for block in copy])
            c.rollback()
        every_key(c)
        for key in KEYS:
            c.execute("DELETE FROM by_int WHERE user_id = %s", (key,))
            c.commit()


def every_key(c):
    for binary in False, True:
        with c.cursor("psycopg_every", binary=binary, scrollable=True) as cursor:
            cursor.itersize = 2
            cursor.execute("SELECT user_id, note, user_id + %s FROM by_int ORDER BY user_id", (1,))
            show("columns", [(column.name, column.type_code) for column in cursor.description])
            show("every", cursor.fetchone(), cursor.fetchmany(3), list(cursor))
            cursor.scroll(1, mode="absolute")
            show("again", cursor.fetchall())
    with c.cursor("psycopg_kept", withhold=True) as cursor:
        cursor.execute("SELECT count(*), string_agg(note, ',' ORDER BY user_id) FROM by_int")
        c.commit()
        show("kept", cursor.fetchall())
    show("locked", c.execute("SELECT user_id FROM by_int ORDER BY user_id FOR UPDATE").fetchall())
    c.rollback()


for function in CHECKS[PART]:
    print(function.__name__)
    try:
        function()
    except Exception as error:
        show("broke", type(error).__name__, str(error), error.__traceback__.tb_next.tb_lineno)
