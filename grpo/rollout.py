"""Rollout: sample completions from a model, grade them, and score them under it. Used by train_grpo.py and all that samples.

    prompts = encode(tokenizer, [domains.prompt(*pair) for pair in pairs], max_prompt_length=2048)        # grpo/chat.py
    rollout = sample(model, prompts, group_size=8, noise=uniform_noise(8 * len(prompts), 64, seed), ...)
    completions = decode(tokenizer, rollout.ids, rollout.mask)
    rewards = grade(completions, pairs)
    for rows in micro_batches(rollout, range(len(rollout.ids)), budget=16384):
        logps = token_logps(model, rollout.select(rows), temperature=1.0)

`sample` and `token_logps` describe the same distribution: softmax(logits / temperature), cut to its top-p nucleus and
renormalised, computed in fp32. If they differed, the samples would come from another policy than the one that is scored:
`sampler_gap` in the log shows it, ratio and loss do not.

Sampling is by inverse transform: token t of row n is the first id whose cumulative probability exceeds
noise[n, t], a uniform number drawn beforehand. A completion is thus a function of (weights, prompt, noise row)
alone: not of the other rows in the batch, of the moment they finish, or of the number of processes.
"""
# B prompts x G completions = N rows, P prompt tokens, T completion tokens, V vocabulary, D width of the model. prompts: B
# lists of token ids. pairs: B of (domain, row), a row being a dict that its domain reads; completion n, row n of all tensors
# below, belongs to pair n // G. config: of the text model.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import hashlib
import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

import domains
from grpo.ranks import leader
from model import UserError

LOGIT_ELEMENTS = 2**26  # at most so many logits (tokens x V) exist at once while scoring: 256 MB in fp32


@dataclass
class Rollout:
    """Sampled completions. Row n belongs to prompt n // G; prompts are left-padded, completions right-padded.

    Of a longer and a shorter prompt, with one completion each (. is padding, # the end token, T = 4):
        prompt_ids  [[a b c]   prompt_mask  [[1 1 1]   ids  [[x y # .]   mask  [[1 1 1 0]   stopped  [True
                     [. . d]]                [0 0 1]]        [z y x y]]         [1 1 1 1]]            False]
    """
    group: torch.Tensor        # (N,) int64, the prompt a row belongs to: rows of one group have equal prompts
    prompt_ids: torch.Tensor   # (N, P) int64
    prompt_mask: torch.Tensor  # (N, P) bool
    ids: torch.Tensor          # (N, T) int64, exactly the sampled ids: never decoded and encoded again
    mask: torch.Tensor         # (N, T) bool, True where a token was sampled, the end token included:
                               #        recorded while sampling, because padding and end may be the same id
    logps: torch.Tensor        # (N, T) fp32, the sampler's own log-probabilities, 0 where mask is False
    entropy: torch.Tensor      # (N, T) fp32, entropy in nats of the distribution each token was drawn from
    stopped: torch.Tensor      # (N,) bool, False where the length limit cut the completion off

    def select(self, index):
        """The rollout of some rows (indices, at least one), without the padding that none of them needs."""
        P = int(self.prompt_mask[index].sum(1).max())
        T = max(int(self.mask[index].sum(1).max()), 1)
        return Rollout(self.group[index], self.prompt_ids[index, -P:], self.prompt_mask[index, -P:], self.ids[index, :T],
                       self.mask[index, :T], self.logps[index, :T], self.entropy[index, :T], self.stopped[index])


