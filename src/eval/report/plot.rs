//! Plots as inline SVG. Series differ in colour and in marker; colours come from the page.

use std::fmt::Write;

use super::{Cell, Comparison, Report, Table};

/// Size of a plot, and margins around its axes, in SVG units.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 326.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 56.0;

/// Colours that the page defines.
pub(super) const COLOURS: usize = 8;

/// A range of values over a range of the plot.
struct Axis {
    max: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// From 0 to a round number that is at least `max`.
    fn to(max: f64, from: f64, to: f64) -> Self {
        let rough = if max > 0.0 { max / 5.0 } else { 0.2 };
        let power = 10_f64.powf(rough.log10().floor());
        let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
        let step = factors.iter().map(|factor| factor * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        Self { max: (max / step - 1e-9).ceil().max(1.0) * step, step, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * value / self.max
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = (self.max / self.step).round() as usize;
        (0..=count).map(|index| index as f64 * self.step)
    }
}

/// A plot in progress.
struct Canvas {
    svg: String,
}

impl Canvas {
    fn new(title: &str) -> Self {
        let svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(title)
        );
        Self { svg }
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.svg.write_fmt(element);
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, text: &str) {
        let text = escape(text);
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    /// The vertical axis for scores, with grid lines.
    fn scores(&mut self, axis: &Axis) {
        for tick in axis.ticks() {
            let y = axis.at(tick);
            let x = WIDTH - RIGHT;
            self.add(format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{x}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            ));
            self.text((LEFT - 8.0, y + 4.0), "end", &format!("{} %", number(100.0 * tick)));
        }
    }

    fn below(&mut self, text: &str) {
        self.text(((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0), "middle", text);
    }

    /// A mean with its interval.
    fn point(&mut self, series: usize, x: f64, axis: &Axis, cell: Cell, title: &str) {
        let y = axis.at(cell.mean);
        let (low, high) = (axis.at(cell.interval.low), axis.at(cell.interval.high));
        let colour = series % COLOURS;
        self.add(format_args!("<g class=\"c{colour}\"><title>{}</title>", escape(title)));
        self.add(format_args!(
            "<path class=\"whisker\" d=\"M{x:.1} {low:.1}V{high:.1}M{:.1} {low:.1}h8M{:.1} {high:.1}h8\"/>",
            x - 4.0,
            x - 4.0
        ));
        self.add(format_args!("{}</g>", mark(series, x, y, 5.0)));
    }

    fn finish(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }
}

/// The marker of a series, with `size` as its radius.
fn mark(series: usize, x: f64, y: f64, size: f64) -> String {
    let (s, l) = (size, size * 1.25);
    match series % 5 {
        0 => format!("<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{s}\"/>"),
        1 => format!(
            "<path class=\"mark\" d=\"M{:.1} {:.1}h{w}v{w}h-{w}z\"/>",
            x - s,
            y - s,
            w = 2.0 * s
        ),
        2 => format!(
            "<path class=\"mark\" d=\"M{x:.1} {:.1}l{l} {h}h-{w}z\"/>",
            y - l,
            h = 2.0 * l,
            w = 2.0 * l
        ),
        3 => {
            format!("<path class=\"mark\" d=\"M{x:.1} {:.1}l{l} {l}l-{l} {l}l-{l} -{l}z\"/>", y - l)
        }
        _ => format!(
            "<path class=\"mark\" d=\"M{x:.1} {:.1}l-{l} -{h}h{w}z\"/>",
            y + l,
            h = 2.0 * l,
            w = 2.0 * l
        ),
    }
}

/// The marker of a series alone, for a legend.
pub(super) fn legend(series: usize) -> String {
    format!(
        "<svg class=\"key c{}\" viewBox=\"0 0 16 16\" aria-hidden=\"true\">{}</svg>",
        series % COLOURS,
        mark(series, 8.0, 8.0, 5.0)
    )
}

fn score_axis(cells: impl Iterator<Item = Cell>) -> Axis {
    let max = cells.map(|cell| cell.interval.high).fold(0.1, f64::max);
    Axis::to(max.min(1.0), HEIGHT - BOTTOM, TOP)
}

/// Score against the cost of a question: money if there are prices, otherwise tokens of the large
/// model.
pub(super) fn against_cost(report: &Report) -> String {
    let has_prices = report.arms.iter().any(|arm| arm.cost > 0.0);
    let (label, cost): (_, fn(&super::ArmSummary) -> f64) = if has_prices {
        ("cost of a question", |arm| arm.cost)
    } else {
        ("tokens of the large model per question", |arm| arm.large_model_tokens)
    };
    let y = score_axis(report.arms.iter().filter_map(|arm| arm.score));
    let max = report.arms.iter().map(cost).fold(0.0, f64::max);
    let x = Axis::to(max * 1.05, LEFT, WIDTH - RIGHT);
    let mut canvas = Canvas::new("Score against cost");
    canvas.scores(&y);
    for tick in x.ticks() {
        canvas.text((x.at(tick), HEIGHT - BOTTOM + 18.0), "middle", &number(tick));
    }
    canvas.below(label);
    for (series, arm) in report.arms.iter().enumerate() {
        if let Some(cell) = arm.score {
            let title = format!("{}: {}, {} {label}", arm.name, shown(cell), number(cost(arm)));
            canvas.point(series, x.at(cost(arm)), &y, cell, &title);
        }
    }
    canvas.finish()
}

/// Scores by class of questions; `joined` draws lines where classes are in order.
pub(super) fn by_class(report: &Report, table: &Table, joined: bool) -> String {
    let y = score_axis(table.rows.iter().flat_map(|row| row.cells.iter().flatten().copied()));
    let mut canvas = Canvas::new(&format!("Score by {}", table.by));
    canvas.scores(&y);
    let room = (WIDTH - LEFT - RIGHT) / table.rows.len().max(1) as f64;
    let arms = report.arms.len();
    // Side by side, so that intervals do not overlap.
    let spread = (room * 0.7 / arms.max(1) as f64).min(26.0);
    let x = |row: usize, series: usize| {
        LEFT + room * (row as f64 + 0.5) + spread * (series as f64 - (arms as f64 - 1.0) / 2.0)
    };
    // Estimated from the widest common letters, plus a margin. Where not even four have room, only
    // every second or third class has a label.
    let each = (38.0 / room).ceil() as usize;
    let fits = ((room * each as f64 - 6.0) / 8.0) as usize;
    for (index, row) in table.rows.iter().enumerate().skip(each / 2).step_by(each) {
        // A kind is shown below its data set.
        for (line, part) in row.label.splitn(2, " / ").enumerate() {
            let below = HEIGHT - BOTTOM + 15.0 + 15.0 * line as f64;
            let at = (LEFT + room * (index as f64 + 0.5), below);
            canvas.text(at, "middle", &shorten(part, fits));
        }
    }
    canvas.below(&table.by);
    for (series, arm) in report.arms.iter().enumerate() {
        let cells = table.rows.iter().enumerate().map(|(row, of)| (row, of, of.cells[series]));
        let cells: Vec<_> = cells.filter_map(|(row, of, cell)| Some((row, of, cell?))).collect();
        if joined && cells.len() > 1 {
            let at = |(row, _, cell): &(usize, _, Cell)| {
                format!("{:.1},{:.1}", x(*row, series), y.at(cell.mean))
            };
            let points: Vec<String> = cells.iter().map(at).collect();
            let colour = series % COLOURS;
            let points = points.join(" ");
            canvas.add(format_args!("<polyline class=\"line c{colour}\" points=\"{points}\"/>"));
        }
        for (row, of, cell) in cells {
            let title = format!("{}, {}: {}", arm.name, of.label, shown(cell));
            canvas.point(series, x(row, series), &y, cell, &title);
        }
    }
    canvas.finish()
}

/// A mean with its interval on a line from 0 to 100 %.
pub(super) fn strip(series: usize, cell: &Cell) -> String {
    let at = |value: f64| 4.0 + 152.0 * value;
    let (low, high, mean) = (at(cell.interval.low), at(cell.interval.high), at(cell.mean));
    format!(
        "<svg class=\"strip c{}\" viewBox=\"0 0 160 16\" aria-hidden=\"true\"><line class=\"grid\" x1=\"4\" x2=\"156\" y1=\"8\" y2=\"8\"/><path class=\"whisker\" d=\"M{low:.1} 8H{high:.1}M{low:.1} 4v8M{high:.1} 4v8\"/>{}</svg>",
        series % COLOURS,
        mark(series, mean, 8.0, 4.0)
    )
}

/// A difference with its interval around 0; the largest end of `all` touches the edge.
pub(super) fn forest(found: &Comparison, all: &[Comparison]) -> String {
    let reach = |found: &Comparison| found.interval.low.abs().max(found.interval.high.abs());
    let max = all.iter().map(reach).fold(0.01, f64::max);
    let at = |value: f64| 80.0 + 74.0 * value / max;
    let (low, high) = (at(found.interval.low), at(found.interval.high));
    let class = if found.is_settled() { "settled" } else { "open" };
    format!(
        "<svg class=\"strip {class}\" viewBox=\"0 0 160 16\" aria-hidden=\"true\"><line class=\"grid\" x1=\"80\" x2=\"80\" y1=\"0\" y2=\"16\"/><path class=\"whisker\" d=\"M{low:.1} 8H{high:.1}M{low:.1} 4v8M{high:.1} 4v8\"/>{}</svg>",
        mark(0, at(found.difference), 8.0, 4.0)
    )
}

fn shown(cell: Cell) -> String {
    let Cell { mean, interval, n } = cell;
    let percent = [mean, interval.low, interval.high].map(|value| format!("{:.1}", 100.0 * value));
    format!("{} % [{}, {}], n = {n}", percent[0], percent[1], percent[2])
}

/// A number without trailing zeros.
fn number(value: f64) -> String {
    let digits = if value == 0.0 || value.abs() >= 100.0 {
        0
    } else {
        (2 - value.abs().log10().floor() as i32).clamp(0, 8) as usize
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

fn shorten(text: &str, max: usize) -> String {
    let max = max.max(4);
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let head: String = text.chars().take(max - 1).collect();
    format!("{head}…")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
