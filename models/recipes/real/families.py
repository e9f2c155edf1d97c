#!/usr/bin/env python3
"""Writes families of tasks as JSON Lines: families.py FOLDER [GSM8K_FOLDER]

Needs `pip install reasoning-gym==0.1.25`. Every family becomes FOLDER/NAME-train.jsonl and
FOLDER/NAME-test.jsonl; the seeds are fixed, so the files are the same everywhere. No question of a
test file stands in its train file. `mixture-train.jsonl` and `mixture-validation.jsonl` are what a
policy is trained on: the training questions of some families by turns, of which the last of each are
for validation. `mixture-easy-train.jsonl` has the easier ones, which are sometimes answered right, and
`differences-train.jsonl` short sums with something to subtract, and a fifth of easy products.

GSM8K_FOLDER holds `gsm8k-train.jsonl` and `gsm8k-test.jsonl` as published; with `gsm8k.parquet` in
it too (needs `pip install pyarrow`), questions that also stand there are left out of training. The
prompt with five worked examples, FOLDER/gsm8k-5-shot.j2, is made from the training split too.
"""

import json
import re
import sys
from itertools import zip_longest
from pathlib import Path

import reasoning_gym

TRAIN, TEST = 2000, 300
# reasoning-gym draws question `n` of seed `s` as question 0 of seed `s + n`.
TRAIN_SEED, TEST_SEED = 1, 1_000_001

# Name of the file: family of reasoning-gym and its settings.
FAMILIES = {
    "chain_sum": ("chain_sum", {"min_terms": 6, "max_terms": 8, "min_digits": 2, "max_digits": 3}),
    "chain_sum_short": (
        "chain_sum",
        {"min_terms": 2, "max_terms": 5, "min_digits": 2, "max_digits": 3},
    ),
    "decimal_chain_sum": ("decimal_chain_sum", {"min_terms": 4, "max_terms": 6}),
    "letter_counting": ("letter_counting", {}),
    "products": (
        "products",
        {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 3},
    ),
    "family_relationships": ("family_relationships", {}),
    "gsm_symbolic": ("gsm_symbolic", {}),
}

MIXTURE, VALIDATION = ("chain_sum_short", "products"), 24
DIFFERENCES_VALIDATION = 48


def normal(question):
    """A key that is equal for questions that differ only in case, punctuation and spaces."""
    return " ".join(re.findall(r"\w+", question.lower()))


def write(file, source, split, questions):
    """Writes the questions, each with its answer, and returns the rows."""
    rows = []
    for number, (question, answer) in enumerate(questions):
        row = {"id": f"{source}-{split}-{number}", "source": source}
        rows.append(row | {"question": question, "answer": answer})
    write_rows(file, rows)
    return rows


def write_rows(file, rows):
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{file}: {len(rows)}")


def generate(family, settings, size, seed):
    rows = reasoning_gym.create_dataset(family, size=size, seed=seed, **settings)
    return [(row["question"], row["answer"]) for row in rows]


def write_families(folder):
    parts = []
    for name, (family, settings) in FAMILIES.items():
        test = generate(family, settings, TEST, TEST_SEED)
        held_out = {normal(question) for question, _ in test}
        train = generate(family, settings, TRAIN, TRAIN_SEED)
        train = [row for row in train if normal(row[0]) not in held_out]
        write(folder / f"{name}-test.jsonl", name, "test", test)
        rows = write(folder / f"{name}-train.jsonl", name, "train", train)
        if name in MIXTURE:
            parts.append(rows)
    for split, part in {"train": slice(-VALIDATION), "validation": slice(-VALIDATION, None)}.items():
        mixed = mixture([rows[part] for rows in parts])
        write_rows(folder / f"mixture-{split}.jsonl", mixed)
    easy = [[row for row in rows[:-VALIDATION] if is_easy(row)] for rows in parts]
    write_rows(folder / "mixture-easy-train.jsonl", mixture(easy))
    sums, products = parts
    differences = [row for row in sums if is_difference(row)]
    write_rows(folder / "differences-validation.jsonl", differences[-DIFFERENCES_VALIDATION:])
    products = iter(row for row in products if is_easy(row))
    mixed = []
    for number, row in enumerate(differences[:-DIFFERENCES_VALIDATION]):
        mixed += [row, next(products)] if number % 4 == 3 else [row]
    write_rows(folder / "differences-train.jsonl", mixed)


def mixture(parts):
    """The rows of all parts by turns."""
    return [row for turn in zip_longest(*parts) for row in turn if row]


def is_difference(row):
    """Whether this is a sum of two or three terms, of which one at least is subtracted."""
    return " - " in row["question"] and len(re.findall(r"\d+", row["question"])) <= 3


def is_easy(row):
    """Whether a small model can be right in some way: few digits, but more than one operation."""
    numbers = re.findall(r"\d+", row["question"])
    if row["source"] == "products":
        return sum(map(len, numbers)) <= 5
    return 3 <= len(numbers) <= 4


def write_gsm8k(published, folder):
    def read(name):
        lines = (published / name).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [(row["question"], row["answer"].split("####")[-1].strip()) for row in rows]

    parquet = published / "gsm8k.parquet"
    held_out = {normal(question) for question, _ in read("gsm8k-test.jsonl")}
    if parquet.exists():
        import pyarrow.parquet

        for row in pyarrow.parquet.read_table(parquet).to_pylist():
            asked = normal(row["prompt"][-1]["content"])
            held_out |= {known for known in train_questions(published) if known in asked}
    train = [row for row in read("gsm8k-train.jsonl") if normal(row[0]) not in held_out]
    write(folder / "gsm8k-train.jsonl", "gsm8k", "train", train)
    write(folder / "gsm8k-test.jsonl", "gsm8k", "test", read("gsm8k-test.jsonl"))
    write_few_shot(published, folder / "gsm8k-5-shot.j2", 5)


def write_few_shot(published, file, count):
    """A template with the first `count` worked examples of the training split, as
    lm-evaluation-harness frames them."""
    lines = (published / "gsm8k-train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:count]]
    shown = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in rows)
    text = "{% raw %}" + shown + "{% endraw %}Question: {{ question }}\nAnswer:"
    file.write_text(text, encoding="utf-8")


def train_questions(published):
    lines = (published / "gsm8k-train.jsonl").read_text(encoding="utf-8").splitlines()
    return [normal(json.loads(line)["question"]) for line in lines]


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_families(folder)
    if len(sys.argv) > 2:
        write_gsm8k(Path(sys.argv[2]), folder)


if __name__ == "__main__":
    main()
