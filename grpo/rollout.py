"""Rollout: sample completions from a model, grade them, and score them under it. Used by train_grpo.py and all that samples.

    prompts = encode(tokenizer, [domains.prompt(*pair) for pair in batch], max_prompt_length=2048)
    rollout = sample(model, prompts, group_size=8, noise=uniform_noise(8 * len(prompts), 64, seed), ...)
    completions = decode(tokenizer, rollout.ids, rollout.mask)
    rewards = grade(completions, batch)
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
# lists of token ids. batch: B (domain, row) pairs; completion n belongs to pair n // G. config: of the text model.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import hashlib
import inspect
import math
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
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


def encode(tokenizer, texts, max_prompt_length):
    """Token ids of each text as a user's message, up to where the assistant begins: B lists of ints.

    The chat template writes the special tokens, so none is added here (no second BOS). UserError if it cannot render a
    user's message, or for a prompt of more than max_prompt_length tokens: cut short it would ask another question.
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

    A reward is NaN where grading failed; it does not depend on the company that a completion is graded in. ahead: of
    judge.grading_ahead, or None.
    """
    rewards, G = dict(ahead.rewards) if ahead else {}, len(completions) // len(batch)
    for domain in dict.fromkeys(domain for domain, _ in batch):
        own = [n for n in range(len(completions)) if batch[n // G][0] == domain and n not in rewards]
        if own:
            scores = domains.reward(domain, [completions[n] for n in own], [batch[n // G][1] for n in own])
            rewards.update(zip(own, scores))
    return torch.tensor([rewards[n] for n in range(len(completions))], dtype=torch.float64)


def uniform_noise(rows, tokens, *key):
    """(rows, tokens) fp32 uniform in [0, 1) on the CPU, a pure function of its arguments. key: seed, step, purpose."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big", signed=True)
    return torch.rand(rows, tokens, generator=torch.Generator().manual_seed(seed))


def scaled_logits(logits, temperature, top_p, chosen=None):
    """fp32 logits (..., V) of the distribution that is sampled: divided by temperature, -inf outside the top-p nucleus.

    The nucleus is the smallest set of most probable ids with total probability >= top_p, in (0, 1]. temperature: above 0.
    chosen: (...,) ids that stay in it whatever happened since they were sampled.
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
    """The most tokens that the model can read at once; infinity where its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf


def new_cache(config, model):
    """An empty cache, and the keyword argument that it is for the model, a dict of one: transformers renamed it in 5.24."""
    from transformers import DynamicCache           # here: it takes seconds
    cache = DynamicCache(config=config)
    return cache, {"cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values": cache}


def cache_bytes(config, itemsize):
    """Bytes of keys and values per token: 2 x layers x key-value heads x their width x itemsize, the bytes of a number."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head * itemsize


def rows_that_fit(config, itemsize, tokens, free):
    """How many rows of so many tokens (prompt and completion) to sample at once in `free` bytes: at least 1."""
    # A half is kept for other things, and a quarter on top of each row for the room that its buffer has (share_out).
    return max(1, min(int(free * 2 // (5 * cache_bytes(config, itemsize) * tokens)), LOGIT_ELEMENTS // config.vocab_size))


def rows_at_once(model, tokens):
    """The rows of so many tokens that fit the model's device now; on a CPU 4 GiB count as free."""
    free = 4 * 2**30
    if model.device.type == "cuda":                 # what the driver has left, and what PyTorch keeps for later use
        reserved, used = torch.cuda.memory_reserved(model.device), torch.cuda.memory_allocated(model.device)
        free = torch.cuda.mem_get_info(model.device)[0] + reserved - used
    return rows_that_fit(model.config.get_text_config(), model.dtype.itemsize, tokens, free)


def left_padded(prompts, pad_id, device):
    """Prompts in one tensor, and where they stand in it: (B, P) int64 and bool."""
    ids = pad_sequence([torch.tensor(p) for p in prompts], True, pad_id, "left")
    mask = pad_sequence([torch.ones(len(p), dtype=torch.bool) for p in prompts], True, False, "left")
    return ids.to(device), mask.to(device)


