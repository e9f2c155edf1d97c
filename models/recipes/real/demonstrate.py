#!/usr/bin/env python3
"""Makes demonstrations of `chain_sum` against a real large model, and keeps those that are right.

demonstrate.py URL MODEL OUTPUT.jsonl QUESTIONS.jsonl... [--limit N] [--left-to-right SHARE]

URL is an OpenAI-compatible endpoint that ends in /v1. `chain_sum.py` plays the policy, turn by turn
as the loop would: the large model sees its own earlier prompts and replies. A demonstration is kept
when its answer is right (rejection sampling), so what the large model gets wrong systematically is
not shown as a way to go.

Each line of the output is a conversation as `server train sft` reads it (`kind = "chat"`): the
question, then the policy's turns and the replies in turn, by the templates beside this file. Its
`way` is for the reader. Replies are kept beside the output by their exact request, and
questions that are done are skipped, so the script can be stopped and started at any time.
"""

import argparse
import hashlib
import json
import sys
import urllib.request
from itertools import zip_longest
from pathlib import Path

import chain_sum

MAX_TOKENS = 64


class LargeModel:
    """A large model whose replies are kept by the exact request."""

    def __init__(self, url, model, file):
        self.url, self.model = url.rstrip("/") + "/chat/completions", model
        self.replies = {}
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                key, reply = json.loads(line)
                self.replies[key] = reply
        self.file = file.open("a", encoding="utf-8")

    def reply(self, messages):
        request = {"model": self.model, "messages": messages, "temperature": 0}
        body = json.dumps(request | {"max_tokens": MAX_TOKENS}).encode()
        key = hashlib.sha256(body).hexdigest()
        if key not in self.replies:
            post = urllib.request.Request(self.url, body, {"content-type": "application/json"})
            with urllib.request.urlopen(post, timeout=600) as response:
                self.replies[key] = json.load(response)["choices"][0]["message"]["content"]
            self.file.write(json.dumps([key, self.replies[key]]) + "\n")
            self.file.flush()
        return self.replies[key]


def demonstrate(large_model, way, question):
    """The policy's conversation, and the answer that it ends with."""
    seen, asked, replies = [{"role": "user", "content": question}], [], []
    while True:
        turn = chain_sum.turn(way, question, replies)
        seen.append({"role": "assistant", "content": chain_sum.written(turn)})
        if turn.prompt is None:
            return seen, turn.answer
        asked.append({"role": "user", "content": turn.prompt})
        replies.append(large_model.reply(asked))
        asked.append({"role": "assistant", "content": replies[-1]})
        seen.append({"role": "user", "content": replies[-1]})


def questions(files):
    """The questions of all files by turns, so that every family has its share at any time."""
    read = [Path(file).read_text(encoding="utf-8").splitlines() for file in files]
    for lines in zip_longest(*read):
        yield from (json.loads(line) for line in lines if line is not None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--limit", type=int, default=sys.maxsize)
    parser.add_argument("--left-to-right", type=float, default=0.25, metavar="SHARE")
    args = parser.parse_args()

    large_model = LargeModel(args.url, args.model, args.output.with_suffix(".replies.jsonl"))
    done, kept = args.output.with_suffix(".done"), 0
    known = set(done.read_text(encoding="utf-8").splitlines()) if done.exists() else set()
    with args.output.open("a", encoding="utf-8") as out, done.open("a", encoding="utf-8") as log:
        for tried, task in enumerate(questions(args.questions), 1):
            if tried > args.limit:
                break
            if task["id"] in known:
                continue
            draw = int(hashlib.sha256(task["id"].encode()).hexdigest()[:8], 16) / 2**32
            way = "left_to_right" if draw < args.left_to_right else "apart"
            messages, answer = demonstrate(large_model, way, task["question"])
            if answer == task["answer"]:
                row = {"messages": messages, "way": way}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                out.flush()
                kept += 1
            log.write(task["id"] + "\n")
            log.flush()
            print(f"{tried} tried, {kept} kept", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
