"""An agent loop by which verl trains a policy in the environment.

Read against verl 0.9.1; not run here, since verl needs a GPU. Put this file and `episodes.py` on PYTHONPATH, and set

    actor_rollout_ref.rollout.agent.agent_loop_config_path=agents.yaml
    actor_rollout_ref.rollout.agent.default_agent_loop=prompt_r1
    data.return_raw_chat=True

with, in agents.yaml:

    - name: prompt_r1
      _target_: verl_agent_loop.PromptR1AgentLoop
      url: http://127.0.0.1:8080

Rows have the question as the last message of `prompt`, and the golds under `reward_model.ground_truth`. The policy's
model is the environment's `model`. An episode that fails for another reason than the policy has no reward, and raises."""
import asyncio
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput

from episodes import Environment


def golds_of(truth):
    """The golds of a row: text, a number, a list of them, or `{"target": …}`, as Search-R1 has it."""
    if isinstance(truth, dict):
        truth = truth["target"]
    one = isinstance(truth, (str, int, float))
    return [str(gold) for gold in ([truth] if one else truth)]


class PromptR1AgentLoop(AgentLoopBase):
    def __init__(self, *args, url, key=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.environment = Environment(url, key)
        self.stop_ids = self.environment.about()["stop_ids"]
        self.response_length = self.rollout_config.response_length

    async def run(self, sampling_params, **kwargs):
        question = list(kwargs["raw_prompt"])[-1]["content"]
        golds = golds_of(kwargs["reward_model"]["ground_truth"])
        state = await asyncio.to_thread(self.environment.reset, question, golds)
        opening, request_id = len(state.get("ids", [])), uuid4().hex
        while not state["done"]:
            room = self.response_length - (len(state["ids"]) - opening)
            if room <= 0:
                raise RuntimeError("the episode outgrew `response_length`; raise it, or lower the environment's limits")
            most = min(state["max_tokens"], room)
            params = {**sampling_params, "max_tokens": most, "stop_token_ids": self.stop_ids, "logprobs": True}
            # One id for the whole episode: the same server has the beginning in its cache.
            output = await self.server_manager.generate(
                request_id=request_id, prompt_ids=state["ids"], sampling_params=params)
            log_probs = [min(0.0, value) for value in output.log_probs] if output.log_probs else None
            state = await asyncio.to_thread(self.environment.step, state, list(output.token_ids), log_probs)
        if state.get("reward") is None:
            raise RuntimeError(state.get("error"))
        ids, mask, log_probs = state["ids"], state["mask"], state["log_probs"]
        return AgentLoopOutput(
            prompt_ids=ids[:opening],
            response_ids=ids[opening:],
            response_mask=mask[opening:],
            response_logprobs=log_probs[opening:],
            reward_score=state["reward"]["total"],
            num_turns=2 * state["turn"],
            metrics={},
        )
