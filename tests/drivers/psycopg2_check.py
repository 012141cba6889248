"""What psycopg2 sees of a server: `psycopg2_check.py URL whole|keyed` prints it."""

import io
import select
import sys
import threading
import time
import uuid
from datetime import date, datetime
from decimal import Decimal

import psycopg2
import psycopg2.extras
from psycopg2 import extensions

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
    except psycopg2.Error as error:
        diag = error.diag
        show(
            label,
            type(error).__name__,
            error.pgcode,
            diag.message_primary,
            diag.message_detail,
            diag.message_hint,
            diag.statement_position,
            diag.constraint_name,
        )


def connect(autocommit=False, **options):
    connection = psycopg2.connect(URL, **options)
    connection.autocommit = autocommit
    return connection


def rows(connection, query, values=None):
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return cursor.fetchall() if cursor.description else cursor.statusmessage


@check()
def values():
    with connect(application_name="psycopg2") as c:
        show("greeting", c.encoding, c.get_parameter_status("TimeZone"), c.server_version, c.get_transaction_status())
        for value in [1, 2**70, None, True, "it's \\ ż", Decimal("1.50"), 1.5, date(2024, 2, 29), datetime(2024, 1, 2, 3, 4, 5), [1, 2], ["a", None], {"a": 1}]:
            adapted = psycopg2.extras.Json(value) if isinstance(value, dict) else value
            show("value", rows(c, "SELECT %s", (adapted,)))
        show("bytes", bytes(rows(c, "SELECT %s", (b"\x00\xff'",))[0][0]))
        psycopg2.extras.register_uuid(conn_or_curs=c)
        show("uuid", rows(c, "SELECT %s", (uuid.UUID(int=77),)))
        show("status", c.get_transaction_status())
    c.close()


@check()
def transactions():
    c = connect()
    rows(c, "CREATE TABLE psycopg2_t (a int PRIMARY KEY, b text)")
    c.commit()
    rows(c, "INSERT INTO psycopg2_t VALUES (%s, %s)", (1, "x"))
    c.rollback()
    show("rolled back", rows(c, "SELECT * FROM psycopg2_t"))
    rows(c, "SAVEPOINT one")
    failure("error", lambda: rows(c, "SELECT 1/0"))
    failure("failed", lambda: rows(c, "SELECT 1"))
    rows(c, "ROLLBACK TO one")
    rows(c, "INSERT INTO psycopg2_t VALUES (2, 'y')")
    c.commit()
    c.set_session(isolation_level="REPEATABLE READ", readonly=True)
    show("level", rows(c, "SHOW transaction_isolation"))
    failure("read only", lambda: rows(c, "DELETE FROM psycopg2_t"))
    c.rollback()
    c.set_session(isolation_level="DEFAULT", readonly=False)
    c.tpc_begin(c.xid(2, "psycopg2", "branch"))
    rows(c, "INSERT INTO psycopg2_t VALUES (3, 'z')")
    c.tpc_prepare()
    c.tpc_rollback()
    show("rows", rows(c, "SELECT * FROM psycopg2_t"))
    with c, c.cursor() as cursor:
        cursor.executemany("INSERT INTO psycopg2_t VALUES (%s, %s)", [(n, str(n)) for n in range(10, 20)])
        psycopg2.extras.execute_values(cursor, "INSERT INTO psycopg2_t VALUES %s", [(n, str(n)) for n in range(20, 400)], page_size=50)
        psycopg2.extras.execute_batch(cursor, "UPDATE psycopg2_t SET b = b || %s WHERE a = %s", [("!", n) for n in range(20, 60)])
        show("batch", cursor.statusmessage)
    show("sum", rows(c, "SELECT count(*), sum(a), string_agg(b, '' ORDER BY a) FILTER (WHERE a < 70) FROM psycopg2_t"))
    with c.cursor("psycopg2_named") as cursor:
        cursor.itersize = 50
        cursor.execute("SELECT a FROM psycopg2_t ORDER BY a")
        show("named", sum(row[0] for row in cursor))
    with c.cursor("psycopg2_hold", withhold=True, scrollable=True) as cursor:
        cursor.execute("SELECT generate_series(1, 10)")
        show("held", cursor.fetchmany(3))
        c.commit()
        cursor.scroll(3)
        show("after commit", cursor.fetchall())
    rows(c, "DROP TABLE psycopg2_t")
    c.commit()
    c.close()


