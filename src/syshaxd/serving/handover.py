# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Handover: which instances can hand over to which, and the answers that several of them make."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from msgspec.structs import replace

from syshaxd.core.events import EventKind
from syshaxd.core.handover.bodies import CHAT_PATH
from syshaxd.core.handover.dialect import ConnectorDialect, HandoverDialect
from syshaxd.core.handover.held_back import held_back_chars
from syshaxd.core.handover.pairs import (
    KNOWN_TOOL_PARSERS,
    TOOL_PARSER,
    InstanceFacts,
    Refusal,
    grammar_fault,
    reasoning_parser,
    refusal,
    tool_parser,
)
from syshaxd.core.handover.reasoning import REASONING_PARSERS
from syshaxd.core.handover.rules import grammar_field, may_call_tools, split_of, whole_answer_because
from syshaxd.core.handover.syshax import SyshaxDialect
from syshaxd.core.placement.decision import InferenceRequest, Offload
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.slots import Grant
from syshaxd.core.types import HandoverProtocol, InstanceSpec
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.serving.request import Request
from syshaxd.serving.runner import Runner
from syshaxd.serving.runner.movable import MovableAnswer
from syshaxd.serving.runner.relayed import RelayedAnswer
from syshaxd.system.events import EventLog

_log = logging.getLogger(__name__)

Answer = RelayedAnswer | MovableAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverPolicy:
    """Which hand-overs the configuration allows."""

    enabled: bool = True
    migrate: bool = True
    """Running streams may migrate, too."""
    across_weights: bool = True
    """Instances with different weights of the model may hand over to each other."""


