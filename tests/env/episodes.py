"""Episodes of an environment, for any trainer that has token ids. Needs nothing but Python."""
import json
import time
import urllib.error
import urllib.request


class Environment:
    """An environment at `url`; `key` is needed where its configuration names one."""

    def __init__(self, url, key=None):
        self.url, self.key = url.rstrip("/"), key

    def ask(self, path, body=None, tries=3):
        """A request. One that gets no reply is repeated: a step with its `turn` is taken once."""
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        for left in reversed(range(tries)):
            try:
                request = urllib.request.Request(self.url + path, data, headers)
                with urllib.request.urlopen(request, timeout=600) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                raise RuntimeError(f"{path}: {error.code} {error.read().decode()}") from None
            except OSError:
                if not left:
                    raise
                time.sleep(1)

    def about(self):
        """Limits, and the token ids at which a turn ends."""
        return self.ask("/env")

    def reset(self, question, golds, **limits):
        """Begins an episode: `ids` are the prompt of the first turn, of at most `max_tokens` tokens."""
        return self.ask("/env/reset", {"question": question, "golds": golds, **limits})

    def step(self, state, ids, log_probs):
        """Sends a turn; the result has the `ids` to continue from, or is `done` with a `reward`."""
        turn = {"ids": ids, "log_probs": log_probs, "turn": state["turn"]}
        return self.ask("/env/step", {"episode": state["episode"], **turn})
