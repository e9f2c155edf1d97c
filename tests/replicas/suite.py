"""Traffic to three replicas behind nginx while they are killed and updated, and what became of it.

suite.py SERVER SCRATCH BALANCER PORT PORT PORT, by run.sh. The large model is an endpoint in this
process. It counts what it bills for each try of each request, whose name is in the request's texts,
so spending can be compared to the millionth. The clients retry as the official SDKs do.
"""

import collections
import concurrent.futures
import http.client
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

SERVER, SCRATCH, BALANCER = sys.argv[1], sys.argv[2], int(sys.argv[3])
PORTS = [int(port) for port in sys.argv[4:]]
DURATION = max(60, int(os.environ.get("DURATION", "600")))
POSTGRES, REDIS = os.environ["PROMPT_R1_TEST_POSTGRES"], os.environ["PROMPT_R1_TEST_REDIS"]
POLICY = os.path.realpath("models/policy")

RATE = float(os.environ.get("RATE", "12"))  # requests a second
KILLS = 20.0  # seconds between two
DOWN = 2.0  # seconds until a killed replica is started again
RETRIES = 2  # of a client, the default of OpenAI's SDKs
LIMIT = 15  # requests a minute of the limited key
BUDGET = 16.0  # of the key that is to use it up
# How long spending may wait to be written (docker/README.md), and records.
UNWRITTEN = 0.5
# How much later than a kill a connection may still be seen to break, on a busy machine.
SLACK = 0.5
# Money for a token, millionths: powers of two of a unit, so that sums of floats are exact.
INPUT, OUTPUT = 1_000_000 // 64, 1_000_000 // 32
OLD, NEW = 64, 48  # `max_tokens` before and after the update
SECRET = "the-key-of-the-endpoint"

random.seed(int(os.environ.get("SEED", "1")))
failures = []


def check(is_good, text):
    print(f"{'ok  ' if is_good else 'FAIL'} {text}", flush=True)
    if not is_good:
        failures.append(text)


# The large model


class Call:
    """A call of the large model, and what it billed."""

    def __init__(self, replica, name, model, max_tokens, prompt):
        self.replica, self.name, self.model, self.max_tokens = replica, name, model, max_tokens
        self.prompt, self.completion, self.start, self.is_whole = prompt, 0, time.time(), False

    def micros(self):
        return self.prompt * INPUT + self.completion * OUTPUT


calls = collections.defaultdict(list)  # by the name of the try
unfinished = set()  # calls
faults = collections.Counter()  # what a replica must never do
lock = threading.Lock()


