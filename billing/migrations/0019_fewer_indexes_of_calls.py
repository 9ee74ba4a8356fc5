"""Drop what no query of calls uses: each index costs every call a little when it is booked.

By name, because Django would copy the whole table on SQLite, and lose its triggers.
"""

import django.db.models.deletion
from django.db import migrations, models

ORGANIZATION = "billing_usagerecord_organization_id_135bd65d"
PRICE_VERSION = "billing_usagerecord_price_version_id_00b612ee"
# PostgreSQL has it for searches by the beginning of a text, which nobody makes.
REQUEST_ID_LIKE = "billing_usagerecord_request_id_21a19607_like"


def drop(apps, schema_editor):
    for name in (ORGANIZATION, PRICE_VERSION, REQUEST_ID_LIKE):
        schema_editor.execute(f"DROP INDEX IF EXISTS {name}")


def make(apps, schema_editor):
    table = "billing_usagerecord"
    schema_editor.execute(f"CREATE INDEX {ORGANIZATION} ON {table} (organization_id)")
    schema_editor.execute(f"CREATE INDEX {PRICE_VERSION} ON {table} (price_version_id)")
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(
            f"CREATE INDEX {REQUEST_ID_LIKE} ON {table} (request_id varchar_pattern_ops)"
        )


class Migration(migrations.Migration):
    dependencies = [("billing", "0018_looks_at_silent_journals")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(drop, make)],
            state_operations=[
                migrations.AlterField(
                    "usagerecord",
                    "organization",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="usage_records",
                        to="orgs.organization",
                    ),
                ),
                migrations.AlterField(
                    "usagerecord",
                    "price_version",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.priceversion",
                    ),
                ),
            ],
        )
    ]
