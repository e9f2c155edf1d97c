"""The steps of `grpo.rs` with TRL's GRPOTrainer: transformers' generation, two threads, float32.

    OMP_NUM_THREADS=2 python benches/grpo_baseline.py [STEPS]
    OMP_NUM_THREADS=2 python benches/grpo_baseline.py smollm2 [STEPS]     # with peft
"""

import statistics
import sys
import tempfile
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

IS_SMOLLM2 = "smollm2" in sys.argv
GROUPS, GROUP_SIZE, COMPLETION = 4, 8, 64
PROMPT, VOCABULARY, STEPS = (64, 49152, 5) if IS_SMOLLM2 else (25, 1024, 30)
if sys.argv[-1].isdigit():
    STEPS = int(sys.argv[-1])
torch.set_num_threads(2)
torch.manual_seed(0)

words = {f"w{index}": index for index in range(VOCABULARY - 2)}
words |= {"<pad>": VOCABULARY - 2, "<eos>": VOCABULARY - 1}
inner = Tokenizer(models.WordLevel(words, unk_token="w0"))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")
common = dict(
    vocab_size=VOCABULARY,
    tie_word_embeddings=True,
    attn_implementation="sdpa",
    eos_token_id=VOCABULARY - 1,
    pad_token_id=VOCABULARY - 2,
)
adapter = None
if IS_SMOLLM2:
    from peft import LoraConfig

    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            head_dim=64,
            max_position_embeddings=8192,
            rope_theta=100000.0,
            **common,
        )
    ).float()
    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules=projections, task_type="CAUSAL_LM")
else:
    model = Qwen3ForCausalLM(
        Qwen3Config(
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=512,
            **common,
        )
    ).float()


def prompt(row):
    return " ".join(f"w{(row * 37 + at * 7) % 1000}" for at in range(PROMPT))


def reward(completion_ids, **_):
    return [float(sum(ids) % 97) for ids in completion_ids]


class Clock(TrainerCallback):
    """Measures from the end of one step to the end of the next, so work between steps counts."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())


clock = Clock()
with tempfile.TemporaryDirectory() as folder:
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": prompt(row)} for row in range(1000)]),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[clock],
        args=GRPOConfig(
            output_dir=folder,
            num_generations=GROUP_SIZE,
            per_device_train_batch_size=GROUPS * GROUP_SIZE,
            max_completion_length=COMPLETION,
            generation_kwargs={"min_new_tokens": COMPLETION},
            max_steps=STEPS + 4,
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            beta=0.0,
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
    trainer.train()
seconds = sorted(b - a for a, b in zip(clock.ends[3:], clock.ends[4:]))
median = statistics.median(seconds)
print(
    f"{median:.3f} s a step ({seconds[0]:.3f} to {seconds[-1]:.3f}, {len(seconds)} steps); "
    f"{GROUPS * GROUP_SIZE / median:.0f} episodes/s, "
    f"{GROUPS * GROUP_SIZE * COMPLETION / median:.0f} sampled tokens/s"
)
