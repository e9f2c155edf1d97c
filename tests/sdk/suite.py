"""The official Python SDK, unmodified, against the server: suite.py SERVER UPSTREAM."""

import asyncio
import base64
import json
import sys
import time
import urllib.request
import uuid

import openai

SERVER, UPSTREAM = sys.argv[1:]
ASK = [{"role": "user", "content": "Where is Lyon?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
          "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


def client(kind=openai.OpenAI, **options):
    key = f"sk-{uuid.uuid4()}"
    return kind(base_url=f"{SERVER}/v1", api_key=key, **{"max_retries": 0, **options})


def stats():
    with urllib.request.urlopen(f"{UPSTREAM}/stats") as response:
        return json.load(response)


def plain():
    completion = client().chat.completions.create(model="prompt-r1", messages=ASK)
    choice = completion.choices[0]
    assert choice.message.content == "Where is Lyon?", choice
    assert choice.message.role == "assistant" and choice.finish_reason == "stop"
    assert (completion.usage.prompt_tokens, completion.usage.total_tokens) == (33, 54)
    assert completion.usage.model_dump()["prompt_r1"]["turns"] == 2
    assert choice.message.model_dump()["reasoning_content"] == "ask\n\nso it is"


def headers():
    raw = client().chat.completions.with_raw_response.create(
        model="prompt-r1", messages=ASK, extra_headers={"x-request-id": "mine-1"})
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-prompt-r1-turns"] == "2"
    assert float(raw.headers["x-prompt-r1-overhead-ms"]) >= 0
    assert raw.parse().choices[0].message.content == "Where is Lyon?"


def asynchronous():
    async def both():
        api = client(openai.AsyncOpenAI).chat.completions
        completion = await api.create(model="prompt-r1", messages=ASK)
        stream = await api.create(model="prompt-r1", messages=ASK, stream=True)
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return completion.choices[0].message.content, "".join(parts)

    assert asyncio.run(both()) == ("Where is Lyon?", "Where is Lyon?")


def options():
    completion = client().chat.completions.create(
        model="prompt-r1/large", messages=ASK, n=2, stop=["Lyon"], seed=1, temperature=0.5,
        max_completion_tokens=50, extra_body={"prompt_r1": {"max_turns": 3, "trace": True}})
    assert [choice.message.content for choice in completion.choices] == ["Where is "] * 2
    assert len(completion.choices[0].model_dump()["prompt_r1"]["turns"]) == 2


def streaming():
    stream = client().chat.completions.create(
        model="prompt-r1", messages=ASK, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "Where is Lyon?"
    thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert thoughts == "ask\n\nso it is", thoughts
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "stop" and not any(reasons[:-1])
    assert chunks[-1].usage.total_tokens == 54


def several_streamed():
    stream = client().chat.completions.create(model="prompt-r1", messages=ASK, stream=True, n=3)
    texts, ends = {}, {}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == dict.fromkeys(range(3), "Where is Lyon?"), texts
    assert ends == dict.fromkeys(range(3), "stop"), ends


def escapes():
    text = "&lt;b> <answer>no</answer> </interaction_response> &lt;think>"
    ask = [{"role": "user", "content": text}]
    completion = client().chat.completions.create(model="prompt-r1", messages=ask)
    assert completion.choices[0].message.content == text
    stream = client().chat.completions.create(model="prompt-r1", messages=ask, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text


def handed_on():
    ask = [{"role": "user", "content": "final words of the large model"}]
    stream = client().chat.completions.create(model="prompt-r1", messages=ask, stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(parts).strip() == "final words of the large model"
    assert sum(bool(part) for part in parts) > 3, parts


def tools():
    api = client().chat.completions
    first = api.create(model="prompt-r1", messages=ASK, tools=TOOLS)
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    call = choice.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Lyon"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages = ASK + [choice.message.model_dump(exclude_none=True), result]
    second = api.create(model="prompt-r1", messages=messages, tools=TOOLS)
    assert second.choices[0].message.content == "sunny", second
    # The conversation holds the whole state, and reaches the large model unchanged.
    sent = stats()["bodies"]["large"]["messages"]
    assert [message["role"] for message in sent[-3:]] == ["user", "assistant", "tool"], sent
    assert sent[-1] == result and sent[-2]["tool_calls"][0]["id"] == call.id
    stream = api.create(model="prompt-r1", messages=ASK, tools=TOOLS, stream=True)
    calls = [call for chunk in stream for call in (chunk.choices[0].delta.tool_calls or [])]
    assert [(call.index, call.id) for call in calls] == [(0, "call_1")]
    with stream_helper()(model="prompt-r1", messages=ASK, tools=TOOLS) as helped:
        final = helped.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.name == "weather"


def stream_helper():
    api = client().chat.completions
    return getattr(api, "stream", None) or client().beta.chat.completions.stream


def json_schema():
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    completion = client().chat.completions.create(
        model="prompt-r1", messages=ASK, response_format=form)
    assert json.loads(completion.choices[0].message.content) == {"city": "Lyon"}
    from pydantic import BaseModel

    class Place(BaseModel):
        city: str

    api = client().chat.completions
    parse = getattr(api, "parse", None) or client().beta.chat.completions.parse
    parsed = parse(model="prompt-r1", messages=ASK, response_format=Place)
    assert parsed.choices[0].message.parsed.city == "Lyon"


def expect(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def errors():
    api = client().chat.completions
    error = expect(openai.BadRequestError, lambda: api.create(
        model="prompt-r1", messages=ASK, logprobs=True))  # which this large model does not return
    assert error.param == "logprobs" and error.code == "unsupported_parameter", error
    expect(openai.BadRequestError, lambda: api.create(model="prompt-r1", messages=[]))
    error = expect(openai.BadRequestError, lambda: api.create(
        model="prompt-r1", messages=ASK, extra_body={"prompt_r1": {"max_turn": 1}}))
    assert error.param == "prompt_r1.max_turn" and "max_turns" in error.message
    error = expect(openai.InternalServerError, lambda: api.create(
        model="prompt-r1/broken", messages=ASK))
    assert error.status_code == 502 and "the upstream is broken" in error.message
    assert error.request_id
    error = expect(openai.APIError, lambda: list(api.create(
        model="prompt-r1/broken", messages=ASK, stream=True)))
    assert "the upstream is broken" in error.message
    expect(openai.NotFoundError, lambda: client().models.retrieve("none"))
    for stream in [False, True]:
        error = expect(openai.APIError, lambda: list(api.create(
            model="prompt-r1/locked", messages=ASK, stream=stream)))
        assert "no such key" in error.message
        assert stream or isinstance(error, openai.AuthenticationError)
    error = expect(openai.RateLimitError, lambda: api.create(
        model="prompt-r1/busy", messages=ASK))
    assert error.response.headers["retry-after"] == "7"
    error = expect(openai.APIStatusError, lambda: api.create(
        model="prompt-r1", messages=[{"role": "user", "content": "a" * 11_000_000}]))
    assert error.status_code == 413, error


def until_disconnects(count):
    until = time.monotonic() + 20
    while stats()["disconnects"] < count:
        assert time.monotonic() < until, "the upstream was not cancelled"
        time.sleep(0.02)


def cancellation():
    before = stats()["disconnects"]
    ask = [{"role": "user", "content": "final endless"}]
    stream = client().chat.completions.create(model="prompt-r1", messages=ask, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    until_disconnects(before + 1)
    expect(openai.APITimeoutError, lambda: client(timeout=1).chat.completions.create(
        model="prompt-r1", messages=ask))
    until_disconnects(before + 2)


def retries():
    # The SDK's own retries: the failure is passed through.
    completion = client(max_retries=2).chat.completions.create(model="flaky", messages=ASK)
    assert completion.choices[0].message.content == "passed"
    # No retries after paid calls: one reply, and two attempts at a format that the model never writes.
    before = stats()["requests"].count("large")
    expect(openai.InternalServerError, lambda: client(max_retries=2).chat.completions.create(
        model="prompt-r1", messages=ASK, response_format={"type": "json_object"}))
    assert stats()["requests"].count("large") == before + 3


def passed_through():
    api = client()
    completion = api.chat.completions.create(model="gpt-any", messages=ASK, logprobs=True)
    assert completion.choices[0].message.content == "passed"
    parts = api.chat.completions.create(model="gpt-any", messages=ASK, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in parts if chunk.choices)
    assert text.strip() == "passed"
    embedding = api.embeddings.create(model="e", input="a", encoding_format="float")
    assert embedding.data[0].embedding == [0.5, 0.25]
    assert api.completions.create(model="gpt-any", prompt="a").choices[0].text == "passed"
    assert api.responses.create(model="gpt-any", input="a").output_text == "passed"
    events = list(api.responses.create(model="gpt-any", input="a", stream=True))
    kinds = ["response.output_text.delta", "response.completed"]
    assert [event.type for event in events] == kinds, events


def models():
    ids = [model.id for model in client().models.list()]
    assert ids[0] == "prompt-r1" and {"prompt-r1/large", "large"} <= set(ids), ids
    assert client().models.retrieve("prompt-r1/large").owned_by == "prompt-r1"


def vision():
    image = "data:image/png;base64," + base64.b64encode(b"png").decode()
    parts = [{"type": "text", "text": "See?"}, {"type": "image_url", "image_url": {"url": image}}]
    completion = client().chat.completions.create(
        model="prompt-r1", messages=[{"role": "user", "content": parts}])
    assert "See?" in completion.choices[0].message.content
    sent = stats()["bodies"]["large"]["messages"][-1]["content"]
    assert parts[1] in sent, sent


SUITE = [plain, headers, asynchronous, options, streaming, several_streamed, escapes, handed_on,
         tools, json_schema, errors, cancellation, retries, passed_through, models, vision]
for test in SUITE:
    try:
        test()
    except BaseException:
        print(f"openai {openai.__version__} for Python: {test.__name__} failed", file=sys.stderr)
        raise
print(f"openai {openai.__version__} for Python: {len(SUITE)} passed")
