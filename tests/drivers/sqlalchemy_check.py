"""What SQLAlchemy sees of a server, with psycopg 3 and with psycopg2: `sqlalchemy_check.py URL whole|keyed`."""

import enum
import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql as pg

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
    except sa.exc.DBAPIError as error:
        diag = error.orig.diag
        show(label, type(error).__name__, type(error.orig).__name__, diag.sqlstate, diag.message_primary, diag.constraint_name)


def attempt(c, text, **values):
    """One statement in a savepoint, so that what follows works after a failure too."""

    def run():
        with c.begin_nested():
            return c.execute(sa.text(text), values).all()

    failure(text, run)


class Mood(enum.Enum):
    sad = 1
    glad = 2


class Base(orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: orm.Mapped[int] = orm.mapped_column(sa.Identity(), primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), unique=True)
    mood: orm.Mapped[Mood]
    facts: orm.Mapped[dict] = orm.mapped_column(pg.JSONB, default=dict)
    tags: orm.Mapped[list] = orm.mapped_column(pg.ARRAY(sa.Text), default=list)
    version: orm.Mapped[int] = orm.mapped_column()
    books: orm.Mapped[list["Book"]] = orm.relationship(back_populates="author", cascade="all, delete-orphan", order_by="Book.id")
    __mapper_args__ = {"version_id_col": version.column}


class Book(Base):
    __tablename__ = "book"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str] = orm.mapped_column(index=True)
    price: orm.Mapped[float] = orm.mapped_column(sa.Numeric(8, 2), server_default="1.5")
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id", ondelete="CASCADE"))
    author: orm.Mapped[Author] = orm.relationship(back_populates="books")
    __table_args__ = (sa.CheckConstraint("price >= 0", name="no_gift"), sa.Index("book_lower", sa.text("lower(title)")))


@check()
def schema(engine):
    Base.metadata.create_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as c:
        c.execute(sa.text("CREATE VIEW cheap AS SELECT * FROM book WHERE price < 2"))
        c.execute(sa.text("COMMENT ON COLUMN book.title IS 'as printed'"))
    inspector = sa.inspect(engine)
    show("tables", sorted(inspector.get_table_names()), inspector.get_view_names(), inspector.get_schema_names())
    for table in "author", "book":
        show("columns", [(column["name"], str(column["type"]), column["nullable"], column["default"]) for column in inspector.get_columns(table)])
        show("keys", inspector.get_pk_constraint(table), inspector.get_foreign_keys(table), inspector.get_unique_constraints(table))
        show("indexes", inspector.get_indexes(table), inspector.get_check_constraints(table), inspector.get_table_comment(table))
    show("enums", inspector.get_enums(), inspector.get_view_definition("cheap"), inspector.has_table("nowhere"))
    reflected = sa.MetaData()
    reflected.reflect(engine, views=True)
    show("reflected", {name: list(table.c.keys()) for name, table in sorted(reflected.tables.items())})


@check()
def core(engine):
    author, book = Author.__table__, Book.__table__
    with engine.begin() as c:
        row = {"mood": Mood.glad, "facts": {"a": [1, None]}, "tags": ["x", "y'"], "version": 1}
        one = c.execute(author.insert().values(name="ann", **row))
        show("inserted", one.inserted_primary_key, one.rowcount)
        show("returning", c.execute(author.insert().values(name="bob", **row).returning(author.c.id, author.c.mood)).all())
        many = c.execute(author.insert().returning(author.c.id, sort_by_parameter_order=True), [{"name": f"n{n}", **row} for n in range(1500)])
        show("many", [id for (id,) in many][-3:])
        c.execute(book.insert(), [{"title": f"t{n}", "author_id": 1 + n % 2} for n in range(500)])
        c.execute(sa.text("UPDATE book SET price = :price WHERE id = :id"), [{"price": n, "id": n} for n in range(1, 60)])
    with engine.connect() as c:
        join = sa.select(author.c.name, sa.func.count(), sa.func.sum(book.c.price)).join(book).group_by(author.c.name).order_by(author.c.name)
        show("join", c.execute(join).all())
        show("in", c.execute(sa.select(author.c.id).where(author.c.name.in_(["ann", "bob", "n3"])).order_by("id")).scalars().all())
        show("json", c.execute(sa.select(author.c.facts["a"][0]).where(author.c.tags.contains(["x"])).limit(1)).scalar())
        show("mood", c.execute(sa.select(author.c.mood).distinct()).scalars().all())
        upsert = pg.insert(author).values(name="ann", **row)
        upsert = upsert.on_conflict_do_update(index_elements=["name"], set_={"version": author.c.version + 1}).returning(author.c.version)
        show("upsert", c.execute(upsert).scalar())
        c.rollback()
        deep = sa.select(sa.literal(1).label("n")).cte(recursive=True)
        deep = deep.union_all(sa.select(deep.c.n + 1).where(deep.c.n < 50))
        show("recursive", c.execute(sa.select(sa.func.sum(deep.c.n))).scalar())
        for n in range(12):
            show("same", c.execute(sa.select(book.c.title).where(book.c.id == n)).all())


