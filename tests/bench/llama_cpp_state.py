"""The peer beside `backtalk bench capsule`: llama.cpp saves and restores the same model's state at the same lengths.

    python tests/bench/llama_cpp_state.py MODEL.gguf [--json OUT.json]

Needs llama-cpp-python, in an environment of its own (it is built from source). Imports nothing of ours. Times are
medians in us; `raw_copy` is one copy of as many bytes, as in our own table.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable

import llama_cpp
import numpy as np

LENGTHS_TOKENS = (256, 1024, 2048, 4096)
CONTEXT_TOKENS = 4608
COPIES = 50


def median_us(job: Callable[[], object], count: int = COPIES) -> float:
    """Median of `count` runs after three that don't count."""
    taken: list[float] = []
    for turn in range(-3, count):
        start_s = time.perf_counter()
        job()
        taken += [(time.perf_counter() - start_s) * 1e6] if turn >= 0 else []
    return round(statistics.median(taken), 1)


def measure(model: llama_cpp.Llama, tokens: int) -> dict[str, float]:
    """One row: what saving and restoring a state of `tokens` tokens costs."""
    context = model._ctx.ctx
    model.reset()
    start_s = time.perf_counter()
    model.eval([17 + place * 7919 % 49000 for place in range(tokens)])
    cold_us = (time.perf_counter() - start_s) * 1e6
    size = llama_cpp.llama_state_seq_get_size(context, 0)
    buffer = (ctypes.c_uint8 * size)()

    def save() -> None:
        assert llama_cpp.llama_state_seq_get_data(context, buffer, size, 0) == size

    def restore() -> None:
        assert llama_cpp.llama_state_seq_set_data(context, buffer, size, 0) > 0

    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    return {
        "tokens": tokens,
        "bytes": size,
        "raw_copy_us": median_us(lambda: np.copyto(target, source)),
        "save_us": median_us(save),
        "restore_us": median_us(restore),
        "cold_us": round(cold_us, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--json")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    model = llama_cpp.Llama(
        arguments.model,
        n_ctx=CONTEXT_TOKENS,
        n_threads=arguments.threads,
        n_threads_batch=arguments.threads,
        flash_attn=True,
        verbose=False,
    )
    rows = [measure(model, tokens) for tokens in LENGTHS_TOKENS]
    told = {"peer": "llama.cpp", "version": llama_cpp.__version__, "rows": rows}
    print(json.dumps(told, indent=1))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(told, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
