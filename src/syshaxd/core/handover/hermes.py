# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What vLLM's parser `hermes` sends of a chat's text, for an answer that another instance has begun.

An instance's own parser knows only the text that this instance has made. So an instance that continues an answer gives
plain text, and the calls in it are found here.

Source: vLLM 0.32.0, vllm/tool_parsers/hermes_tool_parser.py.
"""

import re
import secrets
from typing import Any

from syshaxd.core import jsontext

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_NAME = re.compile(r'"name"\s*:\s*"([^"]+)"')
_ARGUMENTS = re.compile(r'"arguments"\s*:\s*')


class HermesParser:
    """Takes the text of one answer, piece by piece; gives what the client gets of it."""

    __slots__ = ("_arguments", "_calls", "_inside", "_name", "_rest", "_stuck")

    def __init__(self, text: str = "") -> None:
        """`text`: what has come already."""
        self._rest = ""  # what may open a call, or all that is inside the open one
        self._calls = 0
        self._inside = self._stuck = False
        self._name = self._arguments = ""  # as sent of the last call
        self.push(text)

    def push(self, text: str, *, last: bool = False) -> dict[str, Any]:
        """Returns the delta for a piece of text; empty: nothing can be sent yet. `last`: the answer ends with it."""
        if self._stuck:
            return {}
        self._rest += text
        content, sent = "", []
        while not self._stuck:
            if not self._inside:
                content += self._leave_text()
                if not self._inside:
                    break
            call, closing, behind = self._rest.partition(CLOSING)
            if not closing:
                sent += self._unsent(call[: len(call) - _overlap(call, CLOSING)].strip(), closed=False)
                break
            sent += self._unsent(call.strip(), closed=True)
            self._rest, self._inside = behind, False
            self._stuck = not self._name  # vLLM sends no call behind one without a name
        if last and sent and not self._arguments:
            function = sent[-1]["function"]
            function["arguments"] = function.get("arguments", "") + "{}"
        delta: dict[str, Any] = {"content": content} if content else {}
        return delta | {"tool_calls": sent} if sent else delta

    def _leave_text(self) -> str:
        """Takes the text before the next call from the rest; returns what is sent of it: nothing, behind a call."""
        text, opening, behind = self._rest.partition(OPENING)
        end = len(text) - (0 if opening else _overlap(text, OPENING))
        content = "" if self._calls else text[:end]
        self._rest = behind if opening else text[end:]
        if opening:
            self._inside, self._name, self._arguments = True, "", ""
            self._calls += 1
        return content

    def _unsent(self, call: str, *, closed: bool) -> list[dict[str, Any]]:
        """What is new of the open call, of which this much is known."""
        sent: list[dict[str, Any]] = []
        index = self._calls - 1
        if not self._name:
            found = _NAME.search(call)
            if found is None:
                return sent
            self._name = found[1]
            call_id = f"chatcmpl-tool-{secrets.token_hex(8)}"
            sent.append({"id": call_id, "type": "function", "index": index, "function": {"name": self._name}})
        known = len(self._arguments)
        if found := _ARGUMENTS.search(call):
            arguments = call[found.end() :]
            if closed or (call.endswith("}") and _is_complete(call)):
                arguments = arguments.rstrip().removesuffix("}").rstrip()
            if len(arguments) > known:
                self._arguments = arguments
                sent.append({"index": index, "function": {"arguments": arguments[known:]}})
        return sent


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of a text may begin a tag."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)


def _is_complete(text: str) -> bool:
    try:
        jsontext.loads(text)
    except ValueError:
        return False
    return True
