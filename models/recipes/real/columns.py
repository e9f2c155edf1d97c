#!/usr/bin/env python3
"""Writes conversations that compute by columns: columns.py FAMILIES OUTPUT.jsonl COUNT SEED single|all

FAMILIES is the folder that `families.py` and `wordings.py` made. The operations are asked for by
their columns (`scripted.py`): with `single`, one operation a question; with `all`, also sums of
several terms, and products of several digits. The others are questions of other kinds, which are
passed on as before. No test question is among them.
"""

import json
import random
import sys
from pathlib import Path

from scripted import expression
from warm_start import MORE_FORMS, conversation
from wordings import TEST_FAMILIES, composed, numbers, read, sum_of, worded, written

SIZES, WEIGHTS = [1, 2, 3, 4], [1, 5, 6, 1]
# The share of other questions, and the weights of one operation, of several terms, and of products.
SHARES = {"single": (0.125, [1, 0, 0]), "all": (0.2, [4, 3, 3])}


def operation(draw):
    """Two numbers of any sizes, some of which are close to each other."""
    first, second = numbers(draw, 2, SIZES, WEIGHTS)
    sign = draw.choice("++--**")
    if sign == "*":
        second = draw.randint(2, 9)
    elif sign == "-" and draw.random() < 0.15:
        second = max(1, first + draw.randint(-9, 9) * draw.choice([1, 10]))
    return f"{first} {sign} {second}"


def product(draw):
    first, second = numbers(draw, 2, SIZES[:3], [1, 6, 5])
    return f"{first} * {second}"


def asked_as(draw, asked):
    if draw.random() < 0.5:
        return worded(draw, "products" if "*" in asked else "sums", asked, False)
    return composed(draw, written(draw, asked))


def main():
    folder, output, count, seed, which = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    tests = [*(f"{family}-test" for family in TEST_FAMILIES), "more-sums-test", "wordings-test"]
    held_out = {expression(row["question"]) for name in tests for row in read(folder / f"{name}.jsonl")}
    others = [row for name in ("alike", "composed") for row in read(folder / f"{name}-train.jsonl")]
    others = [row for row in others if row["source"] == "others"]
    draw = random.Random(int(seed))
    kinds = [operation, lambda draw: sum_of(draw, [2, 3, 4, 5], [1, 3, 3, 2], SIZES, WEIGHTS), product]
    share, weights = SHARES[which]
    rows = 0
    with output.open("w", encoding="utf-8") as out:
        while rows < int(count):
            if draw.random() < share:
                way, task = "hand_on", draw.choice(others)
            else:
                (kind,) = draw.choices(kinds, weights)
                asked = kind(draw)
                if asked in held_out:
                    continue
                way, task = "columns", {"question": asked_as(draw, asked), "expression": asked}
            messages, answer = conversation(way, task, MORE_FORMS, draw)
            assert way == "hand_on" or int(answer) == eval(asked), (task, answer)
            out.write(json.dumps({"messages": messages}) + "\n")
            rows += 1
    print(f"{output}: {rows} conversations")


if __name__ == "__main__":
    main()
