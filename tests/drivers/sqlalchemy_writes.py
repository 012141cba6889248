"""What SQLAlchemy's ORM writes to a sharded database: `sqlalchemy_writes.py URL`. The tables are those of `writes.sql`."""

import logging
import pathlib
import sys
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql as pg

URL = sys.argv[1]
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def show(label, *values):
    print(f"  {label}:", *(repr(value) for value in values), flush=True)


def failure(label, function):
    try:
        show(label, "no error", function())
    except (sa.exc.DBAPIError, orm.exc.StaleDataError) as error:
        diag = getattr(getattr(error, "orig", None), "diag", None)
        show(label, type(error).__name__, *([diag.sqlstate, diag.message_primary, diag.constraint_name] if diag else [str(error)]))


class Base(orm.DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "people"
    id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, primary_key=True)
    email: orm.Mapped[str]
    name: orm.Mapped[str] = orm.mapped_column(server_default="")
    version: orm.Mapped[int] = orm.mapped_column()
    notes: orm.Mapped[list["Note"]] = orm.relationship(back_populates="person", cascade="all, delete-orphan", order_by="Note.id")
    labels: orm.Mapped[list["Label"]] = orm.relationship(secondary="people_labels", order_by="Label.id")
    __mapper_args__ = {"version_id_col": version.column}


class Note(Base):
    __tablename__ = "notes"
    user_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("people.id"), primary_key=True)
    id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, sa.Sequence("notes_id_seq"), server_default=sa.text("nextval('notes_id_seq')"), primary_key=True)
    title: orm.Mapped[str]
    n: orm.Mapped[int] = orm.mapped_column(server_default="0")
    price: orm.Mapped[Decimal] = orm.mapped_column(sa.Numeric(8, 2), server_default="1.5")
    facts: orm.Mapped[dict] = orm.mapped_column(pg.JSONB, default=dict)
    person: orm.Mapped[Person] = orm.relationship(back_populates="notes")


class Label(Base):
    __tablename__ = "labels"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]
    uses: orm.Mapped[int] = orm.mapped_column(server_default="0")


class Audit(Base):
    __tablename__ = "audit"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    what: orm.Mapped[str]


link = sa.Table("people_labels", Base.metadata, sa.Column("user_id", sa.ForeignKey("people.id")), sa.Column("label_id", sa.ForeignKey("labels.id")))


def notes(s, *conditions):
    columns = Note.user_id, Note.id, Note.title, Note.n, Note.price
    return s.execute(sa.select(*columns).where(*conditions).order_by(Note.user_id, Note.id)).all()


@check
def unit_of_work(engine):
    with orm.Session(engine) as s:
        labels = [Label(name=f"l{n}") for n in range(4)]
        people = [Person(email=f"{n}@x", notes=[Note(title=f"t{m}", facts={"m": m}) for m in range(3)], labels=labels[n % 3 :]) for n in range(9)]
        s.add_all([*people, Audit(what="made")])
        s.flush()
        show("ids", [person.id for person in people], [[note.id for note in person.notes] for person in people], [label.id for label in labels])
        show("defaults", people[3].notes[1].price, people[3].name, people[3].version)
        s.commit()
        people[0].notes[1].title += "!"
        people[1].notes.pop(0)
        people[2].labels = [labels[0]]
        people[3].notes.append(Note(title="late"))
        for person in people:
            person.name = person.email.upper()
        s.delete(people[4])
        s.commit()
        show("people", s.execute(sa.select(Person.id, Person.name, Person.version).order_by(Person.id)).all())
        show("notes", notes(s), s.execute(sa.select(link).order_by(*link.c)).all())
        gone = s.get(Person, people[5].id)
        s.delete(gone)
        s.rollback()
        show("still", s.get(Person, gone.id).email)


