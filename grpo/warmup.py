"""Supervised warm-up: make checkpoints/base, the tiny model that everything here starts from.

A Qwen3 of 0.4 M parameters (the paper's Qwen3-4B-Thinking in miniature: grouped-query attention, QK norm,
SwiGLU, RoPE, tied embeddings) with a nearly byte-level tokenizer, both built in this file, learns the synthetic rows of
the four domains by next-token prediction on the answer,

    L(theta) = - mean over answer tokens of  log p_theta(token | prompt, answer so far).

In the last 50 steps a share of the rows carries the answer of another row, as scraped text does. What is left is a
model that can do the tasks (greedy, it mostly does) and, sampled at temperature 1, shows it about half of the time:
a base with something to gain from reinforcement learning, and something to lose. The one of the repository was made so:

    python -m grpo.warmup             # about a minute on 2 CPU cores; the same weights every time
    python -m grpo.warmup --domains math,code,qa,cw,path/to/sort.py --out checkpoints/base-sort    # with a domain of your own

A pretrained model that hardly ever answers a prompt right has nothing to reinforce. Its cold start is the same loss over
rows of files, those whose reference their own domain gives a 1, none mislabelled:

    python -m grpo.warmup --model path/to/model --data math=gsm8k/train.jsonl code=mbpp.jsonl --out checkpoints/cold
"""
import os

import domains
from grpo.settings import at_least, checkpoint, domain_names, parser, positive, refuse
from model import BASE, UserError, cli

NEW = {"steps": 340, "lr": 4e-3}                # lr: the peak, after a linear rise; then cosine to a tenth
COLD = {"steps": 32, "lr": 5e-5, "rows": 8}     # rows: of each domain per step


def parse(argv=None):
    """The command line; UserError if --out is there already."""
    made = parser(__doc__)
    made.add_argument("--out", default=BASE, help=f"directory to write (default {BASE})")
    made.add_argument("--domains", type=domain_names, default=",".join(domains.DOMAINS), metavar="NAMES",
                      help="what it learns: names and files of domains, with commas (default %(default)s)")
    made.add_argument("--model", type=checkpoint, help="a cold start of this model, on --data, in place of a new one")
    made.add_argument("--data", nargs="+", default=[], metavar="DOMAIN=SOURCE", help="its rows, as for train_grpo.py")
    made.add_argument("--steps", type=at_least(1), help=f"(default {NEW['steps']}, with --model {COLD['steps']})")
    made.add_argument("--lr", type=positive, help=f"peak (default {NEW['lr']}, with --model {COLD['lr']})")
    args = made.parse_args(argv)
    refuse((os.path.exists(args.out), f"{args.out} exists: delete it, or choose another --out"),
           (bool(args.model) != bool(args.data), "--model and --data belong together: a cold start learns from real rows"))
    args.data, default = domains.sources(args.data, args.domains), COLD if args.model else NEW
    args.domains = list(args.data) or args.domains
    args.steps, args.lr = args.steps or default["steps"], args.lr or default["lr"]
    return args


ARGS = cli(parse) if __name__ == "__main__" else None     # before PyTorch is imported: --help and mistakes answer at once

import math
import random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from grpo.rollout import encode
from model import load, save, use_threads

SEED = 0
CLEAN_STEPS = 290
WARMUP = {"rows": 32, "mislabelled": 0}  # rows per step and share mislabelled after CLEAN_STEPS, if a domain sets none
WIDTH, LAYERS, HEADS, KV_HEADS, CHANNELS = 96, 4, 4, 2, 288

CHAT_TEMPLATE = ("{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
                 "{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
                 "{% if add_generation_prompt %}<|assistant|>{% endif %}")
