"""Rollout: sample completions from the policy, grade them, and score them under it. Used by train_grpo.py and all that samples.

    prompts = encode(tokenizer, [domains.prompt(*pair) for pair in batch], max_prompt_length=2048)
    rollout = sample(model, prompts, group_size=8, noise=uniform_noise(8 * len(prompts), 64, seed), ...)
    completions = decode(tokenizer, rollout.ids, rollout.mask)
    rewards = grade(completions, batch)
    for rows in micro_batches(rollout, range(len(rollout.ids)), budget=16384):
        logps = token_logps(model, rollout.select(rows), temperature=1.0)

`sample` and `token_logps` describe the same distribution: softmax(logits / temperature), cut to its top-p nucleus and
renormalised, computed in fp32. If they differed, the importance ratio of GRPO would not be one at the first update.

Sampling is by inverse transform: token t of row n is the first id whose cumulative probability exceeds
noise[n, t], a uniform number drawn beforehand. A completion is thus a function of (weights, prompt, noise row)
alone: not of the other rows in the batch, of the moment they finish, or of the number of processes.

One letter means one thing: B prompts x G completions = N rows, P prompt tokens, T completion tokens, V vocabulary.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import hashlib
import inspect
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
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
                               #        recorded while sampling, as padding and end may be the same id
    logps: torch.Tensor        # (N, T) fp32, the sampler's own log-probabilities, 0 where mask is False
    entropy: torch.Tensor      # (N, T) fp32, entropy in nats of the distribution each token was drawn from
    stopped: torch.Tensor      # (N,) bool, False where the length limit cut the completion off

    def select(self, index):
        """The rollout of some rows (indices, at least one), without the padding that none of them needs."""
        P = int(self.prompt_mask[index].sum(1).max())
        T = max(int(self.mask[index].sum(1).max()), 1)
        width = self.prompt_ids.shape[1]
        return Rollout(self.group[index], self.prompt_ids[index, width - P:], self.prompt_mask[index, width - P:],
                       self.ids[index, :T], self.mask[index, :T], self.logps[index, :T],
                       self.entropy[index, :T], self.stopped[index])


def encode(tokenizer, texts, max_prompt_length):
    """Token ids of each text as a user's message, up to where the assistant begins: B lists of ints.

    The chat template writes the special tokens, so none is added here (no second BOS). Raises UserError if it cannot
    render a user's message, or if a prompt is longer than max_prompt_length tokens: cut short it would ask another
    question.
    """
    prompts = []
    for text in texts:
        text = text.encode("utf-8", "replace").decode()            # half a surrogate pair, which JSON can hold, is no text
        try:
            ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                                return_dict=False)
        except Exception as error:                  # jinja's errors, and whatever a template raises itself
            raise UserError(f"the model's chat template cannot render a user's message: {error}") from error
        if not ids:
            raise UserError("the model's chat template makes nothing of a user's message: is it empty?")
        if len(ids) > max_prompt_length:
            raise UserError(f"a prompt has {len(ids)} tokens, the limit is {max_prompt_length}: raise "
                            f"--max-prompt-length or drop the row that begins {text[:60]!r}")
        prompts.append(ids)
    return prompts


def decode(tokenizer, ids, mask):
    """The completions as text, without special tokens: N strings. ids, mask: (N, T), see Rollout."""
    return [tokenizer.decode(row[real], skip_special_tokens=True) for row, real in zip(ids.cpu(), mask.cpu())]


def grade(completions, batch, ahead=None):
    """Grade each of N completions with the row of its own prompt, by that row's domain: rewards (N,) fp64 on the CPU.

    batch: B (domain, row) pairs; completion n belongs to pair n // G, G = N / B. ahead: of judge.grading_ahead, or None. A
    reward is NaN where grading failed; it does not depend on the company that a completion is graded in.
    """
    owner = [pair for pair in batch for _ in range(len(completions) // len(batch))]               # (N,) pairs
    rewards = torch.full((len(owner),), math.nan, dtype=torch.float64)
    if ahead:
        rewards[list(ahead.rewards)] = torch.tensor(list(ahead.rewards.values()), dtype=torch.float64)
    for domain in dict.fromkeys(domain for domain, _ in batch):
        own = [n for n, (name, _) in enumerate(owner) if name == domain and not (ahead and n in ahead.rewards)]
        if own:
            scores = domains.reward(domain, [completions[n] for n in own], [owner[n][1] for n in own])
            rewards[own] = torch.tensor(scores, dtype=torch.float64)
    return rewards


def uniform_noise(rows, tokens, *key):
    """(rows, tokens) fp32 uniform numbers in [0, 1) on the CPU, a pure function of its arguments.

    key: what tells this draw from others, by its repr: seed, step, purpose.
    """
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big", signed=True)
    return torch.rand(rows, tokens, generator=torch.Generator().manual_seed(seed))


def scaled_logits(logits, temperature, top_p, chosen=None):
    """fp32 logits of the distribution that is sampled: divided by temperature, -inf outside the top-p nucleus.

    logits: (..., V). temperature: above 0. The nucleus is the smallest set of most probable ids with total probability
    >= top_p, in (0, 1]. chosen: (...,) ids that stay in it whatever happened since they were sampled. Returns
    (..., V) fp32.
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


