//! Validation of limited cost. A schema's work can be exponential in its size, and the validator
//! cannot be interrupted. So each subschema gets a custom keyword that counts evaluations, and
//! leaves the validator by unwinding once a limit is reached.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use jsonschema::{Keyword, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value, json};

use super::bounds::{self, LISTS, MAPS, SINGLES, Subschemas, escape};
use super::look_around;
use crate::compute::{STACK_BYTES, StopSignal};
use crate::hint::Reason;
use crate::http::config::Bounds;
use crate::http::error::head;

/// The counting keyword. Its value is the cost of one evaluation of the subschema.
const STEP: &str = "x-prompt-r1-step";
/// The deepest recursion, bytes of stack.
const STACK: usize = STACK_BYTES / 2;
/// The longest reason why an answer does not fit, bytes.
const REASON: usize = 300;
/// Evaluations between two readings of the clock.
const CLOCK: u64 = 256;

/// A validator with limited work.
pub(super) struct Metered {
    validator: Validator,
    steps: u64,
}

/// A validation that was not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// It takes too many steps, or too deep a recursion.
    TooCostly,
    /// The caller stopped waiting.
    Stopped,
}

impl Metered {
    /// Compiles `schema` if it is within `bounds`.
    ///
    /// # Errors
    /// The reason why it is refused.
    pub(super) fn new(schema: &Value, bounds: &Bounds) -> Result<Self, Reason> {
        let subschemas = bounds::read(schema, bounds)?;
        let schema = Rewriter::new(&subschemas).rewrite(schema);
        // The regex engine with linear time: the schema is not trusted.
        let patterns = PatternOptions::regex()
            .size_limit(bounds.schema_pattern_bytes)
            .dfa_size_limit(bounds.schema_pattern_bytes);
        let options = jsonschema::options()
            .with_pattern_options(patterns)
            .should_validate_formats(false)
            .with_keyword(STEP, |_, cost, _| {
                Ok(Box::new(Step { cost: cost.as_u64().unwrap_or(1) }))
            });
        let validator = options.build(&schema).map_err(|error| {
            let reason = error.to_string();
            if !reason.ends_with("is not a \"regex\"") {
                return reason;
            }
            let most = bounds.schema_pattern_bytes;
            format!(
                "{reason} that compiles to at most {most} bytes, the bound `server.bounds.schema_pattern_bytes`"
            )
        })?;
        Ok(Self { validator, steps: bounds.schema_steps })
    }

    /// What is wrong with `value`, if anything.
    pub(super) fn check(&self, value: &Value, stop: &StopSignal) -> Result<Verdict, Unfinished> {
        let base = address();
        let meter = Meter { left: self.steps, evaluations: 0, base, stop: stop.clone() };
        METER.set(Some(meter));
        let checked = catch_unwind(AssertUnwindSafe(|| {
            self.validator.validate(value).map_err(|error| {
                let at = error.instance_path().to_string();
                let at = if at.is_empty() { "the value".to_owned() } else { format!("`{at}`") };
                let message = error.to_string();
                format!("{at} does not fit the schema: {}", head(&message, REASON))
            })
        }));
        METER.set(None);
        checked.map_err(|panic| match panic.downcast::<Unfinished>() {
            Ok(unfinished) => *unfinished,
            Err(other) => resume_unwind(other),
        })
    }
}

/// Valid, or why not.
pub(super) type Verdict = Result<(), String>;

thread_local! {
    static METER: RefCell<Option<Meter>> = const { RefCell::new(None) };
}

/// The remaining budget of the validation on this thread.
struct Meter {
    left: u64,
    evaluations: u64,
    base: usize,
    stop: StopSignal,
}

impl Meter {
    fn spend(&mut self, cost: u64) -> Result<(), Unfinished> {
        self.evaluations += 1;
        self.left = self.left.checked_sub(cost).ok_or(Unfinished::TooCostly)?;
        if self.base.abs_diff(address()) > STACK {
            return Err(Unfinished::TooCostly);
        }
        if self.evaluations.is_multiple_of(CLOCK) && self.stop.should_stop() {
            return Err(Unfinished::Stopped);
        }
        Ok(())
    }
}

/// The approximate stack pointer.
#[inline(never)]
fn address() -> usize {
    let here = 0_u8;
    std::ptr::from_ref(std::hint::black_box(&here)).addr()
}

/// Counts evaluations of one subschema.
struct Step {
    cost: u64,
}

impl Step {
    fn spend(&self) {
        let spent = METER.with_borrow_mut(|meter| match meter {
            Some(meter) => meter.spend(self.cost),
            None => Ok(()),
        });
        if let Err(unfinished) = spent {
            // Does not call the panic hook: this is not a failure.
            resume_unwind(Box::new(unfinished));
        }
    }
}

