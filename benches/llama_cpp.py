"""The native engine and llama.cpp on the same GGUF file, in turns: python benches/llama_cpp.py BENCH MODEL.gguf [ROUNDS]

BENCH is the program that `cargo bench --bench quantized --no-run` names. Each works alone for each figure, one right after
the other, and the medians of ROUNDS (default 5) are compared. Needs `pip install xllamacpp`.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
import time

import xllamacpp

SAMPLED, PROMPT, SEQUENCES, TURNS, SHOWN = 64, 256, 8, 3, 100


class LlamaCpp:
    def __init__(self, path, vocabulary):
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel = path, 1024 * SEQUENCES, SEQUENCES
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count()
        self.server, self.vocabulary, self.seed = xllamacpp.Server(params), vocabulary, 0

    def ids(self, count):
        # A prompt never repeats, unless the case is about repeated prompts.
        self.seed += 1
        return [1000 + (self.seed * 7919 + i * i * 31 + i * 17) % (self.vocabulary - 2000) for i in range(count)]

    def complete(self, prompt, count, **more):
        asked = {"prompt": prompt, "n_predict": count, "temperature": 0, "ignore_eos": True}
        return self.server.handle_completions({**asked, "cache_prompt": True, **more})["choices"][0]

    def measure(self):
        def seconds(work):
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        def sample(prompt):
            self.complete(prompt, SAMPLED)

        alone = SAMPLED / seconds(lambda: sample(self.ids(8)))

        def together():
            threads = [threading.Thread(target=sample, args=[self.ids(8)]) for _ in range(SEQUENCES)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]

        eight = SEQUENCES * SAMPLED / seconds(together)
        prompt = PROMPT / seconds(lambda: self.complete(self.ids(PROMPT), 1))

        def episode():
            ids = self.ids(PROMPT)
            for _ in range(TURNS):
                # The only way to get the sampled token ids; one candidate a token costs little time.
                reply = self.complete(ids, SAMPLED, logprobs=1)
                ids = ids + [token["id"] for token in reply["logprobs"]["content"]] + self.ids(SHOWN)

        return {"alone": alone, "eight": eight, "prompt": prompt, "episode": 1 / seconds(episode)}


def main():
    bench, path = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    ours = subprocess.Popen([bench, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    vocabulary = json.loads(ours.stdout.readline())["vocabulary"]
    theirs = LlamaCpp(path, vocabulary)
    rows = []
    for _ in range(rounds):
        ours.stdin.write("\n")
        ours.stdin.flush()
        rows.append((json.loads(ours.stdout.readline()), theirs.measure()))
    ours.kill()
    print(f"{'':8} {'native':>8} {'llama.cpp':>9} {'ratio':>6}  lowest to highest ratio")
    for key in rows[0][0]:
        native, other = (statistics.median(row[side][key] for row in rows) for side in (0, 1))
        ratios = sorted(row[0][key] / row[1][key] for row in rows)
        print(f"{key:8} {native:8.2f} {other:9.2f} {statistics.median(ratios):6.2f}  {ratios[0]:.2f} to {ratios[-1]:.2f}")


main()