def sample(model, prompts, *, group_size, noise, pad_id, finished=None, progress=None, **settings):
    """Sample group_size completions of each prompt; returns one Rollout. A batch is as many groups as memory allows.

    noise: (N, T) uniform in [0, 1), T the most tokens a completion may have. pad_id: what stands in ids where no token
    does. finished: called with rows (n,), indices of N, and ids and mask (n, T) of completions that have left the batch,
    each row once, so that they can be graded while others are sampled. progress: the name of the bar if it takes long.
    settings: see `sample_batch`. Because a completion depends on its own noise alone, the batches change nothing but
    rounding. UserError if a prompt and T exceed the model's context, or if its probabilities are not finite.
    """
    longest, (N, T), G = max(map(len, prompts)), noise.shape, group_size
    if longest + T > context_length(model):
        raise UserError(f"a prompt of {longest} tokens and a completion of {T} do not fit the model's context of "
                        f"{context_length(model)}: lower --max-completion-length or shorten the prompts")
    size = max(1, rows_at_once(model, longest + T) // G)                                          # prompts per batch
    parts = []
    for i in tqdm(range(0, len(prompts), size), progress, disable=progress is None or not leader(), leave=False, delay=3):
        report = finished and (lambda rows, ids, mask: finished(i * G + rows, ids, mask))
        parts.append(sample_batch(model, prompts[i:i + size], noise[i * G:(i + size) * G], group_size=G, pad_id=pad_id,
                                  finished=report, **settings))
    ids, mask, logps, entropy, stopped = map(torch.cat, zip(*parts))
    if not (logps.isfinite().all() and entropy.isfinite().all()):     # the loss of such rows may look fine
        raise UserError("the model's probabilities are not finite: its weights have diverged; start from a checkpoint "
                        "that is sound, with a lower --lr")
    prompt_ids, prompt_mask = left_padded(prompts, pad_id, model.device)
    group = torch.arange(N, device=model.device) // G
    return Rollout(group, prompt_ids[group], prompt_mask[group], ids, mask, logps, entropy, stopped)


def share_out(cache, group_size):
    """Give each prompt's keys and values to its group_size completions, and leave room behind them.

    cache: a DynamicCache of B rows, of N afterwards. Its layers copy all that they hold for every token that is appended;
    here they write into a buffer, which grows by a quarter when it is full. Layers of other kinds (sliding windows, which
    stay short) are repeated and else left as they are.
    """
    from transformers.cache_utils import DynamicLayer

    class Roomy(DynamicLayer):
        def hold(self, repeats=1):
            """Move keys and values (n, heads, length, head_dim), each row `repeats` times, to the start of buffers."""
            n, heads, length, _ = self.keys.shape
            self.buffers = []
            for old in (self.keys, self.values):
                buffer = old.new_empty(n, repeats, heads, length + max(16, length // 4), old.shape[-1])
                buffer[:, :, :, :length] = old[:, None]
                self.buffers.append(buffer.flatten(0, 1))
            self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)

        def update(self, key_states, value_states, *args, **kwargs):
            start = self.keys.shape[2]
            stop = start + key_states.shape[2]
            if stop > self.buffers[0].shape[2]:
                self.hold()
            for buffer, new in zip(self.buffers, (key_states, value_states)):
                buffer[:, :, start:stop] = new
            self.keys, self.values = (buffer[:, :, :stop] for buffer in self.buffers)
            return self.keys, self.values

        def batch_select_indices(self, indices):
            super().batch_select_indices(indices)
            self.buffers = [self.keys, self.values]           # full: the next token copies them, unless more rows leave

    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = Roomy
            layer.hold(group_size)
        else:
            layer.batch_repeat_interleave(group_size)


@torch.no_grad()
def sample_batch(model, prompts, noise, *, group_size, stop_ids, pad_id, temperature=1.0, top_p=1.0, finished=None):
    """Sample in one batch: ids, mask, logps, entropy and stopped of a Rollout, on the model's device; see `sample`.

    stop_ids: ids that end a completion. temperature 0 is greedy (its logps are then those at temperature 1); top_p: see
    scaled_logits. The model's own generation_config (its temperature, top_k, penalties) plays no part.
    """
    device, N, T = model.device, *noise.shape
    prompt_ids, prompt_mask = left_padded(prompts, pad_id, device)                                        # (B, P)
    noise, stop = noise.to(device), torch.tensor(stop_ids, device=device)

    # Each prompt is read once; its keys and values are then shared out to its G completions.
    cache, named = new_cache(model.config, model)
    positions = (prompt_mask.cumsum(1) - 1).clamp(min=0)                                                  # (B, P)
    logits = model(input_ids=prompt_ids, attention_mask=prompt_mask.long(), position_ids=positions,
                   use_cache=True, logits_to_keep=1, **named).logits[:, -1]                                # (B, V)
    share_out(cache, group_size)
    logits = logits.repeat_interleave(group_size, 0)                                                      # (N, V)
    attended = prompt_mask.long().repeat_interleave(group_size, 0)                                        # (N, P + t)

    ids = torch.full((N, T), pad_id, device=device)
    mask = torch.zeros(N, T, dtype=torch.bool, device=device)
    logps, entropy = torch.zeros(2, N, T, device=device)
    stopped = torch.zeros(N, dtype=torch.bool, device=device)
    alive = torch.arange(N, device=device)                     # rows still in the batch, (n,)
    for t in range(T):
        logprobs = scaled_logits(logits, temperature or 1.0, top_p).log_softmax(-1)                       # (n, V)
        if temperature == 0:
            token = logits.argmax(-1)                                                                     # (n,)
        else:
            cumulative = logprobs.exp().cumsum(-1)
            # Times the total, because rounding leaves it beside 1; right=True never picks an id of probability 0.
            u = noise[alive, t, None] * cumulative[:, -1:]
            token = torch.searchsorted(cumulative, u, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
        running = ~stopped[alive]
        ids[alive, t] = torch.where(running, token, pad_id)
        mask[alive, t] = running
        logps[alive, t] = torch.where(running, logprobs.gather(1, token[:, None]).squeeze(1), 0.0)
        # 0 * log 0 = 0 for ids outside the nucleus
        entropy[alive, t] = torch.where(running, -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1), 0.0)
        stopped[alive] |= torch.isin(token, stop)
        if t + 1 == T:
            break
        # Finished rows leave the batch. A GPU asks only now and then, because the answer makes it wait for the host.
        if device.type == "cpu" or t % 8 == 7:
            keep = (~stopped[alive]).nonzero().squeeze(1)
            if len(keep) == 0:
                break
            if len(keep) < 0.9 * len(alive):                   # dropping rows copies the cache: not for a few
                if finished:
                    leaving = alive[stopped[alive]]
                    finished(leaving, ids[leaving], mask[leaving])
                cache.batch_select_indices(keep)
                alive, token, attended = alive[keep], token[keep], attended[keep]
        length = attended.sum(1, keepdim=True)                                                            # (n, 1)
        attended = torch.cat([attended, torch.ones_like(length)], 1)
        logits = model(input_ids=token[:, None], attention_mask=attended, position_ids=length, use_cache=True,
                       **named).logits[:, -1]                                                             # (n, V)
    if finished:
        finished(alive, ids[alive], mask[alive])
    return ids, mask, logps, entropy, stopped


def micro_batches(rollout, rows, budget):
    """Cut `rows` (indices of N) into lists of similar length, each at most `budget` padded tokens (or one row)."""
    prompt, completion = rollout.prompt_mask.sum(1).tolist(), rollout.mask.sum(1).tolist()
    batches, P, T = [], 0, 0                        # P, T: the longest prompt and completion of the last batch
    for row in sorted(rows, key=lambda row: prompt[row] + completion[row]):
        P, T = max(P, prompt[row]), max(T, completion[row])
        if not batches or (len(batches[-1]) + 1) * (P + T) > budget:
            batches.append([])
            P, T = prompt[row], completion[row]
        batches[-1].append(row)
    return batches


def token_logps(model, rollout, *, temperature=1.0, top_p=1.0):
    """Log-probability of each completion token under the model, differentiable in its weights: (N, T) fp32, 0 off the mask.

    temperature, top_p: those of the sampler, the former above 0. A prompt is read once for all rows of its group, through
    a cache that carries the gradient. Logits of the prompt are never computed, those of completions in chunks that the
    backward pass recomputes: the memory is LOGIT_ELEMENTS, whatever the vocabulary and the number of tokens.
    """
    decoder, P = model.get_decoder(), rollout.prompt_ids.shape[1]
    attended = torch.cat([rollout.prompt_mask, rollout.mask], 1)                                  # (N, P + T)
    positions = (attended.cumsum(1) - 1).clamp(min=0)                                             # (N, P + T)
    # Checkpointing recomputes layers in the backward pass, and so keeps no cache: a prompt is read for each row.
    if model.training and any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        hidden = decoder(input_ids=torch.cat([rollout.prompt_ids, rollout.ids], 1), attention_mask=attended.long(),
                         position_ids=positions, use_cache=False).last_hidden_state[:, P - 1:-1]  # (N, T, D)
    else:
        cache, named = new_cache(model.config, decoder)
        groups, which = rollout.group.unique(return_inverse=True)
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
