"""The step of `training.rs` in PyTorch: transformers' Qwen3, two threads, sdpa attention, AdamW.

    python benches/training_baseline.py
"""

import statistics
import time

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

SEQUENCES, LENGTH, ROUNDS, STEPS = 64, 64, 5, 10
torch.set_num_threads(2)
torch.manual_seed(0)
config = Qwen3Config(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=512,
    tie_word_embeddings=True,
    attn_implementation="sdpa",
)
model = Qwen3ForCausalLM(config).float().train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
ids = torch.tensor(
    [[(s * 31 + i * i * 7) % 512 for i in range(LENGTH + 1)] for s in range(SEQUENCES)]
)


def step():
    optimizer.zero_grad()
    logits = model(ids[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


first, rates = step(), []
for _ in range(ROUNDS):
    start = time.perf_counter()
    for _ in range(STEPS):
        last = step()
    rates.append(STEPS * SEQUENCES * LENGTH / (time.perf_counter() - start))
print(
    f"{statistics.median(rates):.0f} tokens/s (median of {ROUNDS} rounds of {STEPS} steps, "
    f"{min(rates):.0f} to {max(rates):.0f}); loss {first:.4f} to {last:.4f}; torch {torch.__version__}"
)
