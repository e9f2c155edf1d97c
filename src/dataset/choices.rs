//! The options of a multiple-choice question, and which of them is right.

use super::Unused;
use super::cell::Cell;
use super::fields::Fields;

/// Columns with all options.
const LISTS: [&str; 2] = ["choices", "options"];
/// What the columns of single options are called before their letter: `A`, `option_a`, `opa`.
const PREFIXES: [&str; 5] = ["", "option_", "choice_", "option", "op"];
/// The letters of such columns.
const LETTERS: std::ops::RangeInclusive<char> = 'A'..='J';
/// Columns that say which option is right. All that a row has must agree.
const ANSWERS: [&str; 5] = ["answerKey", "answer_key", "answer", "answer_index", "answer_idx"];
/// Columns that say which option is right, read if a row has none of those.
const OTHER_ANSWERS: [&str; 3] = ["correct", "correct_answer", "label"];

/// The column with the right option, and the beginning of those with the others, as GPQA has them.
const RIGHT: &str = "Correct Answer";
const WRONG: &str = "Incorrect Answer ";

/// The options of a question.
pub(super) struct Choices {
    /// The label and the text of each.
    options: Vec<(String, String)>,
    /// Whether the row has the labels. Those that it has not are letters.
    has_labels: bool,
    /// Where they stand, for a reason.
    column: String,
    /// Which is right, where that is known by its column.
    right: Option<usize>,
}

/// Whether a question's options may stand in the column of this name, or which of them is right.
pub(super) fn is_known(column: &str) -> bool {
    let is_listed = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(column));
    is_listed(&LISTS)
        || is_listed(&ANSWERS)
        || is_listed(&OTHER_ANSWERS)
        || column.eq_ignore_ascii_case("cop")
        || column.eq_ignore_ascii_case(RIGHT)
        || column.get(..WRONG.len()).is_some_and(|start| start.eq_ignore_ascii_case(WRONG))
        || PREFIXES.iter().any(|prefix| {
            let letter =
                column.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix));
            let letter = letter.and_then(|_| column.get(prefix.len()..)).unwrap_or_default();
            letter.len() == 1 && letter.to_ascii_uppercase().starts_with(|c| LETTERS.contains(&c))
        })
}

/// The options of a row that has some.
pub(super) fn choices(fields: &Fields) -> Result<Option<Choices>, Unused> {
    let list = fields.first(&LISTS).filter(|(_, value)| value.is_filled());
    if let Some((name, value)) = list {
        return of_column(name, value).map(Some);
    }
    for prefix in PREFIXES {
        if let Some(choices) = of_columns(fields, prefix)? {
            return Ok(Some(choices));
        }
    }
    if let Some(choices) = right_and_wrong(fields)? {
        return Ok(Some(choices));
    }
    match fields.0.iter().find(|(name, value)| *value != Cell::Null && is_numbered(name)) {
        Some((name, _)) => Err(format!("it has options in `{name}`, of which no form is known (put them into a list `choices`, and into `answer` the letter, the text, or the index from 0)").into()),
        None => Ok(None),
    }
}

/// Whether a column is that of one option, by a number: `option1`, `choice_2`.
fn is_numbered(column: &str) -> bool {
    let column = column.to_ascii_lowercase();
    let number = ["option", "choice"].iter().find_map(|start| column.strip_prefix(start));
    number.is_some_and(|number| {
        let number = number.trim_start_matches('_');
        number.len() == 1 && number.starts_with(|c: char| c.is_ascii_digit())
    })
}

