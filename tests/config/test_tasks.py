"""Every task that is sent or scheduled by name is one that a worker knows."""

import ast
from pathlib import Path

from django.conf import settings

from config.celery import app

APPS = ("config", "gateway", "deployments", "billing", "orgs")


def sent_names() -> set[str]:
    """The names given to `send_task` and in the schedule."""
    names = {entry["task"] for entry in app.conf.beat_schedule.values()}
    for folder in APPS:
        for path in (Path(settings.BASE_DIR) / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                is_sent = isinstance(node, ast.Call) and (
                    getattr(node.func, "attr", "") == "send_task"
                )
                if is_sent:
                    name = node.args[0]  # type: ignore[attr-defined]
                    assert isinstance(name, ast.Constant), f"{path}: name tasks by a constant"
                    names.add(str(name.value))
    return names


def test_every_task_sent_is_registered() -> None:
    app.loader.import_default_modules()
    names = sent_names()
    assert "deployments.redeploy" in names
    assert names <= set(app.tasks)


def test_every_registered_task_of_ours_takes_arguments_it_does_not_know() -> None:
    """Publisher and worker are updated at different times."""
    import inspect

    app.loader.import_default_modules()
    ours = [task for name, task in app.tasks.items() if name.partition(".")[0] in APPS]
    assert ours
    for task in ours:
        parameters = inspect.signature(task.run).parameters.values()
        assert {parameter.kind for parameter in parameters} <= {
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.VAR_KEYWORD,
        }, task.name
        assert inspect.Parameter.VAR_KEYWORD in {one.kind for one in parameters}, task.name
