"""Bulk writes of asyncpg to a sharded database: `asyncpg_writes.py URL`. The tables are those of `writes.sql`."""

import asyncio
import pathlib
import sys

import asyncpg

URL = sys.argv[1]


def show(label, *values):
    print(f"  {label}:", *(repr(value) for value in values), flush=True)


async def failure(label, awaitable):
    try:
        show(label, "no error", await awaitable)
    except asyncpg.PostgresError as error:
        # The row that failed is shown with its id. What is behind an error in a pipeline may have been given ids, too.
        detail = error.detail if error.sqlstate != "23514" else None
        show(label, type(error).__name__, error.sqlstate, error.message, detail, error.constraint_name)


async def left(c, where="true"):
    return tuple(await c.fetchrow(f"SELECT count(*), sum(n), min(title), max(title) FROM notes WHERE {where}"))


async def many(c):
    await c.executemany("INSERT INTO people (id, email) VALUES ($1, $2)", [(n, f"{n}@x") for n in range(1, 13)])
    insert = "INSERT INTO notes (user_id, title, n) VALUES ($1, $2, $3)"
    await c.executemany(insert, [(n % 12 + 1, f"m{n}", n) for n in range(1200)])
    show("many", await left(c))
    await failure("twice", c.executemany(insert, [(1, "new", 1), (2, "new", 1), (1, "m0", 1), (3, "new", 1)]))
    await failure("negative", c.executemany(insert, [(5, "new", 1), (6, "new", -1)]))
    show("none", await left(c, "title = 'new'"))
    await c.executemany("UPDATE notes SET n = $2 WHERE title = $1", [(f"m{n}", 9000 + n) for n in range(100)])
    await c.executemany("INSERT INTO labels (name) VALUES ($1) ON CONFLICT DO NOTHING", [("a",), ("b",), ("a",)])
    show("labels", [tuple(row) for row in await c.fetch("SELECT id, name FROM labels ORDER BY id")], await left(c))
    rows = await c.fetchmany(insert + " RETURNING user_id, id", [(n, "fetched", n) for n in (7, 8, 9)])
    show("fetched", [row["user_id"] for row in rows], rows[0]["id"] < rows[1]["id"] < rows[2]["id"])


async def copies(c):
    records = [(n % 12 + 1, f"c{n}", n) for n in range(5000)]
    show("records", await c.copy_records_to_table("notes", records=records, columns=["user_id", "title", "n"]), await left(c, "title LIKE 'c%'"))
    await failure("again", c.copy_records_to_table("notes", records=[(1, "new", 1), (3, "c2", 1), (2, "new", 1)], columns=["user_id", "title", "n"]))
    async with c.transaction():
        await c.copy_records_to_table("labels", records=[("c",), ("d",)], columns=["name"])
        await c.execute("UPDATE labels SET uses = uses + 1")
        try:
            async with c.transaction():
                await c.copy_records_to_table("notes", records=[(1, "inner", 1), (2, "inner", -1)], columns=["user_id", "title", "n"])
        except asyncpg.CheckViolationError as error:
            show("inner", error.message, error.constraint_name)
        await c.copy_records_to_table("notes", records=[(1, "inner", 1), (2, "inner", 1)], columns=["user_id", "title", "n"])
    show("left", await left(c), await c.fetchval("SELECT sum(uses) FROM labels"))


async def main():
    c = await asyncpg.connect(URL)
    await c.execute(pathlib.Path(__file__).with_name("writes.sql").read_text())
    for function in many, copies:
        print(function.__name__)
        try:
            await function(c)
        except Exception as error:
            show("broke", type(error).__name__, str(error), error.__traceback__.tb_next.tb_lineno)
    await c.close()


asyncio.run(main())
