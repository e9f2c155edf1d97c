#!/usr/bin/env python3
"""Writes the conversations of the fifth stage: differences.py FAMILIES OUTPUT.jsonl

FAMILIES is the folder that `families.py` and `wordings.py` made. Two thirds are the first turn of a
difference of two numbers, in which a policy decides which to subtract from which; a quarter are sums
with something to subtract; and a tenth the conversations of the fourth stage, so that nothing else is
forgotten. No test question is among them.
"""

import json
import random
import sys
from pathlib import Path

from scripted import expression
from warm_start import MORE_FORMS, conversation
from wordings import TEST_FAMILIES, composed, read, sum_of, worded, written

COUNT, SEED = 3000, 6
# Digits of the two numbers, with their weights.
DIGITS = {(1, 1): 2, (2, 2): 20, (3, 3): 20, (4, 4): 5, (2, 3): 4, (3, 2): 4, (3, 4): 4, (4, 3): 6}


def difference(draw):
    """A difference of two numbers, some of which are close to each other."""
    (sizes,) = draw.choices(list(DIGITS), list(DIGITS.values()))
    first, second = (draw.randrange(10 ** (size - 1) + (size == 1), 10**size) for size in sizes)
    if sizes[0] == sizes[1] and draw.random() < 0.25:
        second = max(1, first + draw.randint(-9, 9) * draw.choice([1, 10]))
    return f"{first} - {second}"


def asked_as(draw, asked):
    if draw.random() < 0.6:
        return worded(draw, "sums", asked, False)
    return composed(draw, written(draw, asked))


def main():
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    tests = [*(f"{family}-test" for family in TEST_FAMILIES), "more-sums-test", "wordings-test"]
    held_out = {expression(row["question"]) for name in tests for row in read(folder / f"{name}.jsonl")}
    before = read(folder / "composed-train.jsonl")
    draw = random.Random(SEED)
    count = 0
    with output.open("w", encoding="utf-8") as out:
        while count < COUNT:
            kind = draw.random()
            if kind < 0.1:
                task = draw.choice(before)
                way = "hand_on" if task["source"] == "others" else "best"
            else:
                way = "best"
                asked = difference(draw) if kind < 0.75 else sum_of(draw, [3, 4, 5], [3, 2, 1], [2, 3], [1, 1])
                if asked in held_out or " - " not in asked:
                    continue
                task = {"question": asked_as(draw, asked), "expression": asked}
            messages, _ = conversation(way, task, MORE_FORMS, draw)
            if 0.1 <= kind < 0.75:
                messages = messages[:2]
            out.write(json.dumps({"messages": messages}) + "\n")
            count += 1
    print(f"{output}: {count} conversations")


if __name__ == "__main__":
    main()
