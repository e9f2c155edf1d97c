"""The clients of soak.sh, and its report. Standard library only.

    soak.py URL PROCESS SECONDS CLIENTS PLOT

Exits with 1 when a response was neither an answer nor a proper error.
"""

import collections
import http.client
import json
import random
import sys
import threading
import time
import urllib.parse

QUESTIONS = [
    "What is Grania's president's birthplace?",
    "Where was Padford born?",
    "What is the currency of the country of the birthplace of Padford?",
]
# Time limit of a response: far above the server's own limits, for a busy machine.
PATIENCE = 150


class Wrong(Exception):
    """A response that is neither an answer nor a proper error."""


def need(holds, what):
    if not holds:
        raise Wrong(what)


def error_in(value):
    error = value.get("error") if isinstance(value, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str)


def text_of(value, path):
    """The answer in a response of this route."""
    return value.get("answer") if path == "/v1/solve" else value["choices"][0]["message"]["content"]


class Client(threading.Thread):
    def __init__(self, number, host, until):
        super().__init__(daemon=True)
        self.host, self.until = host, until
        self.random = random.Random(number)
        self.connection = None
        self.outcomes = collections.Counter()
        self.wrong, self.errors = [], []

    def run(self):
        kinds = [self.solve, self.solve_streamed, self.chat, self.chat_streamed, self.passed,
                 self.passed_streamed, self.wrong_request, self.leave]
        while time.monotonic() < self.until:
            kind = self.random.choice(kinds)
            try:
                outcome = kind()
            except (Wrong, OSError, ValueError, KeyError, http.client.HTTPException) as error:
                self.close()
                self.wrong.append(f"{kind.__name__}: {error!r}")
                outcome = "wrong"
            self.outcomes[kind.__name__.replace("_", " "), outcome] += 1

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def send(self, path, body):
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        headers = {"content-type": "application/json"}
        self.connection.request("POST", path, json.dumps(body), headers)
        return self.connection.getresponse()

    def whole(self, path, body, status=None):
        response = self.send(path, body)
        value = json.loads(response.read())
        if response.status == 200:
            need(isinstance(text_of(value, path), str), f"no answer: {value}")
        else:
            need(error_in(value), f"{response.status}: {value}")
        need(status in (None, response.status), f"{response.status}: {value}")
        if response.status == 200:
            return "answered"
        return self.error(response.status, value) if status is None else f"error {status}"

    def streamed(self, path, body):
        response = self.send(path, {**body, "stream": True})
        text = response.read().decode()
        if response.status != 200:
            need(error_in(json.loads(text)), f"{response.status}: {text}")
            return self.error(response.status, text)
        data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        need(data, "an empty stream")
        is_done = data[-1] == "[DONE]"
        last = {} if is_done else json.loads(data[-1])
        is_answered = is_done if path != "/v1/solve" else last.get("object") == "solve"
        need(is_answered != error_in(last), f"a stream that breaks off: {text[-300:]}")
        return "answered" if is_answered else self.error("in the stream", last)

    def error(self, where, message):
        """Records a proper error that the test did not provoke."""
        self.errors.append(f"{where}: {message}")
        return f"error {where}"

    def question(self):
        return {"question": self.random.choice(QUESTIONS)}

    def conversation(self, model):
        messages = [{"role": "user", "content": self.random.choice(QUESTIONS)}]
        return {"model": model, "messages": messages}

    def solve(self):
        return self.whole("/v1/solve", {**self.question(), "trace": True})

    def solve_streamed(self):
        return self.streamed("/v1/solve", self.question())

    def chat(self):
        return self.whole("/v1/chat/completions", self.conversation("prompt-r1"))

    def chat_streamed(self):
        return self.streamed("/v1/chat/completions", self.conversation("prompt-r1"))

    def passed(self):
        return self.whole("/v1/chat/completions", self.conversation("other"))

    def passed_streamed(self):
        return self.streamed("/v1/chat/completions", self.conversation("other"))

    def wrong_request(self):
        return self.whole("/v1/solve", {"question": "a", "no_such_field": 1}, status=400)

    def leave(self):
        """Sends a request and disconnects after a random time."""
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        body = {**self.question(), "stream": self.random.random() < 0.5}
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/solve", json.dumps(body), headers)
        time.sleep(self.random.random() * 0.2)
        connection.close()
        return "left"


