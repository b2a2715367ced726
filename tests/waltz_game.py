"""A game for two agents whose best play is known, with an alphabet of 16 tokens.

A prompt is one of four letters, a reply one of four others, of which only one is good. A tiny model that begins at random is taught the
rules of the table and nothing else: to reply with any letter, to repeat the letter that it is advised to, and, as the feedback agent,
to say any of five sentences, each of them a token: "all is well", or "it harms, say <letter>". Which sentence helps is for the training
to find out. Played at random, 1 episode in 4 ends well, and no better where only right labels are paid; with the best play all do.
"""

from __future__ import annotations

import re
from pathlib import Path

from core.waltz.feedback import write_json

END, ASK, SAY = "<|end|>", "<|ask|>", "<|say|>"
PROMPTS = ("§p", "§q", "§r", "§s")
REPLIES = ("§a", "§b", "§c", "§d")
ADVICE = tuple(write_json("", True, False, reply) for reply in REPLIES)
WELL = write_json("", False, False, "")
WORDS = (END, ASK, SAY, *PROMPTS, *REPLIES, *ADVICE, WELL)
assert len(WORDS) == 16
TEMPLATE = ("{% for message in messages %}{% if message['role'] == 'user' %}" + ASK + "{{ message['content'] }}"
            "{% elif message['role'] == 'assistant' %}" + SAY + "{{ message['content'] }}" + END + "{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}" + SAY + "{% endif %}")


def make_game(folder: Path, seed: int, steps: int = 60) -> Path:
    """Write a model that knows how to play and not how to win."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=16, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=16, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=1,
                         eos_token_id=0, pad_token_id=0, initializer_range=0.1, architectures=["LlamaForCausalLM"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(steps):
            for batch in (_revisions(64), _feedbacks(64)):
                labels = batch.clone()
                labels[:, :-2] = -100  # the last word and the end
                if batch.shape[1] > 6:
                    labels[:, 3:5] = batch[:, 3:5]  # the first reply as well
                model(input_ids=batch, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _revisions(count):
    """Prompt, any reply, any advice, the reply that was advised."""
    import torch

    prompt, reply, advised = (torch.randint(0, 4, (count, 1)) for _ in range(3))
    word = [torch.full((count, 1), WORDS.index(one)) for one in (END, ASK, SAY)]
    end, ask, say = word
    prompt, reply, advised = prompt + WORDS.index("§p"), reply + WORDS.index("§a"), advised + WORDS.index("§a")
    return torch.cat([ask, prompt, say, reply, end, ask, advised, say, advised, end], 1)


def _feedbacks(count):
    """Prompt and any reply, then any of the five sentences."""
    import torch

    prompt, reply, said = (torch.randint(0, choices, (count, 1)) for choices in (4, 4, 5))
    end, ask, say = (torch.full((count, 1), WORDS.index(one)) for one in (END, ASK, SAY))
    return torch.cat([ask, prompt + WORDS.index("§p"), reply + WORDS.index("§a"), say, said + WORDS.index(ADVICE[0]), end], 1)


def _tokenizer():
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=END))
    known = "|".join(re.escape(word) for word in sorted(WORDS, key=len, reverse=True))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(known), behavior="removed", invert=True)  # all other text is not there
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, pad_token=END, bos_token=ASK, chat_template=TEMPLATE,
                                   additional_special_tokens=[SAY])
