#!/usr/bin/env python3
"""Writes questions in many wordings, and of many kinds: wordings.py FAMILIES

FAMILIES is the folder that `families.py` made; needs `pip install reasoning-gym==0.1.25`. The seeds
are fixed, so the files are the same everywhere:

  wide-train.jsonl      sums and products in many wordings and sizes, each with its `expression`; and
                        questions of other kinds, which have none
  wordings-test.jsonl   sums and products in wordings that no training question has
  others-test.jsonl     questions of kinds that are in no training file
  more-sums-test.jsonl  600 more sums of the family `chain_sum_short`

No expression of a test file is in the training file.
"""

import json
import random
import sys
from pathlib import Path

import reasoning_gym
from families import FAMILIES, generate, normal, write_rows
from scripted import expression, summed

TRAIN, TEST = 2400, 200
TEST_FAMILIES = ["chain_sum_short", "chain_sum", "products"]

# Of every 20 training questions: sums, products, and others.
SHARES = [("sums", 8), ("products", 6), ("others", 6)]

ANY = [
    "{}", "{} =", "{} = ?", "What is {}?", "what's {}", "What does {} equal?", "How much is {}?",
    "Calculate {}.", "calculate {}", "Compute {}.", "Solve {}", "Solve: {}", "Find the value of {}.",
    "Evaluate the expression {}.", "Please work out {}.", "I need the result of {}, please.",
    "Q: {}\nA:", "Give only the result as your final answer: {}",
]  # fmt: skip
# Those of reasoning-gym.
USUAL = {
    "sums": "State the final answer to the following arithmetic problem: {} =",
    "products": "Solve the following multiplication: {}. Give only the result as your final answer.",
}
HELD_OUT = [
    "Could you tell me what {} is?", "Determine {} and reply with just the number.", "Result of {}?",
    "My calculator is broken. What would it show for {}?", "hey, a quick question: {}",
    "Answer with a single number. {}", "I wonder what {} makes.",
]  # fmt: skip
OPERATORS = {
    "sums": [{}, {}, {}, {" + ": "+", " - ": "-"}, {" + ": " plus ", " - ": " minus "}],
    "products": [{}, {}, {}, {" * ": "*"}, {" * ": " × "}, {" * ": " x "}, {" * ": " times "}],
}

# Other kinds: families of reasoning-gym, GSM8K, and questions of the forms below.
OTHER_FAMILIES = [
    "gsm_symbolic", "decimal_chain_sum", "simple_equations", "calendar_arithmetic", "word_sorting",
    "spell_backward", "count_primes", "gcd", "lcm", "fraction_simplification", "number_sequence",
    "leg_counting", "syllogism", "base_conversion", "decimal_arithmetic",
]  # fmt: skip
OTHER_HELD_OUT = [
    "letter_counting", "family_relationships", "time_intervals", "prime_factorization",
    "caesar_cipher", "aiw", "sentence_reordering",
]  # fmt: skip
FORMS = [
    "What is the capital of {place}?", "Who wrote {book}?", "Write a short poem about {thing}.",
    "Translate '{phrase}' into {language}.", "Explain {topic} to a child.", "{greeting}",
    "How do I {task} in {code}?", "Give me {few} names for a {thing}.", "What happened in {year}?",
    "Convert {many} km to miles.", "Is {many} a prime number?", "What is {few} % of {many}?",
    "Round {few}.{many} to one digit.", "({many} + {few}) * {few}", "What is {many} / {few}?",
    "{many} * {few} + {many}", "Calculate {many} + {few} * {many}.", "{few} to the power of {few}",
    "What is the square root of {many}?", "List {few} facts about {place}.", "Why is {thing} {colour}?",
    "Which is larger, {many} or {year}?", "Summarise this in one sentence: {topic} was known in {year}.",
    "I have {many} apples and give away {few}. How many are left?", "Fix this code: print({few} +)",
    "How many people live in {place}?", "How old is someone today who was born in {year}?",
    "A {thing} costs {many} dollars, {few} of them cost how much?", "What is {topic}?",
    "How many minutes are {few} hours?", "Name the {few} largest cities of {place}.",
]  # fmt: skip
FILL = {
    "place": ["France", "Peru", "Japan", "Kenya", "Norway", "Canada", "Vietnam", "Texas", "Egypt"],
    "book": ["Hamlet", "Dracula", "Emma", "The Odyssey", "Faust", "War and Peace", "Dune"],
    "thing": ["cat", "river", "rose", "bicycle", "violin", "cloud", "lamp", "horse", "ship"],
    "phrase": ["good morning", "I am hungry", "where is the station", "thank you", "see you soon"],
    "language": ["French", "German", "Spanish", "Latin", "Turkish", "Hindi"],
    "topic": ["gravity", "the moon", "inflation", "democracy", "evolution", "the internet", "jazz"],
    "greeting": ["Hello", "hi there", "Good evening!", "How are you?", "Thanks a lot", "Help"],
    "task": ["sort a list", "read a file", "reverse a string", "add two numbers", "parse JSON"],
    "code": ["Python", "Rust", "C", "JavaScript", "SQL"],
    "colour": ["red", "blue", "green", "white", "so old"],
}


