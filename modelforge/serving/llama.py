"""The llama.cpp engine: a process of its own, on loopback, that the gateway alone talks to.

python -m modelforge.serving.llama '{"name": "mine", "path": "model.gguf", "port": 8001, "size": 8}'
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from modelforge.serving.engines import KEY

_CONTEXT = 4096  # tokens of a prompt and its answer, at most
_CACHE = 1 << 20  # tokens of all of them


def main(argument: Sequence[str]) -> None:
    """Load, and answer until who started this process is gone."""
    import xllamacpp
    from gguf import GGUFReader

    said = json.loads(argument[0])
    try:
        fields = GGUFReader(said["path"]).fields
    except (ValueError, IndexError, KeyError, OSError) as error:  # of a file that is cut or damaged
        sys.exit(f"{said['path']}: is no GGUF that can be read: {error}")
    field = next((f for f in fields.values() if f.name.endswith("context_length")), None)
    context = min(_CONTEXT, int(field.contents()) if field is not None else _CONTEXT)
    given = xllamacpp.CommonParams()
    given.model.path = said["path"]
    given.model_alias = {said["name"]}
    given.hostnames, given.port = ["127.0.0.1"], said["port"]
    given.api_keys = [os.environ[KEY]]
    given.n_parallel = said["size"]
    given.n_ctx = min(_CACHE, context * said["size"])
    given.warmup, given.verbosity = False, -1
    given.endpoint_slots = given.endpoint_props = given.ui = False
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(given)
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
