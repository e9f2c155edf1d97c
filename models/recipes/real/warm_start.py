#!/usr/bin/env python3
"""Writes the conversations of a warm start: warm_start.py FAMILIES OUTPUT.jsonl [COUNT [WAY]]

FAMILIES is the folder that `families.py` made; only its training questions are used. `scripted.py`
plays the policy, in several ways: some ask well and some badly, in shares that are fixed below and
not ordered by how good they are, so that what works is left to be found by training. The replies are
written here, in the forms in which Qwen2.5-Coder-1.5B-Instruct was seen to reply, and are right: a
conversation with a wrong one would end with a wrong answer and be rejected, and what is learnt are
the policy's turns alone. So no large model is needed.

With `best`, only the ways that answer the most training questions with the real large model are
shown, for a second stage (`warm-best.toml`); the questions are those that the first did not use.
With `every`, all ways have equal shares: the choice is left to reinforcement learning
(`warm-every.toml`, then `grpo-every.toml`). With `wide`, the best ways are shown for the questions
that `wordings.py` wrote, with replies in more forms, and questions of other kinds are handed on to
the large model (`warm-wide.toml`); `alike` and `composed` are the same for its questions that more
often only look like sums and products (`warm-alike.toml`, `warm-composed.toml`).

Each line is a conversation as `server train sft` reads it (`kind = "chat"`): the question, then the
policy's turns and the replies in turn, by the templates beside this file.
"""

import hashlib
import json
import random
import re
import sys
from itertools import islice, zip_longest
from pathlib import Path

import scripted

# The file of a family, with the shares of the ways to answer its questions.
WAYS = {
    "chain_sum_short": {"left_to_right": 0.55, "apart": 0.45},
    "products": {"whole": 0.4, "places": 0.6},
}
BEST = {"chain_sum_short": {"apart": 1.0}, "products": {"digits": 1.0}}
EVERY = {
    "chain_sum_short": dict.fromkeys(["whole", "left_to_right", "apart"], 1.0),
    "products": dict.fromkeys(["whole", "places", "digits"], 1.0),
}
WIDE = {"sums": {"apart": 1.0}, "products": {"digits": 1.0}, "others": {"hand_on": 1.0}}
# The conversations of the first stage: 100 steps of 8.
FIRST = 800
FORMS = ["{} equals {}.", "{} equals {}.", "{} = {}", "The result of {} is {}."]
MORE_FORMS = FORMS + [
    "{1}", "{1}.", "**{1}**", "{0} = **{1}**", "{0} is {1}.", "{0} = {1}.", "The answer is {1}.",
    "The sum is {1}.", "\\[ {0} = {1} \\]", "To find {0}, we calculate:\n\n{0} = {1}",
    "{0} equals {1}. Here is how", "Sure! {0} = {1}", "It is {1}.", "```\n{0} = {1}\n```",
]  # fmt: skip


# Of several operations; most replies are in the first form.
COLUMN_FORMS = ["{} = {}"] * 12 + ["{} equals {}.", "{} is {}.", "{} = **{}**", "- {} = {}"]


def reply(prompt, forms, draw):
    asked = re.findall(r"-?\d[\d *+-]*\d|\d", prompt)
    if len(asked) > 1:
        forms = [draw.choice(COLUMN_FORMS)]
        if draw.random() < 0.3:
            # The large models leave out what they have replied with.
            asked = list(dict.fromkeys(asked))
    # Digits, spaces and operators alone, by the expression above.
    return "\n".join(draw.choice(forms).format(each, eval(each)) for each in asked)


def conversation(way, task, forms, draw):
    messages, replies = [{"role": "user", "content": task["question"]}], []
    while True:
        turn = scripted.turn(way, task.get("expression", task["question"]), replies)
        messages.append({"role": "assistant", "content": scripted.written(turn)})
        if turn.prompt is None:
            return messages, turn.answer
        replies.append(reply(turn.prompt, forms, draw))
        messages.append({"role": "user", "content": replies[-1]})


def questions(folder, names):
    """The questions of each family."""
    for name in names:
        with (folder / f"{name}-train.jsonl").open(encoding="utf-8") as lines:
            yield [json.loads(line) for line in lines]


def main():
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 1600
    stages = {
        "best": (BEST, WAYS, FORMS, FIRST),
        "every": (EVERY, WAYS, FORMS, 0),
        "wide": (WIDE, ["wide"], MORE_FORMS, 0),
        "alike": (WIDE, ["alike"], MORE_FORMS, 0),
        "composed": (WIDE, ["composed"], MORE_FORMS, 0),
        None: (WAYS, WAYS, FORMS, 0),
    }
    shares, files, forms, begin = stages[sys.argv[4] if len(sys.argv) > 4 else None]
    # The families by turns, so that any prefix has each at its share.
    tasks = (task for row in zip_longest(*questions(folder, files)) for task in row if task)
    written = 0
    with output.open("w", encoding="utf-8") as out:
        for task in islice(tasks, begin, begin + count):
            seed = hashlib.sha256(task["id"].encode()).hexdigest()
            draw = random.Random(seed)
            ways = shares[task["source"]]
            (way,) = draw.choices(list(ways), list(ways.values()))
            messages, answer = conversation(way, task, forms, draw)
            assert answer == task.get("answer"), (task, answer)
            out.write(json.dumps({"messages": messages, "way": way}) + "\n")
            written += 1
    print(f"{output}: {written} conversations")


if __name__ == "__main__":
    main()
