use serde_json::json;

use super::*;

/// The question and the golds of the only row.
fn asked(name: &str, content: &str) -> (String, Vec<String>) {
    let mut outcome = read(name, content).unwrap_or_else(|error| panic!("{content}: {error}"));
    let task = outcome.rows.remove(0);
    assert_eq!(outcome.summary.form(&task.source), Some(Form::MultipleChoice), "{content}");
    assert!(outcome.summary.warnings().is_empty(), "{content}");
    (task.question, task.golds)
}

#[test]
fn the_right_option_is_found_by_label_text_and_index() {
    for (row, golds) in [
        // MMLU: the texts are numbers, too.
        (
            json!({"question": "q", "choices": ["8", "2", "24", "120"], "answer": 2}),
            &["C", "24"][..],
        ),
        (json!({"question": "q", "choices": ["2.0", "1", "3"], "answer": 1.0}), &["B", "1"]),
        (json!({"question": "q", "choices": ["no", "yes"], "label": 1}), &["B", "yes"]),
        (json!({"question": "q", "choices": ["red", "blue"], "answer": "blue"}), &["B", "blue"]),
        (json!({"question": "q", "choices": ["red", "blue"], "answer": "1"}), &["B", "blue"]),
        (json!({"question": "q", "choices": ["red", "blue"], "answer": ["b"]}), &["B", "blue"]),
        // A text that is another's label is no gold: it would be a wrong answer.
        (json!({"question": "q", "choices": ["B", "A", "C", "D"], "answer": "B"}), &["B"]),
        (json!({"question": "q", "choices": ["A", "C", "D", "K"], "answer": 1}), &["B"]),
        (json!({"question": "q", "choices": ["A", "C", "D", "K"], "answer": 3}), &["D", "K"]),
        (
            json!({"question": "q", "choices": {"text": ["4", "3", "2", "x"], "label": ["1", "2", "3", "4"]}, "answerKey": 4}),
            &["4", "x"],
        ),
        (
            json!({"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answer": 1}),
            &["B", "y"],
        ),
    ] {
        assert_eq!(asked("set.jsonl", &row.to_string()).1, golds, "{row}");
    }
}

#[test]
fn options_are_read_from_wherever_they_are_published() {
    let listed = "Which?\nA. red\nB. blue";
    for (row, question) in [
        // MMLU-Pro.
        (
            json!({"question_id": 7, "question": "Which?", "options": ["red", "blue"], "answer": "B", "answer_index": 1, "category": "c"}),
            listed.to_owned(),
        ),
        // RACE.
        (
            json!({"example_id": "h1", "article": "It was seen.", "question": "Which?", "options": ["red", "blue"], "answer": "B"}),
            format!("It was seen.\n\n{listed}"),
        ),
        // MedQA.
        (
            json!({"question": "Which?", "answer": "blue", "options": {"A": "red", "B": "blue", "C": null}, "answer_idx": "B"}),
            listed.to_owned(),
        ),
        // AQuA.
        (
            json!({"question": "Which?", "options": ["A)red", "B)blue"], "rationale": "r", "correct": "B"}),
            listed.to_owned(),
        ),
        (
            json!({"question": "Which?", "options": [{"key": "A", "value": "red"}, {"key": "B", "value": "blue"}], "answer": "B"}),
            listed.to_owned(),
        ),
        (
            json!({"question": "Which?", "option_a": "red", "option_b": "blue", "answer": "b"}),
            listed.to_owned(),
        ),
        (
            json!({"question": "Which?", "opa": "red", "opb": "blue", "answer_idx": 1}),
            listed.to_owned(),
        ),
        (
            json!({"question": "Which?", "choices": "[\"red\", \"blue\"]", "answer": 1}),
            listed.to_owned(),
        ),
    ] {
        let found = asked("set.jsonl", &row.to_string());
        assert_eq!(found, (question, vec!["B".into(), "blue".into()]), "{row}");
        let (_folder, path) = write("set.jsonl", row.to_string().as_bytes());
        let learnt = read_examples(&path, &lenient()).unwrap().rows;
        let [Example::Chat(turns)] = &learnt[..] else { panic!("{learnt:?}") };
        assert_eq!((&turns[0].content, turns[1].content.as_str()), (&found.0, "B"), "{row}");
    }
    // C-Eval.
    let csv = "id,question,A,B,C,D,answer,explanation\n0,Which?,red,blue,,,B,\n";
    assert_eq!(asked("set.csv", csv).0, listed);
}

