use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;

use super::*;

const REFERENCE: &str = "message schema {
    optional binary data_source (string);
    optional group prompt (list) { repeated group list { optional group element {
        optional binary content (string);
        optional binary role (string);
    } } }
    optional binary ability (string);
    optional group reward_model {
        optional group ground_truth (list) {
            repeated group list { optional binary element (string); }
        }
        optional binary style (string);
    }
}";

/// The values of one column with their definition and repetition levels.
enum Column {
    Text(Vec<(Option<&'static str>, i16, i16)>),
    Number(Vec<i64>),
}

fn write_parquet(path: &Path, schema: &str, columns: Vec<Column>) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in columns {
        let mut out = group.next_column().unwrap().unwrap();
        match column {
            Column::Text(cells) => {
                let values: Vec<ByteArray> =
                    cells.iter().filter_map(|(text, ..)| text.map(ByteArray::from)).collect();
                let definition: Vec<i16> = cells.iter().map(|cell| cell.1).collect();
                let repetition: Vec<i16> = cells.iter().map(|cell| cell.2).collect();
                out.typed::<ByteArrayType>()
                    .write_batch(&values, Some(&definition), Some(&repetition))
                    .unwrap();
            }
            Column::Number(values) => {
                out.typed::<Int64Type>().write_batch(&values, None, None).unwrap();
            }
        }
        out.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

fn cell(text: &'static str, definition: i16) -> (Option<&'static str>, i16, i16) {
    (Some(text), definition, 0)
}

#[test]
fn the_reference_schema_is_read_from_parquet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hotpot.parquet");
    let wrapped: &'static str = format!("Question: Who?\n{INSTRUCTION}").leak();
    write_parquet(
        &path,
        REFERENCE,
        vec![
            Column::Text(vec![cell("hotpot", 1), (None, 0, 0), cell("hotpot", 1)]),
            Column::Text(vec![
                cell(wrapped, 4),
                cell("be brief", 4),
                (Some("What?"), 4, 1),
                cell("Why?", 4),
            ]),
            Column::Text(vec![
                cell("user", 4),
                cell("system", 4),
                (Some("user"), 4, 1),
                cell("user", 4),
            ]),
            Column::Text(vec![cell("qa", 1), cell("qa", 1), cell("qa", 1)]),
            // The third list is there, but empty.
            Column::Text(vec![
                cell("Ana", 4),
                (Some("Ana Vel"), 4, 1),
                cell("42", 4),
                (None, 2, 0),
            ]),
            Column::Text(vec![cell("rule", 2), cell("rule", 2), cell("rule", 2)]),
        ],
    );
    let outcome = read_tasks(&path, &lenient()).unwrap();
    assert_eq!(
        outcome.rows,
        [
            task("hotpot:1", "Who?", &["Ana", "Ana Vel"], "hotpot"),
            task("hotpot:2", "What?", &["42"], "hotpot"),
        ]
    );
    let [rejected] = outcome.summary.first_rejected.as_slice() else { panic!("{outcome:?}") };
    assert_eq!(
        (rejected.row, rejected.reason.as_str()),
        (3, "its `reward_model.ground_truth` is empty")
    );
}

#[test]
fn a_gold_that_is_a_plain_string_and_flat_columns_are_read_from_parquet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.bin");
    write_parquet(
        &path,
        "message schema { required binary prompt (string); required int64 hops;
            required group reward_model { required binary ground_truth (string); } }",
        vec![
            Column::Text(vec![cell("Why?", 0)]),
            Column::Number(vec![3]),
            Column::Text(vec![cell("because", 0)]),
        ],
    );
    let tasks = read_tasks(&path, &lenient()).unwrap().rows;
    assert_eq!(tasks, [Task { hops: Some(3), ..task("set:1", "Why?", &["because"], "set") }]);
    write_parquet(
        &path,
        "message schema { required binary question (string); required int64 answer; }",
        vec![Column::Text(vec![cell("Why?", 0)]), Column::Number(vec![-8])],
    );
    let tasks = read_tasks(&path, &lenient()).unwrap().rows;
    assert_eq!(tasks, [task("set:1", "Why?", &["-8"], "set")]);
}

#[test]
fn a_missing_column_is_named_beside_those_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.parquet");
    for (first, second, reason) in [
        ("words", "mark", "has no column of a known form; it has `words`, `mark`"),
        ("mark", "prompt", "it has no answer: its columns are `prompt`, `mark`"),
        ("answer", "mark", "it has no question: its columns are `answer`, `mark`"),
        ("answer", "answer", "has the column `answer` twice"),
    ] {
        let schema = format!(
            "message schema {{ required binary {first} (string); required binary {second} (string); }}"
        );
        let text = || Column::Text(vec![cell("x", 0)]);
        write_parquet(&path, &schema, vec![text(), text()]);
        let error = read_tasks(&path, &lenient()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_damaged_parquet_file_is_an_error_wherever_the_damage_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.parquet");
    let text = || Column::Text((0..200).map(|_| cell("some text", 0)).collect());
    let schema =
        "message schema { required binary question (string); required binary answer (string); }";
    write_parquet(&path, schema, vec![text(), text()]);
    let whole = std::fs::read(&path).unwrap();
    for cut in [5, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = read_tasks(&path, &lenient()).unwrap_err();
        assert!(matches!(error, DatasetError::NotParquet { .. }), "{error}");
    }
    for at in (4..whole.len() - 8).step_by(3) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        std::fs::write(&path, &damaged).unwrap();
        // Damage inside a value cannot be seen; any other is an error, never a crash or a gap.
        if let Ok(outcome) = read_tasks(&path, &lenient()) {
            assert_eq!(outcome.rows.len() + outcome.summary.rejected, 200, "byte {at}");
        }
    }
}
