"""Memory: what a training step needs, predicted from the model's shape, before anything runs out of it.

    python memory.py Qwen3-0.6B Qwen3-1.7B Qwen3-4B          # 2k + 8k tokens on a GPU of 80 GB: which flags fit?
    python memory.py checkpoints/math --prompt 256 --completion 1024 --group-size 16
    python memory.py checkpoints/base --prompt 64 --completion 64 --measure      # and what an update really takes here

With n parameters, b bytes per number of the computation (2 in bf16), L layers of width C, m tokens in a micro-batch
(one full row), V the vocabulary and R processes, the peak is that of the update or that of the rollout:

    weights    n b                          or, over R processes, embedding and two layers at a time (in the update)
    optimizer  (12 + 4) n / R               fp32 master, two moments, and in the update the gradient; 0 with --offload;
                                            in fp32 on one process 12 n, as the weights are their own masters
    layers     L S m                        S: bytes a token that autograd keeps of a layer, counted here on a real one
               L C b m + S m                with --gradient-checkpointing: each layer's input, and one layer at a time
    masks      m^2 (1 + b)                  who may look at whom (padding, a shared prompt); each layer keeps its own
    logits     min(m V, 2^26) (2 b + 12)    (16 in fp32) a chunk at a time: token_logps recomputes it in the backward pass
    in flight  the gradient of a layer's widest tensors, and that of one weight on its way to its master
    cache      2 L K b per token            K: width of the keys; the rows that rollout.rows_at_once lets in, or a group

Left out: the CUDA context (0.5 GB), what the allocator cannot use, a judge. Sequences are taken to be full; real ones
are shorter. `config` is the transformers config of a text model, `dtype` the type of the computation.
"""
import argparse
import copy
import resource
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from model import UserError, check_directory, cli
from grpo.rollout import LOGIT_ELEMENTS, Rollout, cache_bytes, rows_that_fit

GB = 1e9
# width, MLP channels, layers, heads, key-value heads of Qwen3, as published; 128 per head, vocabulary 151,936, tied
QWEN3 = {"Qwen3-0.6B": (1024, 3072, 28, 16, 8), "Qwen3-1.7B": (2048, 6144, 28, 16, 8), "Qwen3-4B": (2560, 9728, 36, 32, 8)}


def configuration(name):
    """The text model's config: of one of QWEN3 (nothing is downloaded), a directory, or a hub name; else UserError."""
    from transformers import AutoConfig, Qwen3Config
    if name in QWEN3:
        width, channels, layers, heads, kv_heads = QWEN3[name]
        return Qwen3Config(vocab_size=151936, hidden_size=width, intermediate_size=channels, num_hidden_layers=layers,
                           num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=128, tie_word_embeddings=True,
                           max_position_embeddings=40960)
    check_directory(name)
    try:
        return AutoConfig.from_pretrained(name).get_text_config()
    except Exception as error:                      # the hub and json raise types of their own
        raise UserError(f"cannot read the config of {name}: {str(error).splitlines()[0]}") from error


def build(config, dtype, device="cpu", layers=None):
    """The model with random weights, or its first `layers` layers; on the meta device it takes no memory."""
    from transformers import AutoModelForCausalLM
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers or config.num_hidden_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:config.num_hidden_layers]
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def kept_by_autograd(config, dtype, tokens=128):
    """S: bytes per token, a float, that autograd keeps of one layer for its backward pass, weights not counted.

    Runs two small models on the CPU over so many tokens, on which S hardly depends.
    """
    sizes = []
    for layers in (1, 2):                           # their difference is a layer, without embedding and final norm
        model, seen = build(config, dtype, layers=layers), {}
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def count(tensor):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            hidden = model.get_decoder()(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)[0]
        sizes.append(sum(size for pointer, size in seen.items() if pointer not in own))
        del hidden                                  # it holds the graph, and so keeps the addresses from being used again
    return (sizes[1] - sizes[0]) / tokens


