#!/usr/bin/env python3
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Compares ways to round a model's weights: perplexity on fixed text, distance from full weights, greedy agreement.

    PYTHONPATH=src VLLM_PYTHON benchmarks/quantize/schemes.py MODEL

It needs no server: transformers, which vLLM's environment has, computes with the rounded numbers in bfloat16, and with
activations rounded to 8 bits per token where the engine does so. So schemes can be compared for which no kernel exists.
"""

import argparse
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from syshax_quantize import rounding

ROOT = Path(__file__).parents[2]
# A fixed text in two languages that every clone has.
TEXT = ROOT / "LICENSE"
PART_TOKENS, PARTS = 384, 4
GREEDY_TOKENS, PROMPT_TOKENS, PROMPTS = 24, 48, 3

# Name: weights that share a scale (None: a row), how they are rounded, whether activations get 8 bits.
EIGHT, FOUR = rounding.EIGHT_BITS, rounding.FOUR_BITS
SCHEMES = {
    "8 bits, row, 8-bit activations (q8_0)": (None, EIGHT, True),
    "8 bits, row, 8-bit activations, nearest": (None, EIGHT.nearest, True),
    "4 bits, 32, 8-bit activations (q4_0)": (32, FOUR, True),
    "4 bits, 32, 8-bit activations, scales above 0": (32, replace(FOUR, signed=False), True),
    "4 bits, 32, 8-bit activations, nearest": (32, FOUR.nearest, True),
    "4 bits, 64, 8-bit activations": (64, FOUR, True),
    "4 bits, 64, 8-bit activations, nearest": (64, FOUR.nearest, True),
    "4 bits, 128, 8-bit activations": (128, FOUR, True),
    "4 bits, 128, 8-bit activations, nearest": (128, FOUR.nearest, True),
}


def rounded(weight, group, grid):
    """A matrix as the engine reads it back."""
    values = weight.float().numpy()
    columns = values.shape[1]
    group = group or columns
    padded = np.pad(values, ((0, 0), (0, -columns % group)))
    numbers, scales = rounding.rounded(padded.reshape(-1, group), grid)
    restored = (numbers * scales[:, None]).reshape(padded.shape)[:, :columns]
    return torch.from_numpy(restored.copy()).to(weight.dtype)


def eight_bits(module, inputs):
    """The inputs of a layer as the engine rounds them: one scale for each token."""
    (values,) = inputs
    scale = values.float().abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
    return ((values.float() / scale).round().clamp(-128, 127) * scale).to(values.dtype)


class Rated:
    """What a model says of the fixed texts."""

    def __init__(self, model, parts, prompts):
        self.logprobs = [model(part).logits[0, :-1].float().log_softmax(-1) for part in parts]
        self.nats = [
            -own.gather(1, part[0, 1:, None]).squeeze(1) for own, part in zip(self.logprobs, parts, strict=True)
        ]
        options = {"max_new_tokens": GREEDY_TOKENS, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        self.answers = [model.generate(prompt, **options)[0, prompt.shape[1] :] for prompt in prompts]

    def perplexity(self):
        return math.exp(torch.cat(self.nats).mean())

    def against(self, full):
        """Same likeliest token, total variation distance, same greedy tokens before the first difference."""
        pairs = list(zip(self.logprobs, full.logprobs, strict=True))
        same = torch.cat([mine.argmax(-1) == its.argmax(-1) for mine, its in pairs]).float().mean()
        distance = torch.cat([(mine.exp() - its.exp()).abs().sum(-1) / 2 for mine, its in pairs]).mean()
        common = [int((mine == its).cumprod(0).sum()) for mine, its in zip(self.answers, full.answers, strict=True)]
        return float(same), float(distance), statistics.fmean(common) / GREEDY_TOKENS


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="schemes with this text in their names")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    ids = tokenizer(TEXT.read_text(), return_tensors="pt").input_ids
    parts = [ids[:, at * PART_TOKENS : (at + 1) * PART_TOKENS] for at in range(PARTS)]
    prompts = [part[:, :PROMPT_TOKENS] for part in parts[:PROMPTS]]
    layers = {name: layer for name, layer in model.model.layers.named_modules() if isinstance(layer, torch.nn.Linear)}
    weights = {name: layer.weight.data for name, layer in layers.items()}
    full = Rated(model, parts, prompts)
    print(
        "| weights | bits a weight | perplexity | same likeliest token | distance | same greedy tokens | s to round |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(f"| full (bfloat16) | 16 | {full.perplexity():.3f} | | | | |", flush=True)
    for name, (group, grid, activations) in SCHEMES.items():
        if options.only not in name:
            continue
        begun_s = time.monotonic()
        for layer, its in layers.items():
            its.weight.data = rounded(weights[layer], group, grid)
        took_s = time.monotonic() - begun_s
        hooks = [its.register_forward_pre_hook(eight_bits) for its in layers.values()] if activations else []
        rated = Rated(model, parts, prompts)
        for hook in hooks:
            hook.remove()
        same, distance, greedy = rated.against(full)
        stored = 4 + 16 / group if group else 8
        cells = [f"{stored:g}", f"{rated.perplexity():.3f}", f"{same:.1%}", f"{distance:.4f}", f"{greedy:.0%}"]
        print(f"| {name} | {' | '.join(cells)} | {took_s:.1f} |", flush=True)


if __name__ == "__main__":
    main()
