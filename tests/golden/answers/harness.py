"""Makes harness.json: the verdicts of lm-evaluation-harness 0.4.9 on outputs for GSM8K and MATH.

    pip download lm_eval==0.4.9 --no-deps && unzip -d lm_eval lm_eval-*.whl && pip install numpy
    python3 harness.py lm_eval

Only the functions that extract and compare are run, from the package's own files.
"""

import ast
import importlib.util
import json
import re
import string
import sys
import types
from pathlib import Path

import numpy as np

root = Path(sys.argv[1]) / "lm_eval"


def module(path, **stubs):
    for name, members in stubs.items():
        stub = types.ModuleType(name.replace("__", "."))
        stub.__dict__.update(members)
        sys.modules[stub.__name__] = stub
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


math = module(root / "tasks/hendrycks_math/utils.py", datasets={"Dataset": object})
filters = module(
    root / "filters/extraction.py",
    lm_eval={},
    lm_eval__api={},
    lm_eval__api__filter={"Filter": object},
    lm_eval__api__registry={"register_filter": lambda name: lambda kind: kind},
)
source = (root / "api/metrics.py").read_text()
wanted = [node for node in ast.parse(source).body if getattr(node, "name", "") == "exact_match_hf_evaluate"]
scope = {"re": re, "np": np, "string": string}
exec(compile(ast.Module(wanted, []), "metrics", "exec"), scope)

IGNORED = [",", "\\$", "(?s).*#### ", "\\.$"]
FILTERS = {
    "gsm8k_strict": filters.RegexFilter("#### (\\-?[0-9\\.\\,]+)", 0),
    "gsm8k_flexible": filters.RegexFilter("(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
}


def gsm8k(name, output, gold):
    [[found]] = FILTERS[name].apply([[output]], [{}])
    score = scope["exact_match_hf_evaluate"]([found], [gold], regexes_to_ignore=IGNORED, ignore_case=True)
    return bool(score["exact_match"])


GSM8K = [
    "#### 72", "So 72.\n#### 72", "#### 72.", "#### $72", "#### -72", "#### 7,2", "####72", "#### 72 apples",
    "#### 71\n#### 72", "#### 72\n#### 71", "The answer is 72.", "72", "$72", "$72.00", "72 dollars, not 8", "-72",
    "3 - 72", "3-72", "1,234", "The total is $1,234.", "1234", "#### 1,234", "5", "5.", "x5", "5-", "-5", "- 5",
    "...", "$", ",", "", "none", "7.2.", "72,", "at 5, 72", "5 and $", "5 and ..", "#### ", "#### .", "#### ,72",
    "1 000", "72%", "#### 72%", "１２", "7 2", "--72", "72-", "$-72", "-$72", "#### 0072", "0.5", ".5", "#### .5",
]
GSM8K_GOLDS = ["72", "-72", "1,234", "1234", "5", "-5", "0.5", "$72", "71"]
MATH = [
    r"\frac{1}{2}", r"\frac12", r"\dfrac{1}{2}", r"\tfrac12", "1/2", "0.5", ".5", r"$\frac{1}{2}$", r"The answer is $\frac12$.",
    r"$a$ and $b$", r"$\frac{1}{2}$ or $2$", "x=5", "x = 5", "5", "y=5", "abc=5", "a=b=5", r"5\text{ cm}", r"5\text{cm}",
    r"5\text{ a}\text{ b}", r"90^\circ", r"90^{\circ}", "90", r"\$5", r"5\%", "5%", r"\sqrt2", r"\sqrt{2}", r"\sqrt 2",
    r"3\sqrt2+\sqrt{3}", r"\left(1,2\right)", "(1,2)", "(1, 2)", "1,000", "1000", r"1\!000", "1\n2", "12", "-1/2", "1/-2",
    "01/2", "+1/2", "a/b", "1/2/3", r"\frac", r"\frac1", r"\frac{1", r"\sqrt", "", " ", ".", " .5", "{.5}", r"\frac a b",
    r"\frac1{2}", r"\frac{1}2", r"\boxed{5}", "$5", "$5$", "$$5$$", r"\\frac{1}{2}", "-0/1", "1/0", "2/4", "1_0/2", " 1/2 ",
]
MATH_GOLDS = [r"\frac{1}{2}", "5", "90", r"\sqrt{2}", "(1,2)", "1000", "12", r"3\sqrt{2}+\sqrt{3}", "-1/2", "0.5", r"\frac{a}{b}", "a/b"]

rows = []
for output in GSM8K:
    for gold in GSM8K_GOLDS:
        rows += [[name, output, gold, gsm8k(name, output, gold)] for name in FILTERS]
for output in MATH:
    for gold in MATH_GOLDS:
        scored = math.process_results({"solution": "\\boxed{" + gold + "}"}, [output])
        rows.append(["hendrycks_math", output, gold, bool(scored["exact_match"])])
# An empty answer scores 0 under every metric here.
rows = [row for row in rows if row[1].strip()]
lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
Path(__file__).with_name("harness.json").write_text(f"[\n{lines}\n]\n")
print(len(rows), "rows,", sum(row[3] for row in rows), "right")
