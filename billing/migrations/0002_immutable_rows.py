"""Triggers that refuse to change or remove rows of money, and resolutions that do not fit a hold.

Constraints cannot say "never again", so triggers do. Note for whoever alters one of these tables
on SQLite: Django rebuilds the table there and its triggers go with the old one, so such a
migration must run `create_triggers` again (the tests of the triggers will say so).
"""

from pathlib import Path

from django.db import migrations

FOLDER = Path(__file__).parent


def run_sql(schema_editor, suffix):
    """Run `0002_immutable_rows.<vendor>.<suffix>.sql`, statements separated by a line of `--`."""
    vendor = schema_editor.connection.vendor
    text = (FOLDER / f"0002_immutable_rows.{vendor}.{suffix}.sql").read_text()
    for statement in text.split("\n--\n"):
        schema_editor.execute(statement, params=None)


def create_triggers(apps, schema_editor):
    """Forwards."""
    run_sql(schema_editor, "up")


def drop_triggers(apps, schema_editor):
    """Backwards."""
    run_sql(schema_editor, "down")


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_tables")]

    operations = [migrations.RunPython(create_triggers, drop_triggers)]
