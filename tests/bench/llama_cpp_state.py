"""The peer beside `backtalk bench capsule`: llama.cpp saves and restores the same model's state at the same lengths.

    python tests/bench/llama_cpp_state.py MODEL.gguf [--json OUT.json]

Needs llama-cpp-python, in an environment of its own (it is built from source). Imports nothing of ours. Times are
medians in us. `raw_copy` is one copy of as many bytes, and takes turns with what it is compared with, as in our table.
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
ROOM_TOKENS = 128
"""Beyond the longest length."""
COPIES = 50


def medians_us(*jobs: Callable[[], object]) -> list[float]:
    """Medians of some things that take turns, after three rounds that don't count."""
    taken: list[list[float]] = [[] for _ in jobs]
    for turn in range(-3, COPIES):
        for job, times in zip(jobs, taken, strict=True):
            start_s = time.perf_counter()
            job()
            times += [(time.perf_counter() - start_s) * 1e6] if turn >= 0 else []
    return [round(statistics.median(times), 1) for times in taken]


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
    copy_us, save_us, restore_us = medians_us(lambda: np.copyto(target, source), save, restore)
    return {
        "tokens": tokens,
        "bytes": size,
        "raw_copy_us": copy_us,
        "save_us": save_us,
        "restore_us": restore_us,
        "cold_us": round(cold_us, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS_TOKENS)), help="in tokens")
    arguments = parser.parse_args()
    lengths = [int(length) for length in arguments.lengths.split(",")]
    model = llama_cpp.Llama(
        arguments.model,
        n_ctx=max(lengths) + ROOM_TOKENS,
        n_threads=arguments.threads,
        n_threads_batch=arguments.threads,
        flash_attn=True,
        verbose=False,
    )
    rows = [measure(model, tokens) for tokens in lengths]
    told = {"peer": "llama.cpp", "version": llama_cpp.__version__, "rows": rows}
    print(json.dumps(told, indent=1))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(told, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
