#!/usr/bin/env python3
"""Runs `collapse.toml` without and with what is there against collapse, and prints how it went.

    python3 models/recipes/collapse.py SERVER [SEED ...]

SERVER is the built binary. The runs are in `runs/collapse/NAME-SEED`, each takes about a minute; one
that is finished is not run again. Run it in the project's folder. Needs nothing but Python.
"""
import json
import pathlib
import subprocess
import sys

OFF = """
[guards]
max_rollbacks = 0
max_entropy = 1e9
max_kl = 1e9
max_clip_fraction = 1.0
max_response_growth = 1e9
min_response_growth = 0.0
max_rollout_logprob_diff = 1e9
"""
ON = """
[guards]
patience = 2
max_rollbacks = 6
rollback_lr_factor = 0.25
max_entropy = 0.4
min_entropy = 0.01
max_zero_variance = 0.9
"""
RUNS = {
    "without": OFF,
    "default guards": "",
    "tight guards": ON,
    "LLDS 0.1": OFF + "[objective]\nllds_coef = 0.1\n",
    "LLDS 1": OFF + "[objective]\nllds_coef = 1.0\n",
}
EVERY = 10


def run(server, name, more, seed):
    """The rows of the run's metrics, and how it ended."""
    output = pathlib.Path(f"runs/collapse/{name.replace(' ', '-')}-{seed}")
    if not (output / "summary.json").exists():
        text = pathlib.Path("models/recipes/collapse.toml").read_text()
        text = text.replace('output = "runs/collapse"', f'output = "{output}"').replace("seed = 1", f"seed = {seed}")
        output.mkdir(parents=True, exist_ok=True)
        config = output / "run.toml"
        config.write_text(text + more)
        subprocess.run([server, "train", "grpo", "--config", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((output / "summary.json").read_text())
    first = json.loads((output / "evaluations/step-00000000.json").read_text())["all"]
    return rows, summary, first["exact"] / first["tasks"]


def main():
    server, seeds = sys.argv[1], sys.argv[2:] or ["1"]
    steps = range(EVERY, 61, EVERY)
    print("| run | seed | " + " | ".join(f"{step - EVERY + 1} to {step}" for step in steps) + " | held-out exact, before → best → last, % | ended |")
    print("|---|---|" + "---|" * (len(steps) + 2))
    for name, more in RUNS.items():
        for seed in seeds:
            rows, summary, before = run(server, name, more, seed)
            means = []
            for step in steps:
                part = [row["reward"] for row in rows if step - EVERY < row["step"] <= step]
                means.append(f"{sum(part) / len(part):.2f}" if part else "–")
            exact = [100 * row["eval_exact"] for row in rows if "eval_exact" in row] or [100 * before]
            rollbacks = int(max((row.get("rollbacks", 0) for row in rows), default=0))
            ended = summary["ended"].split(":")[0] + (f", {rollbacks} rollbacks" if rollbacks else "")
            held_out = f"{100 * before:.0f} → {max(exact + [100 * before]):.0f} → {exact[-1]:.0f}"
            print(f"| {name} | {seed} | " + " | ".join(means) + f" | {held_out} | {ended} |")


if __name__ == "__main__":
    main()
