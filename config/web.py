"""The web process: uvicorn with our limits, ending when whoever started it does.

Run as `python -m config.web --port 8000`. Production may equally run
`uvicorn config.asgi:application` behind a proxy that limits how slowly and how long a request's
head arrives, as config/connection.py does here; the options below are then the recommended ones.
"""

import argparse
import warnings

import uvicorn

from config.connection import Connection
from config.supervisor import end_with_supervisor

GRACE_SECONDS = 20
# Connections, those included that say nothing until they are ended (config/connection.py).
CONCURRENCY_MAX = 20_000
SOCKET_MESSAGE_BYTES_MAX = 16 * 1024  # from a client; ours have nothing to say


def options(port: int, host: str) -> dict[str, object]:
    """uvicorn's settings: httptools is the strictest parser of those measured."""
    return {
        "app": "config.asgi:application",
        "host": host,
        "port": port,
        "loop": "uvloop",
        "http": Connection,
        "ws": "websockets-sansio",
        "ws_max_size": SOCKET_MESSAGE_BYTES_MAX,
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "date_header": True,
        "proxy_headers": False,
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": GRACE_SECONDS,
        "limit_concurrency": CONCURRENCY_MAX,
        "h11_max_incomplete_event_size": 64 * 1024,
    }


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="Serve the platform.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--supervised", action="store_true", help="end when standard input does")
    arguments = parser.parse_args()
    if arguments.supervised:
        end_with_supervisor()
    # WhiteNoise's files: small, and read by a thread of their own. Whoever looks at the terminal of
    # `make run` can do nothing about it.
    warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous")
    uvicorn.run(**options(arguments.port, arguments.host))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
