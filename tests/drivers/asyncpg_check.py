"""What asyncpg sees of a server: `asyncpg_check.py URL whole|keyed` prints it."""

import asyncio
import io
import sys
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import asyncpg

URL, PART = sys.argv[1:3]
CHECKS = {"whole": [], "keyed": []}


def check(part="whole"):
    def add(function):
        CHECKS[part].append(function)
        return function

    return add


def show(label, *values):
    print(f"  {label}:", *(repr(value) for value in values), flush=True)


async def failure(label, awaitable):
    try:
        show(label, "no error", await awaitable)
    except asyncpg.PostgresError as error:
        show(label, type(error).__name__, error.sqlstate, error.message, error.detail, error.hint, error.position)
    except (asyncpg.InterfaceError, asyncio.TimeoutError) as error:
        show(label, type(error).__name__)


def rows(records):
    return [tuple(record) for record in records]


@check()
async def types(c):
    settings = c.get_settings()
    show("settings", settings.client_encoding, settings.TimeZone, settings.application_name, settings.is_superuser)
    show("version", c.get_server_version().major)
    values = [
        ("int2", -3), ("int8", 2**62), ("numeric", Decimal("-123456.7890")), ("float8", 1.5), ("bool", True), ("text", "ż'\\"),
        ("bytea", b"\x00\xff"), ("date", date(2024, 2, 29)), ("timestamp", datetime(2024, 1, 2, 3, 4, 5, 6)),
        ("timestamptz", datetime(2024, 1, 2, tzinfo=timezone.utc)), ("interval", timedelta(days=40, seconds=5)), ("uuid", uuid.UUID(int=99)),
        ("int4[]", [1, None, 3]), ("text[]", ["a", "b,c"]), ("jsonb", '{"a": 1}'), ("int4range", asyncpg.Range(1, 9)), ("inet", None),
    ]  # fmt: skip
    for name, value in values:
        show(name, await c.fetchval(f"SELECT $1::{name}", value))
    await c.execute("CREATE TYPE asyncpg_mood AS ENUM ('sad', 'glad'); CREATE TYPE asyncpg_pair AS (a int, b asyncpg_mood)")
    await c.execute("CREATE TABLE asyncpg_types (p asyncpg_pair, m asyncpg_mood[])")
    await c.execute("INSERT INTO asyncpg_types VALUES ($1, $2)", (1, "glad"), ["sad", "glad"])
    show("composite", rows(await c.fetch("SELECT * FROM asyncpg_types")))
    await c.set_type_codec("json", encoder=str, decoder=lambda text: f"decoded {text}", schema="pg_catalog")
    show("codec", await c.fetchval("SELECT '[1]'::json"))
    await c.execute("DROP TABLE asyncpg_types; DROP TYPE asyncpg_pair; DROP TYPE asyncpg_mood")


@check()
async def prepared(c):
    statement = await c.prepare("SELECT $1::int AS a, $2::text AS b")
    show("parameters", [p.name for p in statement.get_parameters()])
    show("attributes", [(a.name, a.type.name) for a in statement.get_attributes()])
    for n in range(5):
        show("row", tuple(await statement.fetchrow(n, str(n))), statement.get_statusmsg())
    show("many", [rows(r) for r in [await statement.fetch(1, "x"), await statement.fetch(2, "y")]])
    await c.execute("CREATE TABLE asyncpg_prepared (a int PRIMARY KEY, b text)")
    await c.executemany("INSERT INTO asyncpg_prepared VALUES ($1, $2)", [(n, f"row {n}") for n in range(1000)])
    show("executemany", await c.fetchval("SELECT count(*) FROM asyncpg_prepared"))
    await failure("executemany fails whole", c.executemany("INSERT INTO asyncpg_prepared VALUES ($1, 'x')", [(2000,), (1,), (2001,)]))
    show("so there are", await c.fetchval("SELECT count(*) FROM asyncpg_prepared"))
    show("explain", (await (await c.prepare("SELECT 1 WHERE $1::int = 1")).explain(1))[0]["Plan"]["Node Type"])
    await failure("wrong type", c.fetch("SELECT $1::int + $2", 1))
    try:
        await c.fetch("SELECT $1::int", "x")
    except asyncpg.DataError as error:
        show("refused by the driver", str(error))
    await failure("syntax", c.prepare("SELEC"))
    await failure("two", c.prepare("SELECT 1; SELECT 2"))
    names = await c.fetch("SELECT count(*) FROM pg_prepared_statements WHERE statement = 'no such'")
    show("none", rows(names))
    await c.execute("DROP TABLE asyncpg_prepared")


