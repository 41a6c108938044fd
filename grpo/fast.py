"""The fast way to sample and to score: each prompt is read once for its whole group, and nothing is computed twice.

What grpo/rollout.py does plainly, for models that keep keys and values in an ordinary cache and compute logits from the last
hidden states of their decoder: grpo/startup.py tries on each model whether that holds, for train_grpo.py and all that samples.
The distribution is the same, and so are the ids, up to rounding.

    sample    reads a prompt once, shares its keys and values out to the group's completions, feeds one token at a time,
              and drops rows that have ended
    logps     reads a prompt once, with the gradient through the cache; logits of completion tokens alone, in chunks that
              the backward pass recomputes: the memory is LOGIT_ELEMENTS, whatever the vocabulary and the number of tokens
    packed    attention in which query heads that share a key head stand as further queries, so that no key is repeated
"""
# B prompts x G completions = N rows, n of them not yet ended; P prompt tokens, T completion tokens, V vocabulary, D width of
# the model. config: of the text model.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import inspect

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPast

from grpo.rollout import LOGIT_ELEMENTS, draw, left_padded, scaled_logits, sequences, unwritten


# ---- attention -----------------------------------------------------------------------------------------------------

def packed(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """transformers' sdpa attention, without a copy of keys and values for each query head that shares them.

    query: (N, heads, q, d). key, value: (N, key heads, kv, d). attention_mask: (N, 1, q, kv) bool, or None. The queries of
    heads that share a key head become one longer list of queries; the mask is the same for all heads, so it is repeated.
    """
    N, heads, q, d = query.shape
    r = heads // key.shape[1]                       # query heads to a key head
    if r == 1 or attention_mask is None or attention_mask.shape[1] > 1 or kwargs.keys() & {"position_bias", "softcap"}:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    found = scaled_dot_product_attention(query.reshape(N, heads // r, r * q, d), key, value, scale=scaling,
                                         attn_mask=attention_mask.repeat(1, 1, r, 1))             # (N, key heads, r q, d)
    return found.reshape(N, heads, q, value.shape[-1]).transpose(1, 2).contiguous(), None


AttentionInterface.register("packed", packed)
AttentionMaskInterface.register("packed", sdpa_mask)


# ---- the cache -----------------------------------------------------------------------------------------------------

def read_prompts(model, ids, mask, **how):
    """Read left-padded prompts, ids and mask (B, P), into a new cache: what the model (or a decoder) returns, the cache, and
    the keyword argument that it is, a dict of one, because transformers renamed it in 5.24."""
    cache = DynamicCache(config=model.config)
    named = {"cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values": cache}
    positions = (mask.cumsum(1) - 1).clamp(min=0)                                                 # (B, P)
    read = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=True, **how, **named)
    return read, cache, named


def cache_bytes(config, itemsize):
    """Bytes of keys and values per token: 2 x layers x key-value heads x their width x itemsize, the bytes of a number."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head * itemsize


def rows_that_fit(config, itemsize, tokens, free):
    """How many rows of so many tokens (prompt and completion) to sample at once in `free` bytes: at least 1."""
    # A half is kept for other things, and a quarter on top of each row for the room that its buffer has (share_out).
    return max(1, min(int(free * 2 // (5 * cache_bytes(config, itemsize) * tokens)), LOGIT_ELEMENTS // config.vocab_size))


def capacity(model, tokens):
    """The rows of so many tokens that fit the model's device now; on a CPU 4 GiB count as free."""
    free = 4 * 2**30
    if model.device.type == "cuda":                 # what the driver has left, and what PyTorch keeps for later use
        reserved, used = torch.cuda.memory_reserved(model.device), torch.cuda.memory_allocated(model.device)
        free = torch.cuda.mem_get_info(model.device)[0] + reserved - used
    return rows_that_fit(model.config.get_text_config(), model.dtype.itemsize, tokens, free)


class Roomy(DynamicLayer):
    """Keys and values of a layer with room behind them: a DynamicLayer copies all that it holds for every token."""

    def hold(self, repeats=1):
        """Move keys and values (n, heads, length, head_dim), each row `repeats` times, to the start of larger buffers."""
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
        self.buffers = [self.keys, self.values]     # no room is left: the next token makes some, unless rows leave first


def share_out(cache, group_size):
    """Give each prompt's keys and values to its group_size completions. cache: a DynamicCache of B rows, of N afterwards.

    Layers of other kinds (sliding windows, which stay short) are repeated and else left as they are.
    """
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = Roomy
            layer.hold(group_size)
        else:
            layer.batch_repeat_interleave(group_size)


# ---- sampling ------------------------------------------------------------------------------------------------------

def sample(model, prompts, noise, *, group_size, stop_ids, pad_id, temperature=1.0, top_p=1.0,
           finished=lambda rows, ids, mask: None, own_mask=True):
    """Sample in one batch: ids, mask, logps, entropy and stopped of a Rollout, on the model's device; see rollout.sample.

    own_mask: spare transformers to make a mask for every token. Some models read other things from the mask's first form.
    """
    device, (N, T) = model.device, noise.shape
    prompt_ids, prompt_mask = left_padded(prompts, pad_id, device)                                        # (B, P)
    noise, stop = noise.to(device), torch.tensor(stop_ids, device=device)
    ids, mask, logps, entropy = unwritten(noise, pad_id, device)
    stopped = torch.zeros(N, dtype=torch.bool, device=device)

    with torch.inference_mode():                    # the results above are ordinary tensors: a backward pass may keep them
        read, cache, named = read_prompts(model, prompt_ids, prompt_mask, logits_to_keep=1)
        share_out(cache, group_size)
        logits = read.logits[:, -1].repeat_interleave(group_size, 0)                                      # (N, V)
        length = prompt_mask.sum(1).repeat_interleave(group_size, 0)[:, None]                             # (N, 1)
        own_mask = (own_mask and model.config._attn_implementation != "eager"        # which adds its mask: no place for bools
                    and all(type(layer) is Roomy for layer in cache.layers))         # it would hide sliding windows
        attended = torch.ones(N, prompt_ids.shape[1] + T, dtype=torch.bool, device=device)                # (N, P + T)
        attended[:, :prompt_ids.shape[1]] = prompt_mask.repeat_interleave(group_size, 0)
        alive = torch.arange(N, device=device)                 # rows still in the batch, (n,)
        running = torch.ones(N, dtype=torch.bool, device=device)           # those of them that have not ended, (n,)
        for t in range(T):
            whole = len(alive) == N                            # then no row has to be looked up
            token, logp, spread = draw(logits, (noise if whole else noise[alive])[:, t], temperature, top_p)   # (n,) each
            where = slice(None) if whole else alive
            ids[where, t] = torch.where(running, token, pad_id)
            mask[where, t] = running
            logps[where, t] = torch.where(running, logp, 0.0)
            entropy[where, t] = torch.where(running, spread, 0.0)
            running = running & ~torch.isin(token, stop)
            if t + 1 == T:
                break
            # Rows that have ended leave the batch. A GPU asks only now and then, because it makes the host wait.
            if device.type == "cpu" or t % 8 == 7:
                left = int(running.sum())
                if left == 0:
                    break
                if left < 0.9 * len(alive):                    # dropping rows copies the cache: not for a few
                    keep, leaving = running.nonzero().squeeze(1), alive[~running]
                    stopped[leaving] = True
                    finished(leaving, ids[leaving], mask[leaving])
                    cache.batch_select_indices(keep)
                    alive, token, attended, length, running = (x[keep] for x in (alive, token, attended, length, running))
            seen = attended[:, :prompt_ids.shape[1] + t + 1]
            logits = model(input_ids=token[:, None], attention_mask=seen[:, None, None] if own_mask else seen.long(),
                           position_ids=length, use_cache=True, **named).logits[:, -1]                     # (n, V)
            length = length + 1
        stopped[alive] = ~running
    finished(alive, ids[alive], mask[alive])
    return ids, mask, logps, entropy, stopped


# ---- scoring -------------------------------------------------------------------------------------------------------

def logps(model, rollout):
    """rollout.token_logps: (N, T) fp32, each prompt read once for all rows of its group."""
    return score(model, rollout, shared_prompts(model.get_decoder(), rollout))


def logps_of_whole_sequences(model, rollout):
    """The same for a model whose layers are checkpointed: they are computed again in the backward pass, and keep no cache."""
    texts, before = sequences(rollout)                                                            # (N, L), (N, T)
    states = model.get_decoder()(input_ids=texts, use_cache=False).last_hidden_state              # (N, L, D)
    states = states.gather(1, before[:, :, None].expand(-1, -1, states.shape[-1]))                # (N, T, D)
    return score(model, rollout, states)


def shared_prompts(decoder, rollout):
    """The hidden state before each completion token, (N, T, D), each prompt read once, through a cache with a gradient."""
    (N, P), T = rollout.prompt_ids.shape, rollout.ids.shape[1]
    attended = torch.cat([rollout.prompt_mask, rollout.mask], 1)                                  # (N, P + T)
    positions = (attended.cumsum(1) - 1).clamp(min=0)                                             # (N, P + T)
    groups, which = rollout.group.unique(return_inverse=True)
    first = which.new_empty(len(groups)).scatter_(0, which, torch.arange(N, device=which.device))         # any row of each
    read, cache, named = read_prompts(decoder, rollout.prompt_ids[first], rollout.prompt_mask[first])
    states = read.last_hidden_state[:, -1:].index_select(0, which)                                # (N, 1, D)
    if T == 1:
        return states
    cache.reorder_cache(which)                      # by index_select: on a CPU its gradient is summed in a fixed order
    answer = decoder(input_ids=rollout.ids[:, :-1], attention_mask=attended[:, :-1].long(), position_ids=positions[:, P:-1],
                     **named).last_hidden_state                        # the last token is fed to nothing: none comes after it
    return torch.cat([states, answer], 1)


def score(model, rollout, states):
    """Log-probabilities (N, T) fp32 of completion tokens, from the decoder's states before them, (N, T, D)."""
    states, targets = states[rollout.mask], rollout.ids[rollout.mask]                             # (M, D), (M,): real tokens

    def chunk(states, targets):
        logits = scaled_logits(logits_of(model, states), rollout.temperature, rollout.top_p, chosen=targets)     # (m, V)
        return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)                      # (m,)

    size = max(1, LOGIT_ELEMENTS // model.config.get_text_config().vocab_size)
    if len(targets) <= size:
        found = chunk(states, targets)                                                            # (M,)
    else:
        found = torch.cat([checkpoint(chunk, h, y, use_reentrant=False)
                           for h, y in zip(states.split(size), targets.split(size))])
    return torch.zeros(rollout.mask.shape, device=states.device).masked_scatter(rollout.mask, found)


class Decoded(BaseModelOutputWithPast):
    """What a decoder returns, as far as logits depend on it: its last hidden states (N, T, D). The rest is None."""

    def __getattr__(self, name):
        return None


def logits_of(model, states):
    """Logits (m, V) by the model's own forward pass, in which its decoder only returns states (m, D): many scale or cap them."""
    decoder, ids = model.get_decoder(), torch.zeros(1, len(states), dtype=torch.long, device=states.device)
    decoder.forward = lambda *args, **kwargs: Decoded(last_hidden_state=states[None])
    try:
        return model.forward(input_ids=ids, use_cache=False).logits[0]          # not model(): FSDP's hooks have run
    finally:
        del decoder.forward                         # that of its class is left
