# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the gateway reads of a request's body. The rest is the instance's business and goes there unread."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from syshaxd.core.errors import BadRequestError


class Body(BaseModel):
    """The fields of any JSON request that placement needs, or whose types are checked here."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str | None = None
    stream: bool | None = None
    max_tokens: int | None = None

    @property
    def answer_limit(self) -> int | None:
        """Tokens that the answer may have, by the request itself; None: as many as fit."""
        return self.max_tokens


class CompletionBody(Body):
    """A request of /v1/completions."""

    prompt: str | list[Any] | None = None
    """Text, texts, token ids, or lists of those. vLLM also takes `prompt_embeds` instead."""

    @property
    def answer_limit(self) -> int | None:
        """See Body; OpenAI's default, and vLLM's, is 16 tokens."""
        return 16 if self.max_tokens is None else self.max_tokens


class ChatBody(Body):
    """A request of /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = None

    @property
    def answer_limit(self) -> int | None:
        """See Body; the newer field counts."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


AnyBody = TypeVar("AnyBody", bound=Body)


def parse_body(kind: type[AnyBody], data: bytes) -> AnyBody:
    """Reads a body.

    Raises:
        BadRequestError: Not JSON, not an object, or a field of the wrong type; names the first such field.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "json_invalid":
            raise BadRequestError(f"the body is not valid JSON: {first['ctx']['error']}", code="invalid_json") from None
        if not field:
            raise BadRequestError("the body is not a JSON object", code="invalid_json") from None
        code = "missing_required_parameter" if first["type"] == "missing" else "invalid_type"
        raise BadRequestError(f"{field}: {first['msg']}", param=field, code=code) from None
