# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which instances serve a request, by the model and the route that it names."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest

from syshaxd.core.errors import NotFoundError
from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.types import InstanceStatus, RuntimeKind, State
from syshaxd.core.wire.body import RequestBody
from syshaxd.core.wire.form import model_in_form
from syshaxd.gateway.bodies import conversation_of
from syshaxd.instances.catalog import Catalog
from syshaxd.instances.registry import InstanceRegistry
from tests.fakes.specs import make_spec

CHAT, EMBEDDINGS = ("POST", "/v1/chat/completions"), ("POST", "/v1/embeddings")


def registry() -> InstanceRegistry:
    """Two instances that chat, and one that computes vectors; all are ready."""
    named = {"chat-0": ("chat", "gpu"), "chat-1": ("chat", "gpu"), "vectors": ("minilm", "cpu")}
    specs = [replace(make_spec(role), name=name, served_model=model) for name, (model, role) in named.items()]
    found = InstanceRegistry(specs)
    for spec in specs:
        found.on_status(InstanceStatus(spec=spec, state=State.READY))
        names = {spec.served_model: {}, "lora": {}} if spec.name == "chat-1" else {spec.served_model: {}}
        routes = frozenset((CHAT if spec.served_model == "chat" else EMBEDDINGS, ("POST", "/tokenize")))
        found.learn(spec, Catalog(names, (), routes), None)
    return found


def asked(model: str, route: tuple[str, str] = CHAT, **more: Any) -> InferenceRequest:
    return InferenceRequest(request_id="", model=model, stream=False, method=route[0], path=route[1], **more)


def names_of(request: InferenceRequest) -> list[str]:
    return [spec.name for spec in registry().candidates(request)]


@pytest.mark.parametrize(
    ("model", "route", "names"),
    [
        ("chat", CHAT, ["chat-0", "chat-1"]),
        ("lora", CHAT, ["chat-1"]),
        ("minilm", EMBEDDINGS, ["vectors"]),
        ("minilm", ("POST", "/tokenize"), ["vectors"]),
        ("", CHAT, ["chat-0", "chat-1"]),
        ("", EMBEDDINGS, ["vectors"]),
        ("", ("POST", "/tokenize"), ["chat-0", "chat-1"]),
    ],
)
def test_a_request_goes_to_the_instances_that_serve_its_model(
    model: str, route: tuple[str, str], names: list[str]
) -> None:
    assert names_of(asked(model, route)) == names


def test_a_pinned_request_without_a_model_stays_there() -> None:
    assert names_of(asked("", ("POST", "/tokenize"), pinned="vectors")) == ["vectors"]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (asked("x"), "the model 'x' does not exist; available: chat, lora, minilm"),
        (asked("x", pinned="vectors"), "vectors does not serve the model 'x'; it serves minilm"),
        (
            asked("minilm"),
            "no instance serves POST /v1/chat/completions for the model 'minilm'; it has /v1/embeddings",
        ),
        (
            asked("chat", ("POST", "/v1/x")),
            "no instance serves POST /v1/x for the model 'chat'; it has /v1/chat/completions",
        ),
        (asked("", ("POST", "/v1/x")), "no instance serves POST /v1/x"),
        (
            asked("chat", ("POST", "/v1/x"), pinned="chat-0"),
            "chat-0 does not serve POST /v1/x for the model 'chat'; it has /v1/chat/completions",
        ),
    ],
)
def test_what_is_not_served_is_told_with_what_is(request_: InferenceRequest, text: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        registry().candidates(request_)
    assert str(caught.value) == text


def test_adapters_that_were_loaded_while_an_instance_ran_end_with_it() -> None:
    found = registry()
    (spec,) = [spec for spec in found.specs.values() if spec.name == "chat-1"]
    for state, models in ((State.DRAINING, {"chat", "lora"}), (State.STOPPED, {"chat"}), (State.READY, {"chat"})):
        found.on_status(InstanceStatus(spec=spec, state=state))
        assert set(found.instances["chat-1"].catalog.models) == models


# The model that a form names.

FORM = (
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="model"\r\nContent-Type: audio/wav\r\n\r\n%b\r\n'
    b'--B\r\nContent-Disposition: form-data; name="model"\r\n%b\r\nwhisper\r\n--B--\r\n'
)


@pytest.mark.parametrize("file", [b"", b"x\r\ny", b'--C\r\nContent-Disposition: form-data; name="model"\r\n\r\nno\r\n'])
@pytest.mark.parametrize("more", [b"", b"Content-Type: text/plain\r\n"])
@pytest.mark.parametrize("boundary", ["B", '"B"'])
def test_the_model_that_a_form_names(file: bytes, more: bytes, boundary: str) -> None:
    assert model_in_form(FORM % (file, more), f"multipart/form-data; boundary={boundary}") == "whisper"


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="model"',  # aiohttp
        b'Content-Disposition: form-data; name="model"\r\nContent-Length: 7',  # OkHttp
        b"content-disposition: form-data; name=model",
        b'Content-Disposition: form-data; filename="a;b\\".txt"; name="model"',
        b'Content-Disposition: form-data; name="model"; filename="m.txt"',
    ],
)
def test_clients_write_the_headers_of_a_field_in_any_order(head: bytes) -> None:
    other = b'--B\r\nContent-Disposition: form-data; name="file"; filename="x; name=\\"model\\""\r\n\r\nno\r\n'
    odd = b'--B\r\nContent-Disposition: form-data; name="models"\r\n\r\nno\r\n'
    form = other + odd + b"--B\r\n" + head + b"\r\n\r\nwhisper\r\n--B--\r\n"
    assert model_in_form(form, "multipart/form-data; boundary=B") == "whisper"


