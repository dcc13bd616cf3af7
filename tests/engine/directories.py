"""Small models as directories: safetensors in one file or several, and the files of a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from engine.tokenizer import SPLITS
from tests.engine.ggufs import CHATML, vocabulary


def write_shards(path: Path, tensors: dict[str, Tensor], shards: int = 1) -> None:
    """Spread tensors over some files, with an index if there is more than one."""
    if shards == 1:
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        return
    files: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        save_file(part, path / name, {"format": "pt"})
        files |= dict.fromkeys(part, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(path / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": files})


def write_tokenizer(path: Path) -> None:
    """The vocabulary of the GGUF files, as the `tokenizers` library keeps it."""
    keys = vocabulary("qwen35")
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    marks = [{"id": at, "content": token} for at, token in enumerate(tokens) if types[at] == 3]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    cut = {"type": "Split", "pattern": {"Regex": SPLITS["qwen35"]}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {
        "type": "BPE",
        "vocab": {token: at for at, token in enumerate(tokens)},
        "merges": [merge.split(" ") for merge in keys["tokenizer.ggml.merges"]],
    }
    whole = {
        "version": "1.0",
        "added_tokens": [mark | flags for mark in marks],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, to_bytes]},
        "post_processor": to_bytes,
        "decoder": to_bytes,
        "model": model,
    }
    write_json(path / "tokenizer.json", whole)
    settings = {"add_bos_token": False, "bos_token": None, "eos_token": tokens[2], "chat_template": CHATML}
    write_json(path / "tokenizer_config.json", settings)
    write_json(path / "generation_config.json", {"eos_token_id": [2, 0]})


def write_json(path: Path, value: object) -> None:
    """A value as JSON."""
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
