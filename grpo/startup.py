"""Start-up check: is a model sampled and scored rightly, and how fast may that go? Used by train_grpo.py and all that samples.

    model, tokenizer = load("Qwen/Qwen3-0.6B")      # as model.load; sets `model.way`, with a line if it is not the fast one

Sampling and scoring are only worth something if both speak of the model's own distribution: its forward pass, one sequence
at a time, without cache, padding and tricks, in eval mode. Some architectures scale their logits, keep other caches, or
draw noise while they train; no list of names can know which. So a few tokens are sampled and scored the way the run will do
it, and compared with that forward pass, token by token:

    gap = mean over tokens of  |log p_way - log p_model|   <=   sqrt(eps of the weights' dtype)

A gap of long texts alone (longer than some attention window, say) is seen later, as sampler_gap of log.jsonl: run.py warns.

The fast way (grpo/fast.py; then with transformers' usual masks; on a GPU first grpo/captured.py) is tried before the plain
one (grpo/rollout.py); a model that fits none is refused.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

from functools import partial
from types import SimpleNamespace

import torch

import model as models
from grpo import captured, fast
from grpo.ranks import leader, world
from grpo.rollout import PLAIN, sample, token_logps, uniform_noise
from model import UserError


def load(*args, **kwargs):
    """A model, ready to sample and to score, and its tokenizer. Arguments and errors: of model.load, and of `choose_way`."""
    model, tokenizer = models.load(*args, **kwargs)
    choose_way(model)
    return model, tokenizer


def choose_way(model, checkpointed=False, first=None):
    """Set `model.way` to the first way that is right for a model, and return its name; UserError if none is.

    checkpointed: whether its layers are computed again in the backward pass, so that they keep no cache. first: the name of
    the way that was right in fp32, now that the model has a coarser dtype: any gap below 1 may be rounding.
    """
    name, attention = model.name_or_path or type(model).__name__, model.config._attn_implementation.replace("packed", "sdpa")
    packed, failed = "packed" if attention == "sdpa" else attention, []
    scorer = fast.logps_of_whole_sequences if checkpointed else fast.logps
    quick = lambda sample, capacity=fast.capacity: SimpleNamespace(sample=sample, logps=scorer, capacity=capacity)
    ways = [("fast", packed, quick(fast.sample)), ("usual", packed, quick(partial(fast.sample, own_mask=False))),
            ("plain", attention, PLAIN), ("plain", "eager", PLAIN)]
    if model.device.type == "cuda" and world() == 1:                # all rows are one batch: those without a slot wait for one
        ways.insert(0, ("captured", packed, quick(captured.sample, lambda model, tokens: 2**31)))
    limit = 1.0 if first else tolerance(model.dtype)
    for which, attention, model.way in ways[[way[0] for way in ways].index(first or ways[0][0]):]:
        try:
            model.set_attn_implementation(attention)
            gap = gap_of(model)
        except Exception as error:                  # what a foreign architecture may raise, no list knows
            failed.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".removeprefix("UserError: "))
            continue
        if gap <= limit:
            break
        failed.append(f"its log-probabilities or their gradient are off by {gap:.2g}")
    else:
        raise UserError(f"{name} cannot be sampled and scored rightly here, in {model.dtype} ({failed[-1]}): choose another "
                        "model, or a newer version of transformers")
    if failed and leader():
        slow = "; whole sequences are read for every token, which is slow" if which == "plain" else ""
        print(f"{name} is read the {which} way, because the {ways[0][0]} one does not fit it ({failed[0]}){slow}")
    return which


def tolerance(dtype):
    """The gap that rounding explains, in nats, for weights of a dtype."""
    return torch.finfo(dtype).eps ** 0.5


def gap_of(model, tokens=4):
    """The mean distance in nats between what `model.way` samples and scores and the model's own forward pass, a float.

    Measured on two prompts of random ids, two completions each; the larger of sampling and scoring. A tenth of how far the
    scores' gradient is off, relative to its norm, counts too: a cache may pass none on.
    """
    ids = torch.randint(model.config.get_text_config().vocab_size, (9,), generator=torch.Generator().manual_seed(0)).tolist()
    rollout = sample(model, [ids, ids[:5]], group_size=2, noise=uniform_noise(4, tokens, "startup"), stop_ids=[-1], pad_id=0)
    own = []
    for prompt, mask, answer in zip(rollout.prompt_ids, rollout.prompt_mask, rollout.ids):
        text = torch.cat([prompt[mask], answer])[None]                                            # (1, L)
        logps = model(input_ids=text, use_cache=False).logits[0, -tokens - 1:-1].float().log_softmax(-1)
        own.append(logps.gather(1, answer[:, None]).squeeze(1))
    own, scored, embedding = torch.stack(own), token_logps(model, rollout), model.get_input_embeddings().weight     # (4, T)
    gaps = [(rollout.logps - own).abs().mean(), (scored - own).abs().mean()]
    if embedding.requires_grad:
        wanted, found = (torch.autograd.grad(some.sum(), embedding)[0].float() for some in (own, scored))
        gaps.append((found - wanted).norm() / wanted.norm() / 10)
    return torch.stack(gaps).max().item()
