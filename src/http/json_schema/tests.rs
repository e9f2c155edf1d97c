#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn of(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}})
}

async fn compile(schema: &Value) -> Result<AnswerCheck, ApiError> {
    check(&of(schema), &Bounds::default(), soon()).await.map(Option::unwrap)
}

/// `a0` is `last`, and each further one, up to `a{count}`, is made from its number.
fn definitions(count: usize, last: Value, next: impl Fn(usize) -> Value) -> Value {
    let mut definitions = serde_json::Map::new();
    definitions.insert("a0".to_owned(), last);
    (1..=count).for_each(|at| drop(definitions.insert(format!("a{at}"), next(at - 1))));
    json!({"$defs": definitions, "$ref": format!("#/$defs/a{count}")})
}

#[tokio::test]
async fn which_answers_have_the_form() {
    let object = json!({"type": "object", "properties": {"a": {"type": "integer"}},
                        "required": ["a"]});
    let tree = json!({"$defs": {"node": {"type": "object", "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
        "required": ["name"], "additionalProperties": false}}, "$ref": "#/$defs/node"});
    let by_anchor = json!({"properties": {"a": {"$anchor": "x", "type": "string"},
                                          "b": {"$ref": "#x"}}});
    let by_position = json!({"properties": {"a/b": {"type": "string"},
                                            "c": {"$ref": "#/properties/a~1b"}}});
    let encoded = json!({"definitions": {"a b": {"type": "string"}},
                         "$schema": "http://json-schema.org/draft-07/schema#",
                         "properties": {"c": {"$ref": "#/definitions/a%20b"}}});
    let unevaluated = json!({"$defs": {"base": {"properties": {"a": true}}},
                             "allOf": [{"$ref": "#/$defs/base"}], "properties": {"b": true},
                             "unevaluatedProperties": false});
    let own_name = json!({"properties": {"$ref": {"type": "string"}, "id": {"type": "integer"}}});
    let dependent = json!({"$schema": "http://json-schema.org/draft-07/schema#",
                           "dependencies": {"a": ["b"], "c": {"required": ["d"]}}});
    let table = [
        (&object, json!({"a": 1}), None),
        (&object, json!({"a": "x"}), Some("`/a` does not fit the schema")),
        (&object, json!({}), Some("the value does not fit the schema")),
        (&tree, json!({"name": "a", "children": [{"name": "b", "children": []}]}), None),
        (&tree, json!({"name": "a", "children": [{"name": "B"}]}), Some("`/children/0/name`")),
        (&tree, json!({"name": "a", "other": 1}), Some("the value does not fit")),
        (&by_anchor, json!({"b": "x"}), None),
        (&by_anchor, json!({"b": 1}), Some("`/b`")),
        (&by_position, json!({"c": 1}), Some("`/c`")),
        (&encoded, json!({"c": 1}), Some("`/c`")),
        (&unevaluated, json!({"a": 1, "b": 2}), None),
        (&unevaluated, json!({"a": 1, "c": 2}), Some("does not fit")),
        (&own_name, json!({"$ref": "x", "id": 1}), None),
        (&own_name, json!({"$ref": 1}), Some("`/$ref`")),
        (&own_name, json!({"id": "x"}), Some("`/id`")),
        (&dependent, json!({"a": 1, "b": 1}), None),
        (&dependent, json!({"a": 1}), Some("does not fit")),
        (&dependent, json!({"c": 1}), Some("does not fit")),
        (&json!(true), json!(1), None),
        (&json!(false), json!(1), Some("does not fit")),
    ];
    for (schema, answer, expected) in table {
        let verdict = compile(schema).await.unwrap().verdict(answer.to_string()).await;
        match expected {
            None => assert_eq!(verdict, Ok(()), "{schema} {answer}"),
            Some(part) => {
                assert!(
                    verdict.clone().unwrap_err().contains(part),
                    "{schema} {answer} {verdict:?}"
                );
            }
        }
    }
    let verdict = compile(&object).await.unwrap().verdict("a".to_owned()).await;
    assert!(verdict.unwrap_err().contains("it is not valid JSON"));
    let bounds = Bounds::default();
    let any = check(&json!({"type": "json_object"}), &bounds, soon()).await.unwrap().unwrap();
    assert_eq!(any.verdict("{}".to_owned()).await, Ok(()));
    assert_eq!(any.verdict("[]".to_owned()).await, Err("it is not a JSON object".to_owned()));
    assert!(check(&json!({"type": "text"}), &bounds, soon()).await.unwrap().is_none());
}

