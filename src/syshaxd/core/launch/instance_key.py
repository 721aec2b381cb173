# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The API key of an instance, for the daemon's own requests to it, and for clients' requests whose key it has checked.

Without API keys for clients, their requests pass on what the client sent. Keys are never logged: see core/secrets.
"""

from collections.abc import Mapping, Sequence

from syshaxd.core.types import InstanceSpec

_FLAG = "--api-key"
KEY_VARIABLE = "VLLM_API_KEY"


def instance_key(spec: InstanceSpec) -> str:
    """Returns the key that an instance requires, from its flag or environment; empty: none.

    Of several keys any will do. For an external instance only `env` can name one.
    """
    return _flag(spec.argv) or dict(spec.env).get(KEY_VARIABLE, "")


def own_headers(spec: InstanceSpec) -> Mapping[str, str]:
    """Returns the header fields for the daemon's own requests to an instance."""
    key = instance_key(spec)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _flag(argv: Sequence[str]) -> str:
    for position, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == _FLAG:
            if equals:
                return value
            return next(iter(argv[position + 1 : position + 2]), "")
    return ""
