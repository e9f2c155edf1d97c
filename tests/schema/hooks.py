"""Checks that the OpenAPI document cannot express."""

import schemathesis

LOOP = ("/v1/chat/completions", "/v1/responses", "/v1/messages")


@schemathesis.hook
def map_body(context, body):
    """Sends requests to the loop: those for any other model are passed through unread."""
    is_ours = context.operation.path in LOOP
    if is_ours and isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = "prompt-r1"
    return body


@schemathesis.check
def a_refusal_names_the_field(context, response, case):
    """Every 400 of a body that is an object names the field."""
    # Anthropic's error format has no field for it.
    has_param = case.operation.path != "/v1/messages"
    if response.status_code == 400 and isinstance(case.body, dict) and has_param:
        error = response.json()["error"]
        # Invalid JSON has no fields, and errors of a large model are its own.
        is_exempt = error["code"] in ("invalid_json", "large_model_rejected")
        assert error["param"] is not None or is_exempt, f"no field is named: {error}"
