#!/usr/bin/env python3
"""Policies by script for families of exact arithmetic: they ask for one operation at a time.

As the arm `script:python3 scripted.py WAY` of an evaluation it is run once for each turn: it reads a
JSON list of texts, the opening and what was shown after each turn, and writes its turn. The
templates must show the question and the replies and nothing else (`templates/` beside this file).

The ways, by the families that they know:

  whole          any            the question itself, and the last number of the reply is the answer
  left_to_right  chain_sum      a running total, which may be negative
  apart          chain_sum      positive and negative terms are summed apart, and the smaller sum is
                                taken from the larger, so that no step has a negative number
  places         products       one factor by the digits of the other, then the sum of these
  best           both           `apart` or `places`
"""

import json
import re
import sys


class Turn(Exception):
    """The turn that comes next: a thought, and either a prompt or an answer."""

    def __init__(self, think, prompt=None, answer=None):
        super().__init__()
        self.think, self.prompt, self.answer = think, prompt, answer


class Replies:
    """Goes through the replies so far, and stops at the first prompt that has none yet."""

    def __init__(self, replies):
        self.replies = iter(replies)

    def ask(self, think, prompt):
        """The number that the large model replied with to this prompt."""
        reply = next(self.replies, None)
        if reply is None:
            raise Turn(think, prompt=prompt)
        numbers = re.findall(r"-?\d+", reply.replace(",", ""))
        if not numbers:
            raise Turn("no number", answer="unknown")
        return int(numbers[-1])


def total(replies, think, numbers):
    """The sum of `numbers`, one addition a turn."""
    found = numbers[0]
    for number in numbers[1:]:
        found = replies.ask(think, f"What is {found} + {number}?")
        think = str(found)
    return found


def terms(question):
    """The signed terms of a sum."""
    expression = question.split(":")[-1]
    return [int(sign + digits) for sign, digits in re.findall(r"([+-]?)\s*(\d+)", expression)]


def listing(plus, minus):
    words = [f"plus {' '.join(map(str, plus))}", f"minus {' '.join(map(str, minus))}"]
    return ", ".join(words if minus else words[:1])


def apart(question, replies):
    numbers = terms(question)
    plus = [number for number in numbers if number > 0]
    minus = [-number for number in numbers if number < 0]
    gained = total(replies, listing(plus, minus), plus)
    if not minus:
        raise Turn(str(gained), answer=str(gained))
    think = f"plus {gained}" if len(plus) > 1 else listing(plus, minus)
    lost = total(replies, think, minus)
    is_first = len(plus) == len(minus) == 1
    think = listing(plus, minus) if is_first else f"plus {gained}, minus {lost}"
    difference = replies.ask(think, f"What is {max(gained, lost)} - {min(gained, lost)}?")
    sign = "plus" if gained >= lost else "minus"
    answer = difference if gained >= lost else -difference
    raise Turn(f"{sign} {difference}", answer=str(answer))


def left_to_right(question, replies):
    found, *rest = terms(question)
    think = "from left to right"
    for number in rest:
        sign = "+" if number > 0 else "-"
        found = replies.ask(think, f"What is {found} {sign} {abs(number)}?")
        think = str(found)
    raise Turn(think, answer=str(found))


def expression(question):
    return re.search(r"-?\d[\d *+-]*\d", question).group()


def whole(question, replies):
    found = replies.ask("at once", f"What is {expression(question)}?")
    raise Turn(str(found), answer=str(found))


def places(question, replies):
    first, second = (int(factor) for factor in expression(question).split("*"))
    digits = str(second)
    parts = [int(digit) * 10 ** (len(digits) - 1 - at) for at, digit in enumerate(digits)]
    parts = [part for part in parts if part]
    think = " ".join(map(str, parts))
    products = []
    for part in parts:
        products.append(replies.ask(think, f"What is {first} * {part}?"))
        think = " ".join(map(str, products))
    found = total(replies, think, products)
    raise Turn(str(found), answer=str(found))


def best(question, replies):
    return (places if "*" in question else apart)(question, replies)


WAYS = {way.__name__: way for way in (whole, left_to_right, apart, places, best)}


def turn(way, question, replies):
    """The turn after these replies."""
    try:
        WAYS[way](question, Replies(replies))
    except Turn as turn:
        return turn


def written(turn):
    """The turn as a policy writes it."""
    tag, text = "interaction_prompt", turn.prompt
    if turn.prompt is None:
        tag, text = "answer", turn.answer
    return f"<think>{turn.think}</think><{tag}>{text}</{tag}>"


def main():
    question, *replies = json.load(sys.stdin)
    way = sys.argv[1] if len(sys.argv) > 1 else "best"
    print(written(turn(way, question, replies)))


if __name__ == "__main__":
    main()
