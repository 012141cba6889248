"""Bulk writes of psycopg 3 to a sharded database, and what other ORMs send: `psycopg_writes.py URL`. The tables are those of `writes.sql`."""

import pathlib
import sys

import psycopg
from psycopg.types.json import Jsonb

URL = sys.argv[1]
CHECKS = []
PEOPLE = range(1, 13)


def check(function):
    CHECKS.append(function)
    return function


def show(label, *values):
    print(f"  {label}:", *(repr(value) for value in values), flush=True)


def failure(label, c, function):
    try:
        with c.transaction():
            show(label, "no error", function())
    except psycopg.Error as error:
        show(label, type(error).__name__, error.sqlstate, error.diag.message_primary, error.diag.message_detail, error.diag.context)


def left(c, what="count(*), sum(n), min(title), max(title)", where="true"):
    return c.execute(f"SELECT {what} FROM notes WHERE {where}").fetchall()


@check
def executemany(c):
    cursor = c.cursor()
    cursor.executemany("INSERT INTO people (id, email) VALUES (%s, %s)", [(n, f"{n}@x") for n in PEOPLE])
    show("people", cursor.rowcount)
    cursor.executemany("INSERT INTO notes (user_id, title, n) VALUES (%s, %s, %s) RETURNING id, user_id", [(n % 12 + 1, f"m{n}", n) for n in range(300)], returning=True)
    ids = [cursor.fetchone()]
    while cursor.nextset():
        ids.append(cursor.fetchone())
    show("ids", ids == [(n + 1, n % 12 + 1) for n in range(300)], len(ids))
    cursor.executemany("UPDATE notes SET n = n + %s WHERE user_id = %s", [(n, n) for n in PEOPLE])
    show("updated", cursor.rowcount, left(c))
    cursor.executemany("UPDATE notes SET n = %s WHERE title = %s", [(n, f"m{n}") for n in range(40)])
    show("of all", cursor.rowcount, left(c))
    cursor.executemany("DELETE FROM notes WHERE user_id = %s AND n > %s", [(n, 200) for n in PEOPLE])
    show("deleted", cursor.rowcount, left(c))
    failure("twice", c, lambda: cursor.executemany("INSERT INTO notes (user_id, title) VALUES (%s, %s)", [(1, "new"), (2, "new"), (1, "m0"), (3, "new")]))
    show("none", left(c, where="title = 'new'"))
    with c.pipeline() as pipeline:
        for n in PEOPLE:
            c.execute("INSERT INTO notes (user_id, title, facts) VALUES (%s, 'piped', %s)", (n, Jsonb({"n": n})))
        counted = c.execute("SELECT count(*), sum((facts->>'n')::int) FROM notes WHERE title = %s", ("piped",))
        pipeline.sync()
        c.execute("UPDATE labels SET uses = uses + 1")
        show("piped", counted.fetchone())


@check
def copies(c):
    cursor = c.cursor()
    with cursor.copy("COPY notes (user_id, title, n) FROM STDIN") as copy:
        for n in range(500):
            copy.write_row((n % 12 + 1, f"c\t{n}", n))
    show("text", cursor.rowcount, left(c, where="title LIKE 'c%'"))
    with cursor.copy("COPY notes (user_id, title, n) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int8", "text", "int4"])
        for n in range(500):
            copy.write_row((n % 12 + 1, f"b{n}", n))
    show("binary", cursor.rowcount, left(c, where="title LIKE 'b%'"))
    with cursor.copy("COPY labels (name) FROM STDIN (FORMAT csv, HEADER)") as copy:
        copy.write('name\n"a ""quoted"" one"\nanother\n')
    show("labels", cursor.rowcount, c.execute("SELECT name FROM labels ORDER BY 1").fetchall())

    def wrong():
        with cursor.copy("COPY notes (user_id, title, n) FROM STDIN") as copy:
            for n in range(40):
                copy.write_row((n % 12 + 1, f"w{n}", "x" if n == 30 else n))

    failure("wrong", c, wrong)
    show("none", left(c, where="title LIKE 'w%'"))