class LargeModel(http.server.BaseHTTPRequestHandler):
    """Answers in some words, slowly, and bills each word as a token."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        models = [{"id": id, "object": "model"} for id in ("fake-large", "fake-other")]
        self.answer(200, {"object": "list", "data": models})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = json.dumps(body["messages"])
        name = re.search(r"(chat|solve|pass|quick|spend)-\d+-\d+", text)
        if self.headers["Authorization"] != f"Bearer {SECRET}":
            faults["calls without the endpoint's key"] += 1
        if "pr1-" in str(self.headers) + text:
            faults["calls with a caller's key"] += 1
        if not name:
            faults["calls without a name"] += 1
            return self.answer(400, {"error": {"message": "there is no name"}})
        kind, name = name[1], name[0]
        prompt = len(text.split())
        call = Call(self.server.replica, name, body["model"], body.get("max_tokens"), prompt)
        with lock:
            calls[name].append(call)
            unfinished.add(call)
            drawn = random.Random(f"{name}-{len(calls[name])}")
        words, seconds = drawn.randint(4, 16), drawn.uniform(0.2, 1.0)
        if kind == "solve":
            words, seconds = 1, drawn.uniform(0.05, 0.2)
        elif kind == "quick":
            words, seconds = 1, 0.0
        try:
            self.reply(body, call, ["Nalburg"] * words, seconds / words)
        except OSError:
            self.close_connection = True
        with lock:
            unfinished.discard(call)

    def reply(self, body, call, words, pause):
        head = {"id": "c", "created": 1, "model": body["model"]}

        def usage():
            tokens = {"prompt_tokens": call.prompt, "completion_tokens": call.completion}
            return {**tokens, "total_tokens": call.prompt + call.completion}

        if not body.get("stream"):
            time.sleep(pause * len(words))
            call.completion = len(words)
            message = {"role": "assistant", "content": " ".join(words)}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            head["object"] = "chat.completion"
            self.answer(200, {**head, "choices": choices, "usage": usage()})
            call.is_whole = True
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        head["object"] = "chat.completion.chunk"

        def send(data, rest=b""):
            event = f"data: {data}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n%b" % (len(event), event, rest))

        def choice(delta, reason=None):
            return [{"index": 0, "delta": delta, "finish_reason": reason}]

        for number, word in enumerate(words):
            time.sleep(pause)
            call.completion += 1
            delta = {"content": " " + word} if number else {"role": "assistant", "content": word}
            send(json.dumps({**head, "choices": choice(delta)}))
        send(json.dumps({**head, "choices": choice({}, "stop")}))
        if (body.get("stream_options") or {}).get("include_usage"):
            send(json.dumps({**head, "choices": [], "usage": usage()}))
        else:
            faults["streams whose usage was not asked for"] += 1
        send("[DONE]", b"0\r\n\r\n")
        call.is_whole = True


class Listener(http.server.ThreadingHTTPServer):
    """One for each replica, so that a call tells whose it is."""

    request_queue_size = 128

    def __init__(self, replica):
        self.replica = replica
        super().__init__(("127.0.0.1", 0), LargeModel)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        pass  # the replica was killed


# Replicas


class Replica:
    def __init__(self, number):
        self.number, self.port = number, PORTS[number]
        self.address = f"127.0.0.1:{self.port}"
        self.config = f"{SCRATCH}/replica-{number}.toml"
        self.log = open(f"{SCRATCH}/replica-{number}.log", "ab")
        self.listener = Listener(number)
        self.kills, self.updated, self.process = [], None, None
        self.write(OLD)

    def write(self, max_tokens):
        with open(self.config, "w") as file:
            file.write(f"""schema_version = 1