# Words of code and of stories that are one token each; numbers, names and nouns stay letter by letter.
WORDS = ["def ", "):\n return ", " plus ", " minus ", " times ", "larger of ", "smaller of ", ", plus ", ", minus ",
         ", times ", ", mod ", "max(", "min(", "largest?", "smallest?", "Write: ", "The ", "A ", "One ", " saw the ",
         " ran to the ", " and the ", " met.", " hid by a ", " sang to the ", " loved the "]
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def byte_tokenizer():
    """A tokenizer with one token per byte (any text, no unknowns), five special ones, and WORDS: 287 ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())  # 256 printable stand-ins for the 256 bytes
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(SPECIAL + alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|pad|>", eos_token="<|end|>",
                                        additional_special_tokens=SPECIAL[2:], padding_side="left")
    tokenizer.add_tokens(WORDS)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(vocab_size):
    """A randomly initialised Qwen3 of the shape in the settings, fp32; the same weights every time (SEED)."""
    torch.manual_seed(SEED)
    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=vocab_size, hidden_size=WIDTH, intermediate_size=CHANNELS, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=WIDTH // HEADS, rope_theta=10_000.0,
        max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None))


def batch(tokenizer, domain, rows, device="cpu"):
    """ids (B, T) int64, right-padded, of B rows with a "reference", and labels (B, T): its tokens and the end token, each at
    its own place, -100 elsewhere."""
    ids, labels = [], []
    for prompt, row in zip(encode(tokenizer, [domains.prompt(domain, row) for row in rows], 2048), rows):
        answer = tokenizer(row["reference"], add_special_tokens=False, split_special_tokens=True).input_ids
        answer += [tokenizer.eos_token_id]          # the only control token in it
        ids.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([-100] * len(prompt) + answer))
    return pad_sequence(ids, True, tokenizer.pad_token_id).to(device), pad_sequence(labels, True, -100).to(device)


def main(args=None):
    """Train the base, or --model, and write it to args.out."""
    args = args or parse()
    folder = os.path.dirname(os.path.abspath(args.out))
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):                                                 # now: not after a minute of work
        raise UserError(f"cannot write {args.out}: its directory is read-only")
    rows = {domain: with_reference(domain, source) for domain, source in args.data.items()}
    names = [domain for domain in args.domains if rows.get(domain, True)]                 # those that have any
    if not names:
        raise UserError(f"no row of {', '.join(args.data.values())} has a reference that earns 1: name others")
    if args.model:
        model, tokenizer = load(args.model, None, torch.float32)
    else:
        tokenizer = byte_tokenizer()
        model = tiny_model(len(tokenizer))
    model.train()
    use_threads(model)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    bar = tqdm(range(args.steps), desc=f"warm-up of {args.out}", unit="step")
    for step in bar:
        warm = min(1.0, (step + 1) / min(20, 1 + args.steps // 8))
        cosine = 1 + math.cos(math.pi * step / args.steps)
        optimizer.param_groups[0]["lr"] = args.lr * warm * (0.1 + 0.9 * 0.5 * cosine)
        losses = {}
        for domain in names:                           # one by one: rows of like length, little padding
            ids, labels = batch(tokenizer, domain, rows_for_step(domain, step, rows), model.device)    # (B, T)
            hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]              # (B, T - 1, width)
            answer = labels[:, 1:] != -100                                             # logits of answer tokens only
            loss = F.cross_entropy(model.lm_head(hidden[answer]), labels[:, 1:][answer])
            (loss / len(names)).backward()
            losses[domain] = round(loss.item(), 3)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(losses, refresh=False)
    own = {name: domains.source(name) for name in args.domains if name not in domains.files()}
    save(model, tokenizer, args.out, {"parent": args.model, "domain": "warm-up", "seed": SEED, "steps": args.steps,
                                      "args": vars(args), "domain_files": own, "metrics": {"loss": losses}})


def with_reference(domain, source):
    """The training rows of a source that have a "reference" which earns 1: a list, maybe empty."""
    rows = [row for row in domains.load_rows(domain, source, "train") if row.get("reference")]
    scores = domains.reward(domain, [row["reference"] for row in rows], rows)
    right = [row for row, score in zip(rows, scores) if score == 1]
    print(f"{source}: {len(right)} training rows of {domain} have a reference that earns 1")
    return right


def rows_for_step(domain, step, real):
    """The rows of a domain that a step learns from: of real[domain], or synthetic ones, in the end some with another row's
    answer as their "reference"."""
    settings, rng = {**WARMUP, **getattr(domains.get(domain), "WARMUP", {})}, random.Random(f"{SEED} {domain} {step}")
    if domain in real:
        return rng.sample(real[domain], min(COLD["rows"], len(real[domain])))
    rows = domains.synthetic(domain, "train", settings["rows"], seed=f"warm-up {SEED} {step}")
    share = settings["mislabelled"] if step >= CLEAN_STEPS else 0
    return [{**row, "reference": rng.choice(rows)["reference"]} if rng.random() < share else row for row in rows]


if __name__ == "__main__":
    cli(lambda: main(ARGS))
