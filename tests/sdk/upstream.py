"""An OpenAI-compatible endpoint for the SDK suites: it plays the policy and the large model.

Model `policy`: asks the question as it is, then answers with the reply.
Model `large`: repeats the last message, calls the tools it is given, writes JSON where it is asked to.
Model `flaky`: fails once for each key, then works. Models `broken`, `busy` and `locked`: always fail.
Any other model: says `passed`, at `/chat/completions`, `/completions` and `/responses`.
`GET /stats` reports the requests. Standard library only. Prints its port, then serves.
"""

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
STATS = {"disconnects": 0, "failures": {}, "requests": [], "bodies": {}}
LOCK = threading.Lock()


def text_of(message):
    content = message.get("content") or ""
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content


def policy(body):
    last = text_of(body["messages"][-1])
    if len(body["messages"]) > 1:
        reply = last.split("<interaction_response>")[1].split("</interaction_response>")[0].strip()
        return f"<think>so it is</think>\n<answer>{reply}</answer>"
    question = last.rsplit("<question>\n", 1)[-1].removesuffix("\n</question>").strip()
    if question.startswith("final "):
        return f"<think>its words</think>\n<final_prompt>{question}</final_prompt>"
    return f"<think>ask</think>\n<interaction_prompt>{question}</interaction_prompt>"


def large(body):
    last = body["messages"][-1]
    if body.get("tools") and last["role"] != "tool":
        function = body["tools"][0]["function"]
        # The tool of the Codex CLI runs a command.
        is_shell = function["name"] == "exec_command"
        arguments = {"cmd": "echo in the east of France"} if is_shell else {"city": "Lyon"}
        call = {"name": function["name"], "arguments": json.dumps(arguments)}
        call = {"id": "call_1", "type": "function", "function": call}
        return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    if body.get("response_format", {}).get("type") == "json_schema":
        return {"role": "assistant", "content": json.dumps({"city": "Lyon"})}, "stop"
    return {"role": "assistant", "content": text_of(last)}, "stop"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, value, headers=()):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, header in headers:
            self.send_header(name, header)
        self.end_headers()
        self.wfile.write(data)

    def fail(self, status, message, headers=()):
        error = {"message": message, "type": "server_error", "param": None, "code": None}
        self.reply(status, {"error": error}, headers)

    def do_GET(self):
        if self.path == "/stats":
            with LOCK:
                return self.reply(200, STATS)
        data = [{"id": "large", "object": "model", "created": 1, "owned_by": "upstream"}]
        self.reply(200, {"object": "list", "data": data})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model = body.get("model")
        with LOCK:
            STATS["requests"].append(model)
            STATS["bodies"][model] = body
        if self.path.endswith("/embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
            return self.reply(200, {"object": "list", "data": data, "model": model, "usage": USAGE})
        if self.path.endswith("/v1/completions"):
            choice = {"index": 0, "text": "passed", "finish_reason": "stop", "logprobs": None}
            return self.reply(200, {"id": "cmpl-up", "object": "text_completion", "created": 1,
                                    "model": model, "choices": [choice], "usage": USAGE})
        if self.path.endswith("/responses"):
            return self.response(model, body.get("stream"))
        if model == "broken":
            return self.fail(500, "the upstream is broken")
        if model == "busy":
            return self.fail(429, "one at a time", [("retry-after", "7")])
        if model == "locked":
            return self.fail(401, "no such key")
        if model == "flaky":
            key = self.headers.get("authorization", "")
            with LOCK:
                failed = STATS["failures"].setdefault(key, 0)
                STATS["failures"][key] += 1
            if failed == 0:
                return self.fail(503, "not yet", [("retry-after", "0")])
        if model == "policy":
            message, reason = {"role": "assistant", "content": policy(body)}, "stop"
        elif model == "large":
            if text_of(body["messages"][-1]) == "fail":
                return self.fail(400, "that cannot be asked")
            message, reason = large(body)
        else:
            message, reason = {"role": "assistant", "content": "passed"}, "stop"
        endless = model == "large" and text_of(body["messages"][-1]).endswith("endless")
        if endless and not body.get("stream"):
            # Ends with an empty read when the client leaves.
            STATS["disconnects"] += not self.rfile.read(1)
            self.close_connection = True
            return
        if body.get("stream"):
            self.stream(message, reason, endless)
        else:
            choice = {"index": 0, "message": message, "finish_reason": reason}
            self.reply(200, {"id": "chatcmpl-up", "object": "chat.completion", "created": 1,
                             "model": model, "choices": [choice], "usage": USAGE})

    def response(self, model, is_stream):
        part = {"type": "output_text", "text": "passed", "annotations": []}
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
                "content": [part]}
        response = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed",
                    "model": model, "output": [item], "parallel_tool_calls": True, "tools": [],
                    "tool_choice": "auto"}
        if not is_stream:
            return self.reply(200, response)
        self.begin_events()
        events = [
            {"type": "response.output_text.delta", "sequence_number": 0, "item_id": "msg_1",
             "output_index": 0, "content_index": 0, "logprobs": [], "delta": "passed"},
            {"type": "response.completed", "sequence_number": 1, "response": response},
        ]
        for event in events:
            self.piece(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def begin_events(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def piece(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def stream(self, message, reason, endless):
        self.begin_events()
        head = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1, "model": "up"}

        def send(value):
            self.piece(f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n")

        def chunk(delta, finish_reason=None):
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
            send({**head, "choices": [choice]})

        try:
            chunk({"role": "assistant"})
            for word in re.findall(r"\S*\s|\S+", message.get("content") or ""):
                chunk({"content": word})
            while endless:
                threading.Event().wait(0.02)
                chunk({"content": "more "})
            calls = message.get("tool_calls", [])
            if calls:
                chunk({"tool_calls": [{**call, "index": i} for i, call in enumerate(calls)]})
            chunk({}, reason)
            send({**head, "choices": [], "usage": USAGE})
            send("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            with LOCK:
                STATS["disconnects"] += 1
            self.close_connection = True


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    sys.stdout.close()
    server.serve_forever()
