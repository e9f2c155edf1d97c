"""Writes the greedy tokens of a GGUF file, one JSON object a line: `{"prompt": [...], "tokens": [...]}`.

    python greedy.py MODEL.gguf [COUNT]

transformers computes them, from the file's dequantised weights in f32.
"""

import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time there was a small model that",
]

path = pathlib.Path(sys.argv[1]).resolve()
count = int(sys.argv[2]) if len(sys.argv) > 2 else 64
source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
tokenizer = AutoTokenizer.from_pretrained(**source)
model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
for text in TEXTS:
    prompt = tokenizer(text, return_tensors="pt").input_ids
    ids, cache, tokens = prompt, None, []
    with torch.no_grad():
        for _ in range(count):
            out = model(ids, past_key_values=cache, use_cache=True)
            cache, ids = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(ids.item())
    print(json.dumps({"prompt": prompt[0].tolist(), "tokens": tokens}), flush=True)
