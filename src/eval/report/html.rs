//! The report as a self-contained page.

use minijinja::value::Value;
use minijinja::{Environment, UndefinedBehavior, context};

use crate::eval::EvalError;
use crate::prompt_template::TemplateError;

use super::{Report, cut_texts, markdown, plot};

const PAGE: &str = include_str!("page.html");

/// The report as a page with inline style, script and plots, which fetches nothing.
///
/// # Errors
/// When the template of the page fails.
pub fn html(report: &Report) -> Result<String, EvalError> {
    render(report).map_err(|error| {
        let (name, reason) = ("report.html".to_owned(), error.to_string());
        TemplateError { name, reason, variables: "the report" }.into()
    })
}

fn render(report: &Report) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_keep_trailing_newline(true);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("percent", |share: f64| format!("{:.1}", 100.0 * share));
    environment.add_filter("points", |share: f64| format!("{:+.1}", 100.0 * share));
    environment.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    environment.add_filter("signed", |value: f64| format!("{value:+.2}"));
    environment.add_filter("p_value", markdown::p_value);
    environment.add_filter("money", markdown::money);
    // By the name's ending, everything inserted is escaped.
    environment.add_template("report.html", PAGE)?;
    let safe = Value::from_safe_string;
    let legends: Vec<Value> =
        (0..report.arms.len()).map(|series| safe(plot::legend(series))).collect();
    let strips: Vec<Value> = report
        .arms
        .iter()
        .enumerate()
        .map(|(series, arm)| {
            safe(arm.score.map_or(String::new(), |cell| plot::strip(series, &cell)))
        })
        .collect();
    let cut_replies: Vec<String> = report.arms.iter().map(cut_texts::shown).collect();
    let comparisons: Vec<Value> = report
        .comparisons
        .iter()
        .map(|found| {
            context! {
                forest => safe(plot::forest(found, &report.comparisons)),
                settled => markdown::settled(found),
                is_settled => found.is_settled(),
                ..Value::from_serialize(found)
            }
        })
        .collect();
    let mut plots = vec![context! {
        title => "Score against cost",
        note => "Up and to the left is better.",
        svg => safe(plot::against_cost(report)),
    }];
    for table in report.tables.iter().filter(|table| table.rows.len() > 1) {
        plots.push(context! {
            title => format!("Score by {}", table.by),
            note => match table.by.as_str() {
                "calls" => "Mean and 95 % interval; an arm chooses itself how often it calls.",
                _ => "Mean and 95 % interval.",
            },
            svg => safe(plot::by_class(report, table, ["hops", "calls"].contains(&&*table.by))),
        });
    }
    environment.get_template("report.html")?.render(context! {
        report => Value::from_serialize(report),
        legends,
        strips,
        cut_replies,
        comparisons,
        plots,
        colours => plot::COLOURS,
        per_question => markdown::PER_QUESTION,
        corrections => markdown::corrections(report.comparisons.len()),
        normalization => markdown::normalization(report.normalization),
    })
}
