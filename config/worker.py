"""The task worker beside the web process: Celery's worker and beat, ending when its starter does.

Run as `python -m config.worker --schedule <file>` by `manage.py serve`. Production runs
`celery -A config worker` and `celery -A config beat` themselves.
"""

import argparse

from config.celery import app
from config.supervisor import end_with_supervisor


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="Run tasks and their schedule.")
    parser.add_argument("--schedule", required=True, help="where beat keeps when it last ran")
    schedule = parser.parse_args().schedule
    end_with_supervisor()
    app.worker_main(["worker", "--beat", "--schedule", schedule, "--pool", "solo", "-l", "WARNING"])


if __name__ == "__main__":
    main()