def predict(config, S, *, prompt, completion, group_size=8, checkpointing=False, offload=False, processes=1,
            dtype=torch.bfloat16, device_bytes=80 * GB):
    """Bytes of one process's device by use, {"update": {use: bytes}, "rollout": {use: bytes}}: the formulas above.

    S: from kept_by_autograd. prompt, completion: tokens. group_size: G. checkpointing, offload: is the flag set?
    processes: R. device_bytes: the device's memory, which the rollout fills. In fp32 the weights are their own masters.
    """
    model = build(config, dtype, "meta")
    n = sum(p.numel() for p in model.parameters())
    b, L, C, V = dtype.itemsize, config.num_hidden_layers, config.hidden_size, config.vocab_size
    head = getattr(config, "head_dim", None) or C // config.num_attention_heads
    layer = next(module for module in model.modules() if type(module).__name__ in model._no_split_modules)
    layer = sum(p.numel() for p in layer.parameters())
    m = prompt + completion
    one = processes == 1
    states = 0 if offload else (8 if b == 4 and one else 12) * n / processes
    handed_over = 0 if b == 4 and one else V * C * (b + 4)                # the embedding is the largest weight
    update = {"weights": n * b if one else (n - (L - 2) * layer) * b,
              "optimizer": states + (0 if offload else 4 * n / processes),
              "layers": m * (L * C * b + S) if checkpointing else m * L * S,
              "masks": m * m * (1 + b * (1 if checkpointing else L)),
              "logits": min(m * V, LOGIT_ELEMENTS) * (2 * b + 12 if b < 4 else 16),
              "in flight": 2 * m * max(config.intermediate_size, config.num_attention_heads * head) * b + handed_over}
    rows = max(1, rows_that_fit(config, b, m, device_bytes - n * b - states) // group_size) * group_size     # whole groups
    rollout = {"weights": n * b, "optimizer": states, "cache": 1.25 * rows * m * cache_bytes(config, b),
               "logits": 16 * rows * V}
    return {"update": update, "rollout": rollout}


def resident():
    """Bytes of main memory that this process holds now; where the system does not tell, the most it has held."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else peak_resident()


def peak_resident():
    """The most bytes of main memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(config, *, prompt, completion, checkpointing):
    """Peak bytes (an int) of one update of one full row on this machine, random weights, libraries not counted.

    prompt, completion: tokens of the row. checkpointing: with --gradient-checkpointing? The peak is the process's: of
    several measurements in one process, those after the largest are too high.
    """
    import train_grpo
    from grpo.policy import Policy
    from grpo.settings import measured
    on_gpu = torch.cuda.is_available()
    # On a CPU: the most that the process has had of main memory, less what it has now, with all that it imports.
    before = 0 if on_gpu else resident()
    updates = tqdm(range(2), desc="measure", unit="update", leave=False)         # no delay: the first may take a minute
    model = build(config, torch.float32, "cuda" if on_gpu else "cpu").eval()
    policy = Policy(model, torch.bfloat16 if on_gpu else torch.float32, checkpointing)
    args = measured("", "--lr", "1e-6")
    ids = torch.randint(config.vocab_size, (1, prompt + completion), device=model.device)
    ones = torch.ones_like(ids, dtype=torch.bool)
    zeros = torch.zeros(1, completion, device=model.device)
    rollout = Rollout(ids[:, 0] * 0, ids[:, :prompt], ones[:, :prompt], ids[:, prompt:], ones[:, prompt:], zeros, zeros,
                      ones[:, 0])
    model.train(checkpointing)
    one = torch.ones(1, device=model.device)
    for step in updates:                            # AdamW makes its moments at the end of the first
        train_grpo.update(args, policy, None, rollout, one, one / completion, one.bool(), step)
    return torch.cuda.max_memory_allocated() if on_gpu else peak_resident() - before


def main():
    """Print a row per model: the prediction for each set of flags, or with --measure prediction and measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"{', '.join(QWEN3)}, a directory, or a hub name")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens (default 2048)")
    parser.add_argument("--completion", type=int, default=8192, help="tokens (default 8192)")
    parser.add_argument("--group-size", type=int, default=8, help="G: a group is sampled together (default 8; not with --measure)")
    parser.add_argument("--gpu", type=float, default=80, help="its memory in GB (default 80)")
    parser.add_argument("--measure", action="store_true",
                        help="run an update of one row with random weights here, and compare")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="measure with it")
    args = parser.parse_args()
    for name in ("prompt", "completion", "group_size", "gpu"):
        if not getattr(args, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} must be above 0, not {getattr(args, name)}")
    if args.measure and len(args.models) > 1:
        raise UserError("--measure takes one model: a process's peak is that of the largest it has held")
    if args.gradient_checkpointing and not args.measure:
        raise UserError("--gradient-checkpointing is for --measure: without it the table has both")
    dtype = torch.bfloat16 if torch.cuda.is_available() or not args.measure else torch.float32
    lengths = {"prompt": args.prompt, "completion": args.completion}
    if args.measure:
        print(f"{'GB':24}" + "".join(f"{name:>12}" for name in ("weights", "optimizer", "layers", "masks", "logits",
                                                                "in flight", "predicted", "measured")))
        config = configuration(args.models[0])
        uses = predict(config, kept_by_autograd(config, dtype), checkpointing=args.gradient_checkpointing, dtype=dtype,
                       **lengths)["update"]
        measured = measure(config, checkpointing=args.gradient_checkpointing, **lengths)
        print(f"{args.models[0]:24}" + "".join(f"{value / GB:12.2f}" for value in (*uses.values(), sum(uses.values()), measured)))
        return
    print(f"GB in bf16 at {args.prompt} + {args.completion} tokens, groups of {args.group_size}; * fits {args.gpu:g} GB "
          f"with a tenth to spare\n{'':14}{'flags':44}{'update':>8}{'rollout':>9}{'peak':>7}")
    for name in args.models:
        config = configuration(name)
        S = kept_by_autograd(config, dtype)
        for flags, how in (("", {}), ("--gradient-checkpointing", {"checkpointing": True}),
                           ("--gradient-checkpointing --offload", {"checkpointing": True, "offload": True}),
                           ("--gradient-checkpointing, 4 processes", {"checkpointing": True, "processes": 4})):
            update, rollout = (sum(uses.values()) / GB for uses in predict(
                config, S, group_size=args.group_size, device_bytes=args.gpu * GB, dtype=dtype, **lengths, **how).values())
            print(f"{name:14}{flags or 'none':44}{update:8.1f}{rollout:9.1f}{max(update, rollout):7.1f}"
                  + " *" * (max(update, rollout) < 0.9 * args.gpu))


if __name__ == "__main__":
    cli(main)