async def test_the_model_in_a_form_of_aiohttp() -> None:
    form = aiohttp.FormData({"model": "whisper"})
    form.add_field("file", b"RIFF", filename="a.wav", content_type="audio/wav")
    payload = form()
    data = bytearray()
    writer = SimpleNamespace(write=lambda piece: _append(data, piece))
    await payload.write(writer)  # type: ignore[arg-type]
    assert model_in_form(bytes(data), payload.content_type or "") == "whisper"


def test_a_form_of_very_many_parts_names_none() -> None:
    form = b"--B\r\nx" * 10_000 + FORM % (b"", b"")
    assert model_in_form(form, "multipart/form-data; boundary=B") == ""


async def _append(data: bytearray, piece: bytes) -> None:
    data.extend(piece)


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=X"])
def test_a_form_without_a_readable_model_names_none(content_type: str) -> None:
    assert model_in_form(FORM % (b"", b""), content_type) == ""
    assert model_in_form(b"--X", "multipart/form-data; boundary=X") == ""


# Conversations.


def turns(*texts: str, system: str = "Be brief.") -> int:
    messages = [{"role": "system", "content": system}] if system else []
    for at, text in enumerate(texts):
        messages.append({"role": "assistant" if at % 2 else "user", "content": text})
    return conversation_of(RequestBody.of({"messages": messages}))


@pytest.mark.parametrize("system", ["", "Be brief.", "s" * 20_000])
def test_all_turns_of_a_conversation_are_known_as_one(system: str) -> None:
    first = turns("Hello {you}", system=system)
    assert first
    assert turns("Hello {you}", "Hi", "And {then}?", system=system) == first
    assert turns("Hello {you}", "Hi", "And {then}?", "No", "Why?", system=system) == first


def test_other_conversations_are_others() -> None:
    assert len({turns("a"), turns("b"), turns("a", system=""), turns("a", "x", system="S"), 0}) == 5


def test_a_short_prompt_without_turns_is_no_conversation() -> None:
    assert conversation_of(RequestBody.of({"prompt": "x" * 100})) == 0
    long = [conversation_of(RequestBody.of({"prompt": "x" * 600 + end})) for end in ("a", "bcd")]
    assert long[0] == long[1] != 0
    assert conversation_of(RequestBody.of({"input": "x"})) == 0


def lengths(**told: int | None) -> InstanceRegistry:
    """Instances of one model that hold so many tokens; all are ready."""
    specs = [replace(make_spec("gpu"), name=name, served_model="chat") for name in told]
    found = InstanceRegistry(specs)
    for spec in specs:
        found.on_status(InstanceStatus(spec=spec, state=State.READY))
        card = {"id": "chat", "of": spec.name, "max_model_len": told[spec.name]}
        found.learn(spec, Catalog({"chat": card}, (), frozenset((CHAT,))), None)
    return found


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens", "names"),
    [
        (100, None, ["short", "long"]),
        (100, 900, ["long"]),  # it may have twice as many
        (600, None, ["long"]),
        (100_000, None, ["long"]),  # for none, perhaps: that is for the instance to say
    ],
)
@pytest.mark.parametrize("model", ["chat", ""])
def test_a_long_request_goes_to_the_instance_that_holds_it(
    prompt_tokens: int, max_tokens: int | None, names: list[str], model: str
) -> None:
    found = lengths(short=1000, long=8000)
    request = asked(model, prompt_tokens=prompt_tokens, max_tokens=max_tokens)
    assert [spec.name for spec in found.candidates(request)] == names
    assert [spec.name for spec in found.candidates(msgspec.structs.replace(request, pinned="short"))] == ["short"]


def test_what_hides_its_length_or_is_alone_gets_long_requests() -> None:
    for told in ({"one": 1000, "hidden": None}, {"one": None}, {"one": 1000}):
        found = lengths(**told)
        assert [spec.name for spec in found.candidates(asked("chat", prompt_tokens=9000))] == list(told)[-1:]


@pytest.mark.parametrize("told", [{"a": 512, "b": 8192}, {"a": 8192, "b": 512}, {"a": 8192, "b": None}])
def test_a_name_is_described_by_the_instance_that_holds_most(told: dict[str, int | None]) -> None:
    assert [model["max_model_len"] for model in lengths(**told).models()] == [8192]


def test_what_was_known_of_a_lost_external_server_is_asked_again() -> None:
    spec = make_spec("gpu", runtime=RuntimeKind.EXTERNAL)
    found = InstanceRegistry([spec])
    found.on_status(InstanceStatus(spec=spec, state=State.READY))
    found.learn(spec, Catalog({"tiny": {}}, ()), InstanceFacts(version="1"))
    assert found.ready
    for state in (State.UNHEALTHY, State.UNHEALTHY, State.READY):
        found.on_status(InstanceStatus(spec=spec, state=state))
        known = found.instances["gpu"]
        assert (known.discovered, known.facts, known.losses, found.ready) == (False, None, 1, ())
    found.learn(spec, Catalog({"other": {}}, ()), InstanceFacts(version="2"))
    assert found.ready
