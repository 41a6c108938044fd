"""Roofline: the fastest this machine can compute and read, and how near prefill, decoding and update of a model come to it.
Used by bench.py, which prints it:

    found = limits(model, tokenizer, prompts, group_size=8, tokens=48)
    found["parts"]["decoding"]["share_of_limit"]                              # 0.21: a fifth of what the memory could feed

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
from grpo.rollout import cache_bytes, sample, token_logps, uniform_noise


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
    gpu = device.type == "cuda"
    n = 8192 if gpu else 3072
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    stream, target = (torch.ones(2**30 if gpu else 2**27, device=device) for _ in range(2))
    peak = 2 * n**3 / best(lambda: a @ b, 8)
    return peak, max(stream.nbytes / best(lambda: stream.sum(), 8), 2 * stream.nbytes / best(lambda: target.copy_(stream), 8))


def limits(model, tokenizer, prompts, group_size, tokens):
    """What a model, loaded in fp32, gets of the machine while it samples and is updated: a dict of numbers.

    prompts: B lists of token ids, of which group_size completions of exactly `tokens` tokens each are sampled. "parts" has
    for each phase seconds, flops, bytes, the limit ("compute" or "memory") and share_of_limit in [0, 1].
    """
    gpu = model.device.type == "cuda"
    policy = Policy(model, torch.bfloat16 if gpu else torch.float32)
    dtype, config, B, G, T = model.dtype, model.config, len(prompts), group_size, tokens
    peak, bandwidth = machine(model.device, dtype)

    def roll(tokens):
        return sample(model, prompts, group_size=G, noise=uniform_noise(B * G, tokens, 0), stop_ids=[-1],
                      pad_id=tokenizer.pad_token_id)       # no id stops it: all have T tokens
    rollout = roll(T)
    seconds = {"prefill": best(lambda: roll(1), 3)}
    seconds["decoding"] = best(lambda: roll(T), 2) - seconds["prefill"]

    def both_ways():
        policy.backward((token_logps(model, rollout) * rollout.mask).sum())
        policy.optimizer.zero_grad()
    seconds["update"] = best(both_ways, 2)

    head = model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.parameters()) - head                     # tied: the embedding is the head
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim    # per token and position
    cache = cache_bytes(config, dtype.itemsize)
    lengths = [len(p) for p in prompts]
    read = 2 * body * sum(lengths) + attention * sum(p * (p + 1) / 2 for p in lengths)         # reading the prompts
    fed = sum(p + t for p in lengths for t in range(1, T)) * G                  # positions that decoded tokens attend to
    flops = {"prefill": read + 2 * head * B, "decoding": 2 * (body + head) * B * G * (T - 1) + attention * fed,
             "update": 3 * (read + 2 * (body + head) * B * G * T + attention * (fed + G * sum(p + T for p in lengths)))}
    bytes_ = {"prefill": (body + head) * dtype.itemsize,
              "decoding": (body + head) * dtype.itemsize * (T - 1) + cache * fed,
              "update": 3 * (body + head) * dtype.itemsize}
    parts = {name: {"seconds": seconds[name], "flops": flops[name], "bytes": bytes_[name],
                    "limit": "compute" if flops[name] / peak > bytes_[name] / bandwidth else "memory",
                    "share_of_limit": max(flops[name] / peak, bytes_[name] / bandwidth) / seconds[name]} for name in seconds}
    return {"gpu": torch.cuda.get_device_name() if gpu else None, "peak_flops": peak, "bandwidth": bandwidth, "parts": parts}
