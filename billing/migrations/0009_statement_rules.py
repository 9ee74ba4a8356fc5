"""Triggers that refuse to change or remove a closed statement."""

from django.db import migrations

from billing.migrations import _sql


class Migration(migrations.Migration):
    dependencies = [("billing", "0008_statements")]

    operations = [_sql.from_files(__file__)]
