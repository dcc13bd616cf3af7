"""Small GGUF files for tests, written byte by byte as the format's description has them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class RawTensor(NamedTuple):
    """A tensor as the file has it: innermost dimension first."""

    name: str
    dimensions: Sequence[int]
    code: int
    data: bytes


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(item: Any) -> bytes:
    """A typed value; ints are uint32, floats float32, lists take the type of their first item."""
    match item:
        case bool():
            return struct.pack("<I?", 7, item)
        case int():
            return struct.pack("<II", 4, item)
        case float():
            return struct.pack("<If", 6, item)
        case str():
            return struct.pack("<I", 8) + text(item)
        case [first, *_]:
            return (
                struct.pack("<I", 9)
                + value(first)[:4]
                + struct.pack("<Q", len(item))
                + b"".join(value(i)[4:] for i in item)
            )
        case _:
            raise TypeError(type(item))


def build(metadata: Mapping[str, Any], tensors: Sequence[RawTensor] = (), alignment: int = 32) -> bytes:
    """A whole file, version 3."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(text(key) + value(item) for key, item in metadata.items())
    data = b""
    for tensor in tensors:
        data += bytes(-len(data) % alignment)
        head += text(tensor.name) + struct.pack("<I", len(tensor.dimensions))
        head += struct.pack(f"<{len(tensor.dimensions)}Q", *tensor.dimensions)
        head += struct.pack("<IQ", tensor.code, len(data))
        data += tensor.data
    return head + bytes(-len(head) % alignment) + data


def vocabulary(split: str = "smollm", template: str = CHATML) -> dict[str, Any]:
    """Metadata of a byte-level vocabulary with two merges and ChatML's control tokens."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    letters = [chr(byte) if byte in seen else chr(256 + hidden.index(byte)) for byte in range(256)]
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*control, *letters, "he", "Ġhe", "llo"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(control) + [1] * (len(tokens) - len(control)),
        "tokenizer.ggml.merges": ["h e", "Ġ he"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": template,
    }
