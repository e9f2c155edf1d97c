"""What the OpenAPI document cannot say."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    """Sends chat requests to the loop: those for any other model are passed through unread."""
    is_chat = context.operation.path == "/v1/chat/completions"
    if is_chat and isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = "prompt-r1"
    return body


@schemathesis.check
def a_refusal_names_the_field(context, response, case):
    """Every 400 of a body that is an object says which field is to blame."""
    if response.status_code == 400 and isinstance(case.body, dict):
        error = response.json()["error"]
        # What is no JSON has no fields, and what a large model refuses is for it to explain.
        is_exempt = error["code"] in ("invalid_json", "large_model_rejected")
        assert error["param"] is not None or is_exempt, f"no field is named: {error}"
