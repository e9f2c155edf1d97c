"""The steps of `grpo_episodes.rs` with TRL's GRPOTrainer, two threads, float32. That bench writes the
questions and the large model's replies into FOLDER, and says what makes the two comparable.

    OMP_NUM_THREADS=2 python benches/grpo_episodes_baseline.py FOLDER [STEPS]

An episode of several turns is TRL's `rollout_func`, made like its own loop over tools: all unfinished
episodes write a turn in one batch, by the trainer's own generation with transformers; then all their
prompts go to the large model at once, each on a connection that stays open; what it replied is added
as ids and masked. The large model is a process of its own.
"""

import asyncio
import http.client
import json
import multiprocessing
import pathlib
import re
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

GROUPS, GROUP_SIZE, WARM_UP = 4, 8, 4
MAX_TURNS, TURN_TOKENS, CONTEXT, MAX_TOKENS, OBSERVATION = 5, 64, 512, 320, 200
LATENCY = 0.050
MODEL = "models/policy-warm"


def serve(replies, ready):
    """Answers chat completions after LATENCY, until the process is ended."""

    async def answer(reader, writer):
        while (head := await reader.readuntil(b"\r\n\r\n")):
            length = int(re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)[1])
            request = json.loads(await reader.readexactly(length))
            await asyncio.sleep(LATENCY)
            reply = replies.get(request["messages"][-1]["content"].strip(), "no")
            choice = {"index": 0, "message": {"role": "assistant", "content": reply}}
            body = json.dumps({"object": "chat.completion", "choices": [choice]}).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            writer.write(f"{head}\r\n\r\n".encode() + body)

    async def connected(reader, writer):
        try:
            await answer(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    async def main():
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


class LargeModel:
    """Asks the server, with one open connection a thread."""

    def __init__(self, port):
        self.port, self.local = port, threading.local()
        self.threads = ThreadPoolExecutor(GROUPS * GROUP_SIZE)

    def ask(self, messages):
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port)
        body = json.dumps({"model": "m", "messages": messages})
        self.local.connection.request("POST", "/v1/chat/completions", body)
        reply = json.loads(self.local.connection.getresponse().read())
        return reply["choices"][0]["message"]["content"]

    def ask_all(self, conversations):
        return list(self.threads.map(self.ask, conversations))


TURN = re.compile(r"\s*<think>(.*?)</think>\s*<(interaction_prompt|answer)>(.*?)</\2>\s*", re.DOTALL)


def reward(turns, golds):
    """As `reward.scheme = "strict"` with exact match has it."""
    read = [TURN.fullmatch(turn) for turn in turns]
    if read[-1] is None or read[-1][2] != "answer":
        return -1.0
    kept = 1 + (len(turns) > 1) + 2 * all(read)
    return float(read[-1][3].strip().lower() in golds) if kept == 4 else kept / 4 - 1.0


