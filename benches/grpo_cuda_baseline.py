"""The step of `grpo.rs -- cuda` in PyTorch and transformers on a GPU, without a trainer's overhead:
generation as TRL calls it, log-probabilities, the clipped loss, one AdamW update. The model and its
optimizer are in bfloat16 throughout, which is less work than our f32 masters are.

    python benches/grpo_cuda_baseline.py [STEPS]
"""

import statistics
import sys
import time

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

GROUPS, GROUP_SIZE, PROMPT, COMPLETION, WARM_UP = 8, 8, 128, 256, 3
EPISODES, MICRO_BATCH = GROUPS * GROUP_SIZE, 16
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 5

torch.manual_seed(0)
model = Qwen3ForCausalLM(
    Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=4096,
        rope_theta=1_000_000.0,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        eos_token_id=None,
        pad_token_id=0,
    )
).to("cuda", torch.bfloat16)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def log_probs(ids):
    logits = model(ids, logits_to_keep=COMPLETION + 1).logits[:, :-1].float()
    targets = ids[:, -COMPLETION:, None]
    return logits.gather(2, targets)[..., 0] - torch.logsumexp(logits, 2)


seconds, sampling = [], []
for step in range(STEPS + WARM_UP):
    torch.cuda.synchronize()
    begun = time.perf_counter()
    prompts = torch.tensor(
        [[(step * 37 + g * 11 + at * 7) % 1000 for at in range(PROMPT)] for g in range(GROUPS)]
    ).cuda()
    with torch.no_grad():
        ids = model.generate(
            prompts.repeat_interleave(GROUP_SIZE, 0),
            attention_mask=torch.ones(EPISODES, PROMPT, dtype=torch.long, device="cuda"),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=COMPLETION,
            max_new_tokens=COMPLETION,
        )
    torch.cuda.synchronize()
    sampled = time.perf_counter() - begun
    rewards = (ids.sum(1) % 97).float().view(GROUPS, GROUP_SIZE)
    advantages = (rewards - rewards.mean(1, True)) / (rewards.std(1, keepdim=True) + 1e-6)
    advantages = advantages.view(-1, 1)
    for first in range(0, EPISODES, MICRO_BATCH):
        part = slice(first, first + MICRO_BATCH)
        new = log_probs(ids[part])
        ratio = torch.exp(new - new.detach())
        clipped = torch.clamp(ratio, 0.8, 1.28)
        loss = -torch.min(ratio * advantages[part], clipped * advantages[part])
        (loss.sum() / (EPISODES * COMPLETION)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    torch.cuda.synchronize()
    if step >= WARM_UP:
        seconds.append(time.perf_counter() - begun)
        sampling.append(sampled)
median, sampled = statistics.median(seconds), statistics.median(sampling)
print(
    f"{median:.3f} s a step ({min(seconds):.3f} to {max(seconds):.3f}, {STEPS} steps), "
    f"{sampled:.3f} s of it sampling; {EPISODES / median:.0f} episodes/s, "
    f"{EPISODES * COMPLETION / median:.0f} sampled tokens/s, "
    f"{EPISODES * COMPLETION / sampled:.0f} while sampling; "
    f"at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
)
