"""Makes pairs.json: answers and golds as people and models write them, with Math-Verify's verdicts.

    pip install math-verify==0.9.0 'latex2sympy2_extended'
    python3 make.py

Each pair stands with the right verdict, which a person decided: where Math-Verify says another,
`why` says why it is not followed. The test in `src/reward/golden.rs` holds ours to the right one.
"""

import json
from pathlib import Path

from math_verify import parse, verify
from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

# Golds with ways to write them that are right, and others that are wrong.
FORMS = [
    ("72", ["72", "72.0", "72.", "$72", "$72$", r"\boxed{72}", "The answer is 72.", "x = 72", "72 apples",
            "**72**", "#### 72", "７２", "72.00", r"\fbox{72}", "144/2", r"\boxed{\text{72}}", "Answer:72"],
           ["71", "-72", "7.2", "720", "72 + 1", "72/2", "0.72", "70-72", "73, not 72 but 73"]),
    ("1234", ["1,234", "$1,234", r"1{,}234", "1,234.00", r"1\,234", "1\u202f234", "USD 1,234", "1.234e3",
              r"\boxed{1,234}", r"\$1{,}234", "1234 dollars", r"1.234 \times 10^3"],
             ["1.234", "12,34", "1,23", "123.4", "1,2345", "234", "1, 234"]),
    ("-3", ["-3", "−3", "–3", "The answer is –3", "x = -3", r"\boxed{-3}", "-3.0", "(-3)", r"$-3$", "- 3",
            "－3", "-6/2", r"-\frac{6}{2}", r"x=-3"],
           ["3", "+3", "-30", "-0.3", "x - 3", "5 - 3", "-3x"]),
    ("1/2", ["0.5", ".5", r"\frac{1}{2}", r"\frac12", r"\dfrac{1}{2}", r"\tfrac12", "1/2", "½", "2/4", "50%",
             r"50\%", r"$\frac{1}{2}$", r"\boxed{\frac{1}{2}}", "5 / 10", "The ratio is 5 / 10", "0.50", r"\frac{2}{4}",
             "1 / 2", r"\frac{-1}{-2}"],
            ["2 1/2", r"2\frac{1}{2}", "1/3", "0.51", "-1/2", "2/1", "12", "5", "1/20", "1.2"]),
    ("5/2", ["2.5", "2 1/2", r"2\frac{1}{2}", "2½", "5/2", r"\frac{5}{2}", r"\frac52", "2.50", "10/4",
             r"\boxed{2\frac12}"],
            ["1/2", "2/5", "21/2", "2", "-5/2", "2 1/3"]),
    (r"\frac{3}{4}", ["0.75", "3/4", "75%", r"\frac{3}{4}", "6/8", "¾", r"\frac{75}{100}", ".75"],
                     ["4/3", "0.7", "34", "3.4", "-3/4"]),
    ("50%", ["50%", r"50\%", "50 %", "0.5", "1/2", "50 percent", "50", "50.0%"], ["0.5%", "5%", "500%", "5"]),
    ("0.05", ["0.05", "5%", ".05", "1/20", "5e-2", r"5 \times 10^{-2}", "0.050"], ["0.5", "50%", "5", "0.005"]),
    ("12345678901234567890", ["12345678901234567890", "12,345,678,901,234,567,890", "12345678901234567890.0"],
                             ["12345678901234567891", "1.2345678901234567e19"]),
    (r"18\text{ apples}", ["18", "18 apples", r"18\text{ apples}", r"\boxed{18}", "18.0"], ["81", "1.8", "8"]),
    ("72 km", ["72 km", "72", "72 kilometers", r"72\text{ km}", r"72\ \mathrm{km}", "72km"], ["72 m", "72 miles", "7.2 km"]),
    ("$5.60", ["5.60", "$5.6", "5.6 dollars", r"\$5.60", "US$5.60"], ["56", "$56", "561 cents", "€5.60"]),
    ("90", [r"90^\circ", r"90^{\circ}", "90°", "90 degrees", r"90\text{ degrees}"], ["9", "-90", "90.5"]),
    (r"\sqrt{2}", [r"\sqrt{2}", r"\sqrt2", r"\frac{2}{\sqrt{2}}", r"\boxed{\sqrt{2}}", r"2^{1/2}", r"$\sqrt{2}$"],
                  ["2", r"\sqrt{3}", "1.4", r"2\sqrt{2}", r"-\sqrt{2}"]),
    (r"\frac{\sqrt{3}}{2}", [r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2", r"\frac{3}{2\sqrt{3}}", r"\frac{1}{2}\sqrt{3}",
                            r"\frac{\sqrt3}{2}"],
                           [r"\frac{\sqrt{3}}{3}", r"\frac{3}{2}", r"\frac{2}{\sqrt{3}}"]),
    (r"2\sqrt{3}", [r"2\sqrt{3}", r"\sqrt{12}", r"2 \sqrt 3", r"2\cdot\sqrt{3}"], [r"3\sqrt{2}", r"\sqrt{3}", r"2\sqrt{13}"]),
    (r"\pi", [r"\pi", "π", r"\boxed{\pi}"], ["3.14", r"2\pi", "3"]),
    (r"2\pi", [r"2\pi", r"2 \pi", r"2\cdot\pi", r"\boxed{2\pi}"], [r"\pi", r"2\pi^2", "6.28"]),
    (r"x^2+2x+1", ["x^2+2x+1", r"(x+1)^2", r"1+2x+x^2", r"x^{2} + 2x + 1", r"\boxed{(x+1)^2}", "(x+1)(x+1)"],
                  ["x^2+2x", "x^2+x+1", "(x-1)^2", "x^2+1"]),
    (r"\frac{x+1}{2}", [r"\frac{x+1}{2}", "(x+1)/2", r"\frac{1}{2}(x+1)", r"\frac{x}{2}+\frac{1}{2}"],
                       ["x+1/2", r"\frac{x-1}{2}", "x+1"]),
    ("x-y", ["x-y", "-y+x", "-(y-x)"], ["y-x", "x+y"]),
    (r"3x^2", ["3x^2", r"3x^{2}", r"3 \cdot x^2"], ["3x", "(3x)^2", "x^2"]),
    (r"(1,2)", ["(1, 2)", "(1,2)", r"\left(1, 2\right)", r"\boxed{(1,2)}", "(1.0, 2.0)", r"(\frac{2}{2}, 2)"],
               ["(2,1)", "[1,2]", "(1,3)", "(1,2,3)"]),
    (r"(-\infty, 2)", [r"(-\infty, 2)", r"(-\infty,2)", r"\left(-\infty, 2\right)"], [r"(-\infty, 2]", r"(2, \infty)", r"(-\infty,3)"]),
    (r"[0, 1)", ["[0, 1)", "[0,1)", r"\left[0,1\right)"], ["(0, 1)", "[0, 1]", "[1,0)"]),
    (r"(-\infty,0)\cup(1,\infty)", [r"(-\infty,0)\cup(1,\infty)", r"(1,\infty)\cup(-\infty,0)",
                                  r"(-\infty, 0) \cup (1, \infty)"],
                                 [r"(-\infty,1)\cup(0,\infty)", r"(1,\infty)"]),
    (r"\{1, 2, 3\}", [r"\{1, 2, 3\}", r"\{3,2,1\}", "1, 2, 3", r"\boxed{\{1,2,3\}}"], [r"\{1,2\}", r"\{1,2,4\}", "123", "(1,2"]),
    ("1, 2", ["1, 2", "2, 1", "1,2", "1 and 2", "x = 1, 2", r"\{1,2\}", "1 or 2"], ["1", "1, 3", "12", "1.2"]),
    (r"\text{Evelyn}", ["Evelyn", r"\text{Evelyn}", r"\boxed{\text{Evelyn}}", "evelyn"], ["Kevin", "Eve", "Nyvele"]),
    (r"\text{(B)}", ["B", "(B)", r"\text{(B)}", r"\boxed{B}", r"\boxed{\text{(B)}}"], ["A", "C", "(D)"]),
    ("0", ["0", "0.0", "-0", "$0", "0%", r"\boxed{0}"], ["1", "10", "0.1", "none"]),
    ("100", ["100", "1e2", "10^2", "100.0", "100 students", r"\boxed{100}"], ["10", "1000", "1", "10^3"]),
    ("7", ["7", "5+2=7", "5 + 2 = 7", "So 7", "There are 7 of them."], ["5 + 2 = 8", "77", "7.7", "7/2", "17"]),
    ("10000", ["10,000", "10000", "1e4", "$10,000.00", r"10{,}000"], ["1,0000", "1000", "10.000,5", "100,00"]),
    ("2024", ["2024", "the year 2024"], ["2023-2024", "2024-01-05", "1/5/2024"]),
    (r"\frac{1}{3}", ["1/3", r"\frac13", r"\frac{2}{6}", "⅓"], ["0.33", "0.3", "3", "33%"]),
    ("36\\pi", [r"36\pi", r"\boxed{36\pi}", r"36 \pi"], ["36", r"36\pi^2", r"6\pi"]),
    (r"\frac{\pi}{4}", [r"\frac{\pi}{4}", r"\pi/4", r"\frac{1}{4}\pi", r"\frac\pi4"], [r"\frac{\pi}{2}", "45", r"4\pi"]),
    ("\\log 2", [r"\log 2", r"\log(2)"], [r"\log 3", "2"]),
    ("2^{10}", ["2^{10}", "1024", "2^10", r"4^5"], ["20", "2^9", "210"]),
    (r"\pm 2", [r"\pm 2", "2, -2", "-2, 2", r"x=\pm2"], ["2", "-2", "4"]),
]

