#!/usr/bin/env python3
"""Writes questions in many wordings, and of many kinds: wordings.py FAMILIES

FAMILIES is the folder that `families.py` made; needs `pip install reasoning-gym==0.1.25`. The seeds
are fixed, so the files are the same everywhere:

  wide-train.jsonl      sums and products in many wordings and sizes, each with its `expression`; and
                        questions of other kinds, which have none, some of which look like these
  alike-train.jsonl     the same with more wordings, and more questions that only look like sums or
                        products: their expressions are composed at random
  composed-train.jsonl  the same with wordings that are composed at random, too
  wordings-test.jsonl   sums and products in wordings that no training question has
  others-test.jsonl     questions of kinds that are in no training file
  alike-test.jsonl      questions that look like sums or products and are none, in forms that no
                        training question has; the answer is that of `exact_model.py`
  more-sums-test.jsonl  600 more sums of the family `chain_sum_short`

No expression of a test file is in the training file.
"""

import json
import random
import re
import sys
from pathlib import Path

import reasoning_gym
from families import FAMILIES, generate, normal, write_rows
from scripted import expression, summed

TRAIN, ALIKE_TRAIN, COMPOSED_TRAIN, TEST = 3200, 1600, 2000, 200
TEST_FAMILIES = ["chain_sum_short", "chain_sum", "products"]