default_large_model = "fake"
[server]
listen = "{self.address}"
[access]
store_url_env = "REPLICAS_POSTGRES"
redis_url_env = "REPLICAS_REDIS"
[record]
url_env = "REPLICAS_POSTGRES"
[policy]
model = "{POLICY}"
[large_models.fake]
url = "http://127.0.0.1:{self.listener.server_port}/v1"
model = "fake-large"
api_key_env = "REPLICAS_KEY"
params = {{ max_tokens = {max_tokens} }}
prices = {{ input_per_million = {INPUT}, output_per_million = {OUTPUT} }}
[large_models.fake.model_prices.fake-other]
input_per_million = {INPUT}
output_per_million = {OUTPUT}
""")

    def command(self, *arguments):
        return [SERVER, *arguments, "--config", self.config]

    def start(self):
        self.process = subprocess.Popen(self.command("serve"), env=ENVIRONMENT, stderr=self.log)

    def wait(self):
        began = time.time()
        while time.time() < began + 60:
            if self.process.poll() is not None:
                raise SystemExit(f"a replica ended with {self.process.returncode}")
            try:
                if self.get("/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise SystemExit("a replica is not ready after 60 s")

    def get(self, path, key=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def kill(self):
        began = time.time()
        self.process.kill()
        self.process.wait()
        self.kills.append((began, time.time()))  # on a busy machine it takes a while

    def terminate(self):
        self.process.terminate()
        return self.process.wait(60)


ENVIRONMENT = {
    **os.environ,
    "REPLICAS_POSTGRES": POSTGRES,
    "REPLICAS_REDIS": REDIS,
    "REPLICAS_KEY": SECRET,
}
replicas = []


def make_key(name, *limits):
    command = replicas[0].command("keys", "create", name, *limits)
    made = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    return made.stdout.strip()


def id_of(key):
    return key.split("-")[1]


# Clients


class Try:
    """One try of a request. `outcome` is answered, failed, refused (a 429), or broken: a stream that
    ended too early, after its first byte."""

    def __init__(self, name, key):
        self.name, self.key = name, key
        self.start, self.end, self.status, self.outcome = time.time(), None, None, "failed"
        self.replicas, self.id, self.usage, self.error, self.may_retry = [], None, None, None, True
        self.is_stream = False

    def micros(self):
        return sum(call.micros() for call in calls[self.name])

    def is_at_a_kill(self):
        """Whether its last replica was killed while it was in flight."""
        return any(
            began <= self.end and self.start <= ended + SLACK
            for replica in replicas
            if replica.address in self.replicas[-1:]
            for began, ended in replica.kills
        )

    def is_before_a_kill(self):
        """Whether its replica was killed so soon after it that not all was written."""
        return any(
            began - UNWRITTEN <= self.end <= ended + SLACK
            for replica in replicas
            if replica.address in self.replicas[-1:]
            for began, ended in replica.kills
        )


def body_of(kind, name, is_stream, asks_usage):
    question = f"What is {name}?"
    if kind == "solve":  # the bundled policy's
        question = "What is Grania's president's birthplace's country's language?"
    messages = [{"role": "system", "content": name}, {"role": "user", "content": question}]
    if kind == "solve" and not asks_usage:
        return "/v1/solve", {"messages": messages, "stream": is_stream, "max_turns": 4}
    body = {"messages": messages, "stream": is_stream}
    if is_stream and asks_usage:
        body["stream_options"] = {"include_usage": True}
    if kind in ("pass", "quick"):
        return "/v1/chat/completions", {**body, "model": "fake-other"}
    options = {"max_turns": 4} if kind == "solve" else {"policy": "direct"}
    return "/v1/chat/completions", {**body, "model": "prompt-r1", "prompt_r1": options}


def ask(name, key, path, body, port=BALANCER):
    this = Try(name, key)
    this.is_stream = body["stream"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        this.status = response.status
        this.replicas = (response.getheader("X-Replica") or "").split(", ")
        text = b""
        try:
            while piece := response.read1(65536):
                text += piece
        except (OSError, http.client.HTTPException) as error:
            this.error = repr(error)
        read(this, text.decode(), response.getheader("x-should-retry"))
    except (OSError, http.client.HTTPException) as error:
        this.error = repr(error)
    finally:
        this.end = time.time()
        connection.close()
    return this


def read(this, text, advice):
    if this.status != 200:
        this.error = " ".join(text.split())[:300]
        this.outcome = "refused" if this.status == 429 else "failed"
        this.may_retry = advice != "false" and (this.status in (408, 409, 429) or this.status >= 500)
        return
    if not this.is_stream:
        try:
            reply = json.loads(text)
        except ValueError:
            this.error = f"half a reply: {this.error}"
            return
        this.id, this.usage, this.outcome = reply["id"], reply["usage"], "answered"
        return
    this.may_retry = False  # the client has seen a part of it
    this.outcome = "broken"
    for event in text.split("\n\n"):
        data = "".join(line[6:] for line in event.split("\n") if line.startswith("data: "))
        if data == "[DONE]":
            this.outcome = "answered"
        elif data:
            try:
                data = json.loads(data)
            except ValueError:
                continue  # cut off
            if "error" in data or event.startswith("event: error"):
                this.error, this.outcome = str(data), "failed"
                return
            this.id, this.usage = data.get("id", this.id), data.get("usage") or this.usage
            if event.startswith("event: done"):
                this.outcome = "answered"
    if this.outcome == "broken":
        this.error = f"a broken stream: {this.error}"


requests = []  # each a list of its tries
is_over = threading.Event()


def request(kind, number, key, is_stream=False, asks_usage=True, retries=RETRIES):
    tries = []
    while True:
        name = f"{kind}-{number}-{len(tries) + 1}"
        path, body = body_of(kind, name, is_stream, asks_usage)
        tries.append(ask(name, key, path, body))
        last = tries[-1]
        if last.outcome == "answered" or not last.may_retry or len(tries) > retries:
            break
        time.sleep(min(0.5 * 2 ** (len(tries) - 1), 8) * random.uniform(0.75, 1))
    with lock:
        requests.append(tries)
    return tries


class Traffic(threading.Thread):
    """Requests at random moments, with the keys of the phase."""

    # The kind, whether it is a stream, and whether it asks for its usage: `chat` is the large model
    # alone, by the loop; `pass` is passed through; `solve` is an episode of the bundled policy, by
    # /v1/solve or, where it asks for its usage, by /v1/chat/completions.
    KINDS = {
        ("chat", False, True): 25,
        ("chat", True, True): 15,
        ("chat", True, False): 10,
        ("pass", False, True): 10,
        ("pass", True, True): 10,
        ("pass", True, False): 5,
        ("solve", False, False): 10,
        ("solve", True, False): 10,
        ("solve", True, True): 5,
    }

    def __init__(self, keys):
        super().__init__(daemon=True)
        self.keys, self.phase, self.number = keys, 0, 0
        self.pool = concurrent.futures.ThreadPoolExecutor(128)
        self.in_flight = collections.Counter()

    def run(self):
        due = time.time()
        while not is_over.is_set():
            time.sleep(max(0, due - time.time()))
            due += random.expovariate(RATE)
            kinds = random.choices(list(self.KINDS), list(self.KINDS.values()))
            kind, is_stream, asks_usage = kinds[0]
            self.number += 1
            with lock:
                phase = self.phase
                self.in_flight[phase] += 1
            key = self.keys[phase]["passed" if kind == "pass" else "loop"]
            self.pool.submit(self.one, phase, kind, self.number, key, is_stream, asks_usage)
        self.pool.shutdown()

    def one(self, phase, *arguments):
        try:
            request(*arguments)
        except Exception as error:  # a fault of this script
            faults[f"requests that were not made: {error!r}"] += 1
        finally:
            with lock:
                self.in_flight[phase] -= 1

    def next_phase(self):
        with lock:
            self.phase += 1

    def drain(self, phase):
        patience = time.time() + 90
        while self.in_flight[phase] and time.time() < patience:
            time.sleep(0.02)


class Limited(threading.Thread):
    """Three times as many requests as the key may make, within each minute."""

    def __init__(self, key, until):
        super().__init__(daemon=True)
        self.key, self.until, self.bursts = key, until, []

    def run(self):
        minute, number = None, 0
        while time.time() < self.until - 12:
            now = time.time()
            if int(now / 60) == minute or not 1 < now % 60 < 45:
                time.sleep(0.2)
                continue
            minute = int(now / 60)
            burst = []
            for _ in range(3 * LIMIT):
                number += 1
                burst += request("quick", number, self.key, retries=0)
                time.sleep(max(0, now + 0.2 * len(burst) - time.time()))
            if int(time.time() / 60) == minute:  # the machine was not too slow for it
                self.bursts.append(burst)


class Spender(threading.Thread):
    """One request after the other, until long after the key's budget is used up."""

    def __init__(self, key):
        super().__init__(daemon=True)
        self.key, self.tries, self.refused = key, [], 0

    def run(self):
        number = 0
        while not is_over.is_set():
            number += 1
            tries = request("spend", number, self.key)
            self.tries += tries
            self.refused += tries[-1].outcome == "refused"
            is_over.wait(0.3 if self.refused < 9 else 5)