@check()
def session(engine):
    with orm.Session(engine) as s:
        zoe = Author(name="zoe", mood=Mood.sad, books=[Book(title="one"), Book(title="two", price=3)])
        s.add(zoe)
        s.flush()
        with s.begin_nested():
            zoe.tags = ["new"]
        try:
            with s.begin_nested():
                s.add(Author(name="zoe", mood=Mood.sad))
        except sa.exc.IntegrityError as error:
            show("twice", error.orig.diag.message_detail)
        s.commit()
        zoe.facts = {"more": True}
        show("lazy", [(book.title, str(book.price)) for book in zoe.books], zoe.tags)
        s.commit()
        locked = s.scalars(sa.select(Author).where(Author.name == "zoe").with_for_update(skip_locked=True)).one()
        show("locked", locked.facts, locked.version)
        s.rollback()
        loaded = sa.select(Author).options(orm.selectinload(Author.books)).where(Author.name.in_(["ann", "zoe"])).order_by(Author.name)
        show("eager", [(author.name, len(author.books)) for author in s.scalars(loaded)])
        s.execute(sa.update(Author).where(Author.name == "zoe").values(version=50), execution_options={"synchronize_session": False})
        zoe.name = "zoë"
        try:
            s.commit()
        except orm.exc.StaleDataError as error:
            show("stale", str(error))
        s.rollback()
        s.delete(s.scalars(sa.select(Author).filter_by(name="zoe")).one())
        s.commit()
        show("left", s.scalar(sa.select(sa.func.count()).select_from(Book)))


@check()
def cursors(engine):
    with engine.connect() as c:
        numbers = sa.text("SELECT g, repeat('x', 50) FROM generate_series(1, 5000) g")
        rows = c.execution_options(yield_per=300).execute(numbers)
        show("partitions", [(len(part), part[0][0]) for part in rows.partitions(700)])
        streamed = c.execution_options(stream_results=True).execute(sa.text("SELECT id FROM book ORDER BY id"))
        show("first", streamed.fetchmany(2))
        streamed.close()
        show("after", c.execute(sa.text("SELECT 1")).scalar(), c.execute(sa.text("SELECT count(*) FROM pg_cursors")).scalar())


@check()
def transactions(engine):
    with engine.connect() as c:
        outer = c.begin()
        c.execute(sa.text("CREATE TABLE alchemy_t (a int)"))
        for n in range(4):
            inner = c.begin_nested()
            c.execute(sa.text("INSERT INTO alchemy_t VALUES (:n)"), {"n": n})
            inner.rollback() if n % 2 else inner.commit()
        show("savepoints", c.execute(sa.text("SELECT a FROM alchemy_t ORDER BY a")).scalars().all())
        outer.commit()
        two_phase = c.begin_twophase("alchemy")
        c.execute(sa.text("INSERT INTO alchemy_t VALUES (100)"))
        failure("prepare", two_phase.prepare)
        failure("commit", two_phase.commit)
    for level in "AUTOCOMMIT", "SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED":
        with engine.connect().execution_options(isolation_level=level) as c:
            show(level, c.execute(sa.text("SHOW transaction_isolation")).scalar(), c.get_isolation_level(), c.default_isolation_level)
            failure("write", lambda: c.execute(sa.text("INSERT INTO alchemy_t VALUES (7)")).rowcount)
    with engine.connect().execution_options(postgresql_readonly=True, postgresql_deferrable=True, isolation_level="SERIALIZABLE") as c:
        show("read only", c.execute(sa.text("SHOW transaction_read_only")).scalar())
        failure("write", lambda: c.execute(sa.text("INSERT INTO alchemy_t VALUES (8)")).rowcount)
    with engine.connect() as c:
        show("as before", c.execute(sa.text("SHOW transaction_isolation")).scalar(), c.execute(sa.text("SHOW transaction_read_only")).scalar())
        show("rows", c.execute(sa.text("SELECT a FROM alchemy_t ORDER BY a")).scalars().all())


