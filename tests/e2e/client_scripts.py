# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What users' programs do with an endpoint: `python client_scripts.py CLIENT URL MODEL`.

Runs in an environment with the clients, not in that of the tests.
"""

import sys

QUESTION = {"role": "user", "content": "Hello"}


def run_openai(url: str, model: str) -> None:
    """Chats, texts and responses, whole and streamed."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    chat = {"model": model, "messages": [QUESTION], "max_tokens": 12, "temperature": 0, "seed": 1}
    whole = client.chat.completions.create(**chat)
    pieces = client.chat.completions.create(**chat, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    text = {"model": model, "prompt": "Hello", "max_tokens": 12, "temperature": 0}
    pieces = client.completions.create(**text, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == client.completions.create(**text).choices[0].text
    ask = {"model": model, "input": "Hello", "max_output_tokens": 12, "temperature": 0}
    response = client.responses.create(**ask)
    assert response.output_text
    events = list(client.responses.create(**ask, stream=True))
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(texts) == response.output_text
    try:
        client.chat.completions.create(model="gpt-9", messages=[QUESTION])
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"  # noqa: PT017 - pytest is not here
    else:
        raise AssertionError("an unknown model was found")


def run_anthropic(url: str, model: str) -> None:
    """Messages, whole and streamed, their tokens, and an error."""
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    ask = {"model": model, "messages": [QUESTION], "max_tokens": 12, "extra_body": {"temperature": 0}}
    whole = client.messages.create(**ask, system="Be brief.", stop_sequences=["zzz"])
    assert whole.usage.output_tokens == 12
    assert whole.stop_reason == "max_tokens"
    with client.messages.stream(**ask, system="Be brief.", stop_sequences=["zzz"]) as stream:
        text = "".join(stream.text_stream)
        assert [text] == [block.text for block in whole.content]
        assert stream.get_final_message().usage.output_tokens == 12
    assert client.messages.count_tokens(model=model, messages=[QUESTION]).input_tokens > 2
    try:
        client.messages.create(model="claude-9", messages=[QUESTION], max_tokens=9)
    except anthropic.NotFoundError as error:
        assert error.body["error"]["type"] == "not_found_error"  # noqa: PT017 - pytest is not here
    else:
        raise AssertionError("an unknown model was found")


def run_langchain(url: str, model: str) -> None:
    """What an agent's framework asks: stop strings, log-probabilities, streams."""
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=model, temperature=0, max_tokens=12, max_retries=0)
    whole = chat.invoke("Hello", stop=["zzz"])
    assert whole.usage_metadata["output_tokens"] == 12
    assert "".join(piece.content for piece in chat.stream("Hello")) == whole.content
    assert len(chat.bind(logprobs=True).invoke("Hello").response_metadata["logprobs"]["content"]) == 12


def run_litellm(url: str, model: str) -> None:
    """A library for many providers: as an OpenAI server and as an Anthropic one."""
    import litellm

    ask = {"messages": [QUESTION], "max_tokens": 12, "temperature": 0, "api_key": "none", "num_retries": 0}
    whole = litellm.completion(model=f"openai/{model}", api_base=f"{url}/v1", **ask)
    pieces = litellm.completion(model=f"openai/{model}", api_base=f"{url}/v1", stream=True, **ask)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    message = litellm.completion(model=f"anthropic/{model}", api_base=url, **ask)
    assert message.choices[0].message.content == whole.choices[0].message.content


if __name__ == "__main__":
    globals()[f"run_{sys.argv[1]}"](*sys.argv[2:])