# Where our verdict differs from Math-Verify's, and why.
REASONS = [
    ("it knows no such Unicode form", ["７２", "–3", "The answer is –3", "－3", "½", "2½", "¾", "⅓", "1\u202f234"]),
    ("it reads `Answer:72` as a name", ["Answer:72"]),
    ("it knows no such thousands separator", [r"1\,234"]),
    ("it knows no powers of ten in this form", ["1.234e3", "5e-2", "1e2", "1e4"]),
    ("it does not read this form of currency", [r"\$1{,}234", r"\$5.60", "US$5.60"]),
    ("it takes only part of what is written, which is another number", ["1,2345", "-3x", "2024-01-05", r"2\frac{1}{2}"]),
    ("it takes a mixed number for two numbers", ["2 1/2"]),
    ("it drops units, also where they contradict each other", ["72 m", "72 miles", "€5.60"]),
    ("it needs braces around the arguments of a fraction", [r"\frac\pi4"]),
]
WHY = {answer: reason for reason, answers in REASONS for answer in answers}

CONFIG = [LatexExtractionConfig(), ExprExtractionConfig()]


def wrapped(text):
    return text if "$" in text or "\\boxed" in text else f"${text}$"


def says(answer, gold):
    """Of the text as it is, or set as mathematics: Math-Verify reads LaTeX only in an environment."""
    golds = parse(wrapped(gold), CONFIG, parsing_timeout=None) or parse(gold, CONFIG, parsing_timeout=None)
    texts = [answer, wrapped(answer)]
    found = [parse(text, CONFIG, parsing_timeout=None) for text in texts]
    return any(bool(one) and bool(golds) and verify(golds, one, timeout_seconds=None) for one in found)


def main():
    pairs, seen = [], set()
    for gold, right, wrong in FORMS:
        for answer, verdict in [(text, True) for text in right] + [(text, False) for text in wrong]:
            if (answer, gold) in seen:
                continue
            seen.add((answer, gold))
            pair = {"answer": answer, "gold": gold, "right": verdict, "math_verify": says(answer, gold)}
            if pair["right"] != pair["math_verify"]:
                pair["why"] = WHY.get(answer, "")
            pairs.append(pair)
    differ = [pair for pair in pairs if "why" in pair]
    for pair in differ:
        if not pair["why"]:
            print("no reason:", pair["answer"], "->", pair["gold"], "Math-Verify:", pair["math_verify"])
    print(len(pairs), "pairs,", len(differ), "differ")
    lines = ",\n".join(json.dumps(pair, ensure_ascii=False) for pair in pairs)
    Path(__file__).with_name("pairs.json").write_text(f"[\n{lines}\n]\n")


main()
