use serde_json::json;

use super::*;
use crate::hint::Hint;

/// A row, its question, its golds and its form.
type Case = (serde_json::Value, &'static str, &'static [&'static str], Form);

#[test]
fn rows_are_read_as_data_sets_publish_them() {
    let search = "Answer the given question. Reason inside <think> and </think>, give the answer \
                  inside <answer> and </answer>. Question: who wrote it?\n";
    let cases: Vec<Case> = vec![
        (
            json!({"question": "How many?", "answer": "3 * 24 = <<3*24=72>>72\nSo 72.\n#### 72"}),
            "How many?",
            &["72"],
            Form::Gsm8k,
        ),
        (
            json!({"question": "How much?", "answer": "Much.\n#### 1,234"}),
            "How much?",
            &["1,234"],
            Form::Gsm8k,
        ),
        (
            json!({"problem": "Solve.", "level": "Level 5", "type": "Algebra",
                   "solution": r"First $\boxed{1}$, no: $\boxed{\frac{3}{4}}$."}),
            "Solve.",
            &[r"\frac{3}{4}"],
            Form::Math,
        ),
        (
            json!({"problem": "Solve.", "solution": r"So $\boxed{7}$.", "answer": "7"}),
            "Solve.",
            &["7"],
            Form::Math,
        ),
        (
            json!({"problem": "Solve.", "solution": "So 7.", "answer": "7"}),
            "Solve.",
            &["7"],
            Form::QuestionAnswer,
        ),
        (
            json!({"query": "How many?", "response": "He sold 24.\n#### 72\nThe answer is: 72"}),
            "How many?",
            &["72"],
            Form::Gsm8k,
        ),
        (
            json!({"question": "How many?", "answer": "He sold 24. 48+24=72 #### 72"}),
            "How many?",
            &["72"],
            Form::Gsm8k,
        ),
        (
            json!({"prompt": "Sum it up.", "completion": "#### Summary\nIt is 7."}),
            "Sum it up.",
            &["#### Summary\nIt is 7."],
            Form::PromptCompletion,
        ),
        (
            json!({"ID": "c1", "Body": "Each pack costs 76 dollars.", "Question": "How much?", "Answer": 51.0}),
            "Each pack costs 76 dollars.\n\nHow much?",
            &["51"],
            Form::QuestionAnswer,
        ),
        (
            json!({"question": "Is it?", "passage": "p", "answer": true}),
            "Is it?",
            &["yes", "true"],
            Form::QuestionAnswer,
        ),
        (
            json!({"question": "Which?", "answer": "[\"Paris\", \"paris\"]"}),
            "Which?",
            &["Paris", "paris"],
            Form::QuestionAnswer,
        ),
        (
            json!({"prompt": "q?", "reward_model": {"ground_truth": "[\"72\"]"}}),
            "q?",
            &["72"],
            Form::Verl,
        ),
        (
            json!({"question": "Which?", "answers": ["[0,1]", "[\"a\"]"]}),
            "Which?",
            &["[0,1]", "[\"a\"]"],
            Form::QuestionAnswer,
        ),
        (
            json!({"question": "Which?", "answer": "[0, 1]"}),
            "Which?",
            &["[0, 1]"],
            Form::QuestionAnswer,
        ),
        (
            json!({"instruction": "Double it.", "input": 21, "output": "42"}),
            "Double it.\n\n21",
            &["42"],
            Form::Alpaca,
        ),
        (
            json!({"id": "5", "title": "T", "context": "C", "question": "Who?",
                   "answers": {"text": ["Ana", "Ana", "Ana Vel"], "answer_start": [1, 1, 1]}}),
            "Who?",
            &["Ana", "Ana Vel"],
            Form::Squad,
        ),
        (
            json!({"question": "Who?", "answers": [{"text": "Ana", "answer_start": 3}]}),
            "Who?",
            &["Ana"],
            Form::Squad,
        ),
        (
            json!({"Question": "Who?", "QuestionId": "tc_1",
                   "Answer": {"Value": "Ana", "Aliases": ["Ana", "A. Vel"], "NormalizedAliases": ["a vel"]}}),
            "Who?",
            &["Ana", "A. Vel"],
            Form::TriviaQa,
        ),
        (
            json!({"question": "Who?", "answer": {"value": "Ana", "aliases": ["A. Vel"],
                   "normalized_aliases": ["a vel"], "type": "WikipediaEntity"}}),
            "Who?",
            &["Ana", "A. Vel", "a vel"],
            Form::TriviaQa,
        ),
        (
            json!({"_id": "5a", "question": "Which?", "answer": "yes", "type": "comparison",
                   "supporting_facts": [["A", 0]], "context": [["A", ["a"]]]}),
            "Which?",
            &["yes"],
            Form::QuestionAnswer,
        ),
        (
            json!({"question": "Which?", "answer": ["1963", "in 1963"]}),
            "Which?",
            &["1963", "in 1963"],
            Form::QuestionAnswer,
        ),
        (
            json!({"id": "t", "question": "Which?", "golden_answers": ["a", "b"]}),
            "Which?",
            &["a", "b"],
            Form::QuestionAnswer,
        ),
        (
            json!({"question": "Which?", "possible_answers": "[\"politician\", \"pol\"]"}),
            "Which?",
            &["politician", "pol"],
            Form::QuestionAnswer,
        ),
        (
            json!({"question": "Which?", "answer": "a", "answer_aliases": ["b"], "answerable": true}),
            "Which?",
            &["a", "b"],
            Form::QuestionAnswer,
        ),
        (
            json!({"data_source": "nq", "prompt": [{"role": "user", "content": search}],
                   "reward_model": {"style": "rule", "ground_truth": {"target": ["Ana", "A. Vel"]}}}),
            "who wrote it?",
            &["Ana", "A. Vel"],
            Form::Verl,
        ),
        (
            json!({"data_source": "openai/gsm8k",
                   "prompt": [{"role": "user", "content": "How many? Think step by step and end with \"####\"."}],
                   "reward_model": {"style": "rule", "ground_truth": "72"},
                   "extra_info": {"question": "How many?", "answer": "…#### 72", "index": 0}}),
            "How many?",
            &["72"],
            Form::Verl,
        ),
        (
            json!({"instruction": "Sort.", "input": "3 1 2", "output": "1 2 3"}),
            "Sort.\n\n3 1 2",
            &["1 2 3"],
            Form::Alpaca,
        ),
        (
            json!({"prompt": "Sort.", "completion": "1 2 3"}),
            "Sort.",
            &["1 2 3"],
            Form::PromptCompletion,
        ),
        (
            json!({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}),
            "Why?",
            &["So."],
            Form::Chat,
        ),
        (
            json!({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}),
            "Why?",
            &["So."],
            Form::ShareGpt,
        ),
        (
            json!({"question": "Which?", "choices": ["red", "blue"], "answer": 1}),
            "Which?\nA. red\nB. blue",
            &["B", "blue"],
            Form::MultipleChoice,
        ),
        (
            json!({"question": "Which?", "answerKey": "2",
                   "choices": {"text": ["red", "blue"], "label": ["1", "2"]}}),
            "Which?\n1. red\n2. blue",
            &["2", "blue"],
            Form::MultipleChoice,
        ),
        (
            json!({"question": "Which?", "answers": [["a", "b"], ["c"]]}),
            "Which?",
            &["a", "b", "c"],
            Form::QuestionAnswer,
        ),
        (
            json!({"question": "Which?", "answers": [], "answer": "a"}),
            "Which?",
            &["a"],
            Form::QuestionAnswer,
        ),
        (
            json!({"question": "Which?", "answers_spans": {"spans": ["a", "b"], "types": []}}),
            "Which?",
            &["a", "b"],
            Form::QuestionAnswer,
        ),
    ];
    for (row, question, golds, form) in cases {
        let outcome = read("set.jsonl", &row.to_string()).unwrap_or_else(|e| panic!("{row}: {e}"));
        assert_eq!(outcome.rows[0].question, question, "{row}");
        assert_eq!(outcome.rows[0].golds, golds, "{row}");
        assert_eq!(outcome.summary.form(&outcome.rows[0].source), Some(form), "{row}");
    }
}

#[test]
fn golds_are_exact_numbers() {
    for (answer, gold) in [
        ("18.0", "18"),
        ("-3.0", "-3"),
        ("2.50", "2.50"),
        ("1e3", "1000"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("-9223372036854775809", "-9223372036854775809"),
        ("3.14159265358979323846264338327950288", "3.14159265358979323846264338327950288"),
        ("\"18.0\"", "18.0"),
    ] {
        let row = format!("{{\"question\": \"q\", \"answer\": {answer}, \"hops\": 2.0}}");
        assert_eq!(golds_of(&row), Ok(vec![gold.to_owned()]), "{answer}");
    }
}

#[test]
fn rows_that_would_teach_something_wrong_are_not_used() {
    for (row, reason) in [
        (
            json!({"question": "q", "answer": "a", "trajectory": {"turns": []}, "finish_reason": "answered"}),
            "it is a record of an episode",
        ),
        (
            json!({"question": "q", "answers": {"text": [], "answer_start": []}}),
            "it is marked as having no answer",
        ),
        (
            json!({"question": "q", "answer": "", "answerable": false}),
            "it is marked as having no answer",
        ),
        (json!({"problem": "p", "solution": "no box"}), r"its `solution` has no `\boxed{…}`"),
        (
            json!({"question": "q", "answer": {"a": 1}}),
            "its `answer` is an object of no known form",
        ),
        (
            json!({"question": "q", "answers": "['a', 'b']"}),
            "its `answers` is text that looks like a list",
        ),
        (
            json!({"question": "q", "choices": ["a", "b"], "answer": 2}),
            "its `answer` is `2`, which is none of its `choices`",
        ),
        (
            json!({"question": "q", "answer": "['a', 'b']"}),
            "its `answer` is text that looks like a list",
        ),
        (
            json!({"question": "q", "answer": "a", "images": ["a.png"]}),
            "it has `images`, and only text is read",
        ),
        (
            json!({"prompt": "q", "completion": "bad", "label": false}),
            "its `label` is `false`, which marks its answer as bad",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}),
            "the answer in its `messages` is marked as not to be learnt",
        ),
        (
            json!({"instruction": "Sum.", "input": [1, 2], "output": "3"}),
            "its `input` is a list, not text",
        ),
        (
            json!({"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "The hint is 7"}],
                   "reward_model": {"ground_truth": "7"}}),
            "its `prompt` is a conversation, not one question: user, assistant",
        ),
        (
            json!({"instruction": "Go on.", "output": "a", "history": [["b", "c"]]}),
            "it has a `history`",
        ),
        (
            json!({"messages": [
                {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}),
            "its `messages` is a conversation, not one question: user, assistant, user, assistant",
        ),
    ] {
        let found = golds_of(&row.to_string()).unwrap_err();
        assert!(found.starts_with(reason), "{row}: {found}");
    }
    for (line, reason) in [
        (r#"{"question": "q", "answer": "a", "answer": "b"}"#, "it has the column `answer` twice"),
        (r#"{"question": "q", "answer": NaN}"#, "it is not JSON"),
    ] {
        let found = golds_of(line).unwrap_err();
        assert!(found.starts_with(reason), "{line}: {found}");
    }
}

#[test]
fn a_passage_may_have_paragraphs() {
    let options = ReadOptions { context: Some("context".into()), ..ReadOptions::default() };
    let shown = |context: serde_json::Value| {
        let row = json!({"question": "Why?", "answer": "a", "context": context}).to_string();
        let (_folder, path) = write("set.jsonl", row.as_bytes());
        read_tasks(&path, &options).map(|outcome| outcome.rows[0].question.clone())
    };
    let both = "T\nIt rained. A lot.\n\nU\nIt snowed.\n\nWhy?";
    for context in [
        // HotpotQA, as on the hub and as in its own files.
        json!({"title": ["T", "U"], "sentences": [["It rained.", " A lot."], ["It snowed."]]}),
        json!([["T", ["It rained.", " A lot."]], ["U", ["It snowed."]]]),
        // MuSiQue.
        json!([{"idx": 0, "title": "T", "paragraph_text": "It rained. A lot.", "is_supporting": true},
               {"idx": 1, "title": "U", "paragraph_text": "It snowed.", "is_supporting": false}]),
    ] {
        assert_eq!(shown(context.clone()).unwrap(), both, "{context}");
    }
    assert_eq!(
        shown(json!(["It rained.", "It snowed."])).unwrap(),
        "It rained.\n\nIt snowed.\n\nWhy?"
    );
    for context in [
        json!({"title": ["T"], "sentences": [["a"], ["b"]]}),
        json!({"text": "a"}),
        json!([1]),
        json!([["T", "a"]]),
        json!([]),
    ] {
        let error = shown(context.clone()).unwrap_err().to_string();
        assert!(error.contains("it has no text in `context`"), "{context}: {error}");
    }
}

#[test]
fn columns_of_other_names_are_chosen() {
    let row =
        r#"{"q": "Why?", "gold": 3, "passage": "It rained.", "question": "x", "answer": "y"}"#;
    let (_folder, path) = write("set.jsonl", row.as_bytes());
    let options = ReadOptions {
        question: Some("q".into()),
        answer: Some("gold".into()),
        context: Some("passage".into()),
        ..ReadOptions::default()
    };
    let task = read_tasks(&path, &options).unwrap().rows.remove(0);
    assert_eq!(
        (task.question.as_str(), task.golds.as_slice()),
        ("It rained.\n\nWhy?", &["3".to_owned()][..])
    );
    let options = ReadOptions { answer: Some("none".into()), ..ReadOptions::default() };
    let error = read_tasks(&path, &options).unwrap_err().to_string();
    assert!(error.contains("it has no `none`, but `q`, `gold`"), "{error}");
    // A record with a right answer beside it is a task.
    let row = r#"{"question": "q", "answer": "a", "gold": "b", "trajectory": {"turns": []}, "finish_reason": "answered"}"#;
    let (_folder, path) = write("set.jsonl", row.as_bytes());
    let options = ReadOptions { answer: Some("gold".into()), ..ReadOptions::default() };
    assert_eq!(read_tasks(&path, &options).unwrap().rows[0].golds, ["b"]);
}

#[test]
fn more_rejected_rows_than_allowed_are_an_error_with_reasons() {
    let good = |n: usize| format!("{{\"question\": \"q{n}\", \"answer\": \"a\"}}");
    let mut lines: Vec<String> = (0..98).map(good).collect();
    lines.push("{\"question\": \"x\"}".into());
    lines.push("{\"question\": \"q\", \"answers\": {\"text\": [], \"answer_start\": []}}".into());
    let (_folder, path) = write("set.jsonl", lines.join("\n").as_bytes());
    let outcome = read_tasks(&path, &ReadOptions::default()).unwrap();
    let summary = outcome.summary;
    assert_eq!(
        summary.to_string(),
        "100 rows in 1 file: 98 used, 1 rejected, 1 skipped (question and answer)"
    );
    let warnings = summary.warnings().join("\n");
    assert!(warnings.contains("row 99: it has no answer"), "{warnings}");
    assert!(warnings.contains("1 rows: it is marked as having no answer"), "{warnings}");
    let strict = ReadOptions { max_rejected: 0.005, ..ReadOptions::default() };
    let error = read_tasks(&path, &strict).unwrap_err().explained();
    assert!(error.starts_with("1 of 100 rows of"), "{error}");
    assert!(
        error.contains("row 99: it has no answer") && error.contains("max_rejected"),
        "{error}"
    );
    let wrong = ReadOptions { max_rejected: 2.0, ..ReadOptions::default() };
    assert!(read_tasks(&path, &wrong).unwrap_err().to_string().starts_with("`max_rejected` is 2"));
}

#[test]
fn what_is_left_out_of_rows_is_said() {
    let row = json!({
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        "reward_model": {"ground_truth": "a"}, "context": "It rained.",
    });
    let summary = read("set.jsonl", &row.to_string()).unwrap().summary;
    let warnings = summary.warnings().join("\n");
    assert!(warnings.contains("1 rows: its system message is left out"), "{warnings}");
    assert!(warnings.contains("1 rows: its passage is left out"), "{warnings}");
    assert!(!warnings.contains("columns"), "{warnings}");
    let row = json!({"question": "q", "answer": "a", "hint": "Look.", "c": "x", "url": "u", "gap": null, "label": "good"});
    let warnings = read("set.jsonl", &row.to_string()).unwrap().summary.warnings();
    assert_eq!(
        warnings,
        [
            "1 rows: its `label` is neither true nor false, and is not read",
            "columns that were not read: `c`, `hint`",
        ]
    );
}

#[test]
fn nested_lists_are_bounded() {
    let deep = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        golds_of(&format!("{{\"question\": \"q\", \"answer\": {open}\"a\"{close}}}"))
    };
    assert_eq!(deep(64), Ok(vec!["a".to_owned()]));
    for depth in [65, 20_000] {
        let reason = deep(depth).unwrap_err();
        assert_eq!(reason, "it has more than 64 nested lists or objects");
    }
}
