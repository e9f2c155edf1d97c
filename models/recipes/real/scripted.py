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
  columns        both           as `best`, but each operation is asked for by its columns
  hand_on        any            the large model answers, from the question itself
"""

import json
import re
import sys
from itertools import zip_longest


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

    def text(self, think, prompt):
        reply = next(self.replies, None)
        if reply is None:
            raise Turn(think, prompt=prompt)
        return reply.replace(",", "")

    def ask(self, think, prompt):
        """The number that the large model replied with to this prompt."""
        numbers = re.findall(r"-?\d+", self.text(think, prompt))
        if not numbers:
            raise Turn("no number", answer="unknown")
        return int(numbers[-1])

    def compute(self, left, first, sign, second):
        """The result of the first operation of what is left."""
        return self.ask(left, f"What is {first} {sign} {second}?")

    def end(self, found):
        raise Turn(str(found), answer=str(found))


class Columns(Replies):
    """Asks for an operation by its columns, ones first, and carries itself.

    A thought begins with the results of the columns and what is carried, and the number as it grows
    by its digits: `14, 6+1 7, 1+0 1: 4 74 174`. It ends with the numbers of the next operation
    backwards, as they grow by their digits: `129 + 45: 1 21 921, 4 54`. So a small model only ever
    copies from left to right. A difference is a sum with the nines' complement of the second number,
    one more, and a 1 too many in front: nothing is borrowed, and no result is negative.
    """

    carried = ""

    def compute(self, left, first, sign, second):
        one, other = str(first), str(second)
        shown = [backwards(one)] + [backwards(other)] * (sign != "*")
        asked = columns_of(one, sign, other)
        results = self.fill_in(f"{self.carried}{left}: {', '.join(shown)}", asked)
        carry = 1 if sign == "-" else None
        totals, steps = [], []
        for result in results:
            totals.append(result + (carry or 0))
            steps.append(str(result) if carry is None else f"{result}+{carry} {totals[-1]}")
            carry = totals[-1] // 10
        digits = [total % 10 for total in totals] + [carry] * (carry > 0 and sign != "-")
        found = "".join(map(str, reversed(digits)))
        self.carried = f"{', '.join(steps)}: {growing(found)}; "
        return int(found)

    def fill_in(self, think, asked):
        """The results of these operations, asked for by one prompt."""
        prompt = "Fill in the results:\n" + "\n".join(f"{each} =" for each in asked)
        if len(asked) == 1:
            return [self.ask(think, prompt)]
        reply = self.text(think, prompt)
        results = [result_of(each, reply) for each in asked]
        if None in results:
            raise Turn("no number", answer="unknown")
        return results

    def end(self, found):
        raise Turn(self.carried + str(found), answer=str(found))


def columns_of(one, sign, other):
    """The operations of an operation's columns, ones first."""
    if sign == "*":
        return [f"{digit} * {other}" for digit in reversed(one)]
    columns = zip_longest(reversed(one), reversed(other), fillvalue="0")
    return [f"{digit} + {9 - int(by) if sign == '-' else by}" for digit, by in columns]


def growing(number):
    """Digit by digit, ones first: `4 74 174`."""
    return " ".join(number[at:] for at in reversed(range(len(number))))


def backwards(number):
    """Digit by digit, each before the last: `1 21 921`."""
    return " ".join(number[at::-1] for at in range(len(number)))


def result_of(asked, reply):
    """The number after this operation on a line of a reply, which may have its numbers swapped.

    A large model sometimes answers `1 + 6` and leaves out `6 + 1`.
    """
    first, sign, second = asked.split(" ")
    signs = {"*": r"(?:\*|×|\\times)", "+": r"\+"}
    for one, other in ((first, second), (second, first)):
        found = re.search(rf"(?<!\d){one} *{signs[sign]} *{other}[^\d\n]{{1,20}}?(-?\d+)", reply)
        if found:
            return int(found.group(1))
    return None


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
    replies.end(replies.ask(asked, f"What is {asked}?"))


def left_to_right(question, replies):
    left = terms(question)
    while len(left) > 1:
        first = summed(left[:2])
        left[:2] = [replies.ask(summed(left), f"What is {first}?")]
    replies.end(left[0])


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
            part[:2] = [replies.compute(left(), part[0], "+", part[1])]
    found = plus[0]
    if minus and not found:
        found = -minus[0]
    elif minus and plus[0] >= minus[0]:
        found = replies.compute(left(), plus[0], "-", minus[0])
    elif minus:
        turned = f"{left()} = -({minus[0]} - {plus[0]})"
        found = -replies.compute(turned, minus[0], "-", plus[0])
    replies.end(found)


def places(question, replies):
    first, second = (int(factor) for factor in expression(question).split("*"))
    digits = str(second)
    parts = [int(digit) * 10 ** (len(digits) - 1 - at) for at, digit in enumerate(digits)]
    left = [f"{first} * {part}" for part in parts if part]
    for at, product in enumerate(left):
        left[at] = replies.ask(" + ".join(map(str, left)), f"What is {product}?")
    while len(left) > 1:
        left[:2] = [replies.ask(summed(left), f"What is {left[0]} + {left[1]}?")]
    replies.end(left[0])


def digits(question, replies):
    first, second = expression(question).split(" * ")
    known = {"0": "0", "1": first}
    left = [known.get(digit, f"{first} * {digit}") for digit in second]
    found = 0
    while left:
        if "*" in left[0]:
            asked = left[0]
            product = str(replies.compute(", ".join([str(found), *left][not found :]), first, "*", asked[-1]))
            left = [product if part == asked else part for part in left]
        # Ten times what was found so far, and this product: all but the last digit is a small sum.
        carried, last = divmod(int(left.pop(0)), 10)
        if found and carried:
            left_to_do = ", ".join([f"{found} + {carried} | {last}", *left])
            found = replies.compute(left_to_do, found, "+", carried)
        else:
            found += carried
        found = 10 * found + last
    replies.end(found)


def best(question, replies):
    return (digits if "*" in question else apart)(question, replies)


def hand_on(question, replies):
    raise Turn("another kind of question", final_prompt="<question/>")


WAYS = {way.__name__: way for way in (whole, left_to_right, apart, places, digits, best, hand_on)}


def turn(way, question, replies):
    """The turn after these replies."""
    try:
        if way == "columns":
            best(question, Columns(replies))
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
