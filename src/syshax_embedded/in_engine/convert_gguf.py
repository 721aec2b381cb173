# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""convert_gguf.py TOOLS FOLDER: the GGUF file under TOOLS as a Hugging Face model. Runs in the engine's environment.

Exits with a message if there is no chat template, or if the converted model finds plain English surprising.
"""

import sys
from pathlib import Path

tools, folder = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.append(str(tools))  # gguf and accelerate, after everything of the engine's own

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: E402

# Wrongly converted weights give about 10 nats a token, sound ones 2.
ENGLISH = "The capital of France is Paris, and the capital of Germany is Berlin."
MAX_LOSS_NATS = 4.0

(gguf,) = tools.rglob("*.gguf")
print(f"reading {gguf.name}", flush=True)  # noqa: T201
tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
if not tokenizer.chat_template:
    sys.exit(f"{gguf} has no chat template")
model = AutoModelForCausalLM.from_pretrained(
    gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
)
print(f"writing {folder}", flush=True)  # noqa: T201
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config  # the weights are plain now
tokenizer.save_pretrained(folder)
model.save_pretrained(folder)

print("checking it", flush=True)  # noqa: T201
tokens = AutoTokenizer.from_pretrained(folder)(ENGLISH, return_tensors="pt").input_ids
with torch.no_grad():
    loss_nats = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens, labels=tokens).loss.item()
if loss_nats > MAX_LOSS_NATS:
    sys.exit(f"the converted model is not sound: {loss_nats:.1f} nats a token for {ENGLISH!r}")
print(f"sound: {loss_nats:.1f} nats a token of plain English", flush=True)  # noqa: T201