/// Options in one column: a list of texts or of objects, or an object by label, or of the lists
/// `text` and `label`.
fn of_column(name: &str, value: &Cell) -> Result<Choices, Unused> {
    let wrong = || Unused::from(format!("its `{name}` is not a list of up to 26 texts"));
    let (labels, texts): (Option<Vec<String>>, Vec<String>) = match value {
        Cell::Record(_) if value.get("text").is_some() => {
            let texts = scalars(value.get("text")).ok_or_else(wrong)?;
            (
                value
                    .get("label")
                    .map(|labels| scalars(Some(labels)).ok_or_else(wrong))
                    .transpose()?,
                texts,
            )
        }
        Cell::Record(pairs) => {
            let filled = pairs.iter().filter(|(_, text)| *text != Cell::Null);
            let pairs = filled.map(|(label, text)| Some((label.clone(), text.scalar()?)));
            let (labels, texts) =
                pairs.collect::<Option<Vec<_>>>().ok_or_else(wrong)?.into_iter().unzip();
            (Some(labels), texts)
        }
        Cell::List(items) if items.iter().all(|item| matches!(item, Cell::Record(_))) => {
            let part = |item: &Cell, names: [&str; 2]| {
                names.iter().find_map(|name| item.get(name)).and_then(Cell::scalar)
            };
            let pairs = items
                .iter()
                .map(|item| Some((part(item, ["label", "key"])?, part(item, ["text", "value"])?)));
            let (labels, texts) =
                pairs.collect::<Option<Vec<_>>>().ok_or_else(wrong)?.into_iter().unzip();
            (Some(labels), texts)
        }
        value => (None, scalars(Some(value)).ok_or_else(wrong)?),
    };
    if !(1..=26).contains(&texts.len()) {
        return Err(wrong());
    }
    let has_labels = labels.is_some();
    let labels = labels.unwrap_or_else(|| letters(texts.len()));
    if labels.len() != texts.len() {
        let (labels, texts) = (labels.len(), texts.len());
        return Err(format!("its `{name}` has {texts} texts, but {labels} labels").into());
    }
    let texts = if has_labels { texts } else { unlabelled(texts, &labels) };
    Ok(Choices {
        options: labels.into_iter().zip(texts).collect(),
        has_labels,
        column: name.to_owned(),
        right: None,
    })
}

/// Options in columns of their own.
fn of_columns(fields: &Fields, prefix: &str) -> Result<Option<Choices>, Unused> {
    let find = |letter: char| {
        let name = format!("{prefix}{letter}");
        let value = match prefix {
            // A column `a` may be anything.
            "" => fields.0.iter().find(|(field, _)| *field == name).map(|(_, value)| value),
            _ => fields.get(&name),
        };
        value.filter(|value| value.is_filled()).map(|value| (letter, name, value))
    };
    if find('A').is_none() || find('B').is_none() {
        return Ok(None);
    }
    let mut options = Vec::new();
    for ((letter, name, value), expected) in LETTERS.filter_map(find).zip(LETTERS) {
        if letter != expected {
            return Err(format!("it has the option `{name}`, but not `{prefix}{expected}`").into());
        }
        let text = value.scalar();
        let text = text.ok_or_else(|| format!("its `{name}` is {}, not text", value.kind()))?;
        options.push((letter.to_string(), text));
    }
    let column = format!("{prefix}A");
    Ok(Some(Choices { options, has_labels: false, column, right: None }))
}

/// The right option and others in columns of their own. Where the right one is listed depends on the
/// texts alone, and is each place for as many questions.
fn right_and_wrong(fields: &Fields) -> Result<Option<Choices>, Unused> {
    let text = |name: &str| {
        let value = fields.get(name).filter(|value| value.is_filled());
        let text = value.map(|value| {
            value.scalar().ok_or_else(|| format!("its `{name}` is {}, not text", value.kind()))
        });
        text.transpose()
    };
    let Some(right) = text(RIGHT)? else { return Ok(None) };
    let mut texts = Vec::new();
    for number in 1..=9 {
        texts.extend(text(&format!("{WRONG}{number}"))?);
    }
    if texts.is_empty() {
        return Ok(None);
    }
    let place = crc32c::crc32c(format!("{right}\n{}", texts.join("\n")).as_bytes()) as usize;
    let place = place % (texts.len() + 1);
    texts.insert(place, right);
    let texts = texts.iter().map(|text| text.trim().to_owned());
    Ok(Some(Choices {
        options: letters(texts.len()).into_iter().zip(texts).collect(),
        has_labels: false,
        column: RIGHT.to_owned(),
        right: Some(place),
    }))
}

fn scalars(value: Option<&Cell>) -> Option<Vec<String>> {
    let parsed;
    let items = match value? {
        Cell::List(items) => items,
        // File formats without nested columns store it as text.
        Cell::Text(text) => {
            parsed = Cell::List(
                serde_json::from_str::<Vec<String>>(text)
                    .ok()?
                    .into_iter()
                    .map(Cell::Text)
                    .collect(),
            );
            let Cell::List(items) = &parsed else { return None };
            items
        }
        _ => return None,
    };
    items.iter().map(Cell::scalar).collect()
}

fn letters(count: usize) -> Vec<String> {
    ('A'..='Z').take(count).map(String::from).collect()
}

