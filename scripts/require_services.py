"""Fails, saying how to start it, when PostgreSQL or Redis is not on its standard local port."""

import socket
import sys

SERVICES = (
    ("PostgreSQL", 5432, "pg_ctlcluster 15 main start"),
    ("Redis", 6379, "redis-server --daemonize yes"),
)


def main() -> None:
    """Command line entry point."""
    missing = []
    for name, port, start in SERVICES:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=3).close()
        except OSError:
            missing.append(f"{name} does not answer on 127.0.0.1:{port}. Start it: {start}")
    if missing:
        sys.exit("\n".join(missing))


if __name__ == "__main__":
    main()
