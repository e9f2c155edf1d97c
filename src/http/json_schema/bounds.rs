//! Reads a caller's JSON schema, counts what validation can cost, and refuses schemas beyond the
//! limits.

use std::collections::HashMap;

use serde_json::Value;

use super::look_around;
use crate::hint::Reason;
use crate::http::config::Bounds;
use crate::http::error::shorten;

/// Keywords whose value maps names to subschemas.
pub(super) const MAPS: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];
/// Keywords whose value lists subschemas.
pub(super) const LISTS: [&str; 5] = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
/// Keywords whose value is a subschema.
pub(super) const SINGLES: [&str; 12] = [
    "items",
    "additionalItems",
    "additionalProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contains",
    "contentSchema",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
];
/// Those of the above whose subschemas apply to the same value as the schema itself.
const IN_PLACE: [&str; 9] =
    ["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"];

/// The subschemas of one schema, numbered in the order of their positions; the root is 0.
pub(super) struct Subschemas {
    /// By JSON pointer.
    pub(super) positions: HashMap<String, usize>,
    /// By the pointer of the subschema that holds the `$ref`.
    pub(super) references: HashMap<String, usize>,
}

/// Reads `schema`.
///
/// # Errors
/// Why it is refused: a limit that it exceeds, or a reference that cannot be resolved.
pub(super) fn read(schema: &Value, bounds: &Bounds) -> Result<Subschemas, Reason> {
    let mut walk = Walk::new(bounds);
    walk.visit(schema, String::new())?;
    walk.resolve()
}

struct Walk<'a> {
    bounds: &'a Bounds,
    positions: HashMap<String, usize>,
    anchors: HashMap<String, usize>,
    /// The subschemas that apply to the same value, by number, and the references among them.
    in_place: Vec<Vec<usize>>,
    /// Where each `$ref` is, and what it points to.
    references: Vec<(String, usize, String)>,
    patterns: usize,
}

impl<'a> Walk<'a> {
    fn new(bounds: &'a Bounds) -> Self {
        Self {
            bounds,
            positions: HashMap::new(),
            anchors: HashMap::new(),
            in_place: Vec::new(),
            references: Vec::new(),
            patterns: 0,
        }
    }

    fn visit(&mut self, schema: &Value, pointer: String) -> Result<usize, Reason> {
        let number = self.in_place.len();
        if number >= self.bounds.schema_subschemas {
            return Err(self.exceeded("subschemas", "schema_subschemas", number));
        }
        self.in_place.push(Vec::new());
        if let Value::Object(fields) = schema {
            for (keyword, value) in fields {
                self.keyword(number, &pointer, keyword, value)?;
            }
        }
        self.positions.insert(pointer, number);
        Ok(number)
    }

