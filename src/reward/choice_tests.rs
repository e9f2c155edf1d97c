use super::*;

#[test]
fn the_chosen_letter_is_found() {
    for (answer, found) in [
        ("B", Some('B')),
        ("(b)", Some('B')),
        ("**C**", Some('C')),
        ("B. Paris", Some('B')),
        ("(B) Paris", Some('B')),
        ("The answer is (C).", Some('C')),
        ("Answer: D", Some('D')),
        (r"\boxed{A}", Some('A')),
        (r"\boxed{\text{(A)}}", Some('A')),
        ("Option B is wrong, so the answer is C", Some('C')),
        ("The answer is a dog", None),
        ("A dog", None),
        ("Because of that", None),
        ("The answer is Berlin", None),
        (r"\boxed{12}", None),
        ("", None),
        ("The answer is A, since option B is too large.", Some('A')),
        ("(A) is right. Option B is wrong.", Some('A')),
        ("A) is false, B) is true", None),
        ("None of the options", None),
        ("Choices: A, B", None),
        ("The answer is A or B", None),
        ("A or B", None),
        ("The answer is A/B", None),
        ("(A) or (B)", None),
        ("A. B. C. D.", None),
        ("A. Apple\nB. Banana\nOne of these", None),
        ("The answer is a, b, c or d", None),
        ("The answer is I think B", None),
        ("The answer is not B.", None),
        ("Not B", None),
        ("Choice B is incorrect", None),
        ("Option A is wrong. Option B is right. Option C is wrong.", Some('B')),
        ("The answer is A. However, the answer is B.", Some('B')),
        ("B is correct", Some('B')),
        ("B is the answer.", Some('B')),
        ("B, because it is", Some('B')),
        ("B - Paris", Some('B')),
        ("B\nParis", Some('B')),
        ("Paris (B)", Some('B')),
        ("It's B", Some('B')),
        ("I choose B.", Some('B')),
        ("Answer B", Some('B')),
        ("Final answer B", Some('B')),
        ("The correct answer would be B.", Some('B')),
        ("the answer is option (B)", Some('B')),
        ("The answer is: A) 5, not C) 7", Some('A')),
        ("B, a city in France", Some('B')),
        ("The best choice among these is D.", Some('D')),
        ("A\nB\nC\nD", None),
        ("B\nC", None),
        ("B; C", None),
        ("B; Paris it is", Some('B')),
        ("B, A is wrong", Some('B')),
        ("C) O", Some('C')),
        ("B!", Some('B')),
        ("答案是B。", Some('B')),
        ("正确答案：B", Some('B')),
        ("因此选项A错误，故选B。", Some('B')),
        ("答案是A或B", None),
        ("Die richtige Antwort ist B.", Some('B')),
        ("La respuesta correcta es la B.", Some('B')),
        ("La réponse est B.", Some('B')),
        ("A resposta é B.", Some('B')),
        ("Ответ: B", Some('B')),
        (r"\boxed{B. Paris}", Some('B')),
        (r"\boxed{(B) Paris}", Some('B')),
        (r"\boxed{\textbf{(B)}\ 12}", Some('B')),
    ] {
        assert_eq!(chosen(answer, Labels::Letters), found, "{answer}");
    }
}

#[test]
fn a_reasoned_reply_ends_with_its_choice() {
    for (answer, found) in [
        ("Long reasoning.\n\nB", Some('B')),
        ("Long reasoning.\n\n**B**\n", Some('B')),
        ("Long reasoning.\n\nB.", Some('B')),
        ("Long reasoning.\n\n(b)", Some('B')),
        ("Long reasoning.\n\nB) Paris", Some('B')),
        ("Long reasoning.\n\nB. Paris", Some('B')),
        ("Long reasoning.\n\n> **(B) Vitamin C.**", Some('B')),
        ("Long reasoning.\n\n### B", Some('B')),
        ("### B", Some('B')),
        ("Thus, B.", Some('B')),
        ("It is not A. So **B**.", Some('B')),
        ("It must be B.", Some('B')),
        ("**Response:** B", Some('B')),
        ("A) Rome: no.\nB) Paris: yes.\nC) Oslo: no.\n\nB) Paris", Some('B')),
        ("A) Rome: no.\nB) Paris: yes.\nC) Oslo: no.\n\nB", Some('B')),
        ("Option A is Rome, option C is Oslo.\n\nB", Some('B')),
        ("A good idea.", None),
        ("Long reasoning.\n\nA good idea.", None),
        ("Long reasoning.\n\nI think so", None),
        ("Long reasoning.\n\ni.e. Paris", None),
        ("The language must be\n\nC#", None),
        ("Long reasoning.\n\nA or B", None),
        ("Long reasoning.\n\nA) or B)", None),
        ("Long reasoning.\n\nA) Rome B) Paris", None),
        ("Long reasoning.\n\nB. Paris is wrong.", None),
        ("Long reasoning.\n\nB) is false", None),
        ("Long reasoning.\n\nB. is false", None),
        ("Long reasoning.\n\nB: is not it", None),
        ("Option B is correct.\n\nA) Rome is not the capital of France.", Some('B')),
        ("B is correct.\n\nA: Rome is too small.", None),
        ("The options:\nA\nB\nC", None),
        ("The options:\nA) Rome\nB) Paris\nC) Oslo", None),
        ("A) Rome\nB) Paris\nC) Oslo\n\nA) is wrong.\nB) Paris it is.\nC) No.", None),
        ("Q: Who?\nA: Ann", None),
        ("It must not be B.", None),
        ("It must be A or B.", None),
        ("He said so, B", None),
    ] {
        assert_eq!(chosen(answer, Labels::Letters), found, "{answer}");
    }
    assert_eq!(chosen("Two steps.\n\n2) Paris", Labels::Digits), Some('2'));
    assert_eq!(chosen("Option 2 is correct.\n\n1. It is large.", Labels::Digits), Some('2'));
    assert_eq!(chosen("Two steps:\n1. Go.\n2. Stop.", Labels::Digits), None);
}

#[test]
fn labels_may_be_digits() {
    for (answer, found) in [
        ("2", Some('2')),
        ("(2)", Some('2')),
        ("2) Paris", Some('2')),
        ("2. Paris", Some('2')),
        ("The answer is 2", Some('2')),
        ("The answer is 2.5", None),
        ("The answer is 12", None),
        ("Option 2", Some('2')),
        (r"\boxed{2}", Some('2')),
        ("B", None),
    ] {
        assert_eq!(chosen(answer, Labels::Digits), found, "{answer}");
    }
}

#[test]
fn only_the_first_gold_is_a_label() {
    for (answer, golds, paid) in [
        ("B", ["B", "C"], true),
        ("C", ["B", "C"], false),
        ("C) K", ["B", "C"], false),
        ("3", ["2", "3"], false),
        ("2", ["2", "3"], true),
        ("3", ["B", "3"], true),
        ("Paris.", ["B", "Paris"], true),
        ("The answer is Paris", ["B", "Paris"], true),
        ("B: Paris", ["B", "Paris"], true),
        ("A dog", ["A", "A dog"], true),
        ("<answer>B</answer>", ["B", "Paris"], true),
        ("<answer>Paris</answer>", ["B", "Paris"], true),
        ("<answer>A</answer>B", ["B", "Paris"], false),
        ("Rome", ["B", "Paris"], false),
    ] {
        let golds = golds.map(str::to_owned);
        assert_eq!(is_correct(answer, &golds), paid, "{answer} {golds:?}");
    }
}
