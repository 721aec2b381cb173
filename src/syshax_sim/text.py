# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The simulated model: what it makes of a prompt.

An answer depends on every byte of its prompt, and each of its tokens names its own place: a client that compares what
it got with `answer()` sees any loss, repetition, mixing up or damage, of the request as well as of the response.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

VOCABULARY = 32_000
_PIECE_BYTES = 4
_MIX = 0x9E3779B1


def tokenize(text: str) -> list[int]:
    """Returns the token ids of a prompt: one for every four bytes."""
    data = text.encode()
    return [crc32(data[at : at + _PIECE_BYTES]) % VOCABULARY for at in range(0, len(data), _PIECE_BYTES)]


def count_tokens(text: str) -> int:
    """Returns how many tokens `tokenize` would return."""
    return -(-len(text.encode()) // _PIECE_BYTES)


def render_chat(messages: Sequence[Mapping[str, Any]]) -> str:
    """Returns the prompt that the chat template makes of `messages`."""
    turns = [f"<|{message.get('role', '')}|>{_text(message.get('content'))}\n" for message in messages]
    return "".join(turns) + "<|assistant|>"


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return ""


def seed_of(prompt: str, choice: int = 0) -> int:
    """Returns what the tokens of an answer depend on."""
    return crc32(b"%d" % choice, crc32(prompt.encode()))


def token(seed: int, index: int) -> str:
    """Returns the text of an answer's token number `index`, from 0: such as ` 17:e3a9`."""
    return f" {index}:{((seed ^ index * _MIX) * _MIX >> 16) & 0xFFFF:04x}"


def token_id(seed: int, index: int) -> int:
    """Returns the id of an answer's token number `index`."""
    return ((seed ^ index * _MIX) * _MIX >> 16) % VOCABULARY


def answer(prompt: str, tokens: int, choice: int = 0) -> str:
    """Returns the first `tokens` tokens of the answer to `prompt` (for a chat: what `render_chat` made of it)."""
    seed = seed_of(prompt, choice)
    return "".join(token(seed, index) for index in range(tokens))
