"""Whether episodes through llama.cpp, asked by token ids, are those of the native engine.

Usage: tokens.py NATIVE_SERVER TOKENS_SERVER VOCABULARY.json
Both servers run the bundled models; the policy of the second is behind `policy.engine = "tokens"`. Greedy
episodes must have the same tokens, and log-probabilities up to rounding."""
import json
import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

native, tokens, vocabulary = sys.argv[1:]
# Rounding: both compute in f32, in another order.
CLOSE = 2e-3
FORMS = [
    "What is {}'s president's birthplace's country's language?",
    "What is the currency of the country of the birthplace of {}?",
    "Where is {}?",
]


def post(server, body):
    request = urllib.request.Request(
        f"{server}/v1/solve", json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def solve(server, question):
    status, reply = post(server, {"question": question, "temperature": 0, "seed": 1, "tokens": True, "trace": True})
    assert status == 200, (question, reply)
    return reply


words = json.load(open(vocabulary))["model"]["vocab"]
names = [word[1:] for word in words if re.fullmatch("Ġ[A-Z][a-z]{4,}", word)]
questions = [form.format(name) for name, form in zip(names[:: len(names) // 24], FORMS * 8)]

with ThreadPoolExecutor(4) as pool:
    ours = list(pool.map(lambda question: solve(native, question), questions))
    theirs = list(pool.map(lambda question: solve(tokens, question), questions))
sampled, widest, turns = 0, 0.0, 0
for question, one, other in zip(questions, ours, theirs):
    same = [token["id"] for token in one["tokens"]] == [token["id"] for token in other["tokens"]]
    assert same, f"{question}\n{one['turns']}\n{other['turns']}"
    assert one["answer"] == other["answer"], question
    turns += len(one["turns"])
    for a, b in zip(one["tokens"], other["tokens"]):
        a, b = a.get("log_prob"), b.get("log_prob")
        assert (a is None) == (b is None)
        if a is not None:
            sampled, widest = sampled + 1, max(widest, abs(a - b))
assert sampled > 500 and turns > len(questions), (sampled, turns)
assert widest < CLOSE, widest
print(f"ok   {len(questions)} episodes of {turns} turns, {sampled} tokens: the same through llama.cpp, "
      f"log-probabilities within {widest:.1e}")

status, reply = post(tokens, {"question": questions[0], "temperature": 0.7})
assert status == 200 and reply["answer"], reply
print("ok   a temperature without filters")