# What happens to the replicas


def say(at, text):
    print(f"     {at - BEGAN:5.0f} s  {text}", flush=True)


def kill(victim):
    victim.kill()
    say(victim.kills[-1][0], f"replica {victim.number + 1} is killed")
    time.sleep(DOWN)
    victim.start()
    victim.wait()


def update(traffic):
    """The rolling update; returns its time, how many calls each replica was in, and exit codes."""
    time.sleep(4)  # no retry after a kill falls into it
    traffic.next_phase()
    began, busy, codes = time.time(), [], []
    for replica in replicas:
        replica.write(NEW)
        in_flight, patience = 0, time.time() + 10
        while not in_flight and time.time() < patience:
            time.sleep(0.01)
            with lock:
                in_flight = sum(call.replica == replica.number for call in unfinished)
        busy.append(in_flight)
        asked = time.time()
        codes.append(replica.terminate())
        replica.updated = time.time()
        text = f"is terminated, ends after {replica.updated - asked:.1f} s"
        say(asked, f"replica {replica.number + 1} {text}")
        replica.start()
        replica.wait()
        time.sleep(3)  # until nginx asks it again
    traffic.next_phase()
    traffic.drain(1)
    ended = time.time()
    time.sleep(2 * UNWRITTEN)
    return began, ended, busy, codes