def grade(completions, pairs, ahead=None):
    """Grade each of N completions with the row of its own prompt, by that row's domain: rewards (N,) fp64 on the CPU.

    A reward is NaN where grading failed; it does not depend on what else is graded with it. ahead: of judge.grading_ahead,
    or None.
    """
    rewards, G = dict(ahead.rewards) if ahead else {}, len(completions) // len(pairs)
    for domain in dict.fromkeys(domain for domain, _ in pairs):
        own = [n for n in range(len(completions)) if pairs[n // G][0] == domain and n not in rewards]
        if own:
            scores = domains.reward(domain, [completions[n] for n in own], [pairs[n // G][1] for n in own])
            rewards.update(zip(own, scores))
    return torch.tensor([rewards[n] for n in range(len(completions))], dtype=torch.float64)


def uniform_noise(rows, tokens, *key):
    """(rows, tokens) fp32 uniform in [0, 1) on the CPU, a pure function of its arguments. key: seed, step, purpose."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big", signed=True)
    return torch.rand(rows, tokens, generator=torch.Generator().manual_seed(seed))


def scaled_logits(logits, temperature, top_p, chosen=None):
    """fp32 logits (..., V) of the distribution that is sampled: divided by temperature, -inf outside the top-p nucleus.

    The nucleus is the smallest set of most probable ids with total probability >= top_p, in (0, 1]. temperature: above 0.
    chosen: (...,) ids that count as inside: they were when they were sampled, and the weights may have moved since.
    """
    logits = logits.float()
    if temperature != 1:
        logits = logits / temperature
    if top_p < 1:
        with torch.no_grad():
            probs, order = logits.softmax(-1).sort(-1, descending=True)
            tail = probs.cumsum(-1) - probs >= top_p           # enough probability stands before this id already
            outside = torch.zeros_like(tail).scatter(-1, order, tail)
            if chosen is not None:
                outside = outside.scatter(-1, chosen[..., None], False)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def context_length(model):
    """The most tokens that the model can read at once, all by one rule of positions; infinity if unknown."""
    config = model.config.get_text_config()
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len", "max_target_positions")]
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":         # beyond it one text changes its whole batch's positions
        limits.append(rope["original_max_position_embeddings"])
    return min((limit for limit in limits if limit and limit > 0), default=math.inf)


def left_padded(prompts, pad_id, device):
    """Prompts in one tensor, and where they stand in it: (B, P) int64 and bool."""
    ids = pad_sequence([torch.tensor(p) for p in prompts], True, pad_id, "left")
    mask = pad_sequence([torch.ones(len(p), dtype=torch.bool) for p in prompts], True, False, "left")
    return ids.to(device), mask.to(device)


def draw(logits, uniform, temperature, top_p):
    """One id for each of n rows, by inverse transform: ids (n,) int64, their log-probabilities and the entropies, (n,) fp32.

    logits: (n, V). uniform: (n,) in [0, 1). temperature 0 is greedy; its log-probabilities are those at temperature 1.
    """
    logprobs = scaled_logits(logits, temperature or 1.0, top_p).log_softmax(-1)                           # (n, V)
    probs = logprobs.exp()
    if temperature == 0:
        ids = logits.argmax(-1)                                                                           # (n,)
    else:
        cumulative = probs.cumsum(-1)
        if cumulative.is_cuda:
            cumulative = cumulative.cummax(-1).values         # sums taken in parallel may fall a little
        total = cumulative[:, -1:].contiguous()               # (n, 1), which rounding leaves near 1
        # At most the last id that has any probability, because the product may be rounded up to the total; beside NaN, of
        # which `sample` makes an error, none is found.
        found = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)
        ids = found.minimum(torch.searchsorted(cumulative, total)).clamp(max=logits.shape[1] - 1).squeeze(1)
    logps = logprobs.gather(1, ids[:, None]).squeeze(1)
    entropy = -(probs * logprobs.clamp(min=-1e4)).sum(-1)     # 0 * log 0 = 0 for ids outside the nucleus
    return ids, logps, entropy


# ---- the plain way: whole sequences, the model's own forward pass and its own logits -------------------------------

@torch.no_grad()
def plain_sample(model, prompts, noise, *, group_size, stop_ids, pad_id, temperature=1.0, top_p=1.0, finished=None):
    """Sample in one batch: ids, mask, logps, entropy, stopped of a Rollout, and nothing is remembered between tokens.

    Sequences begin in column 0, and a causal model never sees what is behind their end: so no mask is needed, and this
    is right for every causal model that transformers can run. See `sample`.
    """
    device, (N, T) = model.device, noise.shape
    texts = [torch.tensor(prompt + [pad_id] * T) for prompt in prompts for _ in range(group_size)]
    lengths = torch.tensor([len(text) - T for text in texts], device=device)                              # (N,)
    texts = pad_sequence(texts, True, pad_id).to(device)                                                  # (N, P + T)
    noise, stop, rows = noise.to(device), torch.tensor(stop_ids, device=device), torch.arange(N, device=device)
    ids = torch.full((N, T), pad_id, device=device)
    mask = torch.zeros(N, T, dtype=torch.bool, device=device)
    logps, entropy = torch.zeros(2, N, T, device=device)
    stopped = torch.zeros(N, dtype=torch.bool, device=device)
    for t in range(T):
        read = texts[:, :texts.shape[1] - T + t]                                                          # (N, P + t)
        logits = model(input_ids=read, use_cache=False).logits[rows, lengths + t - 1]                     # (N, V)
        token, logp, spread = draw(logits, noise[:, t], temperature, top_p)                               # (N,) each
        mask[:, t], texts[rows, lengths + t] = ~stopped, token
        for kept, new in ((ids, token), (logps, logp), (entropy, spread)):
            kept[:, t] = torch.where(stopped, kept[:, t], new)
        stopped = stopped | torch.isin(token, stop)
        if stopped.all():
            break
    if finished:
        finished(rows, ids, mask)
    return ids, mask, logps, entropy, stopped


def plain_logps(model, rollout, *, temperature=1.0, top_p=1.0):
    """`token_logps` by the model's own forward pass over whole sequences."""
    texts, before = sequences(rollout)                                                                    # (N, L), (N, T)
    logits = model(input_ids=texts, use_cache=False).logits                                               # (N, L, V)
    logits = logits.gather(1, before[:, :, None].expand(-1, -1, logits.shape[-1]))                        # (N, T, V)
    logprobs = scaled_logits(logits, temperature, top_p, chosen=rollout.ids).log_softmax(-1)
    return torch.where(rollout.mask, logprobs.gather(2, rollout.ids[:, :, None]).squeeze(2), 0.0)         # (N, T)


def sequences(rollout):
    """Prompts and completions without padding between: ids (N, L), and the column before each completion token, (N, T)."""
    ids = torch.cat([rollout.prompt_ids, rollout.ids], 1)                                                 # (N, P + T)
    real = torch.cat([rollout.prompt_mask, rollout.mask], 1)
    ids = ids.gather(1, (~real).long().argsort(dim=1, stable=True))[:, :int(real.sum(1).max())]               # (N, L)
    before = rollout.prompt_mask.sum(1, keepdim=True) - 1 + torch.arange(rollout.ids.shape[1], device=ids.device)
    return ids, before.clamp(max=ids.shape[1] - 1)


def plain_capacity(model, tokens):
    """How many rows of so many tokens to sample at once: the logits of all of them are in memory."""
    return LOGIT_ELEMENTS // (model.config.get_text_config().vocab_size * tokens)


PLAIN = SimpleNamespace(sample=plain_sample, logps=plain_logps, capacity=plain_capacity)


# ---- the way that suits a model ------------------------------------------------------------------------------------
# grpo/startup.py tries faster ways (grpo/fast.py) on a model, and sets `model.way` to the first that agrees with the plain one.

def sample(model, prompts, *, group_size, noise, pad_id, finished=None, progress=None, **settings):
    """Sample group_size completions of each prompt; returns one Rollout. Batches of as many groups as memory allows.

    noise: (N, T) uniform in [0, 1), T the most tokens a completion may have. pad_id: what stands in ids where no token
    does. finished: called with the indices (n,) among all N, ids and mask (n, T) of completions that have left the batch,
    once for each, so that they can be graded while others are sampled. progress: the name of the bar if it takes long.
    settings: stop_ids, which end a completion; temperature (default 1, 0 is greedy); top_p (default 1, see scaled_logits).
    The model's own generation_config plays no part. Because a completion depends on its own noise alone, the batches change
    nothing but rounding. UserError if a prompt and T exceed the model's context, or if its probabilities are not finite.
    """
    longest, (N, T), G = max(map(len, prompts)), noise.shape, group_size
    if longest + T > context_length(model):
        raise UserError(f"a prompt of {longest} tokens and a completion of {T} do not fit the model's context of "
                        f"{context_length(model)}: lower --max-completion-length or shorten the prompts")
    way = getattr(model, "way", PLAIN)
    size, parts = max(1, way.capacity(model, longest + T) // G), []                                   # prompts per batch
    for i in tqdm(range(0, len(prompts), size), progress, disable=progress is None or not leader(), leave=False, delay=3):
        report = finished and (lambda rows, ids, mask: finished(i * G + rows, ids, mask))
        parts.append(way.sample(model, prompts[i:i + size], noise[i * G:(i + size) * G], group_size=G, pad_id=pad_id,
                                finished=report, **settings))
    ids, mask, logps, entropy, stopped = map(torch.cat, zip(*parts))
    if not (logps.isfinite().all() and entropy.isfinite().all()):     # the loss of such rows may look fine
        raise UserError(f"the model's probabilities at temperature {settings.get('temperature', 1.0):g} are not finite: if its "
                        "weights have diverged, start from a sound checkpoint with a lower --lr; else raise --temperature")
    prompt_ids, prompt_mask = left_padded(prompts, pad_id, model.device)
    group = torch.arange(N, device=model.device) // G
    return Rollout(group, prompt_ids[group], prompt_mask[group], ids, mask, logps, entropy, stopped)


def token_logps(model, rollout, *, temperature=1.0, top_p=1.0):
    """Log-probability of each completion token under the model, with gradients: (N, T) fp32, 0 where the mask is False.

    temperature, top_p: those of the sampler, the former above 0.
    """
    return getattr(model, "way", PLAIN).logps(model, rollout, temperature=temperature, top_p=top_p)


def micro_batches(rollout, rows, budget):
    """Cut `rows` (indices of N) into lists of at most `budget` padded tokens each (or one row), with little padding.

    Rows are sorted by the length of their completion. Dynamic programming over the places where that length changes finds
    the cuts with the fewest tokens to compute, where each batch costs budget / 64 tokens more.
    """
    prompt, completion = rollout.prompt_mask.sum(1).tolist(), rollout.mask.sum(1).tolist()
    rows = sorted(rows, key=lambda row: (completion[row], prompt[row]))
    P, T = max((prompt[row] for row in rows), default=0), [completion[row] for row in rows]
    cuts = [0]                                      # where a batch may begin or end
    for end in range(1, len(rows) + 1):
        if end == len(rows) or T[end] > T[end - 1] or (end + 1 - cuts[-1]) * (P + T[end]) > budget:
            cuts.append(end)
    cheapest = {0: (0, 0)}                          # end: (tokens of the rows before it, where their last batch begins)
    for k, end in enumerate(cuts[1:]):
        ways = []
        for start in reversed(cuts[:k + 1]):
            if ways and (end - start) * (P + T[end - 1]) > budget:
                break
            ways.append((cheapest[start][0] + (end - start) * T[end - 1] + budget // 64, start))
        cheapest[end] = min(ways)
    batches, end = [], len(rows)
    while end:
        start = cheapest[end][1]
        batches.append(rows[start:end])
        end = start
    return batches[::-1]