def main():
    folder = pathlib.Path(sys.argv[1])
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    receiver, sender = multiprocessing.Pipe()
    replies = json.loads((folder / "replies.json").read_text())
    server = multiprocessing.Process(target=serve, args=(replies, sender), daemon=True)
    server.start()
    large_model = LargeModel(receiver.recv())

    # Imported here, so that the server's process has no threads of torch's.
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(2)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    end, user, assistant = tokenizer.convert_tokens_to_ids(["<|end|>", "<|user|>", "<|assistant|>"])
    # Any special token ends the policy's turn.
    stops = [end, user, assistant]
    rows = [json.loads(line) for line in (folder / "tasks.jsonl").read_text().splitlines()]
    rows = [
        {
            "prompt": [{"role": "user", "content": row["question"]}],
            "golds": [gold.lower() for gold in row["answers"]],
        }
        for row in rows
    ]
    measured = []

    def rollout(prompts, trainer):
        prompt_ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"]
        completion_ids = [[] for _ in prompts]
        env_mask = [[] for _ in prompts]
        turns = [[] for _ in prompts]
        conversations = [[] for _ in prompts]
        calls = 0
        unfinished = list(range(len(prompts)))
        for turn in range(MAX_TURNS):
            sequences = [prompt_ids[i] + completion_ids[i] for i in unfinished]
            written, _ = trainer._generate_single_turn(sequences, None, {}, 1)
            asking = []
            for i, ids in zip(unfinished, written):
                ids = ids[: CONTEXT - len(prompt_ids[i]) - len(completion_ids[i])]
                completion_ids[i] += ids
                env_mask[i] += [1] * len(ids)
                is_ended = ids[-1] in stops
                text = tokenizer.decode(ids[:-1] if is_ended else ids)
                turns[i].append(text)
                prompt = re.search(r"<interaction_prompt>(.*?)</interaction_prompt>", text, re.DOTALL)
                if is_ended and prompt and "<answer>" not in text and turn + 1 < MAX_TURNS:
                    conversations[i].append({"role": "user", "content": prompt[1].strip()})
                    asking.append(i)
            calls += len(asking)
            replies = large_model.ask_all([conversations[i] for i in asking])
            unfinished = []
            for i, reply in zip(asking, replies):
                conversations[i].append({"role": "assistant", "content": reply})
                shown = f"<interaction_response>{reply[:OBSERVATION]}</interaction_response>"
                frame = ("" if completion_ids[i][-1] == end else "<|end|>") + "<|user|>"
                ids = tokenizer(f"{frame}{shown}<|assistant|>", add_special_tokens=False)["input_ids"]
                if len(prompt_ids[i]) + len(completion_ids[i]) + len(ids) < CONTEXT:
                    completion_ids[i] += ids
                    env_mask[i] += [0] * len(ids)
                    unfinished.append(i)
            if not unfinished:
                break
        sampled = sum(map(sum, env_mask))
        measured.append((len(prompts), sum(map(len, turns)), calls, sampled))
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": completion_ids,
            "logprobs": None,  # one update per rollout, so the trainer's own are the same
            "env_mask": env_mask,
            "turns": turns,
            "sampled": [sum(mask) for mask in env_mask],
        }

    def rewarded(turns, golds, sampled, **_):
        price = [tokens / MAX_TOKENS for tokens in sampled]
        return [reward(t, g) - p for t, g, p in zip(turns, golds, price)]

    class Clock(TrainerCallback):
        """Measures from the end of one step to the end of the next, so work between steps counts."""

        def __init__(self):
            self.ends = [time.perf_counter()]

        def on_step_end(self, *_, **__):
            self.ends.append(time.perf_counter())

    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=rewarded,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[clock],
            rollout_func=rollout,
            args=GRPOConfig(
                output_dir=output,
                num_generations=GROUP_SIZE,
                per_device_train_batch_size=GROUPS * GROUP_SIZE,
                max_completion_length=TURN_TOKENS,  # of one turn: the rollout counts the turns
                generation_kwargs={"eos_token_id": stops},
                max_steps=steps + WARM_UP,
                shuffle_dataset=False,
                temperature=1.0,
                learning_rate=1e-7,
                lr_scheduler_type="constant",
                beta=0.0,
                epsilon=0.2,
                epsilon_high=0.28,
                loss_type="bnpo",
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                save_strategy="no",
                logging_steps=1000,
                disable_tqdm=True,
                report_to=[],
            ),
        )
        trainer.eos_token_ids = stops
        trainer.train()
    server.terminate()
    seconds = sorted(b - a for a, b in zip(clock.ends[WARM_UP:], clock.ends[WARM_UP + 1 :]))
    mean, median = statistics.mean(seconds), statistics.median(seconds)
    episodes, turns, calls, tokens = map(sum, zip(*measured[WARM_UP:]))
    assert episodes == GROUPS * GROUP_SIZE * len(seconds), "a rollout was of another size"
    print(
        f"{mean:.3f} s a step (median {median:.3f}, {seconds[0]:.3f} to {seconds[-1]:.3f}, {len(seconds)} steps); "
        f"{GROUPS * GROUP_SIZE / mean:.0f} episodes/s, "
        f"{tokens / len(seconds) / mean:.0f} sampled tokens/s; "
        f"{turns / episodes:.2f} turns, {calls / episodes:.2f} calls "
        f"and {tokens / episodes:.1f} sampled tokens an episode"
    )


if __name__ == "__main__":
    main()