def end(key):
    """Terminates each replica while it answers one last request; returns those, and the exit codes."""
    codes, tries = [], []
    for replica in replicas:
        name = f"pass-0-{replica.number + 1}"
        path, body = body_of("pass", name, True, True)
        arguments = (name, key, path, body, replica.port)
        asking = threading.Thread(target=lambda: tries.append(ask(*arguments)), daemon=True)
        asking.start()
        while asking.is_alive() and not calls[name]:
            time.sleep(0.01)
        codes.append(replica.terminate())
        asking.join()
    return tries, codes


def psql(statement):
    command = ["psql", POSTGRES, "-X", "-A", "-t", "-F", "\t", "-c", statement]
    rows = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split("\t") for line in rows.splitlines()]


def redis(*command):
    command = ["redis-cli", "-u", REDIS, *command]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def shared_micros(key):
    names = redis("--scan", "--pattern", f"prompt-r1:*{id_of(key)}*:micros:*")
    return sum(int(redis("GET", name)[0]) for name in names)


def stored_micros(key):
    total = "SELECT coalesce(sum(micros), 0) FROM prompt_r1_spending"
    return int(psql(f"{total} WHERE key_id = '{id_of(key)}'")[0][0])


def money(micros):
    return f"{micros / 1e6:.6f}"


# The checks


def is_of_kind(this, *kinds):
    return this.name.startswith(kinds)


def is_lost(this):
    return this.outcome in ("failed", "broken")


def check_requests(tries, updated):
    began, ended, busy, codes = updated
    counts = collections.Counter()
    for of_request in requests:
        last = of_request[-1]
        if last.outcome == "refused" and is_of_kind(last, "quick", "spend"):
            continue
        counts["made"] += 1
        counts[last.outcome] += 1
        counts["retried"] += last.outcome == "answered" and len(of_request) > 1
        if last.outcome in ("failed", "refused") and not is_of_kind(last, "quick"):
            counts["not cured"] += 1
            print(f"     not cured: {[(it.replicas, it.status, it.error) for it in of_request]}")
    lost = [it for it in tries if is_lost(it)]
    moved = sum(len(it.replicas) > 1 for it in tries)
    kills = sum(len(replica.kills) for replica in replicas)
    print(
        f"     {counts['made']} requests: {counts['answered']} answered, {counts['retried']} of them "
        f"by a retry, {counts['broken']} streams broken after the first byte, "
        f"{counts['not cured']} not cured by retries; {moved} tries moved on to another replica by nginx"
    )
    check(kills >= 2, f"replicas were killed {kills} times")
    check(counts["not cured"] == 0, f"requests that retries did not cure: {counts['not cured']}")
    others = [it for it in lost if not it.is_at_a_kill()]
    for it in others:
        print(f"     {it.name}, {it.start - BEGAN:.2f} s: {it.replicas} {it.status} {it.error}")
    # Those that began in it and were in flight at the next kill are not its own.
    in_update = [it for it in tries if it.end >= began and it.start <= ended]
    in_update = [it for it in in_update if it in others or not is_lost(it)]
    others = [it for it in others if it not in in_update]
    broken = sum(it.outcome == "broken" for it in lost)
    at_kills = sum(it.is_at_a_kill() for it in tries)
    check(
        not others,
        f"tries that failed: {len(lost)}, {broken} of them broken streams; not in flight at a kill "
        f"of their replica: {len(others)} ({at_kills} tries were, or began within {SLACK} s of it)",
    )
    lost = [it for it in in_update if is_lost(it)]
    failed = [it for it in requests if it[-1] in lost]
    streams = sum(it.outcome == "answered" and it.is_stream for it in in_update)
    check(
        not failed and codes == [0, 0, 0] and all(busy),
        f"rolling update: {len(in_update)} tries in {ended - began:.0f} s, {streams} of them streams; "
        f"calls in flight at the SIGTERMs {busy}; tries that failed {len(lost)}, requests that failed "
        f"{len(failed)}; exit codes {codes}",
    )
    wrong = 0
    for call in (it for of_try in calls.values() for it in of_try if it.model == "fake-large"):
        wrong += call.max_tokens != (NEW if call.start > replicas[call.replica].updated else OLD)
    check(wrong == 0, f"calls with another configuration than their replica's at the time: {wrong}")


