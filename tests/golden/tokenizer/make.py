"""Small tokenizers in GGUF files, and llama.cpp's ids for them: python make.py SmolLM2.gguf

`bpe.json` has the first merges of SmolLM2's tokenizer (Apache-2.0) and ids for each way to cut a text into words;
`pieces.json` a SentencePiece vocabulary made here, with ids with and without a space before the text. Each goes into a
model with random weights, which llama.cpp loads: pip install xllamacpp gguf numpy
"""

import collections
import json
import pathlib
import random
import sys
import tempfile

import gguf
import numpy as np

from ids import serve, tokenize
from lines import lines, pieces

HERE = pathlib.Path(__file__).parent
MERGES, LINES = 600, 100
PRE = ["default", "gpt-2", "smollm", "qwen2", "llama-bpe", "dbrx", "deepseek-coder", "deepseek-v3", "tekken", "gpt-4o"]


def write(path, kind, tokens, kinds, settings):
    """A model of one small layer with this vocabulary."""
    writer = gguf.GGUFWriter(path, "llama")
    size, draw = 32, np.random.default_rng(0)
    writer.add_context_length(256)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(size)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    settings(writer)
    writer.add_tensor("token_embd.weight", draw.standard_normal((len(tokens), size), dtype=np.float32))
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"]:
        writer.add_tensor(f"{name}.weight", np.ones(size, dtype=np.float32))
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]:
        writer.add_tensor(f"blk.0.{name}.weight", draw.standard_normal((size, size), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ids(kind, tokens, kinds, settings, texts):
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.gguf"
        write(path, kind, tokens, kinds, settings)
        return list(tokenize(serve(path), texts))


def byte_level(model):
    fields = gguf.GGUFReader(model).fields
    every = fields["tokenizer.ggml.tokens"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()[:MERGES]
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = [token for token in every if len(token) == 1]
    tokens = control + letters + list(dict.fromkeys(merge.replace(" ", "") for merge in merges))
    tokens += ["<tool>", "</tool>"]
    kinds = [3] * 3 + [1] * (len(tokens) - 5) + [4] * 2
    texts = lines(LINES, control + ["<tool>", "</tool>"], seed=2)
    found = {}
    for pre in PRE:

        def settings(writer):
            writer.add_token_merges(merges)
            writer.add_tokenizer_pre(pre)
            writer.add_bos_token_id(0)
            writer.add_eos_token_id(2)
            writer.add_add_bos_token(False)

        found[pre] = ids("gpt2", tokens, kinds, settings, texts)
    return {"tokens": tokens, "kinds": kinds, "merges": merges, "texts": texts, "ids": found}


def sentence_piece():
    draw = random.Random(3)
    sentences, _ = pieces()
    counts = collections.Counter()
    for sentence in sentences:
        text = "▁" + sentence.replace(" ", "▁")
        for length in range(2, 5):
            counts.update(text[at : at + length] for at in range(len(text) - length + 1))
    letters = sorted({c for sentence in sentences[:20] for c in sentence if c not in " \n"} | {"▁"})
    common = [piece for piece, _ in counts.most_common(900) if set(piece) <= set(letters)]
    draw.shuffle(common)
    runs = [" " * n for n in range(2, 12)] + ["\n" * n for n in range(1, 6)]
    control = ["<unk>", "<s>", "</s>"]
    tokens = control + [f"<0x{byte:02X}>" for byte in range(256)] + runs + common + letters
    kinds = [2, 3, 3] + [6] * 256 + [4] * len(runs) + [1] * (len(common) + len(letters))
    first = len(tokens) - len(common) - len(letters)
    scores = [0.0] * first + [float(-at) for at in range(len(tokens) - first)]
    texts = lines(LINES, control[1:] + runs, seed=4)
    found = {}
    for prefix in [True, False]:

        def settings(writer):
            writer.add_token_scores(scores)
            writer.add_bos_token_id(1)
            writer.add_eos_token_id(2)
            writer.add_unk_token_id(0)
            writer.add_add_space_prefix(prefix)

        found["prefix" if prefix else "plain"] = ids("llama", tokens, kinds, settings, texts)
    return {"tokens": tokens, "kinds": kinds, "scores": scores, "texts": texts, "ids": found}


if __name__ == "__main__":
    for name, made in [("bpe", byte_level(sys.argv[1])), ("pieces", sentence_piece())]:
        (HERE / f"{name}.json").write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")
