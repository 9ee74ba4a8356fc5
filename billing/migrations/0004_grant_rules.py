"""Triggers of promotional credit: lots are only used up, and their uses are never edited.

As for 0002: whoever alters one of these tables on SQLite must create its triggers again.
"""

from django.db import migrations

from billing.migrations import _sql


class Migration(migrations.Migration):
    dependencies = [("billing", "0003_grants")]

    operations = [_sql.from_files(__file__)]