impl<'i> Keyword<'i> for Step {
    fn validate(&self, _: &'i Value) -> Result<(), ValidationError<'i>> {
        self.spend();
        Ok(())
    }

    fn is_valid(&self, _: &'i Value) -> bool {
        self.spend();
        true
    }
}

/// Inserts a counter before each subschema, and before each target of a reference below `$defs`, to
/// which the references are redirected.
struct Rewriter<'a> {
    subschemas: &'a Subschemas,
    is_target: Vec<bool>,
    targets: Map<String, Value>,
    /// Whether some patterns are not checked, nor what depends on them.
    has_look_around: bool,
}

impl<'a> Rewriter<'a> {
    fn new(subschemas: &'a Subschemas) -> Self {
        let mut is_target = vec![false; subschemas.positions.len()];
        subschemas.references.values().for_each(|&target| is_target[target] = true);
        Self { subschemas, is_target, targets: Map::new(), has_look_around: false }
    }

    fn rewrite(mut self, schema: &Value) -> Value {
        self.has_look_around = look_around::is_within(schema);
        let root = self.subschema(schema, "");
        let mut whole = Map::new();
        if let Some(draft) = schema.get("$schema") {
            whole.insert("$schema".to_owned(), draft.clone());
        }
        whole.insert("allOf".to_owned(), json!([root]));
        whole.insert("$defs".to_owned(), self.targets.into());
        whole.into()
    }

    /// Replaces a subschema, or a list of names among the `dependencies`.
    fn subschema(&mut self, schema: &Value, pointer: &str) -> Value {
        let Value::Object(fields) = schema else { return schema.clone() };
        let mut cost = 1;
        let mut own = Map::new();
        for (keyword, value) in fields {
            if self.has_look_around && is_unchecked(keyword, fields) {
                continue;
            }
            let rewritten = match (keyword.as_str(), value) {
                // Their targets have moved.
                ("$schema" | "$id" | "id" | "$anchor" | "$dynamicAnchor", _) => continue,
                ("$ref", Value::String(_)) => match self.subschemas.references.get(pointer) {
                    Some(&target) => reference(target),
                    None => value.clone(),
                },
                (name, Value::Object(map)) if MAPS.contains(&name) => {
                    let children = map.iter().map(|(key, child)| {
                        let pointer = format!("{pointer}/{name}/{}", escape(key));
                        (key.clone(), self.subschema(child, &pointer))
                    });
                    Value::Object(children.collect())
                }
                (name, Value::Array(list)) if LISTS.contains(&name) => {
                    let children = list.iter().enumerate();
                    let child =
                        |(at, child)| self.subschema(child, &format!("{pointer}/{name}/{at}"));
                    children.map(child).collect()
                }
                (name, child) if SINGLES.contains(&name) => {
                    self.subschema(child, &format!("{pointer}/{name}"))
                }
                _ => {
                    cost += values(value);
                    value.clone()
                }
            };
            match keyword.as_str() {
                "$defs" | "definitions" => {}
                // With an unchecked pattern, several may seem to apply.
                "oneOf" if self.has_look_around && look_around::may_reach(value) => {
                    own.entry("anyOf").or_insert(rewritten);
                }
                _ => drop(own.insert(keyword.clone(), rewritten)),
            }
        }
        let metered = json!({"allOf": [{STEP: cost}, own]});
        match self.subschemas.positions.get(pointer) {
            Some(&number) if self.is_target[number] => {
                self.targets.insert(name(number), metered);
                json!({"$ref": reference(number)})
            }
            _ => metered,
        }
    }
}

/// Whether a keyword is left out: a pattern that is not checked, or a condition that may depend on
/// one.
fn is_unchecked(keyword: &str, fields: &Map<String, Value>) -> bool {
    let depends = |keyword: &str| fields.get(keyword).is_some_and(look_around::may_reach);
    match keyword {
        "pattern" => fields[keyword].as_str().is_some_and(look_around::is_in),
        "not" => depends("not"),
        "if" | "then" | "else" => depends("if"),
        "maxContains" => depends("contains"),
        _ => false,
    }
}

fn name(number: usize) -> String {
    format!("s{number}")
}

fn reference(number: usize) -> Value {
    format!("#/$defs/{}", name(number)).into()
}

/// How many values there are in `value`, itself included.
fn values(value: &Value) -> u64 {
    match value {
        Value::Array(list) => 1 + list.iter().map(values).sum::<u64>(),
        Value::Object(map) => 1 + map.values().map(values).sum::<u64>(),
        _ => 1,
    }
}
