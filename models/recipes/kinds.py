"""The tables of models/README.md: from the report that kinds.toml makes, and from GRPO's own runs.

    python models/recipes/kinds.py runs/kinds runs/policy-grpo runs/policy-grpo-more
"""

import json
import sys
from pathlib import Path


def wilson(right, n):
    z = 1.959963984540054
    p = right / n
    middle, scale = p + z * z / (2 * n), 1 + z * z / n
    spread = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return f"{100 * p:.1f} [{100 * (middle - spread) / scale:.1f}, {100 * (middle + spread) / scale:.1f}]"


def kinds(report):
    """Exact match of each arm, by kind of question. Attempts that failed have no score."""
    shown, asked = len(report["episodes"]), report["questions"]
    if shown < asked:
        sys.exit(f"the report has the scores of {shown} of {asked} questions: raise `episodes`")
    arms = [arm["name"] for arm in report["arms"]]
    scores, failed = {}, 0
    for episode in report["episodes"]:
        kind = f"chains of {episode['hops']}" if episode["kind"] == "chain" else f"{episode['kind']}s"
        for arm, attempt in zip(arms, episode["attempts"], strict=True):
            scored = scores.setdefault(kind, {}).setdefault(arm, [])
            if attempt["score"] is None:
                failed += 1
            else:
                scored.append(attempt["score"])
    print("| | " + " | ".join(arms) + " |\n|---|" + "---|" * len(arms))
    for kind, by_arm in sorted(scores.items()):
        cells = [wilson(sum(by_arm[arm]), len(by_arm[arm])) if by_arm[arm] else "–" for arm in arms]
        print(f"| {kind} | " + " | ".join(cells) + " |")
    if failed:
        print(f"\n{failed} attempts have no score and count nowhere.")


def wordings(runs):
    """Of the prompts in each run's first evaluation and in its best."""
    names = ["known", "rare", "unknown", "no single fact"]
    print("\n| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for run in runs:
        steps = [json.loads(path.read_text()) for path in sorted((run / "evaluations").iterdir())]
        best = max(steps, key=lambda step: (step["all"]["exact"], step["all"]["reward"]))
        for step in [steps[0], best]:
            counts = [step["prompt_classes"].get(name, 0) for name in names]
            shares = " | ".join(f"{100 * count / sum(counts):.1f}" for count in counts)
            print(f"| {run.name}, step {step['step']} | {shares} |")


if __name__ == "__main__":
    kinds(json.loads((Path(sys.argv[1]) / "report.json").read_text()))
    wordings([Path(run) for run in sys.argv[2:]])
