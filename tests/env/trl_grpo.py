"""TRL trains a policy in the environment: TRL's model writes the turns, the environment does the rest.

Usage: trl_grpo.py ENVIRONMENT_URL MODEL_FOLDER TASKS.jsonl [STEPS]
A line of TASKS.jsonl is {"question": ..., "golds": [...]}. Needs trl (tried with 1.16.0)."""
import json
import math
import os
import sys

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
from trl import GRPOConfig, GRPOTrainer

from episodes import Environment

url, model_folder, tasks_file = sys.argv[1:4]
steps = int(sys.argv[4]) if len(sys.argv) > 4 else 2
environment = Environment(url, os.environ.get("ENV_KEY"))
stop_ids = environment.about()["stop_ids"]
tasks = [json.loads(line) for line in open(tasks_file)]
golds = {task["question"]: task["golds"] for task in tasks}


def sample(model, prompts, most, pad):
    """One turn behind each of `prompts`: the ids, the stop id included, and their log-probabilities."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), do_sample=True, temperature=1.0,
            top_p=1.0, top_k=0, max_new_tokens=max(most), eos_token_id=stop_ids, pad_token_id=pad,
            return_dict_in_generate=True, output_logits=True)
    log_probs = torch.stack(out.logits, 1).float().log_softmax(-1)
    turns = []
    for row, limit in enumerate(most):
        turn = out.sequences[row, longest:].tolist()[:limit]
        end = next((at + 1 for at, token in enumerate(turn) if token in stop_ids), len(turn))
        turn = turn[:end]
        turns.append((turn, [min(0.0, log_probs[row, at, token].item()) for at, token in enumerate(turn)]))
    return turns


def rollout(prompts, trainer):
    """Whole episodes, one for each prompt. TRL repeats a prompt for each member of its group."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    pad = trainer.processing_class.pad_token_id
    states = [environment.reset(prompt, golds[prompt]) for prompt in prompts]
    openings = [len(state["ids"]) for state in states]
    was_training = model.training
    model.eval()
    while open_ := [at for at, state in enumerate(states) if not state["done"]]:
        turns = sample(model, [states[at]["ids"] for at in open_], [states[at]["max_tokens"] for at in open_], pad)
        for at, (ids, log_probs) in zip(open_, turns):
            states[at] = environment.step(states[at], ids, log_probs)
    model.train(was_training)
    behind = [(state.get("ids") or [pad], state.get("mask") or [0], state.get("log_probs") or [0.0]) for state in states]
    return {
        "prompt_ids": [ids[:at] for (ids, _, _), at in zip(behind, openings)],
        "completion_ids": [ids[at:] for (ids, _, _), at in zip(behind, openings)],
        "logprobs": [values[at:] for (_, _, values), at in zip(behind, openings)],
        # Observations are not part of the loss.
        "env_mask": [mask[at:] for (_, mask, _), at in zip(behind, openings)],
        # Missing when a model failed or a time limit passed: TRL leaves such an episode out.
        "env_reward": [(state.get("reward") or {}).get("total") for state in states],
    }


def reward(completions, env_reward, **_):
    return env_reward


tokenizer = AutoTokenizer.from_pretrained(model_folder)
model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
config = GRPOConfig(
    output_dir=os.environ.get("OUTPUT", "trl-run"), use_cpu=True, bf16=False, per_device_train_batch_size=8,
    num_generations=4, gradient_checkpointing=False, max_steps=steps, learning_rate=1e-4, temperature=1.0, beta=0.0, max_completion_length=512,
    logging_steps=1, save_strategy="no", report_to=[], seed=1, disable_tqdm=True)
trainer = GRPOTrainer(
    model=model, processing_class=tokenizer, reward_funcs=reward, rollout_func=rollout, args=config,
    train_dataset=Dataset.from_list([{"prompt": task["question"]} for task in tasks]))
trainer.train()

logged = [entry for entry in trainer.state.log_history if "reward" in entry]
assert len(logged) == steps, trainer.state.log_history
for entry in logged:
    assert math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"]), entry
    assert -1 <= entry["reward"] <= 1, entry
moved = (trainer.model.model.layers[0].mlp.up_proj.weight.detach() - before).abs().max().item()
assert any(entry["grad_norm"] > 0 for entry in logged) and moved > 0, (logged, moved)
# With equal weights, trainer and sampler give a token the same log-probability.
print(f"ok   TRL: {steps} steps, rewards {[round(entry['reward'], 3) for entry in logged]}")
