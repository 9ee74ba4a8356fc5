"""Triggers of payments: what was asked for, and what the provider said, never changes.

As for 0002: whoever alters one of these tables on SQLite must create its triggers again.
"""

from django.db import migrations

from billing.migrations import _sql


class Migration(migrations.Migration):
    dependencies = [("billing", "0010_payments")]

    operations = [_sql.from_files(__file__)]
