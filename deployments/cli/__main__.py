"""`python -m deployments.cli`."""

from deployments.cli.commands import main

if __name__ == "__main__":
    main(prog_name="python -m deployments.cli")
