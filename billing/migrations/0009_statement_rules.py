"""Triggers that refuse to change or remove a closed statement."""

from pathlib import Path

from django.db import migrations

FOLDER = Path(__file__).parent


def run_sql(schema_editor, suffix):
    """Run `0009_statement_rules.<vendor>.<suffix>.sql`, statements separated by a line of `--`."""
    vendor = schema_editor.connection.vendor
    text = (FOLDER / f"0009_statement_rules.{vendor}.{suffix}.sql").read_text()
    for statement in text.split("\n--\n"):
        schema_editor.execute(statement, params=None)


def create_triggers(apps, schema_editor):
    """Forwards."""
    run_sql(schema_editor, "up")


def drop_triggers(apps, schema_editor):
    """Backwards."""
    run_sql(schema_editor, "down")


class Migration(migrations.Migration):
    dependencies = [("billing", "0008_statements")]

    operations = [migrations.RunPython(create_triggers, drop_triggers)]
