#!/usr/bin/env python3
"""Prints the tables of models/README.md on real models from the rows beside this file: figures.py

An answer is right if its last number is the value of the question's expression: the metric `numeric`
of `server eval`. Shares have Wilson's 95 % interval; two arms are compared on the questions that both
answered, by the exact McNemar test. A reply that `max_tokens` cut is replaced by the same one with
768 tokens (`whole-replies.jsonl.gz`), so that no arm loses by a limit.
"""

import gzip
import json
import math
import re
from collections import defaultdict
from pathlib import Path

import scripted

RESULTS = Path(__file__).parent / "results"
SOURCES = {
    "chain_sum_short": "sums",
    "products": "products",
    "sums_worded": "sums in other wordings",
    "products_worded": "products in other wordings",
    "sums_by_hand": "sums by hand",
    "products_by_hand": "products by hand",
    "alike_by_hand": "questions by hand that only look like these",
}
FILES = ["sums", "products", "third", "second-seed", "search", "wide", "more-sums", "every-way", "shipped", "by-hand", "differences", "columns"]
# Questions with answers of their own; of others the answer is the value of their expression.
BY_HAND = Path(__file__).parent / "by-hand.jsonl"
# The limit that cut some replies.
CUT_AT = 256
# Parts of the identity of an arm, in order: the first that it contains names it.
PROMPTS = {
    "first prompt of": "the first prompt alone",
    "scripted.py columns": "a script, by columns",
    '"script ': "a script",
    '"samples":3': "the most frequent of 3 chains of thought",
    "step by step": "a chain of thought",
    "write 6, carry 5": "three worked examples by columns",
    "57 * 87": "five worked examples",
    "running total": "a prompt for a running total",
    '"prompt":"{question}"': "a searched prompt: the question unchanged",
    '"prompt":': "the question unchanged",
}
# The policies, by the checksums of their models.
POLICIES = {
    "a781e0d0": "the first stage",
    "d92ce96d": "the second stage",
    "d2d21204": "the first stage, seed 2",
    "cbef321c": "the second stage, seed 2",
    "5b6aaf1c": "an earlier third stage",
    "67db4b11": "the third stage",
    "140af28c": "the third stage",
    "9e96aa5c": "the third stage",
    "3c164f61": "the fourth stage",
    "5343f05a": "arithmetic",
    "59fa8c3f": "before GRPO",
    "18878edc": "after GRPO",
    # The base, which is also part of some names above.
    "686f38d4": "SmolLM2-135M, untrained",
}
ADAPTER = "arithmetic"
UNCHANGED = "the question unchanged"
# What it is compared with: the large model alone, with one prompt each, and earlier stages.
BESIDE = {
    UNCHANGED,
    "a prompt for a running total",
    "five worked examples",
    "three worked examples by columns",
    "a chain of thought",
    "the most frequent of 3 chains of thought",
    "the first stage",
    "the fourth stage",
}
# These ask the question unchanged, too.
SAME = {"a searched prompt: the question unchanged", "SmolLM2-135M, untrained"}


def arm_of(identity):
    names = POLICIES if "Native" in identity and "first prompt of" not in identity else PROMPTS
    return next((name for part, name in names.items() if part in identity), identity[:80])


def number(text):
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text.replace("−", "-"))
    return float(found[-1].replace(",", "")) if found else None


def golds():
    with BY_HAND.open(encoding="utf-8") as lines:
        return {row["id"]: row["answer"] for row in map(json.loads, lines)}


GOLDS = golds()


class Row:
    def __init__(self, row):
        key, answered = row["key"], row["outcome"]["answered"]
        self.id = key["id"]
        # The further sums are another sample of the same family.
        self.source = "further sums" if "-more-" in self.id else SOURCES[key["source"]]
        self.arm = arm_of(key["arm"])
        self.large = next((name for name in ("qwen15", "smollm2") if name in key["arm"]), "qwen05")
        policy, large = (answered["usage"][role] for role in ("policy", "large_model"))
        self.calls = large["calls"]
        self.read_and_written = tuple(used["prompt_tokens"] + used["completion_tokens"] for used in (large, policy))
        has_more = '"max_tokens\\":768' in key["arm"]
        self.is_cut = self.calls == 1 and large["completion_tokens"] == CUT_AT and not has_more
        gold = GOLDS.get(self.id) or eval(scripted.expression(key["question"]))
        self.is_right = number(answered["answer"]) == float(gold)