def check_spending(name, keys, tries, is_exact):
    """What is promised: a request is charged when it ends, in Redis at once, in PostgreSQL within
    half a second. So a kill loses what was in flight, and in PostgreSQL that half second."""
    for kind, key in keys.items():
        own = [it for it in tries if it.key == key and it.outcome != "refused"]
        billed = sum(it.micros() for it in own)
        lost = [it for it in own if is_lost(it)]
        unwritten = [it for it in own if it.outcome == "answered" and it.is_before_a_kill()]
        lost, unwritten = ([len(of), sum(it.micros() for it in of)] for of in (lost, unwritten))
        # A passed-through reply is charged just after its last byte, any other before it.
        least = billed - lost[1] - (0 if kind == "loop" else unwritten[1])
        shared, stored = shared_micros(key), stored_micros(key)
        text = f"spending, {name}, {kind}: billed {money(billed)}"
        if is_exact:
            text += f" for {len(own)} tries, Redis has {money(shared)}, PostgreSQL {money(stored)}"
            check(billed == shared == stored, f"{text} (all are to be equal)")
            continue
        check(
            least <= shared <= billed and 0 <= shared - stored <= lost[1] + unwritten[1],
            f"{text}, {money(lost[1])} of it for {lost[0]} tries that were lost: Redis has "
            f"{money(shared)}, PostgreSQL {money(shared - stored)} less; {unwritten[0]} answers "
            f"within {UNWRITTEN} s of a kill, {money(unwritten[1])}",
        )


def check_limit(bursts):
    is_good, shown = bool(bursts), []
    for burst in bursts:
        counts = collections.Counter(it.outcome for it in burst)
        answered, lost = counts["answered"], counts["failed"]
        is_good &= answered <= LIMIT <= answered + lost
        is_good &= all("rate_limit_exceeded" in it.error for it in burst if it.outcome == "refused")
        seen = {replica for it in burst for replica in it.replicas[-1:]}
        shown.append(f"{answered}{f' and {lost} lost at a kill' if lost else ''} ({len(seen)} replicas)")
    check(is_good, f"a limit of {LIMIT} a minute, {3 * LIMIT} made in each: answered {', '.join(shown)}")


def check_budget(spender):
    if int(BEGAN / 86_400) != int(time.time() / 86_400):
        return print("     a budget: not checked, as another day has begun")
    spent, lost, is_good, answered, refused = 0, 0, True, 0, 0
    for it in spender.tries:
        if it.outcome == "refused":
            refused += 1
            is_good &= spent + lost >= BUDGET * 1e6 and "insufficient_quota" in it.error
            is_good &= not it.may_retry
        elif it.outcome == "answered":
            answered += 1
            is_good &= spent < BUDGET * 1e6
            spent += it.micros()
        else:
            lost += it.micros()
    check(
        is_good and refused >= 9,
        f"a budget of {BUDGET}: {answered} answers for {money(spent)}, then {refused} refusals that "
        f"say not to retry; {money(lost)} for tries that were lost at a kill",
    )


