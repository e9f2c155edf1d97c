"""Requests through the server to a real llama.cpp server. Usage: suite.py SERVER PLAIN_LLAMA

The models `plain` and `strict` are one small model under its own and under a strict chat template.
The path is tested, not the quality of the answers."""
import json
import sys
import urllib.error
import urllib.request

server, llama = sys.argv[1:3]
QUESTION = {"role": "user", "content": "What is the capital of France?"}
SYSTEM = {"role": "system", "content": "Answer in one short sentence."}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
passed = 0


def ask(base, path, body):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def chat(base=server, **body):
    body = {"messages": [SYSTEM, QUESTION], "temperature": 0, "max_tokens": 48, **body}
    status, text = ask(base, "/v1/chat/completions", body)
    assert status == 200, f"{body}: {status} {text}"
    return text if body.get("stream") else json.loads(text)


def case(name, holds, seen):
    global passed
    assert holds, f"{name}: {seen}"
    passed += 1
    print(f"ok   {name}", flush=True)


def content(reply):
    return reply["choices"][0]["message"]["content"]


def streamed(text):
    assert text.rstrip().endswith("data: [DONE]"), text[-300:]
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


models = [model["id"] for model in json.loads(ask(server, "/v1/models", None)[1])["data"]]
case("the loop and the endpoint's models are listed", {"prompt-r1", "plain"} <= set(models), models)

direct, through = chat(llama, model="plain"), chat(model="plain")
case("a passed-through reply is the endpoint's", content(direct) == content(through), (direct, through))

for model in ["prompt-r1", "prompt-r1/plain", "prompt-r1/strict"]:
    reply = chat(model=model)
    case(f"{model}: a system prompt and a question", content(reply), reply)
    case(f"{model}: usage", reply["usage"]["completion_tokens"] > 0, reply["usage"])
    text = chat(model=model, stream=True)
    case(f"{model}: streamed", streamed(text), text)

conversation = [SYSTEM, QUESTION, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And of Italy?"}]
for model in ["prompt-r1/plain", "prompt-r1/strict"]:
    reply = chat(model=model, messages=conversation)
    case(f"{model}: several turns", content(reply), reply)

schema = {"type": "object", "properties": {"capital": {"type": "string", "maxLength": 40}},
          "required": ["capital"], "additionalProperties": False}
form = {"type": "json_schema", "json_schema": {"name": "capital", "strict": True, "schema": schema}}
reply = chat(model="prompt-r1", response_format=form, max_tokens=96)
answer = json.loads(content(reply))
case("structured output", set(answer) == {"capital"} and isinstance(answer["capital"], str), reply)

reply = chat(model="prompt-r1", tools=[WEATHER], messages=[{"role": "user", "content": "What is the weather in Oslo?"}])
message = reply["choices"][0]["message"]
case("tools offered", message.get("content") or message.get("tool_calls"), reply)

called = [
    {"role": "user", "content": "What is the weather in Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "4 degrees, rain"},
]
for model in ["prompt-r1/plain", "prompt-r1/strict"]:
    reply = chat(model=model, tools=[WEATHER], messages=called)
    message = reply["choices"][0]["message"]
    case(f"{model}: after a tool's result", message.get("content") or message.get("tool_calls"), reply)

status, text = ask(server, "/v1/solve", {"question": QUESTION["content"], "trace": True, "max_tokens": 200})
solved = json.loads(text)
case("solve", status == 200 and solved["answer"] and solved["turns"] is not None, text)

print(f"{passed} passed, 0 failed")