def rows_of(*names):
    for name in names:
        with gzip.open(RESULTS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if "answered" in row["outcome"]:
                    yield Row(row)


def load(*names):
    """Rows by large model, source and arm, then by question."""
    arms = defaultdict(dict)
    for row in rows_of(*names):
        arms[row.large, row.source, row.arm].setdefault(row.id, row)
    return arms


def wilson(right, count, z=1.959964):
    middle = (right + z * z / 2) / (count + z * z)
    half = z / (count + z * z) * math.sqrt(right * (count - right) / count + z * z / 4)
    return 100 * (middle - half), 100 * (middle + half)


def share(rows):
    right, count = sum(row.is_right for row in rows.values()), len(rows)
    return "{:.1f} [{:.1f}, {:.1f}]".format(100 * right / count, *wilson(right, count))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def compare(one, other):
    """By how many points the second is above the first, with its interval, p and the questions."""
    ids = one.keys() & other.keys()
    better = sum(other[id].is_right and not one[id].is_right for id in ids)
    worse = sum(one[id].is_right and not other[id].is_right for id in ids)
    unequal = better + worse
    tail = sum(math.comb(unequal, k) for k in range(min(better, worse) + 1))
    p = min(1.0, 2 * tail / 2**unequal)
    gain = (better - worse) / len(ids)
    error = 1.96 * math.sqrt(unequal - (better - worse) ** 2 / len(ids)) / len(ids)
    return 100 * gain, (100 * (gain - error), 100 * (gain + error)), p, len(ids)


def holm(values):
    """Holm's correction of p-values, in their order."""
    corrected, largest = [0.0] * len(values), 0.0
    for rank, at in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[at]))
        corrected[at] = largest
    return corrected


def shown(p):
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def table(arms, whole, large, source):
    print(f"\n### {source}, {large}\n")
    print("| | questions | right, % [95 %] | cut replies, right without more tokens | calls | tokens of the large model | of the policy |")
    print("|---|---|---|---|---|---|---|")
    here = {arm: rows for (model, kind, arm), rows in arms.items() if (model, kind) == (large, source)}
    for arm, rows in sorted(here.items(), key=lambda item: mean(row.is_right for row in item[1].values())):
        completed = with_whole(rows, whole, large, source, arm)
        cut = sum(row.is_cut for row in rows.values())
        before = f"{cut}; {share(rows)}" if cut else ""
        tokens = [mean(row.read_and_written[role] for row in completed.values()) for role in (0, 1)]
        print(f"| {arm} | {len(rows)} | {share(completed)} | {before} | {mean(row.calls for row in rows.values()):.1f} | {tokens[0]:.0f} | {tokens[1]:.0f} |")
    return {arm: with_whole(rows, whole, large, source, arm) for arm, rows in here.items()}


def with_whole(rows, whole, large, source, arm):
    """The rows, with whole replies in place of those that were cut."""
    replies = whole.get((large, source, UNCHANGED if arm in SAME else arm), {})
    return {id: replies.get(id, row) if row.is_cut else row for id, row in rows.items()}


def main():
    whole = load("whole-replies")
    arms = load(*FILES)
    kinds = sorted({key[:2] for key in arms})
    found = {kind: table(arms, whole, *kind) for kind in kinds}
    print("\n### The adapter beside other arms\n")
    print("| large model, questions | beside | points [95 %] | questions | p | with Holm's correction |")
    print("|---|---|---|---|---|---|")
    pairs = [
        (large, source, arm, compare(rows, here[ADAPTER]))
        for (large, source), here in found.items()
        if ADAPTER in here
        for arm, rows in here.items()
        if arm in BESIDE and rows.keys() & here[ADAPTER].keys()
    ]
    corrected = holm([pair[3][2] for pair in pairs])
    for (large, source, arm, (gain, interval, p, count)), p_holm in zip(pairs, corrected):
        low, high = interval
        print(f"| {large}, {source} | {arm} | {gain:+.1f} [{low:+.1f}, {high:+.1f}] | {count} | {shown(p)} | {shown(p_holm)} |")


if __name__ == "__main__":
    main()
