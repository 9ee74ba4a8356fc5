"""`python -m bench`: every measurement, on SQLite and, when it answers, on local PostgreSQL."""

import os
import subprocess
import sys

import psycopg

POSTGRES = "postgresql://postgres@127.0.0.1:5432"
DATABASE = "aigateway_bench"


def run(title: str, module: str, environment: dict[str, str]) -> bool:
    """One measurement in a process of its own; whether its budgets hold."""
    print(f"\n== {title}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", module], env={**os.environ, **environment}, check=False
    )
    return done.returncode == 0


def on_postgres() -> bool:
    """Measure in a database of its own, dropped afterwards."""
    with psycopg.connect(f"{POSTGRES}/postgres", autocommit=True, connect_timeout=3) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {DATABASE}")
        try:
            environment = {"DATABASE_URL": f"{POSTGRES}/{DATABASE}"}
            results = [
                run("Metering and booking, PostgreSQL", "bench.metering", environment),
                run("Proxied calls, PostgreSQL", "bench.proxy", environment),
            ]
            return all(results)
        finally:
            connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")


def main() -> None:
    """Run all."""
    results = [
        run("Admission of calls against their limits", "bench.limits", {}),
        run("Functions on this machine", "bench.functions", {}),
        run("Metering and booking, SQLite", "bench.metering", {}),
        run("Proxied calls, SQLite", "bench.proxy", {}),
    ]
    try:
        results.append(on_postgres())
    except psycopg.OperationalError:
        print("\nPostgreSQL does not answer on 127.0.0.1:5432; measured on SQLite only.")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
