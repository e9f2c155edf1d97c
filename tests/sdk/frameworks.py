"""Unmodified frameworks with default settings, against the server: frameworks.py SERVER.

Each is asked plainly, as a stream, and for one round of a tool.
"""

import asyncio
import os
import sys
from importlib.metadata import version

SERVER = sys.argv[1]
os.environ |= {"OPENAI_BASE_URL": f"{SERVER}/v1", "OPENAI_API_KEY": "sk-any",
               "ANTHROPIC_BASE_URL": SERVER, "ANTHROPIC_API_KEY": "sk-any",
               "OPENAI_AGENTS_DISABLE_TRACING": "1"}
ASK = "Where is Lyon?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def weather(city: str) -> str:
    """The weather of a city."""
    assert city == "Lyon", city
    return "sunny"


def openai_responses():
    import openai

    api = openai.OpenAI(max_retries=0).responses
    response = api.create(model="prompt-r1", input=ASK)
    assert response.output_text == ASK and response.status == "completed", response
    assert response.usage.total_tokens == 54, response.usage
    kinds, text, thoughts = [], "", ""
    for event in api.create(model="prompt-r1", input=ASK, stream=True):
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type == "response.reasoning_summary_text.delta":
            thoughts += event.delta
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
    assert (text, thoughts) == (ASK, "ask\n\nso it is"), (text, thoughts)
    with api.stream(model="prompt-r1", input=ASK) as stream:
        assert stream.get_final_response().output_text == ASK
    tools = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}]
    first = api.create(model="prompt-r1", input=ASK, tools=tools)
    call = first.output[-1]
    assert (call.type, call.name) == ("function_call", "weather"), first.output
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    items = [{"role": "user", "content": ASK}, *first.output, output]
    second = api.create(model="prompt-r1", input=items, tools=tools)
    assert second.output_text == "sunny", second
    from pydantic import BaseModel

    class Place(BaseModel):
        city: str

    parsed = api.parse(model="prompt-r1", input=ASK, text_format=Place)
    assert parsed.output_parsed.city == "Lyon", parsed
    for options in [{"previous_response_id": "resp_1"}, {"background": True}]:
        try:
            api.create(model="prompt-r1", input=ASK, **options)
        except openai.BadRequestError as error:
            assert error.param in options, error
        else:
            raise AssertionError(options)
    try:
        list(api.create(model="prompt-r1/broken", input=ASK, stream=True))
    except openai.APIError as error:
        assert "the upstream is broken" in error.message, error
    else:
        raise AssertionError("no error")


def openai_agents():
    from agents import Agent, Runner, function_tool

    agent = Agent(name="a", instructions="Be terse.", model="prompt-r1")
    armed = Agent(name="a", model="prompt-r1", tools=[function_tool(weather)])

    async def all():
        assert (await Runner.run(agent, ASK)).final_output == ASK
        result = Runner.run_streamed(agent, ASK)
        deltas = [event.data.delta async for event in result.stream_events()
                  if event.type == "raw_response_event"
                  and event.data.type == "response.output_text.delta"]
        assert ("".join(deltas), result.final_output) == (ASK, ASK), (deltas, result)
        assert (await Runner.run(armed, ASK)).final_output == "sunny"
        streamed = Runner.run_streamed(armed, ASK)
        async for _ in streamed.stream_events():
            pass
        assert streamed.final_output == "sunny", streamed.final_output

    asyncio.run(all())


def pydantic_ai():
    from pydantic_ai import Agent

    agent = Agent("openai:prompt-r1", instructions="Be terse.")
    armed = Agent("openai:prompt-r1", tools=[weather])
    assert agent.run_sync(ASK).output == ASK
    assert armed.run_sync(ASK).output == "sunny"

    async def streamed():
        async with agent.run_stream(ASK) as result:
            parts = [part async for part in result.stream_text(delta=True)]
        assert "".join(parts) == ASK, parts
        async with armed.run_stream(ASK) as result:
            assert await result.get_output() == "sunny"

    asyncio.run(streamed())


def langchain():
    from langchain_openai import ChatOpenAI

    for options in [{}, {"use_responses_api": True}]:
        model = ChatOpenAI(model="prompt-r1", max_retries=0, **options)
        said = model.invoke(ASK)
        assert said.text == ASK, said
        assert "".join(chunk.text for chunk in model.stream(ASK)) == ASK
        armed = model.bind_tools([weather])
        called = armed.invoke(ASK)
        assert called.tool_calls[0]["args"] == {"city": "Lyon"}, called
        from langchain_core.messages import HumanMessage, ToolMessage

        result = ToolMessage("sunny", tool_call_id=called.tool_calls[0]["id"])
        assert armed.invoke([HumanMessage(ASK), called, result]).text == "sunny"
        whole = None
        for chunk in armed.stream(ASK):
            whole = chunk if whole is None else whole + chunk
        assert whole.tool_calls[0]["name"] == "weather", whole
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        # Usage is summed over several prompts. Absent fields must be left out, not null.
        warnings.simplefilter("always")
        result = ChatOpenAI(model="prompt-r1").generate([[HumanMessage(ASK)], [HumanMessage(ASK)]])
    warnings_seen = [str(warning.message) for warning in caught]
    assert not any("float" in text or "'str'" in text for text in warnings_seen), warnings_seen
    assert result.llm_output["token_usage"]["total_tokens"] == 108, result.llm_output


def anthropic():
    import anthropic

    api = anthropic.Anthropic(max_retries=0).messages
    ask = {"model": "prompt-r1", "max_tokens": 100, "messages": [{"role": "user", "content": ASK}]}
    message = api.create(**ask)
    assert message.content[0].text == ASK and message.stop_reason == "end_turn", message
    assert message.usage.input_tokens == 33, message.usage
    thinking = {"type": "enabled", "budget_tokens": 1024}
    with api.stream(**ask, thinking=thinking, system="Be terse.") as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == ASK and final.content[0].thinking == "ask\n\nso it is", final
    assert final.usage.output_tokens == 21, final.usage
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    first = api.create(**ask, tools=tools)
    call = first.content[-1]
    assert (first.stop_reason, call.input) == ("tool_use", {"city": "Lyon"}), first
    with api.stream(**ask, tools=tools) as stream:
        assert stream.get_final_message().content[-1].input == {"city": "Lyon"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    messages = [*ask["messages"], {"role": "assistant", "content": first.content},
                {"role": "user", "content": [result]}]
    second = api.create(**ask | {"messages": messages}, tools=tools)
    assert second.content[0].text == "sunny", second
    try:
        api.create(**ask | {"messages": []})
    except anthropic.BadRequestError as error:
        assert error.body["error"]["type"] == "invalid_request_error", error
    else:
        raise AssertionError("no error")
    try:
        with api.stream(**ask | {"model": "prompt-r1/broken"}) as stream:
            stream.get_final_message()
    except anthropic.APIError as error:
        assert "the upstream is broken" in str(error), error
    else:
        raise AssertionError("no error")


SUITE = [("openai", openai_responses), ("openai-agents", openai_agents),
         ("pydantic-ai-slim", pydantic_ai), ("langchain-openai", langchain),
         ("anthropic", anthropic)]
for name, test in SUITE:
    try:
        test()
    except BaseException:
        print(f"{name} {version(name)} failed", file=sys.stderr)
        raise
    print(f"{name} {version(name)}: passed")
