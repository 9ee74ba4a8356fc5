"""Token buckets for audio, images and an hour's cache; margins.

The trigger that sums usage up gets the new columns. On SQLite the table of usage records is
rebuilt, which loses its triggers: they are dropped before and created again after, in both
directions.
"""

from pathlib import Path

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

FOLDER = Path(__file__).parent


def run_sql(schema_editor, suffix):
    """Run this migration's `.<vendor>.<suffix>.sql`, statements separated by a line of `--`."""
    vendor = schema_editor.connection.vendor
    text = (FOLDER / f"{Path(__file__).stem}.{vendor}.{suffix}.sql").read_text()
    for statement in text.split("\n--\n"):
        schema_editor.execute(statement, params=None)


def drop_triggers(apps, schema_editor):
    """Before the table is rebuilt; PostgreSQL alters it in place."""
    if schema_editor.connection.vendor == "sqlite":
        run_sql(schema_editor, "drop")


def create_triggers_after(apps, schema_editor):
    """The rules of usage records, with the new columns."""
    run_sql(schema_editor, "after")


def create_triggers_before(apps, schema_editor):
    """The same as they were before this migration."""
    run_sql(schema_editor, "before")


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0006_roll_up_usage'),
        ('orgs', '0001_tables'),
    ]

    operations = [
        migrations.RunPython(drop_triggers, create_triggers_before),
        migrations.CreateModel(
            name='OrganizationTerms',
            fields=[
                ('organization', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, primary_key=True, related_name='terms', serialize=False, to='orgs.organization')),
                ('margin_basis_points', models.PositiveIntegerField(default=0, help_text='Hundredths of a percent on top of what the provider charges: 250 is 2.5 %.', validators=[django.core.validators.MaxValueValidator(10000)], verbose_name='margin, in basis points')),
            ],
            options={
                'verbose_name_plural': 'organization terms',
            },
        ),
        migrations.RemoveConstraint(
            model_name='usagerecord',
            name='billing_usage_not_negative',
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='audio_cache_read_tokens',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='audio_input_tokens',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='audio_output_tokens',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='cache_write_1h_tokens',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='image_input_tokens',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='image_output_tokens',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='margin_basis_points',
            field=models.PositiveIntegerField(default=0),
        ),
        migrations.AddConstraint(
            model_name='usagerecord',
            constraint=models.CheckConstraint(condition=models.Q(('audio_cache_read_tokens__gte', 0), ('audio_input_tokens__gte', 0), ('audio_output_tokens__gte', 0), ('cache_read_tokens__gte', 0), ('cache_write_1h_tokens__gte', 0), ('cache_write_tokens__gte', 0), ('cost_nanos__gte', 0), ('held_nanos__gte', 0), ('image_input_tokens__gte', 0), ('image_output_tokens__gte', 0), ('input_tokens__gte', 0), ('output_tokens__gte', 0), ('reasoning_tokens__gte', 0)), name='billing_usage_not_negative'),
        ),
        migrations.AddField(
            model_name='usagerollup',
            name='audio_cache_read_tokens',
            field=models.BigIntegerField(default=0),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name='usagerollup',
            name='audio_input_tokens',
            field=models.BigIntegerField(default=0),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name='usagerollup',
            name='audio_output_tokens',
            field=models.BigIntegerField(default=0),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name='usagerollup',
            name='cache_write_1h_tokens',
            field=models.BigIntegerField(default=0),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name='usagerollup',
            name='image_input_tokens',
            field=models.BigIntegerField(default=0),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name='usagerollup',
            name='image_output_tokens',
            field=models.BigIntegerField(default=0),
            preserve_default=False,
        ),
        migrations.AddConstraint(
            model_name='organizationterms',
            constraint=models.CheckConstraint(condition=models.Q(('margin_basis_points__gte', 0), ('margin_basis_points__lte', 10000)), name='billing_terms_margin_is_sane'),
        ),
        migrations.RunPython(create_triggers_after, drop_triggers),
    ]