def numbers(draw, count, digits, weights):
    sizes = draw.choices(digits, weights, k=count)
    return [draw.randrange(max(2, 10 ** (size - 1)), 10**size) for size in sizes]


def sum_of(draw, terms, weights, digits, digit_weights):
    (count,) = draw.choices(terms, weights)
    first, *rest = numbers(draw, count, digits, digit_weights)
    return summed([first, *(draw.choice([1, -1]) * number for number in rest)])


def arithmetic(draw, kind, is_test):
    """An expression of the size that the families have, or, for training, of others too."""
    if kind == "sums":
        if is_test:
            return sum_of(draw, [2, 3, 4, 5], [1, 1, 1, 1], [2, 3], [1, 1])
        return sum_of(draw, [2, 3, 4, 5, 6, 7, 8], [3, 4, 4, 4, 2, 1, 1], [1, 2, 3, 4], [1, 5, 5, 1])
    if is_test:
        return " * ".join(map(str, numbers(draw, 2, [2, 3], [1, 1])))
    return " * ".join(map(str, numbers(draw, 2, [1, 2, 3, 4], [1, 5, 6, 1])))


def worded(draw, kind, asked, is_test):
    if is_test:
        return draw.choice(HELD_OUT).format(asked)
    if draw.random() < 0.4:
        return USUAL[kind].format(asked)
    two = asked.split(" ")
    if len(two) == 3 and draw.random() < 0.2:
        first, operator, second = two
        forms = {
            "*": ["What is the product of {0} and {1}?", "Multiply {0} by {1}."],
            "+": ["What is the sum of {0} and {1}?", "Add {0} and {1}."],
            "-": ["What is the difference of {0} and {1}?", "Subtract {1} from {0}."],
        }
        return draw.choice(forms[operator]).format(first, second)
    for sign, written in draw.choice(OPERATORS[kind]).items():
        asked = asked.replace(sign, written)
    return draw.choice(ANY).format(asked)


def others(draw, folder):
    """Questions of other kinds, without end."""
    gsm8k = [line["question"] for line in read(folder / "gsm8k-train.jsonl")]
    draw.shuffle(gsm8k)
    gym = [generated(family, 100, 7) for family in OTHER_FAMILIES]
    while True:
        yield gsm8k.pop()
        yield draw.choice(draw.choice(gym))["question"]
        known = {name: draw.choice(values) for name, values in FILL.items()}
        numbers = {"few": draw.randint(2, 9), "many": draw.randint(10, 999), "year": draw.randint(1700, 2024)}
        yield draw.choice(FORMS).format(**known, **numbers)


def generated(family, size, seed):
    return list(reasoning_gym.create_dataset(family, size=size, seed=seed))


def read(file):
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def train_rows(folder, held_out):
    draw = random.Random(3)
    other = others(draw, folder)
    kinds = [kind for kind, share in SHARES for _ in range(share)]
    rows = []
    while len(rows) < TRAIN:
        draw.shuffle(kinds)
        for kind in kinds:
            row = {"id": f"wide-{len(rows)}", "source": kind}
            if kind == "others":
                rows.append(row | {"question": next(other)})
                continue
            asked = arithmetic(draw, kind, False)
            if asked in held_out:
                continue
            question = worded(draw, kind, asked, False)
            rows.append(row | {"question": question, "expression": asked, "answer": str(eval(asked))})
    return rows


def test_rows():
    draw = random.Random(1_000_003)
    rows = []
    for number in range(TEST):
        kind = ("sums", "products")[number % 2]
        asked = arithmetic(draw, kind, True)
        row = {"id": f"wordings-test-{number}", "source": f"{kind}_worded"}
        rows.append(row | {"question": worded(draw, kind, asked, True), "answer": str(eval(asked))})
    return rows


def other_test_rows():
    rows = []
    for family in OTHER_HELD_OUT:
        for number, row in enumerate(generated(family, 20, 1_000_001)):
            asked = {"id": f"{family}-{number}", "source": family, "question": row["question"]}
            rows.append(asked | {"answer": row["answer"]})
    return rows


def more_sums(folder, train, test):
    """Sums that are in no other file."""
    family = "chain_sum_short"
    files = [read(folder / f"{family}-{split}.jsonl") for split in ("train", "test")]
    known = {normal(row["question"]) for rows in [*files, test] for row in rows}
    known |= {normal(USUAL["sums"].format(row.get("expression"))) for row in train}
    questions = generate(*FAMILIES[family], 640, 2_000_001)
    rows = [
        {"id": f"{family}-more-{number}", "source": family, "question": question, "answer": answer}
        for number, (question, answer) in enumerate(questions)
        if normal(question) not in known
    ]
    return rows[:600]


def main():
    folder = Path(sys.argv[1])
    test = test_rows()
    held_out = {expression(row["question"]) for row in test}
    for family in TEST_FAMILIES:
        held_out |= {expression(row["question"]) for row in read(folder / f"{family}-test.jsonl")}
    train = train_rows(folder, held_out)
    write_rows(folder / "wide-train.jsonl", train)
    write_rows(folder / "more-sums-test.jsonl", more_sums(folder, train, test))
    write_rows(folder / "wordings-test.jsonl", test)
    write_rows(folder / "others-test.jsonl", other_test_rows())


if __name__ == "__main__":
    main()
