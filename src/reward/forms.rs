//! Right answers in the forms that people and models use, and wrong ones that once were paid.

use super::AnswerMetric::{self, Auto, Choice, Math, Numeric};
use super::Normalization;

/// Each answer, its gold, and whether it is right.
type Pair = (&'static str, &'static str, bool);

fn check(metric: AnswerMetric, pairs: &[Pair]) {
    let mut wrong = Vec::new();
    for &(answer, gold, is_right) in pairs {
        let golds = [gold.to_owned()];
        let found = metric.score(answer, &golds, Normalization::Strict);
        if (found > 0.99) != is_right {
            wrong.push(format!("{answer} -> {gold}: {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_ends_in_the_gold_is_not_the_gold() {
    let three =
        [r"\boxed{\sqrt{3}}", r"$\sqrt{3}$", r"\sqrt{3}", r"2\sqrt{3}", r"\boxed{2\sqrt{3}}"];
    let five = [
        r"\boxed{5\pi}",
        r"5\pi",
        "5xy",
        r"\boxed{3, 5}",
        r"\boxed{7,5}",
        r"\boxed{(3,5)}",
        r"\boxed{[0,5]}",
        r"\{3,5\}",
        "x=3 or x=5",
        r"(-\infty,5)",
        r"\boxed{\pm 5}",
        r"\boxed{x \ge 5}",
        r"\boxed{x \le 5}",
        "x > 5",
        r"x \neq 5",
        r"\boxed{x^2=5}",
        r"\boxed{\frac{\pi}{\sqrt{5}}}",
        r"\boxed{\ln 5}",
        r"\boxed{\log_2 5}",
        r"\boxed{\sin 5}",
        r"\boxed{5!}",
        r"\boxed{|-5|\pi}",
        r"\boxed{e^{2}5}",
        r"\boxed{3 \text{ or } 5}",
        "f(5)",
        "P(X=5)",
        "gcd(12,5)",
        r"x \equiv 3 \pmod{5}",
        r"1 \pmod 5",
        "3 and 5",
        "x + 5",
        "5 + x",
        "5x",
        "3x-5",
        "y = 3x + 5",
        "3+5i",
        "a_5",
        r"\mathbb{Z}_5",
        "C_5",
    ];
    check(Math, &three.map(|answer| (answer, "3", false)));
    check(Math, &five.map(|answer| (answer, "5", false)));
    check(
        Math,
        &[
            (r"\boxed{|-5|}", "-5", false),
            ("1<x<2", "2", false),
            (r"5_{10}", "10", false),
            (r"\begin{pmatrix}1\\2\end{pmatrix}", "2", false),
            (r"\lfloor 5.7 \rfloor", "5.7", false),
            (r"\boxed{\lfloor 5.7 \rfloor}", "5.7", false),
            (r"\sqrt{16}", "4", true),
            (r"\boxed{\sqrt{16}}", "4", true),
            (r"\boxed{|-5|}", "5", true),
            (r"\boxed{|{-5}|}", "5", true),
            (r"\sqrt[3]{8}", "2", true),
            (r"\log_{10} 100", "2", true),
            ("5!", "120", true),
            (r"\binom{5}{2}", "10", true),
            ("The answer is 5 apples.", "5", true),
            ("so (since 3+2=5) it is 5", "5", true),
            ("x = 5", "5", true),
            (r"\boxed{x = 5}", "5", true),
            (r"\boxed{5 \text{ apples}}", "5", true),
            (r"The area is $5$ square metres", "5", true),
            ("Answer: 5 units", "5", true),
            ("x_1 = 5", "5", true),
            ("12 - 3", "-3", false),
            ("12-3", "9", true),
        ],
    );
    let five =
        ["sqrt(5)", r"\sqrt{5}", "√5", "5π", r"5\pi", "(3, 5)", "3, 5", "±5", "5xy", "5 squared"];
    check(Numeric, &five.map(|answer| (answer, "5", false)));
    check(
        Numeric,
        &[
            ("log(100)", "100", false),
            ("2^5", "5", false),
            ("e^5", "5", false),
            ("x^5", "5", false),
            ("3 + 5i", "5", false),
            ("5i", "5", false),
            (r"\binom{5}{2}", "52", false),
            (r"0.\overline{3}", "3", false),
            ("5 or 10", "10", false),
            ("It is 5!", "5", true),
            ("about 5.", "5", true),
            ("≈5", "5", true),
            ("~5", "5", true),
            ("#5", "5", true),
            ("No. 5", "5", true),
            ("$5 per hour", "5", true),
            ("1st", "1", true),
            ("5 a.m.", "5", true),
        ],
    );
}

#[test]
fn rates_compounds_and_quantities_are_no_algebra() {
    for metric in [Numeric, Math] {
        check(
            metric,
            &[
                ("Janet makes $18/day.", "18", true),
                ("The speed is 60/hr.", "60", true),
                (r"\boxed{\$18/\text{day}}", "18", true),
                ("18 / day", "18", true),
                ("18/month", "18", true),
                ("18 $/day", "18", true),
                ("$5/m", "5", true),
                ("18/x", "18", false),
                ("18/pi", "18", false),
                (r"18/\sqrt{2}", "18", false),
                ("18/xy", "18", false),
                ("$20/week - $15/week", "15", false),
                ("It is an 18-year-old tree.", "18", true),
                ("27-liter", "27", true),
                ("$18—done", "18", true),
                ("18-x", "18", false),
                ("18-pi", "18", false),
                ("18-20", "18", false),
                ("The distance is 140m - 100m = 40 meters.", "40", true),
                ("12cm+9cm = 21cm", "21", true),
                ("46*7kg = 322kg", "322", true),
                ("10kg + 5kg = 15", "15", true),
                ("$15/phone + $5/phone = $20", "20", true),
                ("60km/h * 3h = 180km", "180", true),
                ("**Total = 5**", "5", true),
                ("2x + 3 = 7", "7", false),
                ("3m + 2 = 8", "8", false),
                ("x-2 = 5", "5", false),
                ("$2x = 5$", "5", false),
            ],
        );
    }
}

#[test]
fn words_and_signs_beside_a_number_count() {
    for metric in [Numeric, Math] {
        check(
            metric,
            &[
                ("5 million", "5", false),
                ("5 thousand", "5", false),
                ("5 hundred", "5", false),
                ("5M", "5", false),
                ("5k", "5", false),
                ("5‰", "5", false),
                ("5 tenths", "5", false),
                ("5 thousandths", "5", false),
                ("5 and a half", "5", false),
                ("5 squared", "5", false),
                ("five hundred 5", "5", false),
                ("$1.5 billion", "1.5", false),
                ("$3M", "3", false),
                ("3 dozen", "3", false),
                ("negative 5", "5", false),
                ("minus 5", "5", false),
                (r"\boxed{5\text{ million}}", "5", false),
                ("twice 5", "5", false),
                ("half of 5", "5", false),
                ("5 million", "5000000", true),
                ("5 million", "5 million", true),
                ("$1.5 billion", "1500000000", true),
                ("3 dozen", "36", true),
                ("5k", "5000", true),
                ("negative 5", "-5", true),
                ("minus 5", "-5", true),
                ("The answer is minus 5.", "-5", true),
                ("5 and a half", "5.5", true),
                ("2 and 1/2", "2.5", true),
                ("-(3/4)", "3/4", false),
                (r"-\left(\frac{3}{4}\right)", "3/4", false),
                ("x = -(5)", "5", false),
                ("-(3/4)", "-3/4", true),
                (r"-\left(\frac{3}{4}\right)", "-3/4", true),
                (r"\boxed{-\left(\frac{3}{4}\right)}", "-3/4", true),
                (r"$\frac{-3}{4}$", "-0.75", true),
                (r"The answer is $\frac{-3}{4}$.", "-0.75", true),
                ("($5)", "-5", false),
                ("1 234", "234", false),
                ("1 000 000", "0", false),
                ("1'234", "234", false),
                ("10⁶", "10", false),
                ("2⁴", "2", false),
                ("2\u{a0}1/2", "21/2", false),
                ("2⅒", "2", false),
                ("1 234", "1234", true),
                ("1 000 000", "1000000", true),
                ("1'234", "1234", true),
                ("10⁶", "1000000", true),
                ("2⁴", "16", true),
                ("3×10⁸", "300000000", true),
                ("10^8", "100000000", true),
                ("2\u{a0}1/2", "2.5", true),
                ("2⅒", "2.1", true),
            ],
        );
    }
}

#[test]
fn small_and_large_numbers_are_told_apart() {
    check(
        Math,
        &[
            ("0", r"6.63 \times 10^{-34}", false),
            (r"6.63 \times 10^{-34}", r"9.99 \times 10^{-34}", false),
            (r"1.6\times10^{-19}", r"9.1\times10^{-31}", false),
            (r"10^{-13}", r"2\cdot10^{-13}", false),
            (r"\frac{1}{2^{50}}", r"\frac{1}{2^{49}}", false),
            (r"\left(\frac{1}{2}\right)^{100}", r"\left(\frac{1}{2}\right)^{99}", false),
            (r"2^{-100}", "0", false),
            ("0", r"2^{-100}", false),
            (r"3^{-30}", r"2^{-50}", false),
            (r"\frac{1}{2^{100}}", r"\frac{1}{3^{100}}", false),
            (r"\frac{x}{10^{13}}", r"\frac{x^2}{10^{13}}", false),
            (r"2^{60}", r"4^{30}", true),
            (r"2^{60}", "1152921504606846976", true),
            (r"10^{16}", r"100^8", true),
            (r"2^{100}", r"2^{100}+0", true),
            ("1e20", r"10^{20}", true),
        ],
    );
    check(Numeric, &[("6.63e-34", "6.63e-34", true), ("6.63e-34", "6.64e-34", false)]);
}

#[test]
fn matrices_names_and_functions_are_read_whole() {
    let pairs = [
        (r"\begin{pmatrix}1\\23\end{pmatrix}", r"\begin{pmatrix}12\\3\end{pmatrix}", false),
        (r"\binom{1}{23}", r"\binom{12}{3}", false),
        (
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
            r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}",
            false,
        ),
        (r"\begin{pmatrix}1 & 2\end{pmatrix}", r"\begin{pmatrix}1 \\ 2\end{pmatrix}", false),
        (r"\begin{pmatrix}3 \\ -4\end{pmatrix}", r"\begin{pmatrix}3-4\end{pmatrix}", false),
        (r"\begin{pmatrix}\frac12\\2\end{pmatrix}", r"\begin{pmatrix}0.5\\2\end{pmatrix}", true),
        (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", true),
        (r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}", true),
        ("x=2, y=1", "x=1, y=2", false),
        ("m=2, n=3", "m=3, n=2", false),
        ("(a,b)=(2,3)", "(a,b)=(3,2)", false),
        ("x = 5", "y = 5", false),
        ("y=2x+3", "x=2x+3", false),
        ("f(x)=x+1", "x+1", true),
        ("(x,y)=(1,2)", "(1,2)", true),
        ("x^2+y^2=4", "y^2+x^2=4", true),
        ("12", r"12\pi \text{ cm}", false),
        ("12", r"36\pi \text{ square inches}", false),
        ("2", r"2x \text{ cm}", false),
        ("|x|", "x", false),
        ("sqrt(x^2)", "x", false),
        (r"\sin^{-1} x", r"\frac{1}{\sin x}", false),
        (r"\sin^{-1} x", r"\arcsin x", true),
        (r"(3,+\infty)", r"(3,\infty)", true),
        (r"x\in[1,2]", "[1,2]", true),
        (r"x \in (1,2)", "(1,2)", true),
        (r"\emptyset", r"\varnothing", true),
        ("∅", r"\emptyset", true),
        (r"\langle 1,2\rangle", "(1,2)", false),
        (r"\left\langle 1, 2 \right\rangle", r"\langle 1,2 \rangle", true),
        (r"2^{3}4", "24", false),
    ];
    check(Math, &pairs);
}

#[test]
fn units_and_percentages_are_compared() {
    check(
        Numeric,
        &[
            ("5 ms", "5 m", false),
            ("5 m", "5 ms", false),
            ("5 in", "5 cm", false),
            ("5 tons", "5 kg", false),
            ("5 K", "5 °C", false),
            ("5 nm", "5 m", false),
            ("₹5", "$5", false),
            ("5 CAD", "$5", false),
            ("5 quarts", "5 gallons", false),
            ("5 GB", "5 MB", false),
            ("5 g/ml", "5 g", false),
            ("7 people", "5 people", false),
            ("5 in", "5 in", true),
            ("5 tons", "5 tons", true),
            ("5 m/s", "5 m/s", true),
            ("20 km/h", "20 km/h", true),
            ("5 people", "5 people", true),
            ("5", "5 people", true),
            ("5 cups", "5 cups", true),
            ("5 in total", "5 cm", true),
            ("5 hrs", "5 hours", true),
            ("50 percent", "0.5", true),
            ("50 percent", "50%", true),
            ("50 per cent", "50", true),
        ],
    );
    check(
        Auto,
        &[
            ("50", "50 Cent", false),
            ("50 Cent", "50 Cent", true),
            ("5 people", "5 people", true),
            ("7 people", "5 people", false),
            ("5 million", "5", false),
        ],
    );
}

#[test]
fn marks_of_markdown_are_no_signs_and_no_operators() {
    for metric in [Numeric, Auto] {
        check(
            metric,
            &[
                ("The answer is:\n\n- 42", "42", true),
                ("The answer is:\n\n- 42", "-42", false),
                ("Total:\n- 42 apples", "42", true),
                ("Total:\n- 42 apples", "-42", false),
                ("Result:\n- $42", "42", true),
                ("Steps:\n- 40\n- 42", "42", true),
                ("The rest is 52\n- 10", "10", false),
                ("The sum is 40\n+ 2", "2", false),
                ("The rest is 52\n\n- 10", "10", true),
                ("答案是2根号3", "3", false),
                ("答案是2的42次方", "42", false),
                ("需要2小时42分钟。", "42", false),
                ("需要42分钟。", "42", true),
                ("The answer is:\n\n* 42", "42", true),
                ("The answer is:\r\n  + **42**", "42", true),
                ("The answer is:\n\n> 42", "42", true),
                ("- Total: -42", "-42", true),
                ("Total:\n-42", "-42", true),
                ("- 42", "-42", true),
                ("- 42", "42", false),
                ("x =\n- 42", "-42", true),
                ("x > 42", "42", false),
                ("The answer is 42.\n\n* Check: it fits.", "42", true),
                ("The answer is 42\n> as said", "42", true),
                ("It is 42\n\nQ: What next?", "42", true),
                ("**Answer:** 42.", "42", true),
                ("**Final answer**\n\n$42", "42", true),
                ("- **Total:** -42", "-42", true),
                ("_Answer:_ 42", "42", true),
                ("The answer is *42*.", "42", true),
                ("They have *42* apples.", "42", true),
                ("It is **not** 42", "42", false),
                ("6* 42", "42", false),
                ("(x + 1)* 42", "42", false),
                ("42* 6", "42", false),
                ("1. 42", "42", true),
                ("## 42", "42", true),
                ("| total | 42 |", "42", true),
                ("Answer – 42", "42", true),
                ("So 6 * 7 = $<<6*7=42>>42 in all.", "42", true),
                ("12:30", "30", false),
                ("2024-05-12", "12", false),
            ],
        );
    }
}

#[test]
fn a_part_of_a_quantity_is_not_the_quantity() {
    check(
        Numeric,
        &[
            ("2 hours and 42 minutes", "42", false),
            ("1 hour 30 minutes", "30", false),
            ("It took an hour and 42 minutes.", "42", false),
            ("1 hour, 30 minutes, and 42 seconds", "42", false),
            ("1 dollar and 50 cents", "50", false),
            ("5 feet 6 inches", "6", false),
            ("2 hours and 42 minutes = 162 minutes", "162", true),
            ("In 10 minutes 42 pages are read.", "42", true),
            ("In 2 hours, 42 km are covered.", "42", true),
            ("He works 8 hours a day and 5 days a week", "5", true),
        ],
    );
}

#[test]
fn numbers_are_found_in_other_scripts() {
    for metric in [Numeric, Auto] {
        check(
            metric,
            &[
                ("答案是42。", "42", true),
                ("答案是 42。", "42", true),
                ("答案是**42**。", "42", true),
                ("答案是$42$。", "42", true),
                ("答案是-42。", "-42", true),
                ("答案是负42。", "-42", true),
                ("答案是负42。", "42", false),
                ("答案：42元", "42", true),
                ("共有42个苹果", "42", true),
                ("共 42 个", "42", true),
                ("6×7=42（个）。", "42", true),
                ("总数（42）", "42", true),
                ("速度是42千米/时", "42", true),
                ("每斤42元/个", "42", true),
                ("12:30后还剩42个", "42", true),
                ("共42万元", "420000", true),
                ("共42万元", "42", false),
                ("答案是40或42", "42", false),
                ("解是3，42", "42", false),
                ("2√42", "42", false),
                ("答えは42です。", "42", true),
                ("答えは42個です。", "42", true),
                ("답은 42입니다.", "42", true),
                ("คำตอบคือ๔๒บาท", "42", true),
                ("Выйдет 42 в день", "42", true),
                ("٤٢", "42", true),
                ("الجواب هو ٤٢", "42", true),
                ("١٬٢٣٤٫٥", "1234.5", true),
                ("উত্তর হল ৪২", "42", true),
                ("The answer is ४२.", "42", true),
                ("x42", "42", false),
                ("α42", "42", false),
            ],
        );
    }
}

#[test]
fn a_choice_of_letters_is_paid_by_its_letter() {
    check(Choice, &[("(A) or (B)", "A", false), ("The correct answer would be B.", "B", true)]);
}
