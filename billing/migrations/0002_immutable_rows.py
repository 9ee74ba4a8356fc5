"""Triggers that refuse to change or remove rows of money, and resolutions that do not fit a hold.

Constraints cannot say "never again", so triggers do. Note for whoever alters one of these tables
on SQLite: Django rebuilds the table there and its triggers go with the old one, so such a
migration must run its SQL again (the tests of the triggers will say so).
"""

from django.db import migrations

from billing.migrations import _sql


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_tables")]

    operations = [_sql.from_files(__file__)]