def resident(process):
    """Megabytes that a process has."""
    with open(f"/proc/{process}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def slope(samples):
    """Megabytes a minute, by least squares over (seconds, megabytes)."""
    count = len(samples)
    mean_x = sum(x for x, _ in samples) / count
    mean_y = sum(y for _, y in samples) / count
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return 60 * sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread if spread else 0.0


def plot(samples, title):
    """The samples as a picture."""
    width, height, left, bottom, top = 720, 300, 60, 40, 40
    seconds = max(samples[-1][0], 1)
    most = max(y for _, y in samples)
    unit = next(unit for unit in (5, 10, 25, 50, 100, 250, 500, 1000) if most / unit <= 8)
    ceiling = unit * (int(most / unit) + 1)

    def at(x, y):
        return (left + (width - left - 20) * x / seconds,
                height - bottom - (height - bottom - top) * y / ceiling)

    lines = []
    for y in range(0, ceiling + 1, unit):
        (x1, y1), (x2, _) = at(0, y), at(seconds, y)
        lines.append(f'<path d="M{x1:.1f} {y1:.1f}H{x2:.1f}" stroke="#ddd"/>'
                     f'<text x="{x1 - 8:.1f}" y="{y1 + 4:.1f}" text-anchor="end">{y}</text>')
    for part in range(5):
        x, y = at(seconds * part / 4, 0)
        lines.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">'
                     f'{seconds * part / 4:.0f} s</text>')
    path = "L".join("{:.1f} {:.1f}".format(*at(x, y)) for x, y in samples)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'font-family="sans-serif" font-size="12" fill="#333">'
            f'<rect width="{width}" height="{height}" fill="#fff"/>'
            f'<text x="{left}" y="22" font-size="14">{title}</text>{"".join(lines)}'
            f'<path d="M{path}" fill="none" stroke="#0b66c3" stroke-width="2"/></svg>\n')


def main():
    url, process, length, clients, picture = sys.argv[1:]
    host = urllib.parse.urlsplit(url).netloc
    begun = time.monotonic()
    until = begun + float(length)
    clients = [Client(number, host, until) for number in range(int(clients))]
    for client in clients:
        client.start()
    samples = []
    while (now := time.monotonic()) < until:
        samples.append((now - begun, resident(process)))
        time.sleep(max(0, begun + len(samples) - time.monotonic()))
    for client in clients:
        client.join(PATIENCE)
    took = time.monotonic() - begun
    stuck = sum(client.is_alive() for client in clients)
    outcomes = sum((client.outcomes for client in clients), collections.Counter())
    wrong = [what for client in clients for what in client.wrong]
    count = sum(outcomes.values())
    errors = [what for client in clients for what in client.errors]

    print(f"{count} requests in {took:.0f} s by {len(clients)} clients: {len(errors)} errors, "
          f"{len(wrong)} wrong, {stuck} without an end")
    print()
    print("| request | outcome | count |")
    print("|---|---|---|")
    for (kind, outcome), n in sorted(outcomes.items()):
        print(f"| {kind} | {outcome} | {n} |")
    print()
    last = len(samples) - 1
    memory = [samples[round(last * part)][1] for part in (0.1, 0.5, 1.0)]
    second_half = samples[last // 2:]
    print("memory after 10 %, 50 % and 100 % of the time: "
          + ", ".join(f"{at:.1f}" for at in memory) + " MB; "
          + f"{slope(second_half):+.2f} MB a minute over the second half")
    with open(picture, "w") as file:
        file.write(plot(samples, f"memory of the server, MB: {count} requests in {took:.0f} s"))
    print(f"plot: {picture}")
    for kind, list_ in (("error", errors), ("wrong", wrong)):
        for what in list_[:10]:
            print(f"{kind}: {what}", file=sys.stderr)
    sys.exit(1 if wrong or stuck or count == 0 else 0)


main()
