from django.db import migrations, models
from django.utils import timezone


def keep_suspensions(apps, schema_editor):
    """Who was suspended stays suspended, from now on and with a reason that says so."""
    apps.get_model("orgs", "Organization").objects.filter(status="SUSPENDED").update(
        suspended_at=timezone.now(),
        suspension_reason="Suspended before reasons were kept.",
    )


def restore_status(apps, schema_editor):
    apps.get_model("orgs", "Organization").objects.exclude(suspended_at=None).update(
        status="SUSPENDED"
    )


class Migration(migrations.Migration):
    # PostgreSQL changes no table in a transaction that has changed its rows.
    atomic = False

    dependencies = [
        ("orgs", "0003_webhooks"),
    ]

    operations = [
        migrations.AddField(
            model_name="organization",
            name="suspended_at",
            field=models.DateTimeField(
                blank=True,
                help_text="From then on its AI calls and deploys are refused; its sites stay. Empty this and the reason to lift the suspension.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="organization",
            name="suspension_reason",
            field=models.CharField(
                blank=True, help_text="Its members read this in the console.", max_length=300
            ),
        ),
        migrations.RunPython(keep_suspensions, restore_status),
        migrations.RemoveField(model_name="organization", name="status"),
        migrations.AddConstraint(
            model_name="organization",
            constraint=models.CheckConstraint(
                condition=models.Q(suspended_at=None, suspension_reason="")
                | (models.Q(suspended_at__isnull=False) & ~models.Q(suspension_reason="")),
                name="orgs_suspension_has_time_and_reason",
                violation_error_message="A suspension has a time and a reason; without one, leave both empty.",
            ),
        ),
    ]
