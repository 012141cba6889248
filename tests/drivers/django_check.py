"""What Django sees of a server, with server-side cursors and without: `django_check.py URL whole|keyed`."""

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.db import connection, connections, models, transaction
from django.db.utils import Error

URL, PART = sys.argv[1:3]
CHECKS = {"whole": [], "keyed": []}


def database(**options):
    url = urlsplit(URL)
    where = {"HOST": url.hostname, "PORT": url.port, "NAME": url.path[1:], "USER": url.username, "PASSWORD": url.password}
    return {"ENGINE": "django.db.backends.postgresql", **where, **options}


settings.configure(
    DATABASES={
        "default": database(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True),
        "pooled": database(DISABLE_SERVER_SIDE_CURSORS=True),
        "bound": database(OPTIONS={"server_side_binding": True, "options": "-c work_mem=6MB -c search_path=public,pg_temp", "isolation_level": 3}),
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.admin", "django.contrib.sessions", "django.contrib.postgres", "__main__"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402, they want the settings
from django.contrib.postgres.aggregates import ArrayAgg  # noqa: E402
from django.contrib.postgres.fields import ArrayField  # noqa: E402
from django.core.management import call_command  # noqa: E402


def check(part="whole"):
    def add(function):
        CHECKS[part].append(function)
        return function

    return add


def show(label, *values):
    print(f"  {label}:", *(repr(value) for value in values), flush=True)


def failure(label, function):
    try:
        with transaction.atomic():
            show(label, "no error", function())
    except Error as error:
        diag = error.__cause__.diag
        show(label, type(error).__name__, diag.sqlstate, diag.message_primary, diag.constraint_name)


class Shelf(models.Model):
    name = models.CharField(max_length=20, unique=True)
    facts = models.JSONField(default=dict)
    tags = ArrayField(models.CharField(max_length=9), default=list)

    class Meta:
        app_label = "__main__"
        db_table = "shelf"


class Item(models.Model):
    shelf = models.ForeignKey(Shelf, models.CASCADE, related_name="items")
    count = models.IntegerField(db_index=True)
    added = models.DateTimeField(null=True)

    class Meta:
        app_label = "__main__"
        db_table = "item"
        constraints = [models.CheckConstraint(check=models.Q(count__gte=0), name="not_negative")]


class User64(models.Model):
    user_id = models.BigIntegerField(primary_key=True)
    note = models.TextField()
    n = models.BigIntegerField()

    class Meta:
        app_label = "__main__"
        db_table = "by_int"
        managed = False


@check()
@check("keyed")
def migrations():
    out = io.StringIO()
    call_command("migrate", verbosity=1, stdout=out)
    call_command("migrate", "auth", "0003", verbosity=1, stdout=out)
    call_command("migrate", verbosity=1, stdout=out)
    call_command("showmigrations", stdout=out, no_color=True)
    for line in out.getvalue().splitlines():
        show("migrate", line)
    user = User.objects.create_user("ann", password="x")
    user.groups.add(Group.objects.create(name="readers"))
    show("user", User.objects.filter(groups__name="readers").values_list("username", "is_active"))


@check()
def schema():
    with connection.schema_editor() as editor:
        editor.create_model(Shelf)
        editor.create_model(Item)
    field = models.TextField(default="none", null=True)
    field.set_attributes_from_name("note")
    with connection.schema_editor() as editor:
        editor.add_field(Shelf, field)
        editor.remove_field(Shelf, field)
    out = io.StringIO()
    call_command("inspectdb", "shelf", "item", stdout=out)
    for line in out.getvalue().splitlines():
        show("inspected", line)
    with connection.cursor() as cursor:
        inspect = connection.introspection
        show("tables", sorted(inspect.table_names(cursor)))
        show("constraints", sorted(inspect.get_constraints(cursor, "item").items()))
        show("sequences", inspect.get_sequences(cursor, "item"))


@check()
def queries():
    for n in range(3):
        Shelf.objects.create(name=f"s{n}", facts={"n": n, "deep": {"list": [n]}}, tags=["a", f"t{n}"])
    shelves = list(Shelf.objects.order_by("id"))
    Item.objects.bulk_create([Item(shelf=shelves[n % 3], count=n) for n in range(3000)], batch_size=700)
    show("ids", Item.objects.order_by("-id").values_list("id", flat=True)[:2])
    Item.objects.bulk_create([Item(id=1, shelf=shelves[0], count=77)], update_conflicts=True, unique_fields=["id"], update_fields=["count"])
    changed = list(Item.objects.filter(count__lt=50))
    for item in changed:
        item.count += 10_000
    show("bulk_update", Item.objects.bulk_update(changed, ["count"]))
    show("json", Shelf.objects.filter(facts__deep__list__contains=[1], tags__contains=["a"]).values_list("name"))
    groups = Shelf.objects.annotate(sum=models.Sum("items__count"), all=models.Count("items")).order_by("name")
    show("groups", groups.values_list("name", "sum", "all"))
    show("array", Shelf.objects.aggregate(names=ArrayAgg("name", ordering="name")))
    show("related", [(s.name, len(s.items.all())) for s in Shelf.objects.prefetch_related("items").order_by("name")])
    show("got", Shelf.objects.get_or_create(name="s1")[1], Shelf.objects.update_or_create(name="s9", defaults={"tags": []})[1])
    show("F", Item.objects.filter(count__lt=60).update(count=models.F("count") * 2))
    show("deleted", Shelf.objects.filter(name="s9").delete(), Item.objects.filter(count__gt=10_000).delete())
    show("explained", len(Item.objects.filter(id=1).explain(analyze=False)) > 0)
    show("raw", [s.name for s in Shelf.objects.raw("SELECT * FROM shelf WHERE name LIKE %s ORDER BY name", ["s%"])])


@check()
def blocks():
    with transaction.atomic():
        outer = Shelf.objects.create(name="outer")
        for n in range(4):
            try:
                with transaction.atomic():
                    Shelf.objects.create(name=f"inner {n}")
                    if n % 2:
                        Shelf.objects.create(name="outer")
            except Error as error:
                show("twice", error.__cause__.diag.message_detail)
        transaction.on_commit(lambda: show("committed", Shelf.objects.filter(name__startswith="inner").count()))
        show("locked", Shelf.objects.select_for_update(skip_locked=True, of=("self",)).get(pk=outer.pk).name)
    with transaction.atomic():
        Shelf.objects.select_for_update().get(pk=outer.pk)

        def another():
            try:
                with transaction.atomic(using="pooled"):
                    return list(Shelf.objects.using("pooled").select_for_update(nowait=True).filter(pk=outer.pk))
            except Error as error:
                return error.__cause__.diag.message_primary
            finally:
                connections["pooled"].close()

        with ThreadPoolExecutor(1) as thread:
            show("nowait", thread.submit(another).result())
        mark = transaction.savepoint()
        Shelf.objects.filter(name="outer").delete()
        transaction.savepoint_rollback(mark)
        show("kept", Shelf.objects.filter(pk=outer.pk).exists())
    try:
        transaction.set_autocommit(False)
        Shelf.objects.create(name="never")
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    show("never", Shelf.objects.filter(name="never").exists())


@check()
def iterators():
    for using in "default", "pooled", "bound":
        items = Item.objects.using(using).order_by("id")
        show("outside", using, sum(item.count for item in items.iterator(chunk_size=100)))
        with transaction.atomic(using=using):
            first, second = items.iterator(chunk_size=10), items.reverse().iterator(chunk_size=10)
            show("inside", using, next(first).id, next(second).id, Shelf.objects.using(using).count())
            with connections[using].cursor() as cursor:
                cursor.execute("SELECT count(*), bool_or(is_holdable) FROM pg_cursors WHERE name <> ''")
                show("cursors", cursor.fetchone())
            show("rest", len(list(first)), len(list(second)))


@check()
def sessions():
    with connections["bound"].cursor() as cursor:
        cursor.execute("SELECT current_setting('work_mem'), current_schemas(false), %s::int", [7])
        show("bound", cursor.fetchone())
    with transaction.atomic(using="bound"), connections["bound"].cursor() as cursor:
        cursor.execute("SELECT current_setting('transaction_isolation')")
        show("isolation", cursor.fetchone())
    for n in range(8):
        show("prepared", Item.objects.using("bound").filter(count=1000 + n).values_list("count"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('TimeZone'), current_setting('client_encoding')")
        show("settings", cursor.fetchone())
        cursor.executemany("UPDATE item SET count = %s WHERE id = %s", [(n, n) for n in range(100, 120)])
        cursor.callproc("upper", ["call"])
        show("called", cursor.fetchall())
    connection.close()
    show("anew", connection.is_usable() if connection.connection else None, Shelf.objects.count())


@check()
def errors():
    shelf = Shelf.objects.first()
    failure("unique", lambda: Shelf.objects.create(name=shelf.name))
    failure("check", lambda: Item.objects.create(shelf=shelf, count=-1))
    failure("null", lambda: Item.objects.create(shelf=shelf, count=None))
    failure("long", lambda: Shelf.objects.create(name="x" * 30))
    failure("number", lambda: Item.objects.extra(where=["count = 'x'"]).count())
    failure("table", lambda: list(User64.objects.using("default").raw("SELECT * FROM nowhere")))
    failure("deferred", lambda: Item.objects.create(shelf_id=-1, count=1).id > 0)
    with connection.constraint_checks_disabled():
        show("still", Shelf.objects.filter(pk=shelf.pk).count())
    with ThreadPoolExecutor(9) as threads:

        def work(n):
            try:
                with transaction.atomic():
                    return Shelf.objects.select_for_update().filter(pk=shelf.pk).update(facts={"n": n})
            finally:
                connection.close()

        show("threads", sum(threads.map(work, range(60))))
    call_command("flush", interactive=False, verbosity=0)
    show("flushed", User.objects.count())


@check("keyed")
def by_key():
    keys = [1, 2, 3, 2**40, -5]
    for key in keys:
        with transaction.atomic():
            user = User64.objects.create(user_id=key, note=f"user {key}", n=1)
            User64.objects.filter(pk=key).update(n=models.F("n") + 1)
            show("locked", User64.objects.select_for_update().get(pk=key).n)
        user.refresh_from_db()
        user.note += "!"
        user.save()
        show("saved", User64.objects.get(user_id=key).note, User64.objects.get_or_create(user_id=key)[1])
        failure("again", lambda: User64.objects.create(user_id=key, note="", n=0))
    show("all", User64.objects.order_by("user_id").values_list("user_id", "n"), User64.objects.count())
    show("in", sorted(User64.objects.in_bulk(keys)), User64.objects.aggregate(models.Sum("n"), models.Max("user_id")))
    show("page", User64.objects.order_by("-user_id")[1:3].values_list("user_id", flat=True), User64.objects.filter(n__gt=1).exists())
    show("iterator", sorted(user.n for user in User64.objects.using("pooled").iterator()))
    for key in keys:
        show("deleted", User64.objects.get(user_id=key).delete())


for function in CHECKS[PART]:
    print(function.__name__)
    try:
        function()
    except Exception as error:
        show("broke", type(error).__name__, str(error), error.__traceback__.tb_next.tb_lineno)
