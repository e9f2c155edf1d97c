#!/usr/bin/env python3
"""Scripted policies for families of exact arithmetic: they ask for one operation at a time.

As the arm `script:python3 scripted.py WAY` of an evaluation it is run once for each turn: it reads a
JSON list of texts, the opening and what was shown after each turn, and writes its turn. The
templates must show the question and the replies and nothing else (`templates/` beside this file).

A thought is what is left to compute, a prompt asks for its first operation, and the next thought has
the reply in its place. So a small model needs only the last turn to write the next one. The ways, by
the families that they know:

  whole          any            the question itself, and the last number of the reply is the answer
  left_to_right  chain_sum      a running total, which may be negative
  apart          chain_sum      positive and negative terms are summed apart, and the smaller sum is
                                taken from the larger, so that no step has a negative number
  places         products       one factor by the digits of the other, then the sum of these
  digits         products       as `places`, but the zeros are left out and put back, and of each sum
                                only the digits that change are asked for
  best           both           `apart` or `digits`
  columns        both           as by hand, one digit at a time; its thoughts are not what a policy could go
                                on from
  hand_on        any            the large model answers, from the question itself
"""

import json
import re
import sys


class Turn(Exception):
    """The next turn: a thought, and one of a prompt, an answer, and a prompt whose reply is the answer."""

    def __init__(self, think, prompt=None, answer=None, final_prompt=None):
        super().__init__()
        self.think, self.prompt, self.answer = think, prompt, answer
        self.final_prompt = final_prompt


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


def expression(question):
    return re.search(r"-?\d[\d *+-]*\d", question).group()


def terms(question):
    """The signed terms of a sum."""
    pairs = re.findall(r"([+-]?)\s*(\d+)", expression(question))
    return [int(sign + digits) for sign, digits in pairs]


def summed(terms):
    """The terms as a sum: `1 - 2 + 3`."""
    signs = [f" {'-' if term < 0 else '+'} {abs(term)}" for term in terms[1:]]
    return str(terms[0]) + "".join(signs)


def whole(question, replies):
    asked = expression(question)
    found = replies.ask(asked, f"What is {asked}?")
    raise Turn(str(found), answer=str(found))


def left_to_right(question, replies):
    left = terms(question)
    while len(left) > 1:
        first = summed(left[:2])
        left[:2] = [replies.ask(summed(left), f"What is {first}?")]
    raise Turn(str(left[0]), answer=str(left[0]))


def apart(question, replies):
    plus = [term for term in terms(question) if term > 0]
    minus = [-term for term in terms(question) if term < 0]

    def left():
        if not minus:
            return summed(plus)
        return f"{summed(plus)} - ({summed(minus)})" if minus[1:] else f"{summed(plus)} - {minus[0]}"

    # At least one term to begin with: zeros are left out above.
    plus = plus or [0]
    for part in (plus, minus):
        while len(part) > 1:
            part[:2] = [replies.ask(left(), f"What is {part[0]} + {part[1]}?")]
    found = plus[0]
    if minus and not found:
        found = -minus[0]
    elif minus and plus[0] >= minus[0]:
        found = replies.ask(left(), f"What is {plus[0]} - {minus[0]}?")
    elif minus:
        turned = f"{left()} = -({minus[0]} - {plus[0]})"
        found = -replies.ask(turned, f"What is {minus[0]} - {plus[0]}?")
    raise Turn(str(found), answer=str(found))


def places(question, replies):
    first, second = (int(factor) for factor in expression(question).split("*"))
    digits = str(second)
    parts = [int(digit) * 10 ** (len(digits) - 1 - at) for at, digit in enumerate(digits)]
    left = [f"{first} * {part}" for part in parts if part]
    for at, product in enumerate(left):
        left[at] = replies.ask(" + ".join(map(str, left)), f"What is {product}?")
    while len(left) > 1:
        left[:2] = [replies.ask(summed(left), f"What is {left[0]} + {left[1]}?")]
    raise Turn(str(left[0]), answer=str(left[0]))


def digits(question, replies):
    first, second = expression(question).split(" * ")
    known = {"0": "0", "1": first}
    left = [known.get(digit, f"{first} * {digit}") for digit in second]
    found = 0
    while left:
        if "*" in left[0]:
            asked = left[0]
            product = str(replies.ask(", ".join([str(found), *left][not found :]), f"What is {asked}?"))
            left = [product if part == asked else part for part in left]
        # Ten times what was found so far, and this product: all but the last digit is a small sum.
        carried, last = divmod(int(left.pop(0)), 10)
        if found and carried:
            asked = f"{found} + {carried}"
            found = replies.ask(", ".join([f"{asked} | {last}", *left]), f"What is {asked}?")
        else:
            found += carried
        found = 10 * found + last
    raise Turn(str(found), answer=str(found))


def best(question, replies):
    return (digits if "*" in question else apart)(question, replies)


def columns(question, replies):
    def ask(first, sign, second):
        asked = f"{first} {sign} {second}"
        # Nothing to find out.
        if "0" in (str(first), str(second)) or "1" in (str(first), str(second)) and sign == "*":
            return eval(asked)
        return replies.ask(asked, f"What is {asked}?")

    if "*" in question:
        first, second = expression(question).split(" * ")
        found = multiply(first, second, ask)
    else:
        plus, minus = 0, 0
        for term in terms(question):
            if term > 0:
                plus = add(plus, term, ask) if plus else term
            else:
                minus = add(minus, -term, ask) if minus else -term
        found = subtract(plus, minus, ask) if plus >= minus else -subtract(minus, plus, ask)
    raise Turn(str(found), answer=str(found))


def add(first, second, ask):
    """The sum of two numbers, a digit at a time; the carry is added without asking."""
    first, second = sorted([first, second])
    if not first:
        return second
    found = ask(first % 10, "+", second % 10)
    return 10 * add(first // 10, second // 10 + found // 10, ask) + found % 10


def subtract(first, second, ask):
    """The difference of two numbers, the larger first, a digit at a time."""
    if not second:
        return first
    last, taken = first % 10, second % 10
    is_borrowed = last < taken
    found = ask(10 * is_borrowed + last, "-", taken)
    return 10 * subtract(first // 10 - is_borrowed, second // 10, ask) + found % 10


def multiply(first, second, ask):
    """The product of two numbers, as by hand, with one digit of each at a time."""
    found = 0
    for digit in second:
        product, carry = 0, 0
        for place, other in enumerate(reversed(first)):
            carry, last = divmod(ask(other, "*", digit) + carry, 10)
            product += 10**place * last
        found = add(10 * found, product + 10 ** len(first) * carry, ask)
    return found


def hand_on(question, replies):
    raise Turn("another kind of question", final_prompt="<question/>")


WAYS = {way.__name__: way for way in (whole, left_to_right, apart, places, digits, best, columns, hand_on)}


def turn(way, question, replies):
    """The turn after these replies."""
    try:
        WAYS[way](question, Replies(replies))
    except Turn as turn:
        return turn


def written(turn):
    """The turn as a policy writes it."""
    actions = {
        "interaction_prompt": turn.prompt,
        "answer": turn.answer,
        "final_prompt": turn.final_prompt,
    }
    ((tag, text),) = [action for action in actions.items() if action[1] is not None]
    return f"<think>{turn.think}</think><{tag}>{text}</{tag}>"


def main():
    question, *replies = json.load(sys.stdin)
    way = sys.argv[1] if len(sys.argv) > 1 else "best"
    print(written(turn(way, question, replies)))


if __name__ == "__main__":
    main()