# Of every 20 training questions: sums, products, and others.
SHARES = [("sums", 7), ("products", 6), ("others", 7)]

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
MORE_OPERATORS = {
    " + ": [" + ", " + ", " + ", "+", "+", " plus ", " plus "],
    " - ": [" - ", " - ", " - ", "-", "-", " − ", " – ", " minus ", " minus "],
    " * ": [" * ", " * ", "*", "*", " × ", "×", " x ", " x ", "x", " X ", " · ", " times ", " multiplied by "],
}  # fmt: skip
# Of two numbers.
PAIRS = {
    "+": ["the sum of {0} and {1}", "add {0} and {1}", "{1} added to {0}", "the total of {0} and {1}", "{0} and {1} together"],
    "-": ["subtract {1} from {0}", "take {1} away from {0}", "{0} less {1}", "the difference {0} minus {1}", "{0} take away {1}"],
    "*": ["the product of {0} and {1}", "multiply {0} by {1}", "multiply {0} and {1}", "{0} multiplied with {1}", "{0} lots of {1}"],
}  # fmt: skip
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
# Questions that look like sums or products and are none: other operations, mixed ones, or more to do
# than the operation. `{}` is a sum or a product of any size.
ALIKE = [
    "{few}.{few} + {few}.{few}", "{many}.{few} - {few}.{few}{few}", "{few}.{few} * {few}", "0.{few} + 0.{few}",
    "{few} * {many} * {few}", "{few} * {few} * {few}", "{few} * {few} + {many}", "{many} - {few} * {few}",
    "{few} * {many} - {few}", "{many} + {many} * {few}", "{few} * ({few} + {many})", "({many} - {few}) * {few}",
    "{many} / {few}", "{many} / {few} + {many}", "{many} * {few} / {few}", "{few} ^ {few}", "{few}**{few}",
    "{many} % {few}", "{few}/{few} + {few}/{few}", "{many} plus {word}", "{word} plus {word}",
    "{word} times {few}", "{word} minus {word}", "{word} times {word}", "{many}% of {many}", "-({few} + {many})",
]  # fmt: skip
ALIKE_ALONE = [
    "What is the average of {many} and {few}?", "What is the mean of {many}, {many} and {few}?",
    "Is {} more than {many}?", "Is {} equal to {many}?", "Is {} even?", "Which is larger, {} or {many}?",
    "{} = ? Explain your steps.", "Explain how to work out {}.", "Show every step: {}", "Write {} in words.",
    "Compute {}. Then multiply by {few}.", "Calculate {} and divide the result by {few}.",
    "What is {}, as a percentage of {year}?", "Compute {} and reply in JSON.", "Write a story about {}.",
    "Round {} to the nearest hundred.", "If x = {few}, what is {many} * x?", "Solve for x: x + {few} = {many}",
    "What is {few} squared?", "What is {many} divided by {few}?", "Write Python code for {}.",
    "Double {many}, then add {few}.", "What is the remainder of {many} / {few}?", "Half of {many} is?",
]  # fmt: skip
# More wordings of both.
MORE_ANY = [
    "Can you compute {}?", "Please evaluate {}", "{}? Only the number.", "How much does {} come to?",
    "Work this out: {}", "I have to calculate {} for homework.", "{} please", "Question: {}",
    "Let me know what {} gives.", "Task: compute {}. Output the final number only.", "In short: {}",
    "What do you get for {}?", "Find {}.", "Answer this: {}", "calc {}", "solve for me: {}", "{} equals",
    "The sum I am stuck on is {}", "Do the maths: {}", "Hi! What's the result if I enter {}?", "value of {}",
    "Reply with the final value: {}", "Quickly, {}", "Here is an exercise.\n{}", "my bill says {}, so how much?",
]  # fmt: skip
# Parts of still more, composed at random: what is in front, the question, and what follows.
FRONT = [
    "hi, ", "Hi! ", "hello ", "Hey, ", "ok so ", "please: ", "For homework: ", "I am stuck here. ", "Maths: ",
    "Question: ", "Next one: ", "Q. ", "One more. ", "Here is an exercise.\n", "so ", "I forgot how this goes. ",
    "Task: ", "sorry, ", "My bill: ", "Let me ask you this. ", "I am checking a receipt, ", "my teacher asks: ",
]  # fmt: skip
CORES = [
    "{}", "{}", "{} =", "{} = ?", "what is {}", "What is {}", "what's {}", "How much is {}", "calculate {}",
    "compute {}", "solve {}", "evaluate {}", "work out {}", "find {}", "the value of {}", "what does {} equal",
    "what does {} come to", "what do you get for {}", "{} equals", "{} is", "I need {}", "give me {}",
    "can you calculate {}", "could you compute {}", "would you solve {} for me", "help me with {}", "do {}",
    "I want to know {}", "what would {} be", "let me know what {} gives", "calc {}", "do you know {}",
    "what will I get if I enter {}", "tell me how much {} is", "please find the answer to {}", "the answer to {}",
]  # fmt: skip
BEHIND = [
    "?", "?", ".", ".", "!", "??", " please", " pls", " thanks", ", thank you", " (only the number)",
    ". Only the number.", ". No explanation.", ", no working needed", ". Use digits.", " asap", ". Be brief.",
    ". Final answer only.", " thx", ", please?", "? Short answer.", ". I only need the total.", "? I keep getting it wrong.",
]  # fmt: skip
# More to do than an operation: `{a}` is a number.
STEPS = [
    "Compute {}, then {then}.", "Take {} and {then}.", "What is {} if you {then} afterwards?", "{} and {then}",
    "First find {}. After that, {then}.", "Start with {a}, add {a} and {then}.", "Add {a} to {a} and {then}.",
    "Subtract {a} from {a} and {then}.", "Take the product of {a} and {a}, and {then}.",
]  # fmt: skip
THEN = [
    "multiply it by {a}", "double the result", "halve it", "subtract {a}", "add {a} to it", "divide by {a}",
    "square it", "round it to tens", "tell me if it is even", "write it in words", "take {a} % of it",
]  # fmt: skip
ABOUT = [
    "How many zeros are in {}?", "Is {} positive?", "What is the last digit of {}?", "Estimate {}.",
    "Check whether {} = {a}.", "True or false: {} = {a}", "Why is {} not {a}?", "Explain {} step by step.",
    "Give {} in Roman numerals.", "What is {} in binary?", "What is the digit sum of {}?", "Which rule gives {}?",
    "Is {} larger than {}?", "Order these: {}, {a}, {a}", "Derive {} and list each step.", "Make a riddle of {}.",
    "What is missing: {} = {a} + ?", "? + {a} = {a}", "{a} * ? = {a}", "x + {a} = {a}, x = ?", "{a} - y = {a}",
    "If y = {a}, what is y + {a}?", "Let n = {a}. Find {a} * n.", "What times {a} is {a}?", "{a} is how much more than {a}?",
    "Who invented {}?", "Translate '{}' into German.", "{} dollars in euros?", "Write {} as a power of ten.",
    "How often does {a} go into {a}?", "The ratio of {a} to {a}?", "What is the square of {a}?", "a third of {a}?",
    "{a} factorial?", "Write a sentence with {}.", "Is {a} a multiple of {a}?", "Largest of {a}, {a} and {a}?",
    "Tom had {a} marbles and lost {a}. How many has he?", "A ticket is {a} euros. What are {a} tickets?",
    "It is {a} km to the sea. We drove {a}. How far is it still?", "{a} rows of {a} seats, how many seats?",
    "Mia is {a}, her mother {a}. How old was her mother when Mia was born?", "{a} minutes after 10 o'clock?",
    "I read {a} pages on Monday and {a} on Tuesday, how many in all?", "Each of {a} boxes holds {a} pens. Total?",
]  # fmt: skip
ALIKE_HELD_OUT = [
    "Tell me the value of {few} * {many} + {few}", "Work out {many} - {few} * {few}, please.",
    "{few}.{few} + {many}.{few} makes what?", "{few} * {few} * {many} makes?", "What's {many} / {few} - {few}?",
    "Calculate {many} + {few}, then take away {word}.", "Multiply {few} by {few} and add {many}.",
    "Between {few} and {many}, what is the middle?", "{} - but show me how you get there.",
    "Spell out the result of {}.", "How many digits does {} have?", "How much is {word} and {word}?",
]  # fmt: skip
WORDS = ["two", "three", "five", "seven", "nine", "eleven", "twelve", "fifteen", "twenty", "thirty", "fifty"]
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


