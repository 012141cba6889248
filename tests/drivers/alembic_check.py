"""What migrations of Alembic do: `alembic_check.py URL whole|keyed`."""

import pathlib
import sys
import tempfile

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

URL, PART = sys.argv[1:3]
URL = URL.replace("postgres:", "postgresql+psycopg:")

ENVIRONMENT = """
from alembic import context
import sqlalchemy as sa

engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""

REVISIONS = {
    "one": """
    op.create_table("labels", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20), unique=True))
    op.create_table(
        "people",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("mood", sa.Enum("sad", "glad", name="mood"), nullable=False, server_default="glad"),
        sa.Column("label_id", sa.Integer, sa.ForeignKey("labels.id")),
        sa.Column("created", sa.DateTime(timezone=True), server_default=sa.func.now()),
    )
    op.create_table(
        "letters",
        sa.Column("user_id", sa.BigInteger, sa.ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
        sa.Column("id", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text),
        sa.PrimaryKeyConstraint("user_id", "id"),
    )
    op.create_index("letters_body", "letters", ["user_id", "body"], unique=True)
""",
    "two": """
    op.add_column("letters", sa.Column("stars", sa.Integer, nullable=False, server_default="3"))
    op.alter_column("letters", "body", new_column_name="content", type_=sa.String(100), nullable=True)
    op.create_check_constraint("few", "letters", "stars < 6")
    op.execute("CREATE VIEW starry AS SELECT user_id, id FROM letters WHERE stars > 2")
    with op.get_context().autocommit_block():
        op.execute("ALTER TYPE mood ADD VALUE 'calm'")
        op.create_index("letters_stars", "letters", ["stars"], postgresql_concurrently=True)
""",
    "three": """
    op.execute("DROP VIEW starry")
    op.drop_constraint("few", "letters", type_="check")
    op.drop_column("letters", "stars")
    op.rename_table("letters", "notes")
    op.create_table("places", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text, nullable=False))
    op.bulk_insert(sa.table("places", sa.column("id"), sa.column("name")), [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
""",
}
DOWN = {
    "three": """op.rename_table("notes", "letters")
    op.drop_table("places")
    op.add_column("letters", sa.Column("stars", sa.Integer))
    op.create_check_constraint("few", "letters", "stars < 6")
    op.execute("CREATE VIEW starry AS SELECT user_id, id FROM letters WHERE stars > 2")"""
}


def show(label, *values):
    print(f"  {label}:", *(repr(value) for value in values), flush=True)


def write_scripts(folder):
    (folder / "versions").mkdir()
    (folder / "env.py").write_text(ENVIRONMENT)
    before = None
    for name, up in REVISIONS.items():
        head = f"from alembic import op\nimport sqlalchemy as sa\nrevision = {name!r}\ndown_revision = {before!r}\n"
        down = DOWN.get(name, "raise NotImplementedError")
        (folder / "versions" / f"{name}.py").write_text(f"{head}\ndef upgrade():{up}\ndef downgrade():\n    {down}\n")
        before = name


def state(engine, metadata):
    inspector = sa.inspect(engine)
    for table in sorted(set(inspector.get_table_names()) - {"by_int", "by_text"}):
        columns = [(column["name"], str(column["type"]), column["nullable"], column["default"]) for column in inspector.get_columns(table)]
        show(table, columns, inspector.get_pk_constraint(table), inspector.get_foreign_keys(table), inspector.get_indexes(table))
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
        show("differences", sorted((difference[0], difference[-1].name) for difference in found))
        show("version", connection.execute(sa.text("SELECT version_num FROM alembic_version")).all())


print("migrations")
with tempfile.TemporaryDirectory() as folder:
    write_scripts(pathlib.Path(folder))
    config = Config()
    config.set_main_option("script_location", folder)
    config.set_main_option("sqlalchemy.url", URL)
    engine = sa.create_engine(URL)
    metadata = sa.MetaData()
    sa.Table("labels", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20), unique=True), sa.Column("more", sa.Text))
    try:
        command.upgrade(config, "two")
        state(engine, metadata)
        for user in range(1, 6):
            with engine.begin() as connection:
                connection.execute(sa.text("INSERT INTO people (id) VALUES (:id)"), {"id": user})
        with engine.connect() as connection:
            show("rows", connection.execute(sa.text("SELECT count(*) FROM people")).scalar())
        command.upgrade(config, "head")
        state(engine, metadata)
        command.downgrade(config, "two")
        command.upgrade(config, "head")
        state(engine, metadata)
        with engine.connect() as connection:
            show("places", connection.execute(sa.text("SELECT * FROM places ORDER BY id")).all())
    except Exception as error:
        show("broke", type(error).__name__, str(error), error.__traceback__.tb_next.tb_lineno)
    engine.dispose()