@check()
async def copy(c):
    await c.execute("CREATE TABLE asyncpg_copy (a int, b text, c timestamptz)")
    noon = datetime(2024, 5, 6, 12, tzinfo=timezone.utc)
    records = [(n, None if n % 7 == 0 else "text " * (n % 9), noon) for n in range(5000)]
    show("records", await c.copy_records_to_table("asyncpg_copy", records=records))

    async def later():
        for n in range(10):
            await asyncio.sleep(0)
            yield (n, "later", noon)

    show("async records", await c.copy_records_to_table("asyncpg_copy", records=later(), columns=["a", "b", "c"]))
    show("csv", await c.copy_to_table("asyncpg_copy", source=io.BytesIO(b'1,"x, y",\n2,,\n'), format="csv", null=""))
    out = io.BytesIO()
    show("table", await c.copy_from_table("asyncpg_copy", output=out, columns=["a"], format="text"), len(out.getvalue()))
    out = io.BytesIO()
    show("query", await c.copy_from_query("SELECT a, b FROM asyncpg_copy WHERE a < $1 ORDER BY a, b", 3, output=out), out.getvalue())
    await failure("bad", c.copy_to_table("asyncpg_copy", source=io.BytesIO(b"x\ty\tz\n" * 9000)))
    await failure("no table", c.copy_records_to_table("asyncpg_nowhere", records=records))

    async def broken():
        yield (1, "x", noon)
        raise asyncpg.InterfaceError("the source is broken")

    await failure("broken source", c.copy_records_to_table("asyncpg_copy", records=broken()))
    show("count", await c.fetchval("SELECT count(*) FROM asyncpg_copy"))
    await c.execute("DROP TABLE asyncpg_copy")


@check()
async def transactions(c):
    async with c.transaction():
        cursor = c.cursor("SELECT generate_series(1, $1::int) AS n", 130, prefetch=11)
        show("cursor", sum([record["n"] async for record in cursor]))
        cursor = await c.cursor("SELECT generate_series(1, 20) AS n")
        show("fetch", rows(await cursor.fetch(3)), await cursor.forward(5), tuple(await cursor.fetchrow()), rows(await cursor.fetch(50)))
    await failure("cursor outside", c.cursor("SELECT 1"))
    await c.execute("CREATE TABLE asyncpg_t (a int PRIMARY KEY)")
    async with c.transaction():
        await c.execute("INSERT INTO asyncpg_t VALUES (1)")
        try:
            async with c.transaction():
                await c.execute("INSERT INTO asyncpg_t VALUES (2)")
                await c.execute("INSERT INTO asyncpg_t VALUES (1)")
        except asyncpg.UniqueViolationError as error:
            show("savepoint", error.constraint_name, error.detail)
        show("in", c.is_in_transaction(), rows(await c.fetch("SELECT * FROM asyncpg_t")))
    for isolation in "serializable", "repeatable_read", "read_committed":
        async with c.transaction(isolation=isolation, readonly=True):
            show("level", await c.fetchval("SHOW transaction_isolation"), await c.fetchval("SHOW transaction_read_only"))
    async with c.transaction(isolation="serializable", readonly=True, deferrable=True):
        show("deferrable", await c.fetchval("SHOW transaction_deferrable"))
    transaction = c.transaction()
    await transaction.start()
    await failure("fails", c.execute("SELECT 1 / 0"))
    await failure("failed", c.fetch("SELECT 1"))
    await transaction.rollback()
    show("out", c.is_in_transaction(), await c.fetchval("SELECT count(*) FROM asyncpg_t"))
    await c.execute("DROP TABLE asyncpg_t")


@check()
async def cancelling(c):
    await failure("timeout", c.fetch("SELECT pg_sleep(60)", timeout=0.2))
    show("then", await c.fetchval("SELECT 'fine'"))
    await failure("prepared timeout", c.fetch("SELECT pg_sleep($1)", 60.0, timeout=0.2))
    async with c.transaction():
        try:
            async with c.transaction():
                await c.execute("SELECT pg_sleep(60)", timeout=0.2)
        except asyncio.TimeoutError:
            show("in a transaction", await c.fetchval("SELECT 'fine'"))
    task = asyncio.create_task(c.fetch("SELECT count(*) FROM pg_sleep(60)"))
    await asyncio.sleep(0.1)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        show("task", await c.fetchval("SELECT 'fine'"))
    for _ in range(15):
        await failure("short", c.fetch("SELECT pg_sleep(60)", timeout=0.02))
        show("next", await c.fetchval("SELECT 'mine'"))