def check_records(tries):
    """One for each answer: it is queued before the answer ends, so a kill may lose the last ones."""
    name = "substring(record::text from '(?:chat|solve|spend)-[0-9]+-[0-9]+')"
    rows = psql(f"SELECT id, caller, {name} FROM prompt_r1_episodes")
    by_try = collections.defaultdict(list)
    for id, caller, name in rows:
        by_try[name].append((id, caller))
    loop = [it for it in tries if is_of_kind(it, "chat", "solve", "spend")]
    answered = [it for it in loop if it.outcome == "answered"]
    near = [it for it in answered if it.is_before_a_kill()]
    missing = [it for it in answered if not by_try[it.name]]
    unexplained = [it for it in missing if it not in near]
    wrong = [it for it in answered if by_try[it.name] and by_try[it.name] != [(it.id, id_of(it.key))]]
    unknown = set(by_try) - {it.name for it in loop}
    twice = [name for name, rows in by_try.items() if len(rows) > 1]
    others = sum(len(by_try[it.name]) for it in loop if it.outcome != "answered")
    metric = re.compile(r'^prompt_r1_records_total\{result="dropped"\} (\S+)$', re.M)
    dropped = sum(float(value) for replica in replicas for value in metric.findall(replica.metrics))
    check(
        not unexplained and not wrong and not twice and not unknown and not dropped,
        f"records: {len(rows)} for {len(answered)} answers, {others} more for replies that were lost; "
        f"missing {len(missing)}, {len(unexplained)} of them not within {UNWRITTEN} s of a kill "
        f"({len(near)} answers were); twice {len(twice)}, of no request {len(unknown)}, with another "
        f"id or key {len(wrong)}, dropped {dropped:.0f}",
    )


def check_whole(keys):
    """What any replica shows of all."""
    command = replicas[2].command("keys", "list")
    listed = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout
    check(all(id_of(key) in listed for key in keys), f"`server keys list` shows all {len(keys)} keys")
    key = keys[0]
    counted = psql(f"SELECT count(*) FROM prompt_r1_episodes WHERE caller = '{id_of(key)}'")[0][0]
    shown = []
    for replica in replicas:
        ids, cursor = [], ""
        while cursor is not None:
            status, text = replica.get(f"/v1/episodes?limit=100{cursor}", key)
            if status != 200:
                raise SystemExit(f"/v1/episodes: {text}")
            page = json.loads(text)
            ids += [episode["id"] for episode in page["data"]]
            cursor = page.get("next_cursor") and f"&cursor={page['next_cursor']}"
        shown.append(ids)
    is_good = all(ids == shown[0] for ids in shown) and len(set(shown[0])) == len(shown[0])
    check(
        is_good and len(shown[0]) == int(counted),
        f"`/v1/episodes` of each replica shows the {counted} episodes of a key, by whichever replica",
    )


def check_usage(tries):
    compared = wrong = 0
    for it in tries:
        if it.outcome != "answered" or not it.usage:
            continue
        usage, of_try = it.usage.get("large_model", it.usage), calls[it.name]
        billed = [sum(call.prompt for call in of_try), sum(call.completion for call in of_try)]
        is_same = [usage["prompt_tokens"], usage["completion_tokens"]] == billed
        is_same &= usage.get("calls", len(of_try)) == len(of_try)
        compared += 1
        wrong += not is_same or not all(call.is_whole for call in of_try)
    check(wrong == 0 < compared, f"usage in {compared} replies; other than the endpoint's: {wrong}")