@check
def arrays(c):
    rows = [[n % 12 + 1 for n in range(1000)], [f"u{n}" for n in range(1000)], list(range(1000))]
    insert = "INSERT INTO notes (user_id, title, n) SELECT * FROM unnest(%s::bigint[], %s::text[], %s::int[])"
    show("unnest", c.execute(insert, rows).statusmessage, left(c, where="title LIKE 'u%'"))
    show("again", c.execute(insert + " ON CONFLICT (user_id, title) DO UPDATE SET n = notes.n + excluded.n", rows).statusmessage, left(c, where="title LIKE 'u%'"))
    returned = c.execute(insert + " ON CONFLICT DO NOTHING RETURNING user_id, title", [[1, 2, 3], ["u0", "v", "v"], [1, 1, 1]])
    show("returned", returned.fetchall())
    update = "UPDATE notes SET n = new.n FROM unnest(%s::bigint[], %s::text[], %s::int[]) AS new (user_id, title, n) WHERE notes.user_id = new.user_id AND notes.title = new.title"
    show("update", c.execute(update, [rows[0], rows[1], rows[2][::-1]]).statusmessage, left(c, where="title = 'u3'"))
    delete = "DELETE FROM notes USING unnest(%s::bigint[], %s::text[]) AS old (u, t) WHERE user_id = u AND title = t"
    show("delete", c.execute(delete, [rows[0][:400], rows[1][:400]]).statusmessage, left(c))
    document = Jsonb([{"user_id": n, "title": f"j{n}"} for n in PEOPLE])
    show("json", c.execute("INSERT INTO notes (user_id, title) SELECT user_id, title FROM jsonb_to_recordset(%s) AS x (user_id bigint, title text)", (document,)).statusmessage)
    show("values", c.execute("UPDATE notes SET n = v.n FROM (VALUES (1, 'j1', 70), (2, 'j2', 71)) AS v (u, t, n) WHERE user_id = u AND title = t RETURNING user_id, notes.n").rowcount)
    show("json", left(c, where="title LIKE 'j%'"))


# What they send, with its quoting and its forms: Rails 7's insert_all and upsert_all, Prisma 5's createMany, upsert and nested
# writes, GORM's CreateInBatches, Ecto's insert_all, Sequelize's and TypeORM's upserts.
SENT = [
    """INSERT INTO "notes" ("user_id","title","n") VALUES (1, 'r1', 5), (2, 'r2', 6), (3, 'r3', 7) ON CONFLICT DO NOTHING RETURNING "user_id", "id" IS NOT NULL""",
    """INSERT INTO "notes" ("user_id","title","n") VALUES (1, 'r1', 50), (2, 'r2', 60), (4, 'r4', 70) ON CONFLICT ("user_id","title") DO UPDATE SET "at"=(CASE WHEN ("notes"."n" IS NOT DISTINCT FROM excluded."n") THEN "notes"."at" ELSE '2025-01-01' END),"n"=excluded."n" RETURNING "title\"""",
    """INSERT INTO "labels" ("name") VALUES ('r') ON CONFLICT ("name") DO UPDATE SET "uses"="labels"."uses"+1 RETURNING "name","uses\"""",
    """INSERT INTO "public"."notes" ("user_id","title","facts") VALUES (%s,%s,%s), (%s,%s,DEFAULT), (%s,%s,%s)""",
    """INSERT INTO "public"."notes" ("user_id","title","n") VALUES (%s,%s,%s) ON CONFLICT ("user_id","title") DO UPDATE SET "n" = %s WHERE ("public"."notes"."user_id" = %s AND "public"."notes"."title" = %s AND 1=1) RETURNING "public"."notes"."user_id", "public"."notes"."title", "public"."notes"."n\"""",
    """UPDATE "public"."notes" SET "n" = ("n" + %s) WHERE ("public"."notes"."user_id" = %s AND "public"."notes"."id" IN (SELECT "id" FROM "public"."notes" WHERE "title" = %s AND "user_id" = %s))""",
    """DELETE FROM "public"."notes" WHERE ("public"."notes"."title" IN (%s,%s) AND 1=1)""",
    """INSERT INTO "notes" ("user_id","title","n") VALUES (%s,%s,%s),(%s,%s,%s),(%s,%s,%s) ON CONFLICT ("user_id","title") DO UPDATE SET "n"="excluded"."n" RETURNING "n\"""",
    """INSERT INTO "notes" AS n0 ("user_id","title","n") VALUES (%s,%s,%s),(%s,%s,DEFAULT) ON CONFLICT ("user_id","title") DO UPDATE SET "n" = n0."n" + 1 RETURNING "title","n\"""",
    """UPDATE "notes" AS n0 SET "n" = n0."n" + %s FROM "people" AS p1 WHERE (p1."id" = n0."user_id") AND (p1."email" = %s)""",
    """INSERT INTO "notes" ("id","user_id","title","n","at") VALUES (DEFAULT,%s,%s,%s,%s) ON CONFLICT ("user_id","title") DO UPDATE SET "n"=EXCLUDED."n","at"=EXCLUDED."at" RETURNING "user_id","title","n","at";""",
    """INSERT INTO "notes" ("id", "user_id", "title") VALUES (DEFAULT, %s, %s), (DEFAULT, %s, %s) ON CONFLICT ( "user_id", "title" ) DO NOTHING RETURNING "n", "price\"""",
    """WITH gone AS (DELETE FROM "notes" WHERE "title" LIKE %s RETURNING *) INSERT INTO "audit" ("what") SELECT "user_id" || "title" || %s FROM gone RETURNING "what\"""",
]
GIVEN = {
    3: (5, "p5", "{}", 6, "p6", 7, "p7", '{"a": 1}'),
    4: (5, "p5", 8, 9, 5, "p5"),
    5: (4, 5, "p5", 5),
    6: ("p6", "p7"),
    7: (6, "g", 1, 7, "g", 2, 8, "g", 3),
    8: (6, "g", 4, 9, "e"),
    9: (1000, "6@x"),
    10: (10, "s", 4, "2025-02-03"),
    11: (10, "s", 11, "s"),
    12: ("r%", " moved"),
}


