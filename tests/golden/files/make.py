"""Makes the files of this folder with the libraries that are commonly used for them.

    pip install pandas pyarrow zstandard
    python3 make.py
"""

import gzip
import io
import json
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

here = Path(__file__).parent / "data"
here.mkdir(exist_ok=True)


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def text(name, content, encoding="utf-8"):
    (here / name).write_bytes(content.encode(encoding))


def parquet(name, rows, schema=None, **options):
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), here / name, **options)


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


qa = [{"question": "Who wrote it?", "answer": "Ana Vel"}, {"question": "Où ?", "answer": "Genève"}]
gsm8k = [
    {"question": "How many?", "answer": "3 * 24 = <<3*24=72>>72\n#### 72"},
    {"question": "How much?", "answer": "A lot: $1,234.\n#### 1,234"},
]
math = [{"problem": "Solve.", "level": "Level 3", "type": "Algebra", "solution": r"So $x=\boxed{\frac{3}{4}}$."}]
squad = [
    {"id": "1", "title": "T", "context": "Ana wrote it.", "question": "Who wrote it?",
     "answers": {"text": ["Ana", "Ana"], "answer_start": [0, 0]}},
    {"id": "2", "title": "T", "context": "Ana wrote it.", "question": "When?", "answers": {"text": [], "answer_start": []}},
]
trivia = [{"question": "Who?", "question_id": "t1", "answer": {"value": "Ana Vel", "aliases": ["Ana Vel", "A. Vel"],
           "normalized_aliases": ["ana vel", "vel"], "type": "WikipediaEntity"}}]
hotpot = [{"_id": "5a", "question": "Were both?", "answer": "yes", "type": "comparison", "level": "hard",
           "supporting_facts": [["A", 0]], "context": [["A", ["a."]]]}]
search = [{"id": "train_0", "question": "who wrote it", "golden_answers": ["Ana Vel"], "data_source": "nq",
           "prompt": chat(("user", "Answer inside <answer> and </answer>. Question: who wrote it?\n")),
           "ability": "fact-reasoning", "reward_model": {"ground_truth": {"target": ["Ana Vel"]}, "style": "rule"},
           "extra_info": {"index": 0, "split": "train"}}]
verl = [{"data_source": "openai/gsm8k", "ability": "math",
         "prompt": chat(("user", "How many? Let's think and put the answer after \"####\".")),
         "reward_model": {"ground_truth": "72", "style": "rule"},
         "extra_info": {"answer": "...#### 72", "index": 0, "question": "How many?", "split": "train"}}]
openai = [{"messages": chat(("system", "Be brief."), ("user", "Why?"), ("assistant", "So."))}]
sharegpt = [{"id": "c1", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}]
alpaca = [{"instruction": "Sort.", "input": "3 1 2", "output": "1 2 3"}]
completion = [{"prompt": "Why?", "completion": "So."}]
choices = [{"question": "Which?", "subject": "s", "choices": ["red", "blue", "green", "black"], "answer": 1}]
# Data sets with options, passages and marks of their own.
published = {
    "mmlu-numbers.jsonl": [{"question": "Which order?", "subject": "abstract_algebra", "choices": ["8", "2", "24", "120"], "answer": 2}],
    "mmlu-pro.jsonl": [{"question_id": 70, "question": "Which?", "options": ["red", "blue", "green"], "answer": "C",
                        "answer_index": 2, "cot_content": "", "category": "business", "src": "x"}],
    "race.jsonl": [{"example_id": "h1", "article": "It was seen.", "question": "Which?", "options": ["red", "blue"], "answer": "B"}],
    "medqa.jsonl": [{"question": "Which?", "answer": "blue", "options": {"A": "red", "B": "blue"}, "answer_idx": "B"}],
    "aqua.jsonl": [{"question": "Which?", "options": ["A)21", "B)21.5"], "rationale": "r", "correct": "B"}],
    "svamp.jsonl": [{"ID": "c1", "Body": "Each costs 76 dollars.", "Question": "How much?", "Answer": 51.0, "Type": "Sub"}],
    "boolq.jsonl": [{"question": "is it", "title": "T", "answer": True, "passage": "p"}],
    "math-500.jsonl": [{"problem": "Solve.", "solution": r"We get $\boxed{\frac{1}{2}}$.", "answer": r"\frac{1}{2}",
                        "subject": "Algebra", "level": 2, "unique_id": "t/1"}],
    "metamathqa.jsonl": [{"query": "How many?", "response": "He sold 24.\n#### 72\nThe answer is: 72", "type": "GSM_AnsAug"}],
    "kto.jsonl": [{"prompt": "Why?", "completion": "Bad.", "label": False}, {"prompt": "Why?", "completion": "So.", "label": True},
                  {"prompt": "How?", "completion": "So.", "label": True}],
    "musique.json": [{"id": "1", "question": "Who?", "answer": "Ana", "paragraphs": [{"idx": 0, "paragraph_text": "p"}]}],
}
record = [{"id": "r1", "created": 0, "policy": "p", "large_model": "m", "question": "Who?", "conversation": [],
           "answer": "Ana", "answer_source": "policy", "finish_reason": "answered",
           "trajectory": {"turns": [
               {"text": "", "think": "ask", "action": {"kind": "prompt", "text": "Who?"}, "observation": {"reply": "Ana."}},
               {"text": "", "think": "done", "action": {"kind": "answer", "text": "Ana"}, "observation": None}]}}]