def numbers(draw, count, digits, weights, odd=0.0):
    """Numbers of these digits, a share of them an odd case: few digits, round, or like the one before."""
    drawn = []
    for size in draw.choices(digits, weights, k=count):
        number = draw.randrange(max(2, 10 ** (size - 1)), 10**size)
        if odd and draw.random() < odd:
            before = drawn[-1] if drawn else number
            number = draw.choice([0, 1, 10, 100, 1000, before, before + 1, before - 1, 10 * number])
        drawn.append(max(0, number))
    return drawn


def sum_of(draw, terms, weights, digits, digit_weights, odd=0.0):
    (count,) = draw.choices(terms, weights)
    first, *rest = numbers(draw, count, digits, digit_weights, odd)
    if odd and draw.random() < odd / 2:
        first = -first
    return summed([first, *(draw.choice([1, -1]) * number for number in rest)])


def arithmetic(draw, kind, is_test):
    """An expression of the size that the families have, or, for training, of others too."""
    if kind == "sums":
        if is_test:
            return sum_of(draw, [2, 3, 4, 5], [1, 1, 1, 1], [2, 3], [1, 1])
        terms = range(2, 11)
        return sum_of(draw, terms, [6, 8, 8, 8, 4, 2, 2, 1, 1], range(1, 7), [4, 20, 20, 5, 2, 1], 0.08)
    if is_test:
        return " * ".join(map(str, numbers(draw, 2, [2, 3], [1, 1])))
    return " * ".join(map(str, numbers(draw, 2, range(1, 6), [3, 12, 14, 4, 1], 0.08)))


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
    if draw.random() < 0.15:
        asked = re.sub(r"\d{4,}", lambda number: f"{int(number[0]):,}", asked)
    if kind == "sums" and "-" not in asked and len(two) > 3 and draw.random() < 0.3:
        *listed, last = asked.split(" + ")
        forms = ["Add {} and {}.", "What is the sum of {} and {}?", "{} and {} added together?"]
        return draw.choice(forms).format(", ".join(listed), last)
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
        yield alike(draw, draw.choice(ANY).format(draw.choice(ALIKE)))
        yield alike(draw, draw.choice(ALIKE_ALONE))


def alike(draw, form):
    """The form with each place filled on its own."""
    fill = {
        "{few}": lambda: str(draw.randint(2, 9)),
        "{many}": lambda: str(draw.randint(10, 999)),
        "{year}": lambda: str(draw.randint(1700, 2024)),
        "{word}": lambda: draw.choice(WORDS),
        "{}": lambda: arithmetic(draw, draw.choice(["sums", "products"]), False),
    }
    return re.sub(r"\{\w*\}", lambda place: fill[place[0]](), form)


def composed(draw, asked):
    """The expression, or what else is asked, in a wording that is composed at random."""
    asked = draw.choice(CORES).format(asked)
    if draw.random() < 0.35:
        asked = draw.choice(FRONT) + asked
    if draw.random() < 0.6:
        asked += draw.choice(BEHIND)
    if draw.random() < 0.3:
        asked = asked.lower()
    if draw.random() < 0.15:
        asked = asked.replace("'", "").replace(",", "")
    return asked


def written(draw, asked):
    """A sum or a product with other signs, or in words."""
    parts = asked.split(" ")
    if len(parts) == 3 and draw.random() < 0.2:
        return draw.choice(PAIRS[parts[1]]).format(parts[0], parts[2])
    if "+" in parts and "-" not in parts and len(parts) > 3 and draw.random() < 0.15:
        *listed, last = asked.split(" + ")
        return draw.choice(["the sum of {} and {}", "add up {} and {}"]).format(", ".join(listed), last)
    for sign, others in MORE_OPERATORS.items():
        asked = asked.replace(sign, draw.choice(others))
    return asked


