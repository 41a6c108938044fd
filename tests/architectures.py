"""Train a tiny random model of every causal architecture that transformers has: a Markdown table of how each of them fares.

    python tests/architectures.py > table.md            # some minutes on one core; names of architectures, if not all

Each is made from its own default configuration, all widths divided alike, with dropout and noise of all names switched on and
windows shorter than the text. By train_grpo.py it is trained for two steps, saved, read again, resumed after an interruption
and trained with --gradient-checkpointing; its samples, scores and gradients are compared with its own forward pass, one
sequence at a time, and one step is taken in bf16. What is off is a fault, and the exit code is then 1.
"""
import collections
import contextlib
import io
import re
import sys
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
warnings.filterwarnings("ignore")
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import model as models
import train_grpo
from grpo import rollout as rollouts
from grpo import startup, warmup
from grpo.rollout import encode
from grpo.policy import Policy
from shared import WORK, lively, read_jsonl, run, same_weights, with_reward

VOCABULARY, CONTEXT, WINDOW, TOKENS, NOISE, LARGEST = 400, 256, 14, 8, 0.1, 20_000_000
IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
# What defaults leave open: some for all architectures, some of one that does not work as it comes.
OPEN = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "head_dim": 8,
        "final_logit_softcapping": 2.0, "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
        "indexer_compress_ratio": 2}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