@check()
def copy():
    c = connect(True)
    rows(c, "CREATE TABLE psycopg2_copy (a int, b text)")
    with c.cursor() as cursor:
        cursor.copy_from(io.StringIO("".join(f"{n}\tline {n}\n" for n in range(5000))), "psycopg2_copy")
        show("from", cursor.rowcount, cursor.statusmessage)
        cursor.copy_expert("COPY psycopg2_copy FROM STDIN WITH CSV", io.StringIO('7,"a ""quoted"" one"\n8,\n'))
        show("csv", cursor.rowcount)
        failure("bad", lambda: cursor.copy_from(io.StringIO("x\ty\n" * 5000), "psycopg2_copy"))
        out = io.StringIO()
        cursor.copy_to(out, "psycopg2_copy")
        show("to", len(out.getvalue()), hash_of(out.getvalue()))
        out = io.BytesIO()
        cursor.copy_expert("COPY (SELECT generate_series(1, 3), 'x') TO STDOUT WITH (FORMAT csv, HEADER)", out)
        show("out", out.getvalue())

        class Broken(io.StringIO):
            def read(self, size=-1):
                raise ValueError("the source is broken")

        failure("broken source", lambda: cursor.copy_from(Broken(), "psycopg2_copy"))
    show("count", rows(c, "SELECT count(*) FROM psycopg2_copy"))
    rows(c, "DROP TABLE psycopg2_copy")
    c.close()


def hash_of(text):
    return sum(ord(letter) * (n % 97) for n, letter in enumerate(text))


@check()
def large_objects():
    c = connect()
    one = c.lobject(0, "wb", 777777)
    show("written", one.write(b"large object " * 1000))
    one.close()
    c.commit()
    two = c.lobject(777777, "rb")
    two.seek(6)
    show("read", two.read(6), two.tell())
    two.close()
    c.lobject(777777, "n").unlink()
    c.commit()
    failure("unlinked", lambda: c.lobject(777777, "rb"))
    c.rollback()
    c.close()


@check()
def messages():
    c = connect(True)
    rows(c, "DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two' USING HINT = 'three'; END $$")
    show("notices", c.notices)
    rows(c, "LISTEN psycopg2_channel")
    other = connect(True)
    for n in range(3):
        rows(other, f"NOTIFY psycopg2_channel, 'number {n}'")
    deadline = time.time() + 10
    while len(c.notifies) < 3 and time.time() < deadline:
        select.select([c], [], [], 0.2)
        c.poll()
    show("notifies", [(n.channel, n.payload) for n in c.notifies])
    other.close()
    c.close()


@check()
def cancelling():
    c = connect(True)
    text = "SELECT /* psycopg2 cancel */ pg_sleep(60)"

    def stop():
        watcher = connect(True)
        query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()"
        for _ in range(2000):
            if rows(watcher, query, (text + "%",))[0][0]:
                break
            time.sleep(0.005)
        c.cancel()
        watcher.close()

    thread = threading.Thread(target=stop)
    thread.start()
    failure("cancel", lambda: rows(c, text))
    thread.join()
    show("then", rows(c, "SELECT 'fine'"))
    c.close()
    failure("closed", lambda: rows(c, "SELECT 1"))


@check()
def resetting():
    c = connect(True)
    rows(c, "SET work_mem = '9MB'; CREATE TEMP TABLE psycopg2_temp (a int)")
    show("set", rows(c, "SHOW work_mem"), rows(c, "SELECT count(*) FROM psycopg2_temp"))
    c.reset()
    c.autocommit = True
    show("reset", rows(c, "SELECT current_setting('work_mem') <> '9MB'"))
    rows(c, "DISCARD ALL")
    failure("discarded", lambda: rows(c, "SELECT count(*) FROM psycopg2_temp"))
    c.close()
    c = psycopg2.connect(URL, async_=True)
    wait(c)
    cursor = c.cursor()
    cursor.execute("SELECT 'asynchronous', %s", (1,))
    wait(c)
    show("async", cursor.fetchall())
    c.close()


def wait(c):
    while True:
        match c.poll():
            case extensions.POLL_OK:
                return
            case extensions.POLL_READ:
                select.select([c.fileno()], [], [])
            case extensions.POLL_WRITE:
                select.select([], [c.fileno()], [])


@check("keyed")
def literals():
    c = connect()
    psycopg2.extras.register_uuid(conn_or_curs=c)
    keys = {"by_int": [1, 2, 3, 2**40, -7], "by_text": ["", "it's", "ż\\x", "long" * 99], "by_uuid": [uuid.UUID(int=n << 90) for n in range(5)]}
    for table, values in keys.items():
        columns = "user_id, n"
        for key in values:
            show("insert", rows(c, f"INSERT INTO {table} ({columns}) VALUES (%s, %s)", (key, 1)))
            show("update", rows(c, f"UPDATE {table} SET n = n + 1 WHERE user_id = %s", (key,)))
            show("select", rows(c, f"SELECT {columns} FROM {table} WHERE n = 2 AND user_id = %s", (key,)))
            c.commit()
            failure("again", lambda: rows(c, f"INSERT INTO {table} ({columns}) VALUES (%s, %s)", (key, 1)))
            c.rollback()
            show("delete", rows(c, f"DELETE FROM {table} WHERE user_id = %s RETURNING n", (key,)))
            c.commit()
    c.close()


for function in CHECKS[PART]:
    print(function.__name__)
    try:
        function()
    except Exception as error:
        show("broke", type(error).__name__, str(error), error.__traceback__.tb_next.tb_lineno)