@check
def bulk(engine):
    with orm.Session(engine) as s:
        keys = s.scalars(sa.select(Person.id).order_by(Person.id)).all()
        rows = [{"user_id": keys[n % 8], "title": f"b{n}", "n": n} for n in range(1500)]
        made = s.execute(sa.insert(Note).returning(Note.id, Note.title, sort_by_parameter_order=True), rows).all()
        show("sorted", [title for _, title in made] == [row["title"] for row in rows], made[0], made[-1])
        made = s.scalars(sa.insert(Note).returning(Note, sort_by_parameter_order=True), [{"user_id": key, "title": "whole"} for key in keys]).all()
        show("entities", [(note.user_id, note.id, note.price) for note in made])
        s.execute(sa.insert(Note), [{"user_id": keys[0], "title": "one"}, {"user_id": keys[1], "title": "two", "n": 7}])
        s.bulk_insert_mappings(Note, [{"user_id": key, "title": f"mapped {key}", "facts": {}} for key in keys])
        s.bulk_save_objects([Note(user_id=key, title=f"saved {key}", n=key) for key in keys], return_defaults=True)
        s.bulk_update_mappings(Note, [{"user_id": note.user_id, "id": note.id, "n": 5000 + note.user_id} for note in made])
        s.execute(sa.update(Note), [{"user_id": note.user_id, "id": note.id, "price": note.user_id} for note in made[:4]])
        s.commit()
        show("notes", notes(s, sa.or_(Note.n >= 5000, Note.title.like("%e_ _%"))), s.scalar(sa.select(sa.func.count()).select_from(Note)))
        upsert = pg.insert(Note).values([{"user_id": key, "title": title, "n": 1} for key in keys for title in ("whole", "b0", "up")])
        upsert = upsert.on_conflict_do_update(constraint="notes_title", set_={"n": Note.n + upsert.excluded.n}, where=Note.n < 9000).returning(Note.user_id, Note.title, Note.n)
        show("upsert", s.execute(upsert).all())
        ignore = pg.insert(Note).on_conflict_do_nothing(index_elements=["user_id", "title"]).returning(Note.title)
        show("ignore", s.execute(ignore, [{"user_id": keys[n % 8], "title": f"b{n * 300}"} for n in range(8)]).all())
        label = pg.insert(Label).values(name="l1").on_conflict_do_update(index_elements=["name"], set_={"uses": Label.uses + 1}).returning(Label.id, Label.uses)
        show("label", s.execute(label).all(), s.execute(label).all())
        s.commit()
        where = sa.update(Note).where(Note.n.between(10, 30)).values(n=Note.n * 2).returning(Note.user_id, Note.n)
        show("update", sorted(s.execute(where, execution_options={"synchronize_session": "fetch"}).all()))
        joined = sa.update(Note).where(Note.user_id == Person.id, Person.email == "3@x").values(title=Note.title + Person.email)
        show("joined", s.execute(joined.execution_options(synchronize_session=False)).rowcount)
        inner = sa.select(Person.id).where(Person.email.in_(["1@x", "2@x"]))
        show("deleted", s.execute(sa.delete(Note).where(Note.user_id.in_(inner), Note.n > 700).execution_options(synchronize_session=False)).rowcount)
        copied = sa.insert(Note).from_select(["user_id", "title", "n"], sa.select(Note.user_id, Note.title + " copy", Note.n).where(Note.title.like("b1%")))
        show("copied", s.execute(copied).rowcount)
        s.commit()
        show("left", s.execute(sa.select(sa.func.count(), sa.func.sum(Note.n), sa.func.max(Note.id) > 0)).all())


@check
def merging(engine):
    with orm.Session(engine) as s:
        key = s.scalars(sa.select(Person.id).order_by(Person.id)).first()
        merged = s.merge(Person(id=key, email="merged@x", version=2))
        new = s.merge(Person(id=10_000, email="new@x", notes=[Note(user_id=10_000, id=77_000, title="given")]))
        s.commit()
        show("merged", merged.email, merged.version, len(merged.notes), new.version, [note.id for note in new.notes])
        first, second = orm.Session(engine), orm.Session(engine)
        one, other = first.get(Person, key), second.get(Person, key)
        one.name, other.name = "first", "second"
        first.commit()
        failure("stale", second.commit)
        second.rollback()
        show("name", other.name, other.version)
        second.delete(other)
        one.name += " is too late"
        second.commit()
        failure("gone", first.commit)
        first.rollback()
        with first, second:
            show("there", s.get(Person, new.id).name, first.get(Person, key))
        locked = s.scalars(sa.select(Person).order_by(Person.id).with_for_update(skip_locked=True)).all()
        for person in locked:
            s.refresh(person, with_for_update={"nowait": True})
            with s.begin_nested() as nested:
                s.add(Note(person=person, title="nested"))
                s.flush()
                if person.id % 2:
                    nested.rollback()
        s.commit()
        show("nested", [row[0] for row in notes(s, Note.title == "nested")])

        def twice():
            with s.begin_nested():
                s.add_all([Note(user_id=new.id, title="given"), Note(user_id=key + 1, title="given")])

        failure("twice", twice)
        s.commit()


@check
def levels(engine):
    for level in "AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE":
        with orm.Session(engine.execution_options(isolation_level=level)) as s:
            one = s.get(Person, 10_000)
            one.name = level
            s.add(Note(person=one, title=level))
            s.commit()
            show(level, s.get(Person, 10_000).name, s.scalars(sa.select(Note.title).where(Note.user_id == 10_000).order_by(Note.id)).all())
    with orm.Session(engine.execution_options(isolation_level="REPEATABLE READ")) as s:
        people = s.scalars(sa.select(Person).order_by(Person.id)).all()
        for person in people:
            person.notes.append(Note(title="repeatable"))
        s.commit()
        show("repeatable", len(notes(s, Note.title == "repeatable")) == len(people))
    with orm.Session(engine) as s:
        s.execute(sa.delete(Person))
        failure("children", s.commit)
        s.rollback()
        show("left", s.scalar(sa.select(sa.func.count()).select_from(Person)))


logging.disable()
for driver in "psycopg", "psycopg2":
    engine = sa.create_engine(URL.replace("postgres:", f"postgresql+{driver}:"))
    with engine.begin() as c:
        c.exec_driver_sql(pathlib.Path(__file__).with_name("writes.sql").read_text())
    for function in CHECKS:
        print(f"{function.__name__} with {driver}")
        try:
            function(engine)
        except Exception as error:
            show("broke", type(error).__name__, str(error), error.__traceback__.tb_next.tb_lineno)
    engine.dispose()