/// As in GPQA. The right one has each place as often, so that none is a good guess.
#[test]
fn right_and_wrong_options_may_have_columns_of_their_own() {
    let row = |n: usize| {
        json!({"Question": "Which?", "Correct Answer": format!("blue {n}\n"), "Incorrect Answer 1": "red",
               "Incorrect Answer 2": "green", "Incorrect Answer 3": "grey"})
        .to_string()
    };
    let mut places = [0; 4];
    for n in 0..200 {
        let (question, golds) = asked("set.jsonl", &row(n));
        let [label, text] = &golds[..] else { panic!("{golds:?}") };
        assert_eq!(*text, format!("blue {n}"));
        assert!(question.contains(&format!("\n{label}. {text}")), "{question} {label}");
        assert_eq!(question.lines().count(), 5, "{question}");
        places[usize::from(label.as_bytes()[0] - b'A')] += 1;
    }
    assert!(places.iter().all(|&times| times > 25), "{places:?}");
    assert_eq!(asked("set.jsonl", &row(7)), asked("set.jsonl", &row(7)));
}

#[test]
fn options_that_are_not_understood_are_refused_by_name() {
    for (row, reason) in [
        (
            json!({"question": "q", "choices": ["1", "2", "3", "4"], "answer": "3"}),
            "its `answer` is `3`, the text of one option and the index of another",
        ),
        (
            json!({"question": "q", "choices": ["x", "x"], "answer": "x "}),
            "its `answer` is `x`, the text of two options",
        ),
        (
            json!({"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answer": 0}),
            "its `answer` is `0`, which is none of its `choices`",
        ),
        (
            json!({"question": "q", "choices": {"text": ["x", "y", "z"], "label": ["A", "B"]}, "answer": "A"}),
            "its `choices` has 3 texts, but 2 labels",
        ),
        (
            json!({"question": "q", "options": ["x", "y"], "answer": "A", "answer_index": 1}),
            "its `answer` and its `answer_index` name different options",
        ),
        (
            json!({"question": "q", "options": ["x", "y"], "answer": "I", "answer_index": 8}),
            "its `answer` is `I`, which is none of its `options`",
        ),
        (
            json!({"question": "q", "options": "a ) 38 , b ) 27", "correct": "a"}),
            "its `options` is not a list of up to 26 texts",
        ),
        (
            json!({"question": "q", "opa": "x", "opb": "y", "cop": 1}),
            "its `cop` counts from 0 in some",
        ),
        (
            json!({"question": "q", "A": "x", "B": "y", "D": "z", "answer": "A"}),
            "it has the option `D`, but not `C`",
        ),
        (
            json!({"question": "q", "option1": "x", "option2": "y", "answer": "1"}),
            "it has options in `option1`, of which no form is known",
        ),
        (json!({"question": "q", "options": ["x", "y"]}), "it has `options`, but no `answer`"),
    ] {
        let found = golds_of(&row.to_string()).unwrap_err();
        assert!(found.starts_with(reason), "{row}: {found}");
    }
}

#[test]
fn a_chosen_answer_column_names_an_option_too() {
    let row = json!({"question": "Which?", "choices": ["red", "blue"], "gold": 1});
    let (_folder, path) = write("set.jsonl", row.to_string().as_bytes());
    let options = ReadOptions { answer: Some("gold".into()), ..ReadOptions::default() };
    assert_eq!(read_tasks(&path, &options).unwrap().rows[0].golds, ["B", "blue"]);
}
