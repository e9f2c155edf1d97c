"""The steps of `lora.rs` in PyTorch: transformers' Llama at the shape of SmolLM2-135M with PEFT, two
threads, sdpa attention, AdamW.

    OMP_NUM_THREADS=2 python benches/lora_baseline.py     # torch, transformers and peft
"""

import resource
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SEQUENCES, LENGTH, RANK, STEPS = 8, 256, 8, 5
torch.set_num_threads(2)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    max_position_embeddings=8192,
    rope_theta=100000.0,
    tie_word_embeddings=True,
    attn_implementation="sdpa",
)
model = LlamaForCausalLM(config).float()
targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets)).train()
checkpointing = "--checkpointing" in sys.argv
if checkpointing:
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
ids = torch.tensor(
    [[(s * 31 + i * i * 7) % 49152 for i in range(LENGTH + 1)] for s in range(SEQUENCES)]
)
labels = ids[:, 1:].clone()
labels[:, : LENGTH // 2] = -100


def step():
    optimizer.zero_grad()
    logits = model(ids[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()


seconds = []
for _ in range(STEPS + 1):
    start = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - start)
steps = seconds[1:]
tokens = SEQUENCES * LENGTH
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
print(
    f"{'layers computed again' if checkpointing else 'layers kept'}: "
    f"{tokens / statistics.median(steps):.0f} tokens/s (median of {STEPS} steps, "
    f"{tokens / max(steps):.0f} to {tokens / min(steps):.0f}), peak {peak:.2f} GiB; torch {torch.__version__}"
)
