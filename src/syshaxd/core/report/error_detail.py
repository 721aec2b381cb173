# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Serializes an error of the tree, so that it keeps its type from the daemon to its client."""

import json

from syshaxd.core import errors, jsontext

METADATA_KEY = "syshax-error"
"""Key of the gRPC trailer that carries it."""


def detail(error: errors.SyshaxError) -> str:
    """The error's type and attributes as ASCII JSON. The message is sent separately."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    attributes = dict(vars(error))
    if isinstance(error, errors.ConfigError):
        attributes["faults"] = [[fault.key, fault.problem] for fault in error.faults]
    return json.dumps({"type": kind.__name__, **attributes})


def restored(detail: str, message: str) -> errors.SyshaxError | None:
    """The error that `detail` describes; None: unknown here, for example from a newer daemon."""
    try:
        attributes = jsontext.loads(detail)
        kind = vars(errors)[attributes.pop("type")]
        if kind is errors.ConfigError:
            return errors.ConfigError(tuple(errors.ConfigFault(*fault) for fault in attributes["faults"]))
        return kind(message, **attributes) if issubclass(kind, errors.SyshaxError) else None
    except (ValueError, TypeError, LookupError, AttributeError):
        return None
