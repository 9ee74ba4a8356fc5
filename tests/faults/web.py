"""A serving process for fault tests: the AI API alone, under uvicorn as in production."""

import sys

import uvicorn

from config import web

if __name__ == "__main__":
    options = {**web.options(int(sys.argv[1]), "127.0.0.1"), "app": "config.asgi:gateway"}
    uvicorn.run(**{**options, "timeout_graceful_shutdown": 10})