@check
def sent(c):
    c.execute("SELECT setval('people_id_seq', 100)")
    for cursor in psycopg.Cursor(c), psycopg.ClientCursor(c):
        for n, text in enumerate(SENT):
            cursor.execute(text, GIVEN.get(n))
            rows = cursor.fetchall() if cursor.description else None
            # The rows of a DELETE have no order.
            show(text[:60], cursor.statusmessage, sorted(rows) if text.startswith("WITH") else rows)
        show("left", left(c))
        with c.transaction():
            person = cursor.execute("""INSERT INTO "public"."people" ("email","name") VALUES (%s,%s) RETURNING "public"."people"."id\"""", ("nested@x", "")).fetchone()[0]
            cursor.execute("""INSERT INTO "public"."notes" ("user_id","title") VALUES (%s,%s),(%s,%s)""", (person, "one", person, "two"))
            cursor.execute("""SELECT "public"."labels"."id" FROM "public"."labels" WHERE ("public"."labels"."name" = %s AND 1=1) LIMIT %s OFFSET %s""", ("r", 1, 0))
            label = cursor.fetchone()[0]
            cursor.execute("""INSERT INTO "public"."people_labels" ("user_id","label_id") VALUES (%s,%s) ON CONFLICT DO NOTHING""", (person, label))
        show("nested", c.execute("SELECT count(*), count(DISTINCT user_id) FROM people_labels JOIN notes USING (user_id)").fetchall())
        cursor.execute("""DELETE FROM "notes" WHERE "user_id" < 11""")
        cursor.execute("""DELETE FROM "audit" """)
    c.execute("INSERT INTO audit (what) VALUES ('one') ON CONFLICT (what) DO UPDATE SET what = excluded.what RETURNING id")
    failure("audit", c, lambda: c.execute("INSERT INTO audit (what) VALUES ('two'), ('one')"))


@check
def two_phases(c):
    other = psycopg.connect(URL)
    other.tpc_begin(other.xid(1, "global", "branch"))
    other.execute("INSERT INTO audit (what) VALUES ('prepared')")
    try:
        other.tpc_prepare()
        other.tpc_rollback()
        show("two phases", "refused or rolled back")
    except psycopg.errors.FeatureNotSupported as error:
        # Over several shards a commit has two phases of its own, and none that an application could prepare.
        show("two phases", "refused or rolled back" if "by itself" in error.diag.message_hint else error.diag.message_hint)
    other.close()
    show("none", c.execute("SELECT count(*) FROM audit WHERE what = 'prepared'").fetchall())


with psycopg.connect(URL) as c:
    c.execute(pathlib.Path(__file__).with_name("writes.sql").read_text())
    c.commit()
    c.autocommit = True
    for function in CHECKS:
        print(function.__name__)
        try:
            function(c)
        except Exception as error:
            show("broke", type(error).__name__, str(error), error.__traceback__.tb_next.tb_lineno)
