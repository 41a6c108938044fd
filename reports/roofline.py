"""Roofline: the fastest this machine can compute and read, and how near prefill, decoding and update of a model come to it.
Used by bench.py, which prints it:

    limits(model, tokenizer, prompts, G=8, T=48)["parts"]["decoding"]["share_of_limit"]      # 0.21 of what memory could feed

A phase that needs F floating-point operations and has to read M bytes takes at least (Williams et al., "Roofline", 2009)

    max(F / peak, M / bandwidth) seconds,

peak and bandwidth being the fastest matrix product and the fastest memory stream found here. What the mathematics needs,
with n weights in the body and h in the output head, L layers, width C of all heads, m tokens:

    F   2 n m, 2 h for each token whose logits are wanted, 4 C L for each pair of a token and a position it attends to;
        of the update three times as much: forward, and backward for inputs and weights
    M   all weights once per pass (decoding: per token, and the keys and values of all positions before it)

What is computed twice, copied or padded does not count, and so lowers the share.
"""
if __name__ == "__main__":
    raise SystemExit(__doc__)

import time

import torch

from grpo.policy import Policy
from grpo.fast import cache_bytes
from grpo.rollout import sample, token_logps, uniform_noise


def synchronize():
    """Wait until the GPU, if there is one, has done what it was given: only then does a clock tell the time of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def best(function, times):
    """The shortest of `times` runs of function(), in seconds: what the machine can do when nothing else disturbs it."""
    seconds = []
    for _ in range(times):
        synchronize()
        start = time.perf_counter()
        function()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def machine(device, dtype):
    """The fastest matrix product in FLOP/s and the fastest memory stream in bytes/s, both measured."""
    n, numbers = (8192, 2**30) if device.type == "cuda" else (3072, 2**27)
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    stream, target = torch.ones(2, numbers, device=device)
    reading, copying = best(lambda: stream.sum(), 8), best(lambda: target.copy_(stream), 8)
    return 2 * n**3 / best(lambda: a @ b, 8), stream.nbytes * max(1 / reading, 2 / copying)


def limits(model, tokenizer, prompts, G, T):
    """What a model, loaded in fp32, gets of the machine while it samples and is updated: a dict of numbers.

    prompts: B lists of token ids; of each, G completions of exactly T tokens are sampled. "parts" has for each phase
    seconds, flops, bytes, the limit ("compute" or "memory") and share_of_limit in [0, 1].
    """
    policy, config, B = Policy(model), model.config, len(prompts)                # on a GPU the model now computes in bf16
    peak, bandwidth = machine(model.device, model.dtype)

    def roll(tokens):                               # no id stops it: all completions have so many tokens
        return sample(model, prompts, group_size=G, noise=uniform_noise(B * G, tokens, 0), stop_ids=[-1],
                      pad_id=tokenizer.pad_token_id)
    rollout = roll(T)

    def both_ways():
        policy.backward((token_logps(model, rollout) * rollout.mask).sum())
        policy.optimizer.zero_grad()
    prefill = best(lambda: roll(1), 3)
    seconds = {"prefill": prefill, "decoding": best(lambda: roll(T), 2) - prefill, "update": best(both_ways, 2)}

    n, head = model.num_parameters(), model.get_output_embeddings().weight.numel()             # tied: n has the head once
    weights, lengths = n * model.dtype.itemsize, [len(p) for p in prompts]
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim    # per token and position
    read = 2 * (n - head) * sum(lengths) + attention * sum(p * (p + 1) / 2 for p in lengths)   # reading the prompts
    fed = sum(p + t for p in lengths for t in range(1, T)) * G                  # positions that decoded tokens attend to
    needs = {"prefill": (read + 2 * head * B, weights),
             "decoding": (2 * n * B * G * (T - 1) + attention * fed,
                          weights * (T - 1) + cache_bytes(config, model.dtype.itemsize) * fed),
             "update": (3 * (read + 2 * n * B * G * T + attention * (fed + G * sum(p + T for p in lengths))), 3 * weights)}
    parts = {}
    for name, (flops, size) in needs.items():
        least = {"memory": size / bandwidth, "compute": flops / peak}            # seconds
        limit = max(least, key=least.get)
        parts[name] = {"seconds": seconds[name], "flops": flops, "bytes": size, "limit": limit,
                       "share_of_limit": least[limit] / seconds[name]}
    gpu = torch.cuda.get_device_name() if model.device.type == "cuda" else None
    return {"gpu": gpu, "peak_flops": peak, "bandwidth": bandwidth, "parts": parts}
