"""Whether llama.cpp reads an exported model as it reads the model that it came from.

Usage: export.py ORIGINAL.gguf EXPORTED.gguf [TOKENS]
Both are given the same conversations; the greedy texts must be the same for the first TOKENS tokens (default
12): the weights are rounded once more, so later ones may differ."""
import sys

import xllamacpp

original, exported = sys.argv[1:3]
count = int(sys.argv[3]) if len(sys.argv) > 3 else 12
QUESTIONS = ["What is the capital of France?", "Write a line about the sea.", "Was ist 2 + 2?", "Name three colours."]


def texts(path):
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = path, 1024, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 2
    parameters.use_jinja = True
    server = xllamacpp.Server(parameters)
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        asked = {"messages": messages, "temperature": 0, "max_tokens": count}
        reply = server.handle_chat_completions(asked)
        yield reply["usage"]["prompt_tokens"], reply["choices"][0]["message"]["content"]


pairs = list(zip(texts(original), texts(exported)))
for question, (a, b) in zip(QUESTIONS, pairs):
    assert a[0] == b[0], f"{question}: prompts of {a[0]} and {b[0]} tokens"
same = sum(a == b for a, b in pairs)
for a, b in pairs:
    if a != b:
        print(f"     {a[1]!r} became {b[1]!r}")
assert same >= len(QUESTIONS) - 1, f"{same} of {len(QUESTIONS)} texts are the same"
print(f"ok   llama.cpp writes {same} of {len(QUESTIONS)} texts as before the export")
