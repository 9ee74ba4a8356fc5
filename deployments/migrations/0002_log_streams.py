import django.db.models.deletion
from django.db import migrations, models


def count_lines(apps, schema_editor):
    """A stream for each deployment that has lines already."""
    entries = apps.get_model('deployments', 'LogEntry').objects.order_by()
    counts = entries.values_list('deployment_id').annotate(models.Count('id'))
    stream = apps.get_model('deployments', 'LogStream')
    stream.objects.bulk_create(
        [stream(deployment_id=deployment_id, line_count=count) for deployment_id, count in counts]
    )


class Migration(migrations.Migration):

    dependencies = [
        ('deployments', '0001_tables'),
    ]

    operations = [
        migrations.CreateModel(
            name='LogStream',
            fields=[
                ('deployment', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='log_stream', serialize=False, to='deployments.deployment')),
                ('line_count', models.PositiveIntegerField(default=0)),
            ],
        ),
        migrations.RunPython(count_lines, migrations.RunPython.noop),
        migrations.AddIndex(
            model_name='logentry',
            index=models.Index(fields=['deployment', 'id'], name='deployments_log_by_id'),
        ),
        migrations.AddIndex(
            model_name='logentry',
            index=models.Index(fields=['deployment', 'request_id', 'id'], name='deployments_log_by_request'),
        ),
    ]
