# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whether one instance can hand over to another, and if not, why."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from syshaxd.core.handover.connector import identity
from syshaxd.core.types import HandoverProtocol, InstanceSpec

_CHAT_IDS_SINCE = (0, 32)
"""The first vLLM known to take a chat's prompt as tokens. 0.26 does not."""
_VERSION = re.compile(r"(\d+)\.(\d+)")
REASONING_PARSER = "reasoning-parser"
"""The flag that names what separates a chat's reasoning from its answer."""
TOOL_PARSER = "tool-call-parser"
"""The flag that names what finds the calls of tools in a chat's answer."""
KNOWN_TOOL_PARSERS = frozenset(("hermes",))
"""Parsers of tool calls whose work the daemon does for the rest of an answer (hermes.py)."""
GRAMMARS = "structured-outputs-config"
"""The flag that says how grammars are applied."""
# Flags whose values must agree. Those of an external instance are unknown.
_SAME_FLAGS = (
    "dtype",
    "kv-cache-dtype",
    "revision",
    "tokenizer",
    "tokenizer-revision",
    "rope-scaling",
    "rope-theta",
    "rope-parameters",
    "hf-overrides",
    REASONING_PARSER,
    TOOL_PARSER,
    GRAMMARS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFacts:
    """What an instance reported of itself when it became ready."""

    version: str = ""
    """Of vLLM; empty: not reported."""
    max_model_len: int | None = None
    """Tokens of prompt and answer together."""
    probe_ids: tuple[int, ...] = ()
    """The tokens that it makes of a fixed chat; empty: not reported."""
    arena_fault: str = ""
    """Why it can't keep KV caches for others, for a person; empty: it can, or that can't be seen."""

    @property
    def takes_chat_ids(self) -> bool:
        """A chat's prompt may be given as tokens."""
        found = _VERSION.match(self.version)
        return found is not None and (int(found[1]), int(found[2])) >= _CHAT_IDS_SINCE


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one instance cannot hand over to another. False in a condition: it can."""

    reason: str = ""
    """For a person; empty: it can."""
    lasting: bool = True
    """It holds as long as the two are what they are. If false, it may be gone while a stream still runs."""

    def __bool__(self) -> bool:
        return bool(self.reason)


def refusal(
    source: InstanceSpec, target: InstanceSpec, facts: Mapping[str, InstanceFacts], *, across_weights: bool = True
) -> Refusal:
    """Why `source` cannot hand over to `target`.

    Args:
        source: Who computes the first part.
        target: Who computes the rest.
        facts: Of each instance that has been ready, by name.
        across_weights: They may have different weights of the model.
    """
    mine, other = source.weights_text, target.weights_text
    if mine != other and not across_weights:
        return Refusal(f"their weights differ ({mine} and {other}), and offload.across_weights is false")
    if lasting := _spec_refusal(source, target):
        return Refusal(lasting)
    for spec in (source, target):
        if spec.name not in facts:
            return Refusal(f"{spec.name} has not been ready yet", lasting=False)
    return Refusal(_facts_refusal(source.name, facts[source.name], target.name, facts[target.name]))


def _spec_refusal(source: InstanceSpec, target: InstanceSpec) -> str:
    without = [spec for spec in (source, target) if spec.protocol is HandoverProtocol.NONE]
    if without:
        doubts = [f"{spec.name}: {spec.protocol_doubt}" for spec in without if spec.protocol_doubt]
        return doubts[0] if doubts else f"services.{without[0].name}.protocol is none"
    if source.protocol is not target.protocol:
        return f"their protocols differ: {source.protocol} and {target.protocol}"
    if source.served_model != target.served_model:
        return f"their models differ: {source.served_model} and {target.served_model}"
    if source.argv and target.argv and (why := _model_refusal(source, target)):
        return why
    for flag in _SAME_FLAGS:
        mine, other = flag_value(source, flag), flag_value(target, flag)
        if mine != other and source.argv and target.argv:
            return f"their {flag} differs: {mine or 'not set'} and {other or 'not set'}"
    return ""


def _facts_refusal(source: str, mine: InstanceFacts, target: str, other: InstanceFacts) -> str:
    for name, facts in ((source, mine), (target, other)):
        if facts.arena_fault:
            return f"{name}: {facts.arena_fault}"
    if mine.probe_ids and other.probe_ids and mine.probe_ids != other.probe_ids:
        return "their tokenizers or chat templates differ"
    if mine.max_model_len and other.max_model_len and other.max_model_len < mine.max_model_len:
        return (
            f"{target} holds {other.max_model_len} tokens a request, {source} {mine.max_model_len}: see max-model-len"
        )
    return ""


def _model_refusal(source: InstanceSpec, target: InstanceSpec) -> str:
    """The connector would load nothing of another model's, and of another quantisation's."""
    if source.protocol is not HandoverProtocol.CONNECTOR:
        return ""
    mine, other = identity(source.argv), identity(target.argv)
    if mine != other or (not mine and source.model != target.model):
        return f"their models' files differ (weights, configuration): {source.model} and {target.model}"
    return ""


def tool_parser(spec: InstanceSpec) -> str:
    """What finds the calls of tools in a chat's answer, and what holds these to a grammar; empty: not known."""
    parser, level = flag_value(spec, TOOL_PARSER), flag_value(spec, "tool-strict-level")
    return parser if level in {"", "auto"} else f"{parser}, tool-strict-level {level}"


def reasoning_parser(spec: InstanceSpec) -> str:
    """What separates a chat's reasoning from its answer; empty: nothing, or not known."""
    return flag_value(spec, REASONING_PARSER)


def grammar_fault(spec: InstanceSpec) -> str:
    """Why it cannot take up a grammar in the middle of an answer; empty: it can."""
    if not spec.argv or spec.protocol is not HandoverProtocol.CONNECTOR:
        return f"{spec.name} is not known to have a connector that takes up a grammar"
    return "it may include reasoning" if "in_reasoning" in flag_value(spec, GRAMMARS) else ""


def flag_value(spec: InstanceSpec, flag: str) -> str:
    """The value that an instance's command line gives a flag, or the keys of its JSON value; empty: none."""
    return _flag_value(spec.argv, flag)


@lru_cache(maxsize=1024)  # it is asked for by each request
def _flag_value(argv: tuple[str, ...], flag: str) -> str:
    found = []
    for at, part in enumerate(argv):
        name, equals, value = part.partition("=")
        if name == f"--{flag}" or name.startswith(f"--{flag}."):
            key = name.removeprefix(f"--{flag}")
            found.append(f"{key} {value if equals else next(iter(argv[at + 1 : at + 2]), '')}".lstrip())
    return "; ".join(sorted(found))