/// The texts without the letters `A)`, `A.`, `A:` or `(A)` before them, if all have theirs.
fn unlabelled(texts: Vec<String>, labels: &[String]) -> Vec<String> {
    let bare = texts.iter().zip(labels).map(|(text, label)| {
        let text = text.trim_start();
        let text = match text.strip_prefix('(') {
            Some(rest) => rest.strip_prefix(label.as_str())?.strip_prefix(')')?,
            None => text.strip_prefix(label.as_str())?.strip_prefix([')', '.', ':'])?,
        };
        Some(text.trim().to_owned())
    });
    let bare: Option<Vec<String>> = bare.collect();
    bare.filter(|bare| bare.len() > 1).unwrap_or(texts)
}

impl Choices {
    /// The options as lines behind a question.
    pub(super) fn listed(&self) -> String {
        self.options.iter().map(|(label, text)| format!("\n{label}. {text}")).collect()
    }

    /// The label of the right option, and its text; `chosen` is the column that says it, where that
    /// has a name of its own.
    pub(super) fn golds(
        &self,
        fields: &Fields,
        chosen: Option<&str>,
    ) -> Result<Vec<String>, Unused> {
        let right = match self.right.filter(|_| chosen.is_none()) {
            Some(right) => right,
            None => self.named(fields, chosen)?,
        };
        let (label, text) = &self.options[right];
        // What reads as another's label would be a wrong answer.
        let is_label = |(other, _): &(String, String)| other.eq_ignore_ascii_case(text.trim());
        let is_ambiguous = self.options.iter().any(is_label) || text.trim().is_empty();
        let text = (!is_ambiguous).then(|| text.clone());
        Ok(std::iter::once(label.clone()).chain(text).collect())
    }

    /// The option that a column says is right.
    fn named(&self, fields: &Fields, chosen: Option<&str>) -> Result<usize, Unused> {
        let named = |names: &[&'static str]| -> Vec<(&'static str, &Cell)> {
            names.iter().filter_map(|name| Some((*name, fields.get(name)?))).collect()
        };
        let answers: Vec<(&str, &Cell)> = match chosen {
            Some(column) => fields.get(column).map(|value| (column, value)).into_iter().collect(),
            None => {
                let usual = named(&ANSWERS);
                if usual.is_empty() { named(&OTHER_ANSWERS) } else { usual }
            }
        };
        let Some(((name, value), others)) = answers.split_first() else {
            return Err(self.without_answer(fields));
        };
        let right = self.find(name, value)?;
        for (other, value) in others {
            if self.find(other, value)? != right {
                return Err(format!("its `{name}` and its `{other}` name different options").into());
            }
        }
        Ok(right)
    }

    fn without_answer(&self, fields: &Fields) -> Unused {
        let column = &self.column;
        match fields.get("cop") {
            Some(_) => "its `cop` counts from 0 in some editions and from 1 in others (rename it to `answer_index` if it counts from 0)".into(),
            None => format!("it has `{column}`, but no `answer` or `answerKey`").into(),
        }
    }

    /// The option that the column `name` says is right: by its label, by its text, or by its index
    /// from 0.
    fn find(&self, name: &str, value: &Cell) -> Result<usize, Unused> {
        let given = match value {
            Cell::List(items) if items.len() == 1 => items[0].scalar(),
            value => value.scalar(),
        };
        let given =
            given.ok_or_else(|| format!("its `{name}` is {}, not one option", value.kind()))?;
        let given = given.trim();
        let is_label = |(label, _): &(String, String)| label.eq_ignore_ascii_case(given);
        let by_label = self.options.iter().position(is_label);
        let are_numbers = || self.options.iter().any(|(label, _)| label.parse::<u64>().is_ok());
        let index = given.parse::<usize>().ok().filter(|at| *at < self.options.len());
        // Where labels are numbers, an index would look like one of them.
        let index = index.filter(|_| !(self.has_labels && are_numbers()));
        let column = &self.column;
        let none = || format!("its `{name}` is `{given}`, which is none of its `{column}`").into();
        if let Some(at) = by_label {
            return Ok(at);
        }
        if matches!(value, Cell::Number(_)) {
            return index.ok_or_else(none);
        }
        let mut texts = (0..self.options.len()).filter(|at| self.options[*at].1.trim() == given);
        match (texts.next(), texts.next(), index) {
            (Some(_), Some(_), _) => {
                Err(format!("its `{name}` is `{given}`, the text of two options").into())
            }
            (Some(text), None, Some(index)) if text != index => Err(format!(
                "its `{name}` is `{given}`, the text of one option and the index of another (write the letter)"
            )
            .into()),
            (text, _, index) => text.or(index).ok_or_else(none),
        }
    }
}
