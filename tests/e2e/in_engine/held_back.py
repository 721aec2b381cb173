# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs in the engine's environment: streams move between instances made of vLLM's own detokenizer and parsers.

held_back.py MODEL prints how many streams were tried, how often they moved, how many had a call or reasoning, and those
that differ from the stream of one instance.
"""

import json
import random
import sys
from collections.abc import Iterator

from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.parser_manager import ParserManager
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from syshaxd.core.handover.bodies import CHAT_PATH, COMPLETIONS_PATH
from syshaxd.core.handover.reasoning import END_OF_THINKING, REASONING_PARSERS, THINK
from tests.fakes.moving import Event, Instance, moved

STREAMS = 120
TOKENIZER = AutoTokenizer.from_pretrained(sys.argv[1])
TOKENIZER.add_tokens([THINK, END_OF_THINKING])
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "tools": [TOOL]}
REASONING = ["", *REASONING_PARSERS]
COUNTED = ["deepseek_r1"]
"""Others count by the pieces that text comes in, which a move changes."""
TAGS = tuple(TOKENIZER.convert_tokens_to_ids([THINK, END_OF_THINKING]))
PROMPT = TOKENIZER("Say something about it: ").input_ids
WORDS = [
    *(
        "The",
        "quick",
        "fox",
        "<",
        "<b>over</b>",
        "lazy",
        "dog;",
        "x<y,",
        "a",
        "<=",
        "naïve",
        "café",
        "你好世界",
        "🙂🙃",
    ),
    *("for(i=0;i<10;i++)", "{", "<tool", ">", "<t", "}", "Observation:", "end.\n\nHuman"),
]
STOPS = [["Observation:"], ["\n\n"], ["Human", "lazy dog"], ["never told"], ["世界"], ["for(i"]]
CALL = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "a < b </tool", "days": [3, {"é": "🙂}}"}]}}\n</tool_call>'
)


def texts(tokens: list[int], stop: list[str], known: int) -> Iterator[tuple[int, str, bool, str | None]]:
    """Each token with the text that is told with it, whether it is the last, and the stop string that was found."""
    options = SamplingParams(stop=stop, output_kind=RequestOutputKind.DELTA, skip_special_tokens=False)
    request = EngineCoreRequest(
        request_id="one",
        prompt_token_ids=PROMPT + tokens[:known],
        mm_features=None,
        sampling_params=options,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    detokenizer = IncrementalDetokenizer.from_new_request(TOKENIZER, request)
    for at in range(known, len(tokens)):
        found = detokenizer.update([tokens[at]], stop_terminated=False)
        last = found is not None or at == len(tokens) - 1
        yield tokens[at], detokenizer.get_next_output_text(last, delta=True), last, found
        if found is not None:
            return


def completion(tokens: list[int], stop: list[str], known: int) -> Iterator[Event]:
    for token, text, last, found in texts(tokens, stop, known):
        choice = {"index": 0, "text": text, "logprobs": None, "stop_reason": found, "token_ids": [token]}
        choice |= {"finish_reason": ("stop" if found else "length") if last else None, "prompt_token_ids": PROMPT}
        yield {"id": "one", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}


def chats(reasoning: str) -> Instance:
    """Chats with tools of a server with this reasoning parser, if any, and the tool parser `hermes`."""
    parsers = {"tool_parser_name": "hermes", "reasoning_parser_name": reasoning or None, "enable_auto_tools": True}
    parser_of = ParserManager.get_parser(**parsers, model_name="m")

    def chat(tokens: list[int], _: list[str], known: int) -> Iterator[Event]:
        head = {"id": "one", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        yield {**head, "choices": [role], "prompt_token_ids": PROMPT}
        request = ChatCompletionRequest.model_validate(CHAT | {"tool_choice": "none" if known else "auto"})
        parser, called = parser_of(TOKENIZER, request.tools, chat_template_kwargs={}), False
        for token, text, last, _found in texts(tokens, [], known):
            told = parser.parse_delta(text, [token], request, PROMPT + tokens[:known], finished=last)
            delta = {} if told is None else told.model_dump(exclude_none=True)
            called = called or bool(delta.get("tool_calls"))
            choice = {"index": 0, "delta": {name: value for name, value in delta.items() if value}, "logprobs": None}
            choice |= {"finish_reason": ("tool_calls" if called else "stop") if last else None, "token_ids": [token]}
            yield {**head, "choices": [choice]}
        counts = {"prompt_tokens": len(PROMPT), "total_tokens": len(PROMPT + tokens), "completion_tokens": len(tokens)}
        if reasoning in COUNTED:
            count = parser.count_reasoning_tokens(tuple(tokens[known:]))
            counts |= {"completion_tokens_details": {"reasoning_tokens": count}}
        yield {**head, "choices": [], "usage": counts}

    return chat


def main() -> None:
    numbers = random.Random(1)
    instances = {reasoning: chats(reasoning) for reasoning in REASONING}
    found = {"streams": 0, "moves": 0, "calls": 0, "thoughts": 0, "differ": []}
    for at in range(2 * STREAMS):
        text = " ".join(numbers.choices(WORDS, k=numbers.randint(5, 30)))
        path, instance, stop, reasoning = COMPLETIONS_PATH, completion, numbers.choice(STOPS), ""
        if at % 2:
            reasoning = REASONING[at // 2 % 3]
            path, instance, stop = CHAT_PATH, instances[reasoning], []
            text += f"{END_OF_THINKING * bool(reasoning)} and {CALL}" * (at // 6 % 3)
        tokens = TOKENIZER(text, add_special_tokens=False).input_ids
        due = set(numbers.sample(range(1, len(tokens) + 1), 3))
        alone, _ = moved(path, instance, tokens, stop, set())
        other, moves = moved(
            path, instance, tokens, stop, due, TOKENIZER.decode, reasoning, TAGS if reasoning in COUNTED else ()
        )
        found["streams"] += 1
        found["moves"] += moves
        found["calls"] += bool(alone[0][1])
        found["thoughts"] += bool(alone[0][3])
        if alone != other:
            found["differ"].append([stop, sorted(due), repr(alone), repr(other)])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
