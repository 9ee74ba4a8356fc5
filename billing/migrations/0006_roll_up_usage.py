"""A trigger that adds a part of a rollup with every usage record, and parts for the records so far.

Whoever inserts usage records cannot forget it, and late records reach the hour they belong to. A
migration that alters `billing_usagerecord` on SQLite, or gives usage records another column of
tokens, must put this trigger up again (the tests of rollups will say so).
"""

from pathlib import Path

from django.db import migrations

FOLDER = Path(__file__).parent


def run_sql(schema_editor, suffix):
    """Run `0006_roll_up_usage.<vendor>.<suffix>.sql`, statements separated by a line of `--`."""
    vendor = schema_editor.connection.vendor
    text = (FOLDER / f"0006_roll_up_usage.{vendor}.{suffix}.sql").read_text()
    for statement in text.split("\n--\n"):
        schema_editor.execute(statement, params=None)


def create_trigger(apps, schema_editor):
    """Forwards."""
    run_sql(schema_editor, "up")


def drop_trigger(apps, schema_editor):
    """Backwards."""
    run_sql(schema_editor, "down")


class Migration(migrations.Migration):
    dependencies = [("billing", "0005_usage_rollups")]

    operations = [migrations.RunPython(create_trigger, drop_trigger)]
