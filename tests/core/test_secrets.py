# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import json
import shlex
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.config import known_keys
from syshaxd.core.secrets import HIDDEN, is_private, is_secret, safe_text, safe_value, safe_words, secret_values

NAMES = [
    *(
        "api-key",
        "api_key",
        "hf-token",
        "HF_TOKEN",
        "OPENAI_KEY",
        "VLLM_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
    ),
    *(
        "PGPASSWORD",
        "db-password",
        "MYSQL_PWD",
        "S3_SECRET",
        "SECRET_KEY_BASE",
        "GITHUB_PAT",
        "apiKey",
        "authToken",
        "API_KEYS",
    ),
    *("SSH_PASS", "MY_CREDS", "SLACK_WEBHOOK", "SENTRY_DSN"),
    *("HUGGING_FACE_HUB_TOKEN", "MY_TOKEN_2", "key-passphrase", "kv-transfer-config.extra.password", "proxy_auth"),
]
HARMLESS = [
    *("models.params.test_tokens", "services.cpu.args.max-num-batched-tokens", "x.KEYS", "control.tcp.key", "PATH"),
    *("TOKENIZERS_PARALLELISM", "ssl-keyfile", "HF_TOKEN_PATH", "tokenizer", "tokenizer-mode", "OMP_NUM_THREADS"),
    *("public-key", "monkey", "keyboard", "authors", "pattern", "max-model-len", "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH"),
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)
    assert is_secret(f"services.cpu.env.{name}")
    assert is_private(f"services.cpu.args.{name}")


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_names(name: str) -> None:
    assert not is_secret(name)


def test_the_configuration_has_no_secrets_of_its_own() -> None:
    assert not [key for key in known_keys() if is_secret(key)]


# What no rule would take for something else.
secrets = st.text("zqZQ4_-+", min_size=6, max_size=20).map(lambda text: f"q{text}q")
names = st.sampled_from(NAMES)
words = st.sampled_from(
    ["and", "then:", "gpu", "(what)", "'so'", "--port", "8001", "{", "}", ",", "https://example.org/a"]
)

FORMS = st.sampled_from(
    [
        lambda name, value: f"{name}={value}",
        lambda name, value: f"--{name}={value}",
        lambda name, value: f"--{name} {value}",
        lambda name, value: f"EXTRA=--{name}={value}",
        lambda name, value: f"EXTRA='--port=1 --{name} {value}'",
        lambda name, value: f"--{name} {shlex.quote(value + ' ' + value)}",
        lambda name, value: repr(["serve", f"--{name}", value]),
        lambda name, value: json.dumps([f"--{name}", value]),
        lambda name, value: json.dumps({name: value}),
        lambda name, value: repr({name: value}),
        lambda name, value: repr({name: [value, value]}),
        lambda name, value: f"https://user:{value}@host/path",
        lambda name, value: f"redis://:{quote(value)}@host:1",
        lambda name, value: f"http://{value}@host",
        lambda name, value: f"https://host/x?a=1&{name}={value}&b=2",
        lambda name, value: f"Authorization: Bearer {value}",
    ]
)


@given(form=FORMS, name=names, value=secrets, before=words, after=words)
def test_no_form_of_a_secret_is_left_in_a_text(form, name: str, value: str, before: str, after: str) -> None:  # type: ignore[no-untyped-def]
    shown = safe_text(f"{before} {form(name, value)} {after}")
    assert value not in shown
    assert HIDDEN in shown
    assert shown.startswith(before.partition("=")[0])
    assert safe_text(shown) == shown


@given(st.lists(words))
def test_other_texts_stay_as_they_are(parts: list[str]) -> None:
    text = " ".join(parts)
    assert safe_text(text) == text
    assert safe_words(parts) == parts


@given(name=names, values=st.lists(secrets, min_size=1), equals=st.booleans())
def test_command_lines(name: str, values: list[str], equals: bool) -> None:
    given_as = [f"--{name}={values[0]}"] if equals else [f"--{name}", *values]
    shown = safe_words(["vllm", "serve", "/m", *given_as, "--port", "8001"])
    assert not [value for value in values if value in " ".join(shown)]
    assert (shown[:3], shown[-2:]) == (["vllm", "serve", "/m"], ["--port", "8001"])


@given(name=names, value=secrets, wrap=st.sampled_from([lambda v: v, lambda v: [v], lambda v: {"a": [{"b": 1}, v]}]))
def test_values(name: str, value: str, wrap) -> None:  # type: ignore[no-untyped-def]
    assert value not in str(safe_value("settings", {name: wrap(value), "port": 8001}))
    assert safe_value("settings", {"port": 8001, "on": True, "off": None}) == {"port": 8001, "on": True, "off": None}


def test_an_error_that_names_a_key_stays_readable() -> None:
    text = "services.cpu.env.HF_TOKEN: must be text or a number; see services.cpu.args.api-key"
    assert safe_text(text) == text


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    assert safe_text(safe_text(text)) == safe_text(text)
    assert isinstance(safe_words([text]), list)


@pytest.mark.parametrize(
    "piece",
    [
        "x",
        "a-",
        "-",
        "a=",
        "token=",
        "a=--",
        "k=[",
        'k="',
        "k='",
        "'k':[",
        "--k ",
        "sk-",
        "://",
        "a://",
        "Bearer ",
        "eyJ",
        '"',
        "\\",
        " ",
    ],
)
def test_a_long_hostile_text_costs_no_more_than_a_long_one(piece: str) -> None:
    assert safe_text(piece * (200_000 // len(piece)))  # in quadratic time this would take hours


def test_long_secrets() -> None:
    for value in ("q" * 5000, f"'{'q' * 5000}'", f'"{"q" * 5000}"'):
        assert "qqq" not in safe_text(f"HF_TOKEN={value} --api-key {value}")


@given(name=names, value=secrets, before=words, after=words)
def test_what_a_server_was_given_is_hidden_in_any_form(name: str, value: str, before: str, after: str) -> None:
    """An engine may quote a secret without its name."""
    text = f"{before} the token `{value}` is not valid; \x1b[1m{value}\x1b[0m {after}"
    for argv, env in (
        ([f"--{name}", value], []),
        ([f"--{name}={value}", "--port", "8001"], []),
        (["--config", json.dumps({name: value})], []),
        (["--endpoint", f"http://host/?{name}={value}"], []),
        ([], [(name, value)]),
        ([], [("HTTP_PROXY", f"http://bob:{value}@host:1/"), ("A", "x")]),
    ):
        shown = safe_text(text, secret_values(argv, env))
        assert value not in shown
        assert shown == text.replace(value, HIDDEN)


def test_short_values_are_left_as_they_are_words_of_other_texts() -> None:
    assert secret_values(["--api-key", "EMPTY"], [("HF_TOKEN", ""), ("PORT", "8001"), ("HOST", "localhost")]) == ()