    fn keyword(
        &mut self,
        number: usize,
        pointer: &str,
        keyword: &str,
        value: &Value,
    ) -> Result<(), Reason> {
        match (keyword, value) {
            ("$ref", Value::String(target)) => {
                if self.references.len() >= self.bounds.schema_references {
                    let count = self.references.len();
                    return Err(self.exceeded("references", "schema_references", count));
                }
                self.references.push((pointer.to_owned(), number, target.clone()));
            }
            ("$dynamicRef" | "$recursiveRef", _) => {
                return Err(reason!("it has a `{keyword}`"; hint: "use `$ref`"));
            }
            ("$id", _) if !pointer.is_empty() => {
                return Err(reason!("it has an `$id` inside"; hint: "give names by `$defs`"));
            }
            ("$anchor", Value::String(name)) => {
                self.anchors.insert(name.clone(), number);
            }
            ("pattern", _) => self.count_patterns(1)?,
            ("patternProperties", Value::Object(patterns)) => {
                self.count_patterns(patterns.len())?;
                if let Some(pattern) = patterns.keys().find(|pattern| look_around::is_in(pattern)) {
                    return Err(reason!(
                        "the pattern `{}` of its `patternProperties` has look-around or a back-reference",
                        shorten(pattern);
                        hint: "write the pattern without"
                    ));
                }
            }
            _ => {}
        }
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) if MAPS.contains(&keyword) => map
                .iter()
                .filter(|(_, child)| !child.is_array())
                .map(|(name, child)| (format!("{pointer}/{keyword}/{}", escape(name)), child))
                .collect(),
            Value::Array(list) if LISTS.contains(&keyword) => {
                let numbered = list.iter().enumerate();
                numbered.map(|(at, child)| (format!("{pointer}/{keyword}/{at}"), child)).collect()
            }
            child if SINGLES.contains(&keyword) => vec![(format!("{pointer}/{keyword}"), child)],
            _ => Vec::new(),
        };
        for (pointer, child) in children {
            let child = self.visit(child, pointer)?;
            if IN_PLACE.contains(&keyword) {
                self.in_place[number].push(child);
            }
        }
        Ok(())
    }

    fn count_patterns(&mut self, count: usize) -> Result<(), Reason> {
        self.patterns += count;
        if self.patterns > self.bounds.schema_patterns {
            return Err(self.exceeded("patterns", "schema_patterns", self.bounds.schema_patterns));
        }
        Ok(())
    }

    fn exceeded(&self, what: &str, setting: &str, bound: usize) -> Reason {
        format!("it has more than {bound} {what}, the bound `server.bounds.{setting}`").into()
    }

    fn resolve(mut self) -> Result<Subschemas, Reason> {
        let mut resolved = HashMap::new();
        let mut by_reference = vec![None; self.in_place.len()];
        for (pointer, number, target) in std::mem::take(&mut self.references) {
            let found = self.target(&target).ok_or_else(|| {
                let target = shorten(&target);
                reason!(
                    "`$ref` = `{target}` does not point to one of its subschemas";
                    hint: "references look like `#/$defs/NAME`"
                )
            })?;
            by_reference[number] = Some(found);
            resolved.insert(pointer, found);
        }
        self.check_chains(&by_reference)?;
        Ok(Subschemas { positions: self.positions, references: resolved })
    }

    fn target(&self, target: &str) -> Option<usize> {
        let fragment = target.strip_prefix('#')?;
        let fragment = percent_decode(fragment)?;
        if fragment.is_empty() || fragment.starts_with('/') {
            return self.positions.get(&fragment).copied();
        }
        self.anchors.get(&fragment).copied()
    }

    /// Refuses cycles that never reach a smaller value, and long chains of references.
    fn check_chains(&self, by_reference: &[Option<usize>]) -> Result<(), Reason> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done(usize),
        }
        fn longest(
            at: usize,
            in_place: &[Vec<usize>],
            by_reference: &[Option<usize>],
            marks: &mut [Mark],
        ) -> Option<usize> {
            match marks[at] {
                Mark::Done(length) => return Some(length),
                Mark::Open => return None,
                Mark::New => marks[at] = Mark::Open,
            }
            let mut length = 0;
            for &child in &in_place[at] {
                length = length.max(longest(child, in_place, by_reference, marks)?);
            }
            if let Some(target) = by_reference[at] {
                length = length.max(1 + longest(target, in_place, by_reference, marks)?);
            }
            marks[at] = Mark::Done(length);
            Some(length)
        }
        let mut marks = vec![Mark::New; self.in_place.len()];
        let bound = self.bounds.schema_reference_chain;
        for at in 0..self.in_place.len() {
            match longest(at, &self.in_place, by_reference, &mut marks) {
                None => return Err("its `$ref`s go in a circle".into()),
                Some(length) if length > bound => {
                    return Err(format!(
                        "it has a chain of more than {bound} references, the bound `server.bounds.schema_reference_chain`"
                    )
                    .into());
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// A name as a part of a JSON pointer (RFC 6901).
pub(super) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}
