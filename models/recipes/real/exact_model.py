#!/usr/bin/env python3
"""A large model that makes no mistakes: exact_model.py [PORT]

An OpenAI-compatible endpoint on loopback that answers "What is 12 + 34?" with "12 + 34 equals 46.",
fills in the results of several operations ("1 + 3 =", each on a line), and answers anything else with
"No.". Against it, a policy's answers are wrong only by its own mistakes.
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OPERATION = re.compile(r"-?\d+( [-+*] -?\d+)+")


def reply(prompt):
    head, *lines = prompt.split("\n")
    asked = [line.removesuffix(" =") for line in lines if head == "Fill in the results:"]
    if asked and all(map(OPERATION.fullmatch, asked)):
        return "\n".join(f"{each} = {eval(each)}" for each in asked)
    asked = OPERATION.fullmatch(prompt.removeprefix("What is ").removesuffix("?"))
    # Whole numbers and operators alone, by the expression above.
    return f"{asked[0]} equals {eval(asked[0])}." if asked else "No."


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = reply(body["messages"][-1]["content"])
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        out = {"id": "exact", "object": "chat.completion", "created": 0, "model": body["model"], "usage": usage,
               "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        data = json.dumps(out).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8123
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
