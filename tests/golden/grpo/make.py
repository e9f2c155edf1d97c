"""Makes losses of TRL's GRPOTrainer, with what they are computed from, for the tiny model `../qwen3/tied`.

    python make.py

writes `cases.json` beside this file. Rollouts are fixed: TRL gets them through `rollout_func`, with
`env_mask` over the tokens that were not sampled. Advantages come from TRL's
`_generate_and_score_completions`, losses and gradient norms from its `_compute_loss` and autograd.
The rollouts' log-probabilities are the model's own, moved by noise, so that ratios differ from 1.
"""

import json
import math
import pathlib
import tempfile

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

HERE = pathlib.Path(__file__).parent
GROUP, MAX_COMPLETION = 4, 20
REWARDS = [1.0, 0.0, 0.25, 0.0, -1.0, 1.0, 1.0, 0.5]

# Our name of a setting, and TRL's.
CASES = {
    "token_mean": ({}, dict(loss_type="bnpo", epsilon=0.2, epsilon_high=0.28)),
    "sequence_mean": (
        {"aggregation": "sequence_mean"},
        dict(loss_type="grpo", epsilon=0.2, epsilon_high=0.28),
    ),
    "dr_grpo": (
        {"aggregation": {"dr_grpo": MAX_COMPLETION}},
        dict(loss_type="dr_grpo", epsilon=0.2, epsilon_high=0.28),
    ),
    "dual_clip": (
        {"clip_high": 0.2, "dual_clip": 1.5},
        dict(loss_type="bnpo", epsilon=0.2, epsilon_high=0.2, delta=1.5),
    ),
    "kl": (
        {"clip_high": 0.2, "kl_coef": 0.1, "kl_estimator": "k3"},
        dict(
            loss_type="bnpo",
            epsilon=0.2,
            epsilon_high=0.2,
            beta=0.1,
            use_bias_correction_kl=False,
        ),
    ),
    "entropy": (
        {"clip_high": 0.2, "entropy_coef": 0.05},
        dict(loss_type="bnpo", epsilon=0.2, epsilon_high=0.2, entropy_coef=0.05),
    ),
    "gspo": (
        {"clip_low": 0.03, "clip_high": 0.04, "importance": "sequence", "aggregation": "sequence_mean"},
        dict(
            loss_type="grpo", epsilon=0.03, epsilon_high=0.04, importance_sampling_level="sequence"
        ),
    ),
    "gspo_token_mean": (
        {"clip_low": 0.03, "clip_high": 0.04, "importance": "sequence"},
        dict(
            loss_type="bnpo", epsilon=0.03, epsilon_high=0.04, importance_sampling_level="sequence"
        ),
    ),
    "corrected": (
        {"clip_high": 0.2, "importance_cap": 1.1},
        dict(loss_type="bnpo", epsilon=0.2, epsilon_high=0.2),
    ),
}

torch.manual_seed(7)
words = {f"w{index}": index for index in range(46)} | {"<pad>": 46, "<eos>": 47}
inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")

prompts = [torch.randint(0, 46, (length,)).tolist() for length in (6, 9)]
completions, masks = [], []
for index in range(2 * GROUP):
    length = 5 + (index * 7) % 13
    completions.append(torch.randint(0, 46, (length,)).tolist())
    # An observation in the middle, for every other one.
    observed = range(length // 3, length // 3 + 3) if index % 2 else range(0)
    masks.append([int(at not in observed) for at in range(length)])
NOISE = [[0.3 * x for x in torch.randn(len(ids)).tolist()] for ids in completions]


def rollouts(asked, trainer):
    rows = [index // GROUP for index in range(2 * GROUP)]
    return {
        "prompt_ids": [prompts[row] for row in rows],
        "completion_ids": completions,
        "logprobs": [[0.0] * len(ids) for ids in completions],
        "env_mask": masks,
    }


def reward(completions, **_):
    return REWARDS


def trainer(options, folder):
    torch.manual_seed(0)
    model = Qwen3ForCausalLM.from_pretrained(HERE.parent / "qwen3" / "tied", attn_implementation="eager")
    return GRPOTrainer(
        model=model.float(),
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": f"w{index}"} for index in range(2)]),
        processing_class=tokenizer,
        rollout_func=rollouts,
        args=GRPOConfig(
            output_dir=folder,
            num_generations=GROUP,
            per_device_train_batch_size=2 * GROUP,
            max_completion_length=MAX_COMPLETION,
            report_to=[],
            use_cpu=True,
            bf16=False,
            temperature=1.0,
            disable_dropout=True,
            **options,
        ),
    )


def padded(rows, shape):
    out = torch.zeros(shape)
    for row, values in enumerate(rows):
        out[row, : len(values)] = torch.tensor(values)
    return out


def run(ours, options, folder):
    subject = trainer(options, folder)
    subject.current_gradient_accumulation_steps = 1
    model = subject.model.train()
    asked = [{"prompt": f"w{index // GROUP}"} for index in range(2 * GROUP)]
    inputs = subject._generate_and_score_completions(asked)
    shape = inputs["completion_ids"].shape

    def scores():
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        with torch.no_grad():
            return subject._get_per_token_logps_and_entropies(
                model, ids, mask, shape[1], compute_entropy=True
            )[:2]

    log_probs, entropies = scores()
    rollout = log_probs + padded(NOISE, shape)
    reference = log_probs - 0.5 * padded(NOISE, shape).flip(0)
    inputs["old_per_token_logps"] = rollout
    if "beta" in options:
        inputs["ref_per_token_logps"] = reference
    if "importance_cap" in ours:
        # As TRL's `token_truncate`: the trainer's own log-probabilities are the old ones.
        inputs["old_per_token_logps"] = log_probs
        ratio = torch.exp((log_probs - rollout) * inputs["completion_mask"] * inputs["tool_mask"])
        inputs["importance_sampling_ratio"] = ratio.clamp(max=ours["importance_cap"])
        subject.use_vllm = subject.vllm_importance_sampling_correction = True
    loss = subject._compute_loss(model, inputs)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)
    metrics = {key: values[-1] for key, values in subject._metrics["train"].items() if values}

    def rows(tensor):
        return [tensor[index, : len(ids)].tolist() for index, ids in enumerate(completions)]

    return {
        "objective": ours,
        "log_probs": rows(log_probs),
        "rollout": rows(rollout),
        "reference": rows(reference),
        "entropies": rows(entropies),
        "advantages": inputs["advantages"].tolist(),
        "loss": loss.item(),
        "gradient_norm": norm.item(),
        "clip_low": metrics.get("clip_ratio/low_mean"),
        "clip_high": metrics.get("clip_ratio/high_mean"),
        "kl": metrics.get("kl"),
        "entropy": metrics.get("entropy"),
    }


with tempfile.TemporaryDirectory() as folder:
    made = {
        "trl": trl.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "group_size": GROUP,
        "prompts": prompts,
        "completions": completions,
        "masks": masks,
        "rewards": REWARDS,
        "cases": {name: run(*case, folder) for name, case in CASES.items()},
    }
(HERE / "cases.json").write_text(json.dumps(made) + "\n")
print({name: (case["loss"], case["gradient_norm"]) for name, case in made["cases"].items()})