def check_logs():
    """A busy machine may make calls of Redis and PostgreSQL late, which the server logs; the counts
    say whether that mattered."""
    seen, late = collections.Counter(), 0
    for replica in replicas:
        with open(replica.log.name, errors="replace") as lines:
            for line in lines:
                is_late = '"target":"prompt_r1::access::limits"' in line and "timed out" in line
                if is_late or '"message":"slow statement' in line:
                    late += 1
                elif re.search(r'"level":"(WARN|ERROR)"|panicked', line):
                    seen[re.sub(r'"timestamp":"[^"]*",?', "", line).strip()[:300]] += 1
    text = f"warnings and errors in the logs of the replicas, besides {late} of late answers"
    check(not seen, f"{text}: {dict(seen)}")


def run():
    global BEGAN
    for number in range(3):
        replicas.append(Replica(number))
    plenty = ("--budget-per-day", "1000000")
    phases = ("before the update", "during the update", "after the update")
    kinds = ("loop", "passed")
    keys = [{kind: make_key(f"{kind}, {phase}", *plenty) for kind in kinds} for phase in phases]
    limited = make_key("limited", "--requests-per-minute", str(LIMIT))
    bounded = make_key("bounded", "--budget-per-day", str(BUDGET))
    last = make_key("last", *plenty)
    for replica in replicas:
        replica.start()
    for replica in replicas:
        replica.wait()
    BEGAN = time.time()
    until = BEGAN + DURATION
    traffic, limits, spender = Traffic(keys), Limited(limited, until), Spender(bounded)
    for thread in (traffic, limits, spender):
        thread.start()
    updated, is_killed_since, victim, next_kill = None, False, 0, BEGAN + KILLS / 2
    while True:
        wake = next_kill if updated else min(next_kill, BEGAN + DURATION / 2)
        if wake >= until - 2 * DOWN and is_killed_since:
            break
        time.sleep(max(0, wake - time.time()))
        if not updated and time.time() >= BEGAN + DURATION / 2:
            updated = update(traffic)
            next_kill = max(next_kill, time.time())
        else:
            kill(replicas[victim])
            is_killed_since = updated is not None
            victim, next_kill = (victim + 1) % 3, next_kill + KILLS
    while time.time() < until or (spender.refused < 9 and time.time() < until + 60):
        time.sleep(0.1)
    is_over.set()
    for thread in (traffic, limits, spender):
        thread.join()
    time.sleep(2 * UNWRITTEN)
    for replica in replicas:
        replica.metrics = replica.get("/metrics")[1]
    check_whole([*(key for of_phase in keys for key in of_phase.values()), limited, bounded, last])
    at_end, codes = end(last)
    check(codes == [0, 0, 0], f"exit codes at the end: {codes}")

    tries = [it for of_request in requests for it in of_request]
    check_requests(tries, updated)
    for name, of_phase in zip(phases, keys):
        check_spending(name, of_phase, tries, name == "during the update")
    check_spending("replies that end with their replica", {"passed": last}, at_end, True)
    check_spending("limited", {"passed": limited}, tries, False)
    check_spending("bounded", {"loop": bounded}, tries, False)
    billed = sum(it.micros() for it in tries)
    lost = sum(it.micros() for it in tries if is_lost(it))
    share = 100 * lost / billed
    print(f"     billed for tries that were lost: {money(lost)} of {money(billed)}, {share:.2f} %")
    check_limit(limits.bursts)
    check_budget(spender)
    check_records(tries)
    check_usage(tries)
    check(not faults, f"faults seen by the endpoint and the clients: {dict(faults)}")
    check_logs()


def main():
    try:
        run()
    except (Exception, SystemExit):
        traceback.print_exc()
        failures.append("the script did not come to its end")
    for replica in replicas:
        if replica.process and replica.process.poll() is None:
            replica.process.kill()
    if failures and os.environ.get("KEEP"):
        shutil.copytree(SCRATCH, os.environ["KEEP"], dirs_exist_ok=True)
    print(f"{len(failures)} checks failed" if failures else "every check passed", flush=True)
    os._exit(bool(failures))  # not waiting for requests that are still made


def terminated(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("terminated")


signal.signal(signal.SIGTERM, terminated)
main()