def cached(model, cache):
    """The cache as the keyword argument that a forward has for it, a dict of one: transformers renamed it in 5.24."""
    return {"cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values": cache}


def cache_bytes(config, itemsize):
    """Bytes of keys and values per token: 2 x layers x key-value heads x their width x itemsize, the bytes of a number.

    config: of the text model (get_text_config).
    """
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head * itemsize


def rows_that_fit(config, itemsize, tokens, free):
    """How many rows of so many tokens, at least 1, to sample at once in `free` bytes, with their cache and logits.

    config, itemsize: as of `cache_bytes`. tokens: of prompt and completion.
    """
    # A half is kept for other things, and a quarter on top of each row for the room that its buffer has (share_out).
    return max(1, min(int(free * 2 // (5 * cache_bytes(config, itemsize) * tokens)), LOGIT_ELEMENTS // config.vocab_size))


def rows_at_once(model, tokens):
    """The rows of so many tokens that fit the model's device now; on a CPU 4 GiB count as free."""
    free = 4 * 2**30
    if model.device.type == "cuda":                 # what the driver has left, and what PyTorch keeps for later use
        reserved, used = torch.cuda.memory_reserved(model.device), torch.cuda.memory_allocated(model.device)
        free = torch.cuda.mem_get_info(model.device)[0] + reserved - used
    return rows_that_fit(model.config.get_text_config(), model.dtype.itemsize, tokens, free)


def sample(model, prompts, *, group_size, noise, finished=None, progress=None, **settings):
    """Sample group_size completions of each prompt; returns one Rollout. A batch is as many groups as memory allows.

    prompts: B lists of token ids. noise: (N, T) uniform in [0, 1), N = B * group_size, T the most tokens a completion
    may have. finished: called with rows (n,), indices of N, and ids and mask (n, T) of completions that have left the
    batch, each row once, so that they can be graded while others are sampled. progress: what to call the bar if it
    takes long. The other settings are those of `sample_batch`. As a completion depends on its own noise alone, the
    batches change nothing but rounding. Raises UserError if a prompt and T exceed the model's context, or if the
    model's probabilities are not finite (it has diverged).
    """
    longest = max(map(len, prompts)) + noise.shape[1]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or longest
    if longest > context:
        raise UserError(f"a prompt of {longest - noise.shape[1]} tokens and a completion of {noise.shape[1]} do not fit "
                        f"the model's context of {context}: lower --max-completion-length or shorten the prompts")
    size = max(1, rows_at_once(model, longest) // group_size)                                     # prompts per batch
    parts = []
    for i in tqdm(range(0, len(prompts), size), desc=progress, disable=progress is None or not leader(), leave=False,
                  delay=3):
        first = i * group_size
        report = finished and (lambda rows, ids, mask: finished(first + rows, ids, mask))
        parts.append(sample_batch(model, prompts[i:i + size], group_size=group_size, finished=report,
                                  noise=noise[first:first + size * group_size], **settings))
    P = max(part.prompt_ids.shape[1] for part in parts)
    for part in parts:                              # pad_sequence would pad on the right
        missing = P - part.prompt_ids.shape[1]
        part.prompt_ids = F.pad(part.prompt_ids, (missing, 0), value=settings["pad_id"])
        part.prompt_mask = F.pad(part.prompt_mask, (missing, 0), value=False)
    rollout = Rollout(*(torch.cat(fields) for fields in zip(*(vars(part).values() for part in parts))))
    rollout.group = torch.arange(len(rollout.group), device=rollout.group.device) // group_size  # over all parts
    if not (rollout.logps.isfinite().all() and rollout.entropy.isfinite().all()):  # the loss of such rows may look fine
        raise UserError("the model's probabilities are not finite: its weights have diverged; start from a checkpoint "
                        "that is sound, with a lower --lr")
    return rollout


def share_out(cache, group_size):
    """Give each prompt's keys and values to its group_size completions, and leave room behind them.

    cache: a DynamicCache of B rows, of N = B * group_size afterwards. A layer of it copies all that it holds for every
    token that is appended. Here it writes into a buffer, which grows by a quarter when it is full. Layers of other
    kinds (sliding windows, which stay short) are repeated and else left as they are.
    """
    from transformers.cache_utils import DynamicLayer

    class Roomy(DynamicLayer):
        def hold(self, keys, values, repeats=1):
            """Each of keys and values (n, heads, length, head_dim) `repeats` times, at the start of a buffer."""
            n, heads, length, _ = keys.shape
            self.buffers = []
            for old in (keys, values):
                buffer = old.new_empty(n, repeats, heads, length + max(16, length // 4), old.shape[-1])
                buffer[:, :, :, :length] = old[:, None]
                self.buffers.append(buffer.flatten(0, 1))
            self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)

        def update(self, key_states, value_states, *args, **kwargs):
            start = self.keys.shape[2]
            stop = start + key_states.shape[2]
            if stop > self.buffers[0].shape[2]:
                self.hold(self.keys, self.values)
            for buffer, new in zip(self.buffers, (key_states, value_states)):
                buffer[:, :, start:stop] = new
            self.keys, self.values = (buffer[:, :, :stop] for buffer in self.buffers)
            return self.keys, self.values

        def batch_select_indices(self, indices):
            super().batch_select_indices(indices)
            self.buffers = [self.keys, self.values]           # full: the next token copies them, unless more rows leave

    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[i] = Roomy()
            vars(cache.layers[i]).update(vars(layer))
            cache.layers[i].hold(layer.keys, layer.values, group_size)
        else:
            layer.batch_repeat_interleave(group_size)


@torch.no_grad()
def sample_batch(model, prompts, *, group_size, noise, stop_ids, pad_id, temperature=1.0, top_p=1.0, finished=None):
    """Sample in one batch: a Rollout on the model's device. prompts, group_size, noise, finished: see `sample`.

    stop_ids: ids that end a completion. pad_id: what stands in ids where no token does. temperature 0 is greedy (its
    logps are then those at temperature 1); top_p: see scaled_logits. The model's own generation_config (its
    temperature, top_k, penalties) plays no part.
    """
    from transformers import DynamicCache  # here: --help need not wait for it
    device, N, max_new_tokens = model.device, *noise.shape
    P = max(len(p) for p in prompts)
    prompt_ids = torch.tensor([[pad_id] * (P - len(p)) + p for p in prompts], device=device)              # (B, P)
    prompt_mask = torch.tensor([[False] * (P - len(p)) + [True] * len(p) for p in prompts], device=device)  # (B, P)
    noise, stop = noise.to(device), torch.tensor(stop_ids, device=device)

    # Each prompt is read once; its keys and values are then shared out to its G completions.
    cache = DynamicCache(config=model.config)
    named = cached(model, cache)
    positions = (prompt_mask.cumsum(1) - 1).clamp(min=0)                                                  # (B, P)
    logits = model(input_ids=prompt_ids, attention_mask=prompt_mask.long(), position_ids=positions,
                   use_cache=True, logits_to_keep=1, **named).logits[:, -1]                                # (B, V)
    share_out(cache, group_size)
    logits = logits.repeat_interleave(group_size, 0)                                                      # (N, V)
    attended = prompt_mask.long().repeat_interleave(group_size, 0)                                        # (N, P + t)
    length = attended.sum(1)                                                                              # (N,)

    ids = torch.full((N, max_new_tokens), pad_id, device=device)
    mask = torch.zeros(N, max_new_tokens, dtype=torch.bool, device=device)
    logps = torch.zeros(N, max_new_tokens, device=device)
    entropy = torch.zeros(N, max_new_tokens, device=device)
    stopped = torch.zeros(N, dtype=torch.bool, device=device)
    alive = torch.arange(N, device=device)                     # rows still in the batch, (n,)
    for t in range(max_new_tokens):
        scaled = scaled_logits(logits, temperature or 1.0, top_p)                                         # (n, V)
        logprobs = scaled.log_softmax(-1)
        if temperature == 0:
            token = logits.argmax(-1)                                                                     # (n,)
        else:
            cumulative = logprobs.exp().cumsum(-1)
            # Times the total, as rounding leaves it beside 1; right=True never picks an id of probability 0.
            u = noise[alive, t, None] * cumulative[:, -1:]
            token = torch.searchsorted(cumulative, u, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
        running = ~stopped[alive]
        ids[alive, t] = torch.where(running, token, pad_id)
        mask[alive, t] = running
        logps[alive, t] = torch.where(running, logprobs.gather(1, token[:, None]).squeeze(1), 0.0)
        # 0 * log 0 = 0 for ids outside the nucleus
        entropy[alive, t] = torch.where(running, -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1), 0.0)
        stopped[alive] |= torch.isin(token, stop)
        if t + 1 == max_new_tokens:
            break
        # Finished rows leave the batch. A GPU asks only now and then, as the answer makes it wait for the host.
        if device.type == "cpu" or t % 8 == 7:
            keep = (~stopped[alive]).nonzero().squeeze(1)
            if len(keep) == 0:
                break
            if len(keep) < 0.9 * len(alive):                   # dropping rows copies the cache: not for a few
                if finished:
                    leaving = alive[stopped[alive]]
                    finished(leaving, ids[leaving], mask[leaving])
                cache.batch_select_indices(keep)
                alive, token, attended, length = alive[keep], token[keep], attended[keep], length[keep]
        attended = torch.cat([attended, torch.ones_like(attended[:, :1])], 1)
        logits = model(input_ids=token[:, None], attention_mask=attended, position_ids=length[:, None],
                       use_cache=True, **named).logits[:, -1]                                             # (n, V)
        length = length + 1
    if finished:
        finished(alive, ids[alive], mask[alive])
    group = torch.arange(N, device=device) // group_size
    return Rollout(group, prompt_ids[group], prompt_mask[group], ids, mask, logps, entropy, stopped)


def micro_batches(rollout, rows, budget):
    """Cut `rows` (indices of N) into lists of similar length, each at most `budget` padded tokens (or one row)."""
    prompt, completion = rollout.prompt_mask.sum(1).tolist(), rollout.mask.sum(1).tolist()
    batches, widest = [], (0, 0)
    for row in sorted(rows, key=lambda row: prompt[row] + completion[row]):
        grown = (max(widest[0], prompt[row]), max(widest[1], completion[row]))
        if batches and (len(batches[-1]) + 1) * sum(grown) <= budget:
            batches[-1].append(row)
            widest = grown
        else:
            batches.append([row])
            widest = (prompt[row], completion[row])
    return batches


def token_logps(model, rollout, *, temperature=1.0, top_p=1.0):
    """Log-probability of each completion token under the model, differentiable in its weights.

    Returns (N, T) fp32, 0 where rollout.mask is False. temperature, top_p: those of the sampler, the former above 0. A
    prompt is read once for all rows of its group, through a cache that carries the gradient (with gradient checkpointing
    once for each row, as it keeps no cache). Logits of the prompt are
    never computed, those of completions in chunks that the backward pass recomputes: the memory is LOGIT_ELEMENTS,
    whatever the vocabulary and the number of tokens. The rollout is left unchanged.
    """
    from transformers import DynamicCache
    decoder, P = model.get_decoder(), rollout.prompt_ids.shape[1]
    attended = torch.cat([rollout.prompt_mask, rollout.mask], 1)                                  # (N, P + T)
    positions = (attended.cumsum(1) - 1).clamp(min=0)                                             # (N, P + T)
    # Checkpointing recomputes layers in the backward pass, and so keeps no cache.
    if model.training and any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        hidden = decoder(input_ids=torch.cat([rollout.prompt_ids, rollout.ids], 1), attention_mask=attended.long(),
                         position_ids=positions, use_cache=False).last_hidden_state[:, P - 1:-1]  # (N, T, D)
    else:                                                         # each prompt is read once, with its gradient
        cache, (groups, which) = DynamicCache(config=model.config), rollout.group.unique(return_inverse=True)
        named = cached(decoder, cache)
        first = which.new_empty(len(groups)).scatter_(0, which, torch.arange(len(which), device=which.device))  # any row
        prompt = decoder(input_ids=rollout.prompt_ids[first], attention_mask=rollout.prompt_mask[first].long(),
                         position_ids=positions[first, :P], **named).last_hidden_state
        cache.reorder_cache(which)                                # by index_select: its gradient is summed in a fixed order
        answer = decoder(input_ids=rollout.ids, attention_mask=attended.long(), position_ids=positions[:, P:],
                         **named).last_hidden_state
        hidden = torch.cat([prompt[:, -1:].index_select(0, which), answer[:, :-1]], 1)            # (N, T, D)
    hidden = hidden[rollout.mask]                                 # (M, D), the state before each of M real tokens
    targets = rollout.ids[rollout.mask]                           # (M,)
    head = model.get_output_embeddings()

    def score(hidden, targets):
        logits = scaled_logits(head(hidden), temperature, top_p, chosen=targets)                  # (m, V)
        return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)                      # (m,)

    size = max(1, LOGIT_ELEMENTS // head.weight.shape[0])
    if len(targets) <= size:
        logps = score(hidden, targets)                                                            # (M,)
    else:
        logps = torch.cat([checkpoint(score, h, y, use_reentrant=False)
                           for h, y in zip(hidden.split(size), targets.split(size))])
    return torch.zeros(rollout.mask.shape, device=hidden.device).masked_scatter(rollout.mask, logps)
