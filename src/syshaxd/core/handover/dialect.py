# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How instances are asked to hand over: the seam for protocols other than the connector's."""

from collections.abc import Mapping
from typing import Any, Protocol

from syshaxd.core.handover.bodies import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    MESSAGES_PATH,
    RESPONSES_PATH,
    continuation_body,
    loading_body,
    movable_body,
    prefill_body,
    prompt_body,
)
from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.handover.so_far import AnswerSoFar


class HandoverDialect(Protocol):
    """The requests of one protocol."""

    movable: bool
    """Running streams can be moved, too; else only a prefill is handed over."""
    paths: frozenset[str]
    """The routes whose answers can be split."""
    prompt_paths: frozenset[str]
    """The routes of which an instance can compute the prompt for another."""
    to_be_continued: frozenset[str]
    """Values of `finish_reason` that mean: ask again for the rest."""

    def prefill(self, body: Mapping[str, Any], key: str, path: str, *, prompt_only: bool) -> bytes:
        """The request for the first token, whose answer is one JSON object.

        Args:
            body: The client's.
            key: Key under which to hand over.
            path: The client's route.
            prompt_only: The token is not used: the target makes it again.
        """

    def load_key(self, answer: Mapping[str, Any], key: str) -> str | None:
        """Where a prefill's answer, or an event of a part that is to be continued, says that its KV cache is.

        None: nowhere.
        """

    def size_bytes(self, answer: Mapping[str, Any]) -> int:
        """How much the prefill's answer says is handed over; 0: not reported."""

    def whole(self, body: Mapping[str, Any], *, load: str | None, save: str | None) -> bytes:
        """The request for all of the answer.

        Args:
            body: The client's.
            load: Key of the prompt's KV cache that was handed over, if any.
            save: Key under which to hand over in turn, if the stream is to be movable.
        """

    def continuation(
        self, body: Mapping[str, Any], so_far: AnswerSoFar, facts: InstanceFacts, *, load: str | None, save: str | None
    ) -> tuple[str, bytes]:
        """Path and body of the request for the rest, as a stream.

        Args:
            body: The client's.
            so_far: What has been delivered.
            facts: The instance that gets it.
            load: Key of the KV cache that was handed over, if any.
            save: Key under which to hand over in turn, if the stream is to be movable.
        """


class ConnectorDialect:
    """That of vLLM with syshax_connector."""

    movable = True
    paths = frozenset((CHAT_PATH, COMPLETIONS_PATH))
    prompt_paths = paths | {RESPONSES_PATH, MESSAGES_PATH}
    to_be_continued: frozenset[str] = frozenset()

    def prefill(self, body: Mapping[str, Any], key: str, path: str, *, prompt_only: bool) -> bytes:
        """HandoverDialect."""
        return prompt_body(body, key, path) if prompt_only else prefill_body(body, key)

    def load_key(self, answer: Mapping[str, Any], key: str) -> str | None:
        """HandoverDialect: the connector may have refused to save."""
        return key if _told(answer).get("state") == "saving" else None

    def size_bytes(self, answer: Mapping[str, Any]) -> int:
        """HandoverDialect."""
        return int(_told(answer).get("bytes") or 0)

    def whole(self, body: Mapping[str, Any], *, load: str | None, save: str | None) -> bytes:
        """HandoverDialect."""
        return loading_body(body, load) if save is None else movable_body(body, save, load)

    def continuation(
        self, body: Mapping[str, Any], so_far: AnswerSoFar, facts: InstanceFacts, *, load: str | None, save: str | None
    ) -> tuple[str, bytes]:
        """HandoverDialect: by token ids, on the chat's own route if the instance understands them there."""
        understood = facts.takes_chat_ids and (bool(body.get("logprobs")) or not so_far.thinks_again)
        chat = so_far.chat and understood
        rest = continuation_body(
            body,
            chat=chat,
            prompt_ids=so_far.prompt_ids,
            generated_ids=so_far.token_ids,
            grammar_tokens=so_far.grammar_tokens,
            plain_text=so_far.may_call_tools,
            keeps_special_tokens=so_far.keeps_special_tokens,
            max_model_len=facts.max_model_len,
            load=load,
            save=save,
        )
        return CHAT_PATH if chat else COMPLETIONS_PATH, rest


def _told(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    return (answer.get("kv_transfer_params") or {}).get("syshax") or {}
