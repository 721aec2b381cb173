# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The simulated model: its tokenizer and its answers.

An answer depends on every byte of its prompt, and each of its tokens names its own place: a client that compares what
it got with `answer()` sees any loss, repetition, mixing up or damage, of the request as well as of the response.

Token ids tell what they stand for, so a prompt that ends in tokens of an answer is known for what it is, and goes on as
the uninterrupted answer would. Ids of prompts: up to four bytes of text, with their number above them. Ids of answers:
see `token_id`. With `wide`, some characters span two tokens, as in byte-level BPE.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

_PIECE_BYTES = 4
_SHORT_PIECE = 1 << 32
_ANSWER = 1 << 48
_PART_SHIFT = 44
_MIX = 0x9E3779B1
_WIDE_CHARACTER = "界".encode()
_WIDE_EVERY = 5
"""Of so many tokens in a row, the last two share a character."""


def tokenize(text: str) -> list[int]:
    """Returns the token ids of a prompt: one for every four bytes."""
    data = text.encode()
    whole = len(data) // _PIECE_BYTES
    ids = list(struct.unpack(f">{whole}I", data[: whole * _PIECE_BYTES]))
    if rest := data[whole * _PIECE_BYTES :]:
        ids.append(_SHORT_PIECE * len(rest) + int.from_bytes(rest, "big"))
    return ids


def count_tokens(text: str) -> int:
    """Returns how many tokens `tokenize` would return."""
    return -(-len(text.encode()) // _PIECE_BYTES)


def token_bytes(ident: int) -> bytes:
    """Returns what one token stands for; it may be a part of a character."""
    if ident < _ANSWER:
        size = ident // _SHORT_PIECE or _PIECE_BYTES
        return (ident % _SHORT_PIECE).to_bytes(_PIECE_BYTES, "big")[-size:]
    part = ident - _ANSWER >> _PART_SHIFT
    text = b" %d:%04x" % (ident >> 16 & 0xFFF_FFFF, ident & 0xFFFF)
    if part == 1:
        return text + _WIDE_CHARACTER[:2]
    return _WIDE_CHARACTER[2:] + text if part == 2 else text


def detokenize(ids: Iterable[int]) -> str:
    """Returns the text of tokens; parts of characters become U+FFFD."""
    return b"".join(map(token_bytes, ids)).decode(errors="replace")


class Detokenizer:
    """Text of an answer, token by token, as vLLM sends it: nothing while the last character is incomplete."""

    def __init__(self, prompt_ids: Sequence[int] = ()) -> None:
        """`prompt_ids`: what came before. As with vLLM, text is damaged if that ends in part of a character."""
        self._held = b""
        self._damaged = bool(prompt_ids) and detokenize(prompt_ids[-1:]).endswith("�")

    def push(self, ident: int) -> str:
        """Returns the text that the next token completes."""
        self._held += token_bytes(ident)
        text = self._held.decode(errors="replace")
        if text.endswith("�") and not self._damaged:
            return ""
        self._held = b""
        self._damaged = False
        return text


def split_ids(ids: Sequence[int]) -> tuple[bytes, int]:
    """Returns the text of the prompt proper, and how many tokens of its answer follow."""
    generated = 0
    while generated < len(ids) and ids[-1 - generated] >= _ANSWER:
        generated += 1
    return b"".join(map(token_bytes, ids[: len(ids) - generated])), generated


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


def seed_of(prompt: bytes, choice: int = 0) -> int:
    """Returns what the tokens of an answer depend on."""
    return crc32(b"%d" % choice, crc32(prompt))


def token(seed: int, index: int) -> str:
    """Returns the text of an answer's token number `index`, from 0: such as ` 17:e3a9`."""
    return f" {index}:{((seed ^ index * _MIX) * _MIX >> 16) & 0xFFFF:04x}"


def token_id(seed: int, index: int, *, wide: bool = False) -> int:
    """Returns the id of an answer's token number `index`: which part of a character it has, its place, its text."""
    part = max(0, index % _WIDE_EVERY - _WIDE_EVERY + 3) if wide else 0
    return _ANSWER + (part << _PART_SHIFT) + (index << 16) + (((seed ^ index * _MIX) * _MIX >> 16) & 0xFFFF)


def answer(prompt: str, tokens: int, choice: int = 0, *, wide: bool = False) -> str:
    """Returns the first `tokens` tokens of the answer to `prompt` (for a chat: what `render_chat` made of it)."""
    seed = seed_of(prompt.encode(), choice)
    if not wide:
        return "".join(token(seed, index) for index in range(tokens))
    detokenizer = Detokenizer()
    return "".join(detokenizer.push(token_id(seed, index, wide=True)) for index in range(tokens))