ONES_OWN = {"granite": {"logits_scaling": 8.0}, "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
            "reformer": {"is_decoder": True}, "xmod": {"default_language": "en_XX"}, "diffllama": {"attention_dropout": 0.0},
            "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
            "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4},
            "doge": {"keep_window_size": 13},       # just what the start-up check reads: longer texts are read in another way
            "nemotron": {"num_key_value_heads": 2},
            "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}}}


# ---- a tiny model ------------------------------------------------------------------------------------------------

def first_of(config, *names):
    """The first of some attributes that is a number, 1 if none is."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), 1)


def layers_of(config):
    return first_of(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")


def heads_of(config):
    return first_of(config, "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads")


def shrunk(config, f, g):
    """A configuration (a dict) with heads that are f times narrower and g times fewer, and a width that is both.

    Because all widths are divided alike, what has to be a product or a multiple of another stays one.
    """
    total = layers_of(config)
    kinds = [v for v in config.values() if isinstance(v, list) and len(v) == total > 1]
    layers = next((n for n in range(2, 9) if all(len({*map(str, v[:n])}) == len({*map(str, v)}) for v in kinds)), 4) \
        if kinds else min(total, 4)                 # enough for one of each kind
    return {name: smaller(name, value, f, g, total, layers) for name, value in config.items()}


def smaller(name, value, f, g, total, layers):
    """A value of a configuration, by the name that it goes by."""
    has = lambda pattern: re.search(pattern, name)
    if isinstance(value, dict):
        if name == "per_layer_config":
            return {key: shrunk(part, f, g) for key, part in value.items() if int(key) < layers}
        return shrunk(value, f, g) if value.keys() & {"model_type", "hidden_size"} else value
    if isinstance(value, list):
        if len(value) == total > 1:
            return value[:layers]
        if has("token_id"):
            return [1]
        return [i for i in value if i < layers] if has("layer|idx") and {*map(type, value)} == {int} else value
    if isinstance(value, float):
        return NOISE if has("drop|jitter|noise") and value < 1 else 1.5 if has("multiplier|logit") and value == 1 else value
    if value is None:
        return OPEN.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if has("token_id|token_index|_id$"):
        return IDS.get(name, VOCABULARY - 1 - value % 50)
    if has("layer|depth$|num_blocks") and not has("size|dim"):
        if value == total or value <= 3:
            return min(value, layers)
        return min(value, 2) if has("period|interval|every|step") else round(value * layers / total)
    if has("expert|moe_k|^top_?k|moe_top|n_group$|topk_group") and not has("size|dim"):
        return min(value, 1 if has("group") else 2 if has("tok|top|_k|shared") else 4)
    for pattern, most in (("vocab", VOCABULARY), ("position_emb|positions|seq_len|n_ctx|context_length|max_length", CONTEXT),
                          ("window", WINDOW), ("chunk|block_size", 16)):
        if has(pattern):
            return min(value, most)
    if has("heads(_per_layer)?$|n_head$|query_groups"):
        return max(1, value // g)
    if has("head|kv_channels|d_kv|rotary_dim|rope|nope"):
        return max(1, value // f)
    if value < 32 or has("image|patch|mel|audio") or not has("size|dim|width|inner|n_embd|d_model|rank|ff|d_ssm"):
        return value
    narrow = max(1, value // (f * g))
    return -8 * (-narrow // 8) if has("intermediate") else narrow


def halvings(number, least):
    """The largest power of two that divides a number into parts of at least `least`."""
    power = 1
    while number % (2 * power) == 0 and number // (2 * power) >= least:
        power *= 2
    return power


def tiny_model(kind):
    """A random model of an architecture, fp32, in eval mode. ValueError with the reasons if none can be made."""
    problems = []
    try:
        default = CONFIG_MAPPING[kind]()
        whole = default.to_dict()
        text = next((whole[name] for name in ("text_config", "decoder") if isinstance(whole.get(name), dict)), whole)
        width, heads = first_of(text, "hidden_size", "n_embd", "d_model"), heads_of(text)
        head = first_of(text, "qk_rope_head_dim", "head_dim")
        head, heads = halvings(head if head > 1 else width // heads, 8), halvings(heads, 4)
        while heads > 1 and width // (head * heads) % 8:                # grouped products read 16 bytes at a time
            heads //= 2
    except Exception as error:
        raise ValueError(f"its default configuration: {error}") from error
    ways = [(head, heads), (max(1, head // 4), heads), (head, max(1, heads // 4)), (head, 1), (1, heads)]
    for f, g in dict.fromkeys(ways):
        try:
            config = type(default).from_dict(shrunk(whole, f, g) | ONES_OWN.get(kind, {}))
            with torch.device("meta"):
                if (size := AutoModelForCausalLM.from_config(config).num_parameters()) > LARGEST:
                    raise ValueError(f"{size / 1e6:.0f} M parameters, not tiny")
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():
                for p in model.parameters():
                    if p.ndim > 1:                  # so that distributions are not flat
                        p.mul_(4)
                logits = model(input_ids=torch.arange(5, 45)[None], use_cache=False).logits
            if logits.shape[:2] != (1, 40) or not logits.isfinite().all():
                raise ValueError(f"logits of shape {tuple(logits.shape)}, or not finite")
            return model
        except Exception as error:
            problems.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
    raise ValueError(' | '.join(dict.fromkeys(problems)))


# ---- what is asked of it -----------------------------------------------------------------------------------------

def command(start, out, *more):
    return ("--init", start, "--out", out, "--domain", "math", "--prompts-per-step", 2, "--group-size", 2, "--eval-prompts", 0,
            "--max-completion-length", TOKENS, "--lr", 1e-3, "--steps", 2, "--save-every", 1, *more)


def trained(*argv, stop_at=None):
    """Run train_grpo.py; (exit code, stdout, stderr, the model that it trained). stop_at: a step that fails."""
    kept, step = {}, train_grpo.train_step

    def watched(args, policy, *rest):
        if rest[-1] == stop_at:
            raise models.UserError("pulled the plug")
        kept["model"] = policy.model
        return step(args, policy, *rest)
    train_grpo.train_step = watched
    try:
        return *with_reward(lively, lambda: run(train_grpo.main, *argv)), kept.get("model")
    finally:
        train_grpo.train_step = step


def outcome(kind):
    """(what became of it, the reason or the way), both texts."""
    try:
        model = tiny_model(kind)
    except ValueError as error:
        return "not built", str(error)
    place = WORK / "architectures" / kind
    try:
        models.save(model, warmup.byte_tokenizer(), place / "start", {"parent": None})
    except Exception as error:
        return "cannot be saved by transformers", f"{type(error).__name__}: {' '.join(str(error).split())}"
    code, out, err, model = trained(*command(place / "start", place / "whole"))
    if code == 2 and err.count("\n") == 1 and not (place / "whole").exists():
        return "refused in one line", err.strip()
    assert code == 0, err
    if "warning: sampling and scoring" in out:
        return "trains, with a warning that samples and scores differ", out[out.index("warning: sampling"):].splitlines()[0]
    lines = read_jsonl(place / "whole" / "log.jsonl")
    assert all(line["sampler_gap"] < 1e-4 for line in lines), f"sampler_gap {max(line['sampler_gap'] for line in lines):.2g}"
    assert all(line["grad_norm"] > 0 for line in lines), "no gradient"
    assert not same_weights(place / "start", place / "whole"), "nothing moved"

    with contextlib.redirect_stdout(io.StringIO()):
        again, tokenizer = startup.load(str(place / "whole"), "cpu", torch.float32)
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        logits = [some(input_ids=ids, use_cache=False).logits for some in (again, model)]
    assert torch.equal(*logits), "other logits when read again"
    compare(again, tokenizer)

    assert trained(*command(place / "start", place / "parts"), stop_at=1)[0] == 2
    code, _, err, _ = trained(*command(place / "start", place / "parts", "--resume"))
    assert code == 0 and same_weights(place / "whole", place / "parts"), f"a resumed run ends elsewhere {err}"

    code, _, err, _ = trained(*command(place / "start", place / "less", "--gradient-checkpointing", "--steps", 1))
    less = "refused" if code == 2 and err.count("\n") == 1 and not (place / "less").exists() else "right"
    assert less == "refused" or code == 0, err
    if less == "right":
        gap = max(line["sampler_gap"] for line in read_jsonl(place / "less" / "log.jsonl"))
        assert gap < 1e-4, f"--gradient-checkpointing: sampler_gap {gap:.2g}"
    plain = model.way is rollouts.PLAIN
    what = f"trains, {'plain' if plain else 'fast'} way" + ", no --gradient-checkpointing" * (less == "refused") + half(place)
    return what, re.search(r"does not fit it \((.*)\);", out)[1] if plain else ""


def half(place):
    """One step in bf16, as on a GPU: "", or what to add to the outcome if that is refused."""
    model, tokenizer = models.load(str(place / "start"), "cpu", torch.float32)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            policy = Policy(model, torch.bfloat16)
    except models.UserError:
        return ", not in bf16"
    noise = rollouts.uniform_noise(2, 4, "bf16")
    rollout = rollouts.sample(model, [[5, 6, 7], [8]], group_size=1, noise=noise, stop_ids=[1], pad_id=0)
    policy.backward(policy.logps(rollout).sum())
    assert policy.step(1e-3, 1.0) > 0, "no gradient in bf16"
    return ""


def compare(model, tokenizer):
    """Samples, scores and gradients of a model's way against its own forward pass over each sequence alone."""
    prompts = encode(tokenizer, ["12+34=", "a longer question than the first, of some words: how many?", "1"], 200)
    noise = rollouts.uniform_noise(6, TOKENS, "architectures")
    rollout = rollouts.sample(model, prompts, group_size=2, noise=noise, stop_ids=[1, 70], pad_id=0)
    scored, own = rollouts.token_logps(model, rollout), torch.zeros(6, TOKENS)
    for n in range(6):
        prompt, answer = rollout.prompt_ids[n][rollout.prompt_mask[n]], rollout.ids[n][rollout.mask[n]]
        logits = model(input_ids=torch.cat([prompt, answer])[None], use_cache=False).logits[0, len(prompt) - 1:-1]
        own[n, :len(answer)] = logits.log_softmax(-1).gather(1, answer[:, None]).squeeze(1)
    for name, found in (("sampled", rollout.logps), ("scored", scored)):
        gap = (found - own).abs().max().item()
        assert gap < 1e-3, f"{name} off by {gap:.2g}"
    parameters, weight = [p for p in model.parameters() if p.requires_grad], torch.linspace(-1, 1, own.numel()).view_as(own)
    gradients = [torch.autograd.grad((x * weight).sum(), parameters, allow_unused=True) for x in (scored, own)]
    flat = [torch.cat([(p * 0 if g is None else g).flatten() for p, g in zip(parameters, some)]) for some in gradients]
    gap = (flat[0] - flat[1]).norm() / flat[1].norm()
    assert gap < 1e-3, f"gradient off by {gap:.2g}"


# ---- the table ---------------------------------------------------------------------------------------------------

def main(kinds):
    found, faults = collections.defaultdict(list), 0
    for kind in kinds or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        start = time.perf_counter()
        try:
            what, why = outcome(kind)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            what, why = "FAULT", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        why = " ".join(why.split()).replace(str(WORK / "architectures" / kind / "start"), "it")[:200]
        print(f"{kind:28} {time.perf_counter() - start:5.1f} s  {what}  {why}", file=sys.stderr, flush=True)
        found[what].append((kind, why))
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: {sum(map(len, found.values()))} architectures\n")
    print("| outcome | how many | which |\n|---|---|---|")
    for what, some in sorted(found.items(), key=lambda pair: -len(pair[1])):
        print(f"| {what} | {len(some)} | {', '.join(kind for kind, _ in some)} |")
    for what, some in found.items():
        if any(why for _, why in some):
            print(f"\n{what}:\n")
            for kind, why in some:
                print(f"* {kind}: {why}")
    return "FAULT" in found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