#[tokio::test]
async fn patterns_with_look_around_are_not_checked_and_all_else_is() {
    // That of Zod's `z.email()`.
    let email = json!({"type": "string", "pattern":
        r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"});
    let object = json!({"properties": {"e": email, "n": {"type": "integer"}}, "required": ["e"]});
    let excluded = json!({"not": {"pattern": "^(?!a)"}, "type": "string"});
    let branches = json!({"if": {"pattern": "^(?!a)"}, "then": false, "else": false});
    let one = json!({"oneOf": [email, {"type": "string", "pattern": "^(?=b)"}]});
    let both = json!({"oneOf": [email, {"type": "string"}], "anyOf": [{"minLength": 2}]});
    let some = json!({"contains": email, "maxContains": 1});
    let behind = json!({"$defs": {"e": email}, "not": {"$ref": "#/$defs/e"}, "minLength": 2});
    let table = [
        (&object, json!({"e": "a@b.co", "n": 1}), true),
        (&object, json!({"e": "nobody"}), true),
        (&object, json!({"e": 1}), false),
        (&object, json!({"e": "a@b.co", "n": "x"}), false),
        (&object, json!({}), false),
        (&excluded, json!("a"), true),
        (&excluded, json!(1), false),
        (&branches, json!("a"), true),
        (&one, json!("b"), true),
        (&one, json!(1), false),
        (&both, json!("bb"), true),
        (&both, json!("b"), false),
        (&some, json!(["a", "b"]), true),
        (&some, json!([1]), false),
        (&behind, json!("ab"), true),
        (&behind, json!("a"), false),
    ];
    for (schema, answer, fits) in table {
        let verdict = compile(schema).await.unwrap().verdict(answer.to_string()).await;
        assert_eq!(verdict.is_ok(), fits, "{schema} {answer} {verdict:?}");
    }
}

#[tokio::test]
async fn forms_that_are_none() {
    let schema = "response_format.json_schema.schema";
    let table = [
        (json!({}), "response_format.type"),
        (json!({"type": "xml"}), "response_format.type"),
        (json!({"type": "json_schema"}), schema),
        (of(&json!({"type": 7})), schema),
        (of(&json!([])), schema),
        (of(&json!({"pattern": "("})), schema),
    ];
    for (format, param) in table {
        let error = check(&format, &Bounds::default(), soon()).await.err().unwrap();
        assert_eq!(error.param.as_deref(), Some(param), "{format}");
    }
}

#[tokio::test]
async fn schemas_beyond_a_bound_are_refused_by_its_name() {
    let chain = |count| {
        definitions(count, json!({}), |at| json!({"allOf": [{"$ref": format!("#/$defs/a{at}")}]}))
    };
    let pattern = |count: usize, pattern: &str| {
        let named = (0..count).map(|at| (format!("p{at}"), json!({"pattern": pattern})));
        json!({"properties": named.collect::<serde_json::Map<_, _>>()})
    };
    let many = json!({"anyOf": vec![json!({}); 3000]});
    let references = json!({"$defs": {"a": {}}, "anyOf": vec![json!({"$ref": "#/$defs/a"}); 1500]});
    let table = [
        (json!({"title": "x".repeat(200_000)}), "server.bounds.schema_bytes"),
        (many, "server.bounds.schema_subschemas"),
        (references, "server.bounds.schema_references"),
        (chain(100), "server.bounds.schema_reference_chain"),
        (pattern(100, "a"), "server.bounds.schema_patterns"),
        (pattern(1, r"(\w|\pL){600}a"), "server.bounds.schema_pattern_bytes"),
        (json!({"patternProperties": {"^(?!a)": {}}}), "`patternProperties` has look-around"),
        (json!({"$ref": "#"}), "in a circle"),
        (json!({"anyOf": [{"type": "string"}, {"$ref": "#"}]}), "in a circle"),
        (json!({"$ref": "https://example.com/schema"}), "does not point to"),
        (json!({"$ref": "#/x", "x": {}}), "does not point to"),
        (json!({"$dynamicRef": "#x"}), "`$dynamicRef`"),
        (json!({"properties": {"a": {"$id": "https://example.com/a"}}}), "`$id`"),
    ];
    for (schema, expected) in table {
        let error = compile(&schema).await.err().map(|error| error.reason.text);
        let head: String = schema.to_string().chars().take(80).collect();
        assert!(error.as_ref().is_some_and(|e| e.contains(expected)), "{head}: {error:?}");
    }
}

#[tokio::test]
async fn checks_of_exponential_cost_end() {
    let twice = |key: &str| {
        definitions(60, json!({}), |at| {
            let next = json!({"$ref": format!("#/$defs/a{at}")});
            json!({ key: [next, next] })
        })
    };
    let failing = definitions(60, json!({"type": "string"}), |at| {
        let next = json!({"$ref": format!("#/$defs/a{at}")});
        json!({"anyOf": [next, next]})
    });
    let by_depth = json!({"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}},
                                    {"items": {"$ref": "#"}}], "not": {"const": 1}});
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let table = [
        (twice("allOf"), "1".to_owned()),
        (twice("oneOf"), "1".to_owned()),
        (failing, "1".to_owned()),
        (by_depth, deep),
    ];
    for (schema, answer) in table {
        let verdict = compile(&schema).await.unwrap().verdict(answer).await;
        let is_ended = verdict
            .as_ref()
            .is_err_and(|e| e.contains("to check") || e.contains("fit") || e.contains("deadline"));
        assert!(is_ended, "{schema}: {verdict:?}");
    }
}
