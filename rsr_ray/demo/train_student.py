"""Trains the demo's student, half a minute on two cores: python -m rsr_ray.demo.train_student
FOLDER

A Qwen3 of 0.4M parameters learns conversations of the demo's own generator, other problems than the
demo's. It reads one teacher much more than the others, as a student that was fine-tuned before has.
Training stops early on purpose: at about one nat a token, as real students are on real
trajectories; one that knows the made-up text by heart is surprised by nothing.
"""

import random
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rsr_ray.demo.corpus import TEACHERS, conversation, make_problem

SHARES = {
    "terse-7b": 4,
    "methodical-32b": 10,
    "doubtful-32b-think": 3,
    "formal-72b": 1,
    "flowery-8b": 0.3,
    "looping-3b": 1,
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY, LENGTH, ROWS, STEPS = 768, 256, 16, 90


def main(folder: str) -> None:
    torch.manual_seed(0)
    rng = random.Random(1)

    def text() -> str:
        teacher = rng.choices(list(TEACHERS), [SHARES[t] for t in TEACHERS])[0]
        turns = conversation(teacher, make_problem(rng), rng)
        return "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns)

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        (text() for _ in range(3000)),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
    )
    tokenizer.chat_template = TEMPLATE

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    stream: list[int] = []
    for step in range(STEPS):
        while len(stream) < ROWS * LENGTH:
            stream += bpe.encode(text()).ids
        batch, stream = (
            torch.tensor(stream[: ROWS * LENGTH]).view(ROWS, LENGTH),
            stream[ROWS * LENGTH :],
        )
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 50) * (1 - step / STEPS)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            print(f"step {step}: {loss.item():.3f} nats per token", flush=True)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{model.num_parameters():,} parameters saved to {folder}")


if __name__ == "__main__":
    main(sys.argv[1])
