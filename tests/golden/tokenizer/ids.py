"""Token ids by llama.cpp, to compare ours with: python ids.py MODEL.gguf [COUNT] > ids.jsonl

Each of COUNT lines (10,000 unless it is given) is a text, its ids with control tokens recognised in it, and those with
none recognised; `run.sh` compares. Needs `pip install xllamacpp gguf`.
"""

import http.client
import json
import sys

import gguf
import xllamacpp

from lines import lines


def serve(path):
    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = path, ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.warmup = 64, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def tokenize(server, texts):
    host = server.listening_address.removeprefix("http://")
    connection = http.client.HTTPConnection(host)
    for text in texts:
        ids = []
        for special in (True, False):
            body = {"content": text, "add_special": False, "parse_special": special}
            connection.request("POST", "/tokenize", json.dumps(body), {"Content-Type": "application/json"})
            ids.append(json.loads(connection.getresponse().read())["tokens"])
        yield ids


def control(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    special = [token for token, kind in zip(tokens, kinds) if kind == 3]
    return special[:20] + [token for token, kind in zip(tokens, kinds) if kind == 4][:20]


if __name__ == "__main__":
    path, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    texts = lines(count, control(path))
    server = serve(path)
    for text, ids in zip(texts, tokenize(server, texts)):
        print(json.dumps([text, *ids]))