def operand(draw):
    """A number, mostly a whole one."""
    whole = str(draw.randrange(1, 10 ** draw.choice([1, 1, 2, 2, 2, 3, 3, 4])))
    tenths = f"{whole}.{draw.choice(['5', '25', '1', '05', '9', '75'])}"
    return draw.choices([whole, tenths, draw.choice(WORDS), f"{whole}%", f"${whole}"], [80, 8, 8, 2, 2])[0]


def mixed(draw):
    """An expression that is neither a sum nor a product of two whole numbers."""
    while True:
        count = draw.choice([1, 2, 2, 3, 3, 3, 4, 5])
        parts = [operand(draw) for _ in range(count + 1)]
        signs = draw.choice(["+-", "*", "+*", "-*", "+-*", "/", "/+", "/-*", "^", "%"])
        between = [draw.choice(signs) for _ in range(count)]
        if count > 1 and draw.random() < 0.3:
            first = draw.randrange(count)
            parts[first], parts[first + 1] = f"({parts[first]}", f"{parts[first + 1]})"
        text = parts[0] + "".join(f" {sign} {part}" for sign, part in zip(between, parts[1:]))
        is_sum = re.fullmatch(r"\d+( [+-] \d+)+", text)
        if is_sum or re.fullmatch(r"\d+ \* \d+", text):
            continue
        written = {
            "*": ["*", "*", "×", "x", "times"], "/": ["/", "/", "÷", "divided by"], "^": ["^", "**", "to the power of"],
            "+": ["+", "+", "+", "plus"], "-": ["-", "-", "-", "minus"], "%": ["%", "mod", "modulo"],
        }  # fmt: skip
        for sign in sorted(set(between)):
            text = text.replace(f" {sign} ", f" {draw.choice(written[sign])} ")
        return re.sub(r" ([*+/-]) ", r"\1", text) if draw.random() < 0.2 else text


def more_alike(draw, is_composed):
    """A question that looks like a sum or a product and is none."""
    words = [*ANY, *USUAL.values()] if is_composed else [*ANY, *MORE_ANY, *USUAL.values()]
    shares = {"usual": 1, "mixed": 5} if is_composed else {"usual": 6}
    shares |= {"steps": 2, "about": 2}
    kind = draw.choices(list(shares), list(shares.values()))[0]
    if kind == "usual":
        return draw.choice(words).format(mixed(draw))
    if kind == "mixed":
        return composed(draw, mixed(draw))

    def exact(draw):
        asked = arithmetic(draw, draw.choice(["sums", "products"]), False)
        return written(draw, asked) if is_composed else asked

    fill = {
        "{a}": lambda: str(draw.randrange(2, 10 ** draw.choice([1, 2, 2, 3]))),
        "{then}": lambda: filled(draw.choice(THEN)),
        "{}": lambda: exact(draw),
    }

    def filled(form):
        return re.sub(r"\{\w*\}", lambda place: fill[place[0]](), form)

    return filled(draw.choice(STEPS if kind == "steps" else ABOUT))


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


def alike_rows(folder, held_out, is_composed):
    draw = random.Random(4)
    other = others(draw, folder)
    shares = [8, 6, 7, 2] if is_composed else [6, 5, 7, 2]
    rows = []
    while len(rows) < (COMPOSED_TRAIN if is_composed else ALIKE_TRAIN):
        kind = draw.choices(["sums", "products", "alike", "others"], shares)[0]
        row = {"id": f"alike-train-{len(rows)}", "source": kind}
        if kind in ("alike", "others"):
            asked = more_alike(draw, is_composed) if kind == "alike" else next(other)
            rows.append(row | {"source": "others", "question": asked})
            continue
        asked = arithmetic(draw, kind, False)
        if asked in held_out:
            continue
        if draw.random() >= (0.7 if is_composed else 0.5):
            question = worded(draw, kind, asked, False)
        elif is_composed:
            question = composed(draw, written(draw, asked))
        else:
            question = draw.choice(MORE_ANY).format(asked)
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


def alike_test_rows():
    draw = random.Random(1_000_005)
    forms = [form for form in ALIKE_HELD_OUT for _ in range(10)]
    asked = {"source": "alike", "answer": "No."}
    return [
        {"id": f"alike-{number}", "question": alike(draw, form)} | asked
        for number, form in enumerate(forms)
    ]


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
    write_rows(folder / "alike-train.jsonl", alike_rows(folder, held_out, False))
    write_rows(folder / "composed-train.jsonl", alike_rows(folder, held_out, True))
    write_rows(folder / "more-sums-test.jsonl", more_sums(folder, train, test))
    write_rows(folder / "wordings-test.jsonl", test)
    write_rows(folder / "others-test.jsonl", other_test_rows())
    write_rows(folder / "alike-test.jsonl", alike_test_rows())


if __name__ == "__main__":
    main()