@check()
def errors(engine):
    with engine.begin() as c:
        attempt(c, "SELEC")
        attempt(c, "SELECT * FROM nowhere")
        attempt(c, "SELECT 1 / :n", n=0)
        attempt(c, "INSERT INTO book (id, title, author_id) VALUES (1, 'x', 1)")
        attempt(c, "INSERT INTO book (title, author_id, price) VALUES ('x', 1, -1)")
        attempt(c, "INSERT INTO book (title, author_id) VALUES ('x', -5)")
        attempt(c, "INSERT INTO author (name, mood, version) VALUES ('x', 'angry', 1)")
        attempt(c, "SELECT CAST(:word AS integer)", word="x")
    with engine.connect() as c:
        failure("fails", lambda: c.execute(sa.text("SELECT 1/0")))
        failure("failed", lambda: c.execute(sa.text("SELECT 1")))
        c.rollback()
        show("again", c.execute(sa.text("SELECT 1")).scalar())
        failure("terminated", lambda: c.execute(sa.text("SELECT 1 FROM pg_terminate_backend(pg_backend_pid())")))
        show("invalidated", c.invalidated)
        c.rollback()
        show("connected anew", c.execute(sa.text("SELECT 2")).scalar())


@check()
def pool(engine):
    many = sa.create_engine(engine.url, pool_size=6, max_overflow=6, pool_pre_ping=True)

    def work(n):
        with many.begin() as c:
            c.execute(sa.text("SELECT set_config('alchemy.mine', :n, true)"), {"n": str(n)})
            c.execute(sa.text("SELECT pg_sleep(0.002)"))
            return int(c.execute(sa.text("SELECT current_setting('alchemy.mine')")).scalar())

    with ThreadPoolExecutor(12) as threads:
        show("mine", list(threads.map(work, range(100))))
    many.dispose()
    with many.connect() as c:
        show("anew", c.execute(sa.text("SELECT count(*) FROM author")).scalar())
    many.dispose()
    with engine.begin() as c:
        c.execute(sa.text("DROP TABLE alchemy_t; DROP VIEW cheap"))
    Base.metadata.drop_all(engine)


@check("keyed")
def by_key(engine):
    tables = sa.MetaData()
    keys = {"by_int": (sa.BigInteger, [1, 2, 3, 2**40, -5]), "by_text": (sa.Text, ["", "ann", "żuk"])}
    for name, (kind, values) in keys.items():
        table = sa.Table(name, tables, sa.Column("user_id", kind, primary_key=True, autoincrement=False), sa.Column("n", sa.BigInteger))
        for value in values:
            insert = table.insert().values(user_id=value, n=1)
            with engine.begin() as c:
                show("insert", c.execute(insert.returning(table.c.user_id)).all())
                c.execute(table.update().where(table.c.user_id == value).values(n=table.c.n + 5))
                show("select", c.execute(sa.select(table.c.n, table.c.user_id).where(table.c.user_id == value)).all())
            with engine.connect() as c:
                failure("again", lambda: c.execute(insert))
        with engine.connect() as c:
            show("in", sorted(c.execute(sa.select(table.c.user_id).where(table.c.user_id.in_(values))).scalars()))
            show("ordered", c.execute(sa.select(table.c.n).order_by(table.c.n)).scalars().all())
            show("sum", c.execute(sa.select(sa.func.count(), sa.func.sum(table.c.n))).all())
        for value in values:
            with engine.begin() as c:
                show("delete", c.execute(table.delete().where(table.c.user_id == value)).rowcount)


@check("keyed")
def mapped(engine):
    base = orm.declarative_base()
    fields = {"user_id": sa.Column(sa.BigInteger, primary_key=True, autoincrement=False), "note": sa.Column(sa.Text)}
    user = type("User", (base,), {"__tablename__": "by_int", **fields})
    for key in 1, 2, 3, 4, 5:
        with orm.Session(engine) as s:
            s.add(user(user_id=key, note=f"user {key}"))
            s.commit()
            one = s.get(user, key)
            one.note += "!"
            s.commit()
            show("note", one.note)
            s.delete(s.scalars(sa.select(user).filter_by(user_id=key).with_for_update()).one())
            s.commit()
            show("gone", s.get(user, key))


logging.disable()
for driver in "psycopg", "psycopg2":
    engine = sa.create_engine(URL.replace("postgres:", f"postgresql+{driver}:"))
    for function in CHECKS[PART]:
        print(f"{function.__name__} with {driver}")
        try:
            function(engine)
        except Exception as error:
            show("broke", type(error).__name__, str(error), error.__traceback__.tb_next.tb_lineno)
    engine.dispose()
