"""Makes `answer.json`: predictions and gold answers with SQuAD v1.1's normalised form, exact match
and token F1, computed from their published definitions with nothing but Python's library.

    python3 tests/golden/answer/make.py

An empty prediction is left out: it scores 0 here, where SQuAD v1.1 lets it equal an empty gold.
"""

import collections
import json
import pathlib
import random
import re
import string

PUNCTUATION = set(string.punctuation)


def normalise(text):
    """Lower case; no ASCII punctuation; no article; single spaces."""
    text = "".join(c for c in text.lower() if c not in PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(prediction, gold):
    return float(normalise(prediction) == normalise(gold))


def f1(prediction, gold):
    predicted, expected = normalise(prediction).split(), normalise(gold).split()
    same = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / len(expected)
    return 2 * precision * recall / (precision + recall)


WRITTEN = [
    ("Paris", "Paris"),
    ("paris.", "Paris"),
    ("The city of Paris", "Paris"),
    ("the the the", "the"),
    ("A", "the"),
    ("An apple a day", "apple day"),
    ("U.S.A.", "USA"),
    ("well-known", "well known"),
    ("a–b", "b"),
    ("theatre", "the atre"),
    ("Beyoncé", "beyonce"),
    ("BEYONCÉ!", "beyoncé"),
    ("İstanbul", "istanbul"),
    ("ΟΔΟΣ", "οδος"),
    ("Straße", "strasse"),
    ("5.6", "56"),
    ("-3", "3"),
    ("1,000", "1000"),
    ("$5.60", "5.60"),
    ("50%", "50"),
    ("to be or not to be", "to be to be"),
    ("x x x y", "x x z"),
    ("yes", "no"),
    ("non\u00a0breaking", "non breaking"),
    ("line\nbreak\ttab", "line break tab"),
    ("separated\x1cby\x1fcontrols", "separated by controls"),
    ("“quoted”", "quoted"),
    ("it's", "its"),
    ("a_b", "ab"),
    ("the_end", "end"),
    ("東京 の 塔", "東京 塔"),
    ("a東京", "東京"),
    ("...", "?!"),
    ("nothing", "?!"),
]

WORDS = ["a", "An", "the", "The", "cat", "Cat,", "sat", "on", "mat.", "5", "5.0", "-5", "é", "O'Neil",
         "(or)", "e.g.", "–", "theory", "anon", "…"]


def main():
    rng = random.Random(20)
    phrase = lambda: " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 8)))
    pairs = WRITTEN + [(phrase(), phrase()) for _ in range(400)]
    rows = [
        {
            "prediction": prediction,
            "gold": gold,
            "normalised": normalise(prediction),
            "exact": exact_match(prediction, gold),
            "f1": f1(prediction, gold),
        }
        for prediction, gold in pairs
    ]
    path = pathlib.Path(__file__).with_name("answer.json")
    path.write_text(json.dumps(rows, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


main()