@check()
async def messages(c):
    heard = asyncio.Queue()
    logged = []
    c.add_log_listener(lambda _, message: logged.append((message.severity, message.sqlstate, message.message, message.hint)))
    await c.execute("DO $$ BEGIN RAISE WARNING 'careful' USING HINT = 'slow'; END $$")
    await c.fetch("SELECT 1")
    show("logged", logged)
    await c.add_listener("asyncpg_channel", lambda _c, _pid, channel, payload: heard.put_nowait((channel, payload)))
    other = await asyncpg.connect(URL)
    await other.execute("NOTIFY asyncpg_channel, 'one'")
    await other.fetch("SELECT pg_notify('asyncpg_channel', $1)", "two")
    show("heard", await asyncio.wait_for(heard.get(), 10), await asyncio.wait_for(heard.get(), 10))
    await other.close()


@check()
async def pool(_):
    async with asyncpg.create_pool(URL, min_size=2, max_size=8, server_settings={"application_name": "asyncpg pool"}) as pool:

        async def work(n):
            async with pool.acquire() as c, c.transaction():
                await c.execute("SELECT set_config('asyncpg.mine', $1, true)", str(n))
                await asyncio.sleep(0.002)
                return n * 1000 + int(await c.fetchval("SELECT current_setting('asyncpg.mine')"))

        show("work", await asyncio.gather(*(work(n) for n in range(60))))
        async with pool.acquire() as c:
            await c.execute("SET work_mem = '9MB'")
            show("set", await c.fetchval("SHOW work_mem"), await c.fetchval("SHOW application_name"))
        show("reset", {await pool.fetchval("SELECT current_setting('work_mem') <> '9MB'") for _ in range(9)})
    show("big", len(await (await asyncpg.connect(URL)).fetchval("SELECT repeat('x', 3000000)")))


KEYS = {
    "by_int": [1, 2, 3, 4, 2**50, -9],
    "by_text": ["", "ann", "żuk", "y" * 300],
    "by_uuid": [uuid.UUID(int=n << 80) for n in range(6)],
}


@check("keyed")
async def keyed(c):
    for table, keys in KEYS.items():
        insert = await c.prepare(f"INSERT INTO {table} (user_id, n) VALUES ($1, $2) RETURNING n")
        select = await c.prepare(f"SELECT user_id, n FROM {table} WHERE user_id = $1")
        show("described", [p.name for p in insert.get_parameters()], [(a.name, a.type.name) for a in select.get_attributes()])
        for n, key in enumerate(keys):
            show("insert", await insert.fetchval(key, n), insert.get_statusmsg())
            show("update", await c.execute(f"UPDATE {table} SET n = n + $2 WHERE user_id = $1", key, 10))
        for key in keys:
            show("select", rows(await select.fetch(key)), rows(await c.fetch(f"SELECT n FROM {table} WHERE user_id = $1 FOR UPDATE", key)))
        await failure("again", insert.fetchval(keys[0], 1))
        async with c.transaction():
            await c.execute(f"UPDATE {table} SET n = -1 WHERE user_id = $1", keys[1])
            cursor = await c.cursor(f"SELECT n FROM {table} WHERE user_id = $1", keys[1])
            show("cursor", rows(await cursor.fetch(5)))
            every = c.cursor(f"SELECT user_id, n + $1 AS m FROM {table} ORDER BY n, user_id", 1, prefetch=2)
            show("every", [tuple(record) async for record in every])
            cursor = await c.cursor(f"SELECT n FROM {table} ORDER BY n")
            show("fetch", rows(await cursor.fetch(2)), await cursor.forward(1), rows(await cursor.fetch(50)))
        for key in keys:
            show("delete", await c.execute(f"DELETE FROM {table} WHERE user_id = $1", key))


async def main():
    for function in CHECKS[PART]:
        print(function.__name__)
        c = await asyncpg.connect(URL)
        try:
            await function(c)
        except Exception as error:
            show("broke", type(error).__name__, str(error), error.__traceback__.tb_next.tb_lineno)
        await c.close()


asyncio.run(main())
