"""What Django's ORM writes to a sharded database: `django_writes.py URL`. The tables are those of `writes.sql`."""

import pathlib
import sys
from decimal import Decimal
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.db import connections, models, transaction
from django.db.models import functions
from django.db.utils import Error

URL = urlsplit(sys.argv[1])
DATABASE = {"ENGINE": "django.db.backends.postgresql", "HOST": URL.hostname, "PORT": URL.port, "NAME": URL.path[1:], "USER": URL.username, "PASSWORD": URL.password}
CHECKS = []

settings.configure(
    DATABASES={"default": DATABASE, "bound": {**DATABASE, "OPTIONS": {"server_side_binding": True}}},
    INSTALLED_APPS=["__main__"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()


def check(function):
    CHECKS.append(function)
    return function


def show(label, *values):
    print(f"  {label}:", *(repr(value) for value in values), flush=True)


def failure(label, using, function):
    try:
        with transaction.atomic(using):
            show(label, "no error", function())
    except Error as error:
        diag = error.__cause__.diag
        # The row that failed has its time in it; a row without a key is refused by the router, which does not print it.
        detail = diag.message_detail if diag.sqlstate not in ("23502", "23514") else None
        show(label, type(error).__name__, diag.sqlstate, diag.message_primary, detail, diag.constraint_name)


class Label(models.Model):
    id = models.AutoField(primary_key=True)
    name = models.TextField(unique=True)
    uses = models.IntegerField(default=0)

    class Meta:
        app_label = "__main__"
        db_table = "labels"
        managed = False


class Person(models.Model):
    email = models.TextField()
    name = models.TextField(default="")
    version = models.IntegerField(default=1)
    labels = models.ManyToManyField(Label, through="PersonLabel", related_name="people")

    class Meta:
        app_label = "__main__"
        db_table = "people"
        managed = False


class PersonLabel(models.Model):
    person = models.ForeignKey(Person, models.CASCADE, db_column="user_id")
    label = models.ForeignKey(Label, models.CASCADE)

    class Meta:
        app_label = "__main__"
        db_table = "people_labels"
        managed = False


class Note(models.Model):
    person = models.ForeignKey(Person, models.CASCADE, db_column="user_id", related_name="notes")
    title = models.TextField()
    n = models.IntegerField(default=0)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=Decimal("1.5"))
    facts = models.JSONField(default=dict)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "__main__"
        db_table = "notes"
        managed = False


class Audit(models.Model):
    id = models.AutoField(primary_key=True)
    what = models.TextField(unique=True)

    class Meta:
        app_label = "__main__"
        db_table = "audit"
        managed = False


def notes(using, **conditions):
    return list(Note.objects.using(using).filter(**conditions).order_by("id").values_list("id", "person_id", "title", "n", "price"))


@check
def bulk(using):
    people = Person.objects.using(using)
    made = people.bulk_create([Person(email=f"{n}@x", name=f"p{n}") for n in range(12)])
    show("people", [(person.id, person.email) for person in made])
    made = Note.objects.using(using).bulk_create([Note(person=made[n % 12], title=f"t{n}", n=n, facts={"n": n}) for n in range(700)], batch_size=300)
    show("ids in order", [note.id for note in made] == sorted(note.id for note in made), made[0].id, made[-1].id)
    show("count", Note.objects.using(using).count(), notes(using, n__lt=3))
    Note.objects.using(using).bulk_create([Note(person_id=n % 12 + 1, title=f"t{n}") for n in range(20)] + [Note(person_id=3, title="only new")], ignore_conflicts=True)
    show("ignored", Note.objects.using(using).count(), notes(using, title="only new"))
    again = [Note(person_id=n % 12 + 1, title=f"t{n}", n=1000 + n, price=Decimal(n)) for n in range(15)] + [Note(person_id=4, title="newer", n=5)]
    Note.objects.using(using).bulk_create(again, update_conflicts=True, unique_fields=["person", "title"], update_fields=["n", "price"])
    show("upserted", notes(using, n__gte=1000), Note.objects.using(using).filter(title="newer").count())
    changed = list(Note.objects.using(using).filter(n__lt=60).order_by("id"))
    for note in changed:
        note.n += 2000
        note.facts = {"changed": note.n}
    show("bulk_update", Note.objects.using(using).bulk_update(changed, ["n", "facts"], batch_size=40))
    show("sum", Note.objects.using(using).aggregate(models.Sum("n"), models.Max("n")), notes(using, n__gte=2050, n__lt=2053))
    labels = Label.objects.using(using).bulk_create([Label(name=f"l{n}") for n in range(5)])
    show("labels", [(label.id, label.name) for label in labels])
    Label.objects.using(using).bulk_create([Label(name="l1"), Label(name="l9")], ignore_conflicts=True)
    Label.objects.using(using).bulk_create([Label(name="l2", uses=7)], update_conflicts=True, unique_fields=["name"], update_fields=["uses"])
    show("labels", Label.objects.using(using).order_by("id").values_list("id", "name", "uses"))


@check
def single(using):
    note, new = Note.objects.using(using).get_or_create(person_id=1, title="got", defaults={"n": 4})
    show("got", new, note.n, Note.objects.using(using).get_or_create(person_id=1, title="got")[1])
    note, new = Note.objects.using(using).update_or_create(person_id=2, title="put", defaults={"n": 1})
    show("put", new, note.n, Note.objects.using(using).update_or_create(person_id=2, title="put", defaults={"n": models.F("n") + 5})[1])
    note.refresh_from_db()
    show("refreshed", note.n)
    note.n = models.F("n") * 2
    note.save(update_fields=["n"])
    note.refresh_from_db()
    show("saved", note.n)
    person, new = Person.objects.using(using).get_or_create(email="new@x")
    show("person", new, person.name, Person.objects.using(using).get_or_create(email="new@x")[1])
    show("label", Label.objects.using(using).get_or_create(name="l1")[1], Label.objects.using(using).update_or_create(name="l1", defaults={"uses": 3})[1])
    show("audit", Audit.objects.using(using).get_or_create(what="x")[1], Audit.objects.using(using).get_or_create(what="x")[1])
    show("deleted", note.delete(), person.delete())


@check
def many(using):
    query = Note.objects.using(using)
    show("update", query.filter(title__startswith="t").update(n=models.F("n") + 1), query.filter(person_id__in=[1, 2, 3]).update(price=models.F("price") * 2 + 1))
    texts = {"output_field": models.TextField()}
    cases = models.Case(models.When(n__gt=650, then=models.Value("high", **texts)), default=functions.Concat("title", models.Value("!"), **texts))
    show("case", query.filter(n__gte=600).update(title=functions.Concat(cases, functions.Cast("id", **texts), **texts)))
    best = query.filter(person=models.OuterRef("pk")).order_by("-n").values("title")[:1]
    show("subquery", Person.objects.using(using).update(name=models.Subquery(best)), Person.objects.using(using).order_by("id").values_list("name"))
    show("related", query.filter(person__name__startswith="high", n__lt=2010).update(n=7), query.filter(n=7).count())
    show("of others", Label.objects.using(using).filter(people__isnull=True).update(uses=models.F("uses") + 1))
    show("above", query.filter(n__gt=query.aggregate(mean=models.Avg("n"))["mean"]).update(price=3), query.filter(price=3).count())
    show("delete", query.filter(n__lt=100).delete(), query.filter(person_id=5).delete(), query.filter(person__email="1@x").delete(), query.count())


@check
def relations(using):
    people = list(Person.objects.using(using).order_by("id")[:4])
    labels = list(Label.objects.using(using).order_by("id"))

    def both():
        return list(PersonLabel.objects.using(using).order_by("person", "label").values_list("person_id", "label_id", "label__name"))

    for person in people:
        person.labels.add(*labels[:3])
    show("added", both())
    people[0].labels.add(labels[0], labels[4])
    people[1].labels.remove(labels[0], labels[1])
    people[2].labels.set([labels[4], labels[2]])
    people[3].labels.clear()
    labels[3].people.add(*people)
    labels[3].people.remove(people[0])
    show("changed", both())
    labels[3].people.set(people[:2])
    made = people[0].labels.create(name="made")
    show("made", made.id, both())
    show("cascade", people[0].delete(), labels[2].delete(), both())
    show("cascade", Person.objects.using(using).filter(id__in=[people[1].id, people[2].id]).delete(), both())
    people[3].notes.create(title="of the fourth")
    people[3].notes.update(n=9)
    show("notes", people[3].notes.filter(n=9).exists(), people[3].notes.filter(title="of the fourth").delete())


@check
def blocks(using):
    ids = list(Person.objects.using(using).order_by("id").values_list("id", flat=True))
    with transaction.atomic(using):
        locked = Person.objects.using(using).select_for_update().filter(id__in=ids).order_by("id")
        show("locked", [person.id for person in locked])
        show("of", [note.person.id for note in Note.objects.using(using).select_for_update(of=("self",)).select_related("person").filter(person_id__in=ids[:3]).order_by("id")[:0]])
        for person in ids:
            try:
                with transaction.atomic(using):
                    Note.objects.using(using).create(person_id=person, title="inner", n=1)
                    Audit.objects.using(using).create(what=f"by {person % 3}")
            except Error as error:
                show("caught", error.__cause__.diag.message_detail, error.__cause__.diag.constraint_name)
        show("in", Note.objects.using(using).filter(title="inner").count(), Audit.objects.using(using).count())
    show("after", notes(using, title="inner")[0][1:], Audit.objects.using(using).order_by("id").values_list("what"))
    try:
        with transaction.atomic(using):
            Note.objects.using(using).filter(title="inner").update(n=models.F("n") + 100)
            Label.objects.using(using).create(name="lost")
            Note.objects.using(using).filter(title="inner").update(n=models.F("n") - 102)
    except Error as error:
        show("undone", error.__cause__.diag.constraint_name)
    show("kept", Note.objects.using(using).filter(title="inner", n=1).count(), Label.objects.using(using).filter(name="lost").exists())
    with transaction.atomic(using):
        mark = transaction.savepoint(using)
        Note.objects.using(using).all().delete()
        transaction.savepoint_rollback(mark, using)
        show("there", Note.objects.using(using).exists())


@check
def errors(using):
    Note.objects.using(using).create(person_id=6, title="of all", n=3)
    failure("unique", using, lambda: Note.objects.using(using).bulk_create([Note(person_id=n, title="same") for n in (5, 6, 7, 5)]))
    failure("foreign", using, lambda: Note.objects.using(using).bulk_create([Note(person_id=n, title="far") for n in (5, 99999)]))
    failure("check", using, lambda: Note.objects.using(using).filter(title="of all").update(n=-1) and None)
    failure("null", using, lambda: Note.objects.using(using).create(person_id=None, title="x"))
    failure("deferred", using, lambda: PersonLabel.objects.using(using).create(person_id=7, label_id=7777) and None)
    failure("reference", using, lambda: Label.objects.using(using).create(name="l1"))
    failure("number", using, lambda: Person.objects.using(using).filter(id=1).extra(where=["version = 'x'"]).update(name="y"))
    show("none", Note.objects.using(using).filter(title__in=["same", "far"]).count())


for using in "default", "bound":
    with connections[using].cursor() as cursor:
        for statement in pathlib.Path(__file__).with_name("writes.sql").read_text().split(";\n"):
            if statement:
                cursor.execute(statement)
    for function in CHECKS:
        print(f"{function.__name__} with {using}")
        try:
            function(using)
        except Exception as error:
            show("broke", type(error).__name__, str(error), error.__traceback__.tb_next.tb_lineno)