text("qa.jsonl", lines(qa))
text("qa-bom.jsonl", lines(qa), "utf-8-sig")
text("qa-utf16.jsonl", lines(qa), "utf-16")
text("qa-array.json", json.dumps(qa, indent=2))
text("qa-latin1.jsonl", lines(qa), "latin-1")
(here / "qa.jsonl.gz").write_bytes(gzip.compress(lines(qa).encode(), mtime=0))
pd.DataFrame(qa).to_csv(here / "qa.csv", index=False)
pd.DataFrame(qa).to_csv(here / "qa-excel.csv", index=False, sep=";", encoding="utf-8-sig", lineterminator="\r\n")
pd.DataFrame(qa).to_csv(here / "qa.tsv.zst", index=False, sep="\t")
pd.DataFrame(qa).to_json(here / "qa-pandas.json", orient="records")
for codec in ["snappy", "gzip", "zstd", "brotli", "lz4"]:
    parquet(f"qa-{codec}.parquet", qa, compression=codec)
text("gsm8k.jsonl", lines(gsm8k))
text("math.jsonl", lines(math))
parquet("squad.parquet", squad)
text("squad-v2.0.json", json.dumps({"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": "C", "qas": [
    {"id": "1", "question": "Who?", "answers": [{"text": "Ana", "answer_start": 0}], "is_impossible": False}]}]}]}))
parquet("triviaqa.parquet", trivia)
text("hotpotqa.json", json.dumps(hotpot))
text("nq-open.jsonl", lines([{"question": "when was it", "answer": ["1963", "in 1963"]}]))
parquet("search-r1.parquet", search)
parquet("verl-gsm8k.parquet", verl)
text("openai-chat.jsonl", lines(openai))
parquet("openai-chat.parquet", openai)
text("sharegpt.json", json.dumps(sharegpt))
text("alpaca.json", json.dumps(alpaca))
text("prompt-completion.jsonl", lines(completion))
parquet("mmlu.parquet", choices)
text("record.jsonl", lines(record))
for name, rows in published.items():
    text(name, lines(rows) if name.endswith(".jsonl") else json.dumps(rows))
text("ceval.csv", "id,question,A,B,C,D,answer,explanation\n0,Which?,red,blue,green,black,B,\n")
text("quote-open.csv", 'question,answer\nq1,a1\nq2,"a2\nq3,a3\n')
text("quotes.tsv", 'question\tanswer\n"Foo" is what?\tbar\n"q2\ta2\nq3\ta3\n')
# Numbers: a whole column with a gap becomes floats in pandas.
gaps = pd.DataFrame({"question": ["a", "b", "c"], "answer": [18, 2, None], "hops": [1, None, 2]})
gaps.to_parquet(here / "pandas-gaps.parquet")
gaps.to_csv(here / "pandas-gaps.csv", index=False)
gaps.to_json(here / "pandas-gaps.jsonl", orient="records", lines=True)
for name, kind in [("float16", pa.float16()), ("float32", pa.float32()), ("float64", pa.float64())]:
    schema = pa.schema([("question", pa.string()), ("answer", kind)])
    values = pa.array([18.0, 0.5, float("nan")], pa.float64()).cast(kind, safe=False)
    pq.write_table(pa.table({"question": ["a", "b", "c"], "answer": values}, schema=schema), here / f"nan-{name}.parquet")
parquet("decimal.parquet", [{"question": "a", "answer": Decimal("18.00")}, {"question": "b", "answer": Decimal("0.25")}])
text("long-numbers.jsonl", '{"question": "a", "answer": 123456789012345678901234567890}\n'
     '{"question": "b", "answer": -9223372036854775809}\n{"question": "c", "answer": 0.1000000000000000055511151231257827}\n')
# 2 GB out of some thousand bytes: one value of 8 MB in a dictionary, taken 256 times.
parquet("bomb.parquet", [{"question": "x" * (8 << 20), "answer": "a"}] * 256, compression="zstd")
