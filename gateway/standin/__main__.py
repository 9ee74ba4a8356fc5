"""`python -m gateway.standin --port 8200 --model-url http://127.0.0.1:8100/v1`.

Ends when its standard input does, so it cannot outlive whoever started it.
"""

import argparse
import asyncio
import sys
import threading

from aiohttp import web

from gateway.standin import KEY
from gateway.standin.server import create_app

SHUTDOWN_SECONDS = 1.0


async def serve(port: int, model_url: str) -> None:
    """Serve on 127.0.0.1:port until standard input ends."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_end() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        loop.call_soon_threadsafe(ended.set)

    runner = web.AppRunner(
        create_app(model_url), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    # A daemon: reading cannot be cancelled, and must not keep the process.
    threading.Thread(target=wait_for_end, daemon=True).start()
    sys.stderr.write(f"provider stand-ins listen on 127.0.0.1:{port}, their key is {KEY}\n")
    await ended.wait()
    await runner.cleanup()


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway.standin", description="Serve stand-ins for the providers."
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model-url", required=True, help="the local model's, ending in /v1")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.model_url))


if __name__ == "__main__":
    main()
