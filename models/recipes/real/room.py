#!/usr/bin/env python3
"""Makes the table of a policy's headroom from evaluations: room.py FOLDER...

Each folder is the `output` of `server eval`; its `episodes` must cover all questions, since the
report has scores of those alone. Beside the arms there is the oracle: the share of questions that
at least one of the prompts answers right, if one knew which. It counts arms of one call (`direct`,
`cot`, `template:…`), since votes and scripts are no prompts. A question that an arm failed on
counts in no share of it; the oracle has those that all its arms answered. Tokens are those that the
large model and the policy read and wrote.
"""

import json
import sys
from pathlib import Path

PROMPTS = ("direct", "cot", "template:")


def wilson(right, n):
    """The 95 % interval of a share, in percent."""
    z = 1.959964
    middle = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (right * (n - right) / n + z * z / 4) ** 0.5
    return 100 * (middle - half), 100 * (middle + half)


def row(name, right, n, calls, tokens):
    if n == 0:
        return f"| {name} | – | {calls} | {tokens} |"
    low, high = wilson(right, n)
    share = f"{100 * right / n:.1f} [{low:.0f}, {high:.0f}]"
    return f"| {name} | {share} | {calls} | {tokens} |"


def table(folder):
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    shown, asked = len(report["episodes"]), report["questions"]
    if shown < asked:
        sys.exit(f"{folder} has the scores of {shown} of {asked} questions: raise `episodes`")
    print(f"{report['title']}, large model `{report['large_model']}`\n")
    print("| arm | right, % [95 %] | calls | tokens |\n|---|---|---|---|")
    scores = {}
    for index, arm in enumerate(report["arms"]):
        of_arm = [episode["attempts"][index]["score"] for episode in report["episodes"]]
        scores[arm["name"]] = of_arm
        scored = [score for score in of_arm if score is not None]
        policy = arm["policy_tokens_read"] + arm["policy_tokens"]
        tokens = arm["large_model_tokens"] + policy
        print(row(arm["name"], sum(scored), len(scored), f"{arm['calls']:.1f}", f"{tokens:.0f}"))
    prompts = [scores[arm["name"]] for arm in report["arms"] if arm["method"].startswith(PROMPTS)]
    best = [max(question) for question in zip(*prompts, strict=True) if None not in question]
    print(row(f"oracle over {len(prompts)} prompts", sum(best), len(best), "", "") + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        table(Path(name))
