"""SQL that Django cannot express, from files beside its migration, for both databases.

Begins with an underscore, so that Django takes it for no migration.
"""

from pathlib import Path

from django.db import migrations


def from_files(migration: str) -> migrations.RunPython:
    """The operation that runs `<migration>.<vendor>.up.sql` forwards and `.down.sql` backwards.

    `migration` is the migration's `__file__`; statements are separated by a line of `--`.
    """
    path = Path(migration)

    def run(schema_editor, suffix):
        name = f"{path.stem}.{schema_editor.connection.vendor}.{suffix}.sql"
        for statement in path.with_name(name).read_text().split("\n--\n"):
            schema_editor.execute(statement, params=None)

    return migrations.RunPython(
        lambda apps, schema_editor: run(schema_editor, "up"),
        lambda apps, schema_editor: run(schema_editor, "down"),
    )