class Handover:
    """Knows the pairs of instances, and chooses who makes an answer. Lives in one event loop."""

    def __init__(
        self,
        registry: InstanceRegistry,
        runner: Runner,
        *,
        policy: HandoverPolicy,
        pair_refusal: Callable[[str, str], Refusal] = lambda source, target: Refusal(),
    ) -> None:
        """Finds the pairs that are possible.

        Args:
            registry: All instances.
            runner: Carries out the parts.
            policy: What may be handed over.
            pair_refusal: Says why two instances, by name, must not hand over although they could.
        """
        self._registry = registry
        self._runner = runner
        self._policy = policy
        self._pair_refusal = pair_refusal
        self._facts: dict[str, InstanceFacts] = {}
        self._max_tokens = math.inf
        """That every instance holds, as far as they have told."""
        self._parsers: dict[str, str] = {}
        """Reasoning parsers, by the names of their models."""
        self._tool_parsers: dict[str, str] = {}
        """Parsers of tool calls, likewise."""
        self._grammar_faults: dict[str, str] = {}
        """Why grammars are not taken up, likewise."""
        self._fixed_parsers: frozenset[str] = frozenset()
        """Reasoning parsers whose answers stay on one instance."""
        self._takes_chat_ids = True
        """A chat continues as a chat on every instance."""
        self._dialects: dict[HandoverProtocol, HandoverDialect] = {
            HandoverProtocol.CONNECTOR: ConnectorDialect(),
            HandoverProtocol.SYSHAX: SyshaxDialect(),
        }
        self._paths: frozenset[str] = frozenset()
        """The routes whose answers can be split."""
        self._prompt_paths: frozenset[str] = frozenset()
        """The routes of which one instance can compute the prompt for another."""
        self._movable = False
        self._sources: frozenset[str] = frozenset()
        """Instances whose streams start in a form that can migrate, now or once a temporary obstacle is gone."""
        self._answers: WeakSet[MovableAnswer] = WeakSet()
        self.pairs: frozenset[tuple[str, str]] = frozenset()
        """Source and target of every hand-over that is possible."""
        registry.subscribe(self.refresh)

    def set_policy(self, policy: HandoverPolicy) -> None:
        """Sets which hand-overs are allowed from now on."""
        self._policy = policy
        self.refresh()

    def refresh(self) -> None:
        """Finds the possible pairs again."""
        facts = {name: known.facts for name, known in self._registry.instances.items() if known.facts is not None}
        self._facts.clear()  # running requests read it, too
        self._facts.update(facts)
        lengths = [fact.max_model_len for fact in facts.values() if fact.max_model_len]
        self._max_tokens = min(lengths, default=math.inf)
        refusals = self._refusals()
        self.pairs = frozenset(pair for pair, why in refusals.items() if not why)
        # A new generation is compared some seconds after its start: streams that begin before that may move after it.
        self._sources = frozenset(source for (source, _), why in refusals.items() if not (why and why.lasting))
        protocols = {self._registry.specs[source].protocol for source in self._sources}
        dialects = [self._dialects[protocol] for protocol in protocols]
        self._paths = _in_all(dialect.paths for dialect in dialects)
        self._prompt_paths = _in_all(dialect.prompt_paths for dialect in dialects)
        specs = [spec for spec in self._registry.specs.values() if reasoning_parser(spec)]
        self._parsers = _by_model(self._registry.specs.values(), reasoning_parser)
        self._tool_parsers = _by_model(self._registry.specs.values(), tool_parser)
        self._grammar_faults = _by_model(self._registry.specs.values(), grammar_fault)
        # Older versions continue a chat as a text, which has no parser.
        old = {reasoning_parser(spec) for spec in specs if not _takes_chat_ids(facts.get(spec.name))}
        self._fixed_parsers = (frozenset(self._parsers.values()) - REASONING_PARSERS.keys()) | old
        self._takes_chat_ids = all(map(_takes_chat_ids, facts.values()))
        self._movable = self._policy.migrate and all(dialect.movable for dialect in dialects)
        for answer in self._answers:
            if answer.spec is not None and self._has_targets(answer.spec.name):
                answer.recoverable = True  # for good: the pair is gone once its source has failed

    def report(self) -> dict[tuple[str, str], str]:
        """Why each source cannot hand over to each target; empty: it can."""
        return {pair: why.reason for pair, why in self._refusals().items()}

    def _refusals(self) -> dict[tuple[str, str], Refusal]:
        return {
            (source.name, target.name): self._refusal(source, target)
            for source in self._registry.specs.values()
            for target in self._registry.specs.values()
            if source is not target and source.served_model == target.served_model
        }

    def _refusal(self, source: InstanceSpec, target: InstanceSpec) -> Refusal:
        if not self._policy.enabled:
            return Refusal("offload.enabled is false")
        of_themselves = refusal(source, target, self._facts, across_weights=self._policy.across_weights)
        if of_themselves and of_themselves.lasting:
            return of_themselves
        of_both = self._pair_refusal(source.name, target.name)
        return of_both if of_both and of_both.lasting else of_themselves or of_both

    def examine(self, request: Request) -> InferenceRequest:
        """Returns what placement needs to know about a request, with whether it can be split."""
        inference, body, path = request.inference, request.fields, request.path
        if body is None or request.method != "POST" or not (path in self._paths or path in self._prompt_paths):
            return inference
        why, stays = split_of(body)
        if not stays and path not in self._paths:
            stays = f"{path}: only chats and texts continue on another instance"
        stays = stays or self._parser_reason(inference, body) or self._grammar_reason(inference, body)
        if not stays and path == CHAT_PATH and body.short("logprobs") and not self._takes_chat_ids:
            stays = "logprobs: before vLLM 0.32 a chat continues as a text, which reports them in another form"
        if not why and path not in self._prompt_paths:
            why = stays or whole_answer_because(body)
        if not why and inference.pinned is not None:
            why = "the client asks for one instance"
        if not why and inference.full_weights and any(spec.weights for spec in self._registry.specs.values()):
            why = "the client asks for the full weights"
        if not why and (inference.max_tokens or 0) > self._max_tokens:
            why = f"max_tokens: over the {self._max_tokens:.0f} tokens that an instance holds"
        movable = self._movable and not (why or stays) and not inference.offload
        return replace(inference, whole_because=why, stays_because=why or stays, movable=movable)

    def _parser_reason(self, inference: InferenceRequest, body: Mapping[str, Any]) -> str:
        """Why a chat's answer stays on one instance for its parsers; empty: it need not."""
        if inference.path != CHAT_PATH:
            return ""
        parser = self._parsers.get(inference.model)
        if not parser and "tools" not in body:
            return ""
        calls_tools = may_call_tools(body)
        if parser in self._fixed_parsers:
            return f"reasoning-parser {parser}: its state stays behind"
        if parser and not inference.stream:
            return f"reasoning-parser {parser}: only streams continue"
        if (parser or calls_tools) and held_back_chars(body):
            return "stop: parsers get text later than its tokens"
        finds_calls = self._tool_parsers.get(inference.model, "")
        if calls_tools and (finds_calls not in KNOWN_TOOL_PARSERS or not self._takes_chat_ids):
            return f"{TOOL_PARSER} {finds_calls or 'not known'}: its state stays behind"
        return ""

    def _grammar_reason(self, inference: InferenceRequest, body: Mapping[str, Any]) -> str:
        """Why an answer stays on one instance for its grammar; empty: it need not."""
        field = grammar_field(body)
        if not field:
            return ""
        if may_call_tools(body):
            return f"{field}: with tools, its grammar is another one"
        if not self._takes_chat_ids:
            return f"{field}: before vLLM 0.32, its state stays behind"
        if inference.path != CHAT_PATH and inference.model in self._parsers:
            return f"{field}: outside chats, it begins where the reasoning-parser finds the end of reasoning"
        fault = self._grammar_faults.get(inference.model, "")
        return f"{field}: {fault}" if fault else ""

    def answer(self, request: Request, grant: Grant, *, last_try: bool) -> Answer:
        """Makes the answer that runs a request on its slots.

        Args:
            request: The request, examined.
            grant: Its slots.
            last_try: There is no other instance to ask: its own error is the answer.
        """
        if not self._is_movable(request.inference, grant):
            return RelayedAnswer(self._runner, request, grant.slots[0], last_try=last_try)
        spec = grant.slots[-1].spec
        answer = MovableAnswer(
            self._runner,
            request,
            grant,
            self._dialects[spec.protocol],
            self._facts,
            movable=self._policy.migrate and not request.inference.stays_because,
            from_prompt=bool(
                request.inference.stays_because or reasoning_parser(spec) or whole_answer_because(request.fields or {})
            ),
            recoverable=isinstance(grant.placement, Offload) or self._has_targets(spec.name),
            last_try=last_try,
        )
        self._answers.add(answer)
        return answer

    def _is_movable(self, request: InferenceRequest, grant: Grant) -> bool:
        if isinstance(grant.placement, Offload):
            return True
        if request.stays_because:
            return False
        spec = grant.slots[-1].spec
        dialect = self._dialects.get(spec.protocol)
        movable = self._policy.migrate and dialect is not None and dialect.movable
        return movable and request.stream and spec.name in self._sources

    def _has_targets(self, name: str) -> bool:
        return any(source == name for source, _ in self.pairs)


def _in_all(paths: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str].intersection(*found) if (found := list(paths)) else frozenset()


def _by_model(specs: Iterable[InstanceSpec], value_of: Callable[[InstanceSpec], str]) -> dict[str, str]:
    """Values of instances that have one, by the names of their models; one of them for requests that name none."""
    return {
        name: value for spec in specs if (value := value_of(spec)) for name in (spec.served_model, *spec.aliases, "")
    }


def _takes_chat_ids(facts: InstanceFacts | None) -> bool:
    return facts is not None and facts.takes_chat_ids


def report_handovers(request: Request, events: EventLog) -> None:
    """Logs the hand-overs of a request that has ended, and records those that failed among the events."""
    for handover in request.handovers:
        text = f"request {request.id}: {handover}"
        if handover.failed:
            events.add(EventKind.HANDOVER, text, instance=handover.target)
        if handover.failed or handover.cause is not Cause.OFFLOAD:
            _log.info("%s", text, extra={"request_id": request.id})
