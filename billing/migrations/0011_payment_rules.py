"""Triggers of payments: what was asked for, and what the provider said, never changes.

As for 0002: whoever alters one of these tables on SQLite must create its triggers again.
"""

from pathlib import Path

from django.db import migrations

FOLDER = Path(__file__).parent


def run_sql(schema_editor, suffix):
    """Run `0011_payment_rules.<vendor>.<suffix>.sql`, statements separated by a line of `--`."""
    vendor = schema_editor.connection.vendor
    text = (FOLDER / f"{Path(__file__).stem}.{vendor}.{suffix}.sql").read_text()
    for statement in text.split("\n--\n"):
        schema_editor.execute(statement, params=None)


def create_triggers(apps, schema_editor):
    """Forwards."""
    run_sql(schema_editor, "up")


def drop_triggers(apps, schema_editor):
    """Backwards."""
    run_sql(schema_editor, "down")


class Migration(migrations.Migration):
    dependencies = [("billing", "0010_payments")]

    operations = [migrations.RunPython(create_triggers, drop_triggers)]
