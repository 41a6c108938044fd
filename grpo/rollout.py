"""Rollout: complete prompts with a model, grade completions, score them. Used by train_grpo.py and all that samples.

    rollout = complete(model, tokenizer, pairs, group_size=8, noise=uniform_noise(8 * len(pairs), 64, seed))
    rewards = grade(rollout.texts, pairs)
    for rows in micro_batches(rollout, range(len(rewards)), budget=16384):
        logps = token_logps(model, rollout.select(rows))

`sample`, which `complete` calls, and `token_logps` describe the same distribution: softmax(logits / temperature), cut to its
top-p nucleus and renormalised, computed in fp32. If they differed, the samples would come from another policy than the one
that is scored: `sampler_gap` in the log shows it, ratio and loss do not.

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
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

import domains
from grpo.ranks import leader
from model import UserError, end_ids

LOGIT_ELEMENTS = 2**26  # at most so many logits (tokens x V) exist at once while scoring: 256 MB in fp32
CUT = "\ufdd0"           # stands in a text where `encode` cuts it: a code point that is no character


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
    temperature: float = 1.0   # both describe the distribution that
    top_p: float = 1.0         #        was sampled, and that logps are of: see scaled_logits
    texts: list = ()           # N completions as text, if `complete` made them
    graded: dict = ()          # {n: reward} of those that were graded while others were sampled

    def select(self, index):
        """The rollout of some rows (indices, at least one), without the padding that none of them needs."""
        P = int(self.prompt_mask[index].sum(1).max())
        T = max(int(self.mask[index].sum(1).max()), 1)
        return Rollout(self.group[index], self.prompt_ids[index, -P:], self.prompt_mask[index, -P:], self.ids[index, :T],
                       self.mask[index, :T], self.logps[index, :T], self.entropy[index, :T], self.stopped[index],
                       self.temperature, self.top_p)


def complete(model, tokenizer, pairs, *, group_size, max_prompt_length=2048, overlap=None, **how):
    """Complete each pair's prompt group_size times: a Rollout with its texts. how: see `sample`; errors: its and `encode`'s.

    overlap: run programs (of domains whose file says AHEAD) in another thread while other completions are still sampled. By
    default where a GPU samples, because the processors are idle then; on a CPU it was slower. No reward depends on it.
    """
    waiting, jobs, graded = [], [], {}

    def run_programs():
        texts = {}
        while waiting:                              # all that came while the last ones ran: starting the sandbox takes time
            rows, ids, mask = waiting.pop()
            texts |= zip(rows.tolist(), decode(tokenizer, ids, mask))
        own = [n for n in texts if getattr(domains.get(pairs[n // group_size][0]), "AHEAD", False)]
        graded.update(zip(own, grade([texts[n] for n in own], [pairs[n // group_size] for n in own]).tolist()))

    def finished(*leaving):
        if model.device.type != "cpu" if overlap is None else overlap:
            waiting.append(leaving)
            jobs.append(pool.submit(run_programs))

    prompts = encode(tokenizer, [domains.prompt(*pair) for pair in pairs], max_prompt_length)
    with ThreadPoolExecutor(1) as pool:             # ends when all jobs have; every program has a deadline
        rollout = sample(model, prompts, group_size=group_size, stop_ids=end_ids(model, tokenizer),
                         pad_id=tokenizer.pad_token_id, finished=finished, **how)
    for job in jobs:
        job.result()                                # its error, if it had one
    rollout.texts, rollout.graded = decode(tokenizer, rollout.ids, rollout.mask), graded
    return rollout


def grade(texts, pairs, graded=()):
    """Grade each of N completions with the row of its own prompt, by that row's domain: rewards (N,) fp64 on the CPU.

    A reward is NaN where grading failed; it does not depend on what else is graded with it. graded: {n: reward} of those
    that have one already, see Rollout.
    """
    rewards, G = dict(graded), len(texts) // max(1, len(pairs))
    for domain in dict.fromkeys(domain for domain, _ in pairs):
        own = [n for n in range(len(texts)) if pairs[n // G][0] == domain and n not in rewards]
        if own:
            rewards.update(zip(own, domains.reward(domain, [texts[n] for n in own], [pairs[n // G][1] for n in own])))
    return torch.tensor([rewards[n] for n in range(len(texts))], dtype=torch.float64)


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


def unwritten(noise, pad_id, device):
    """Ids, mask, logps and entropy of completions without a token yet, (N, T) each, as a Rollout has them."""
    ids = torch.full(noise.shape, pad_id, device=device)
    return ids, torch.zeros_like(ids, dtype=torch.bool), *torch.zeros(2, *noise.shape, device=device)


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
        # Never behind the last id that has any probability: the product may be rounded up to the total. With NaN nothing is
        # found: clamp to an id, and `sample` raises.
        found = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)
        ids = found.minimum(torch.searchsorted(cumulative, total)).clamp(max=logits.shape[1] - 1).squeeze(1)
    logps = logprobs.gather(1, ids[:, None]).squeeze(1)
    entropy = -(probs * logprobs.clamp(min=-1e4)).sum(-1)     # 0 * log 0 = 0 for ids outside the nucleus
    return ids, logps, entropy


# ---- the plain way: whole sequences, the model's own forward pass and its own logits -------------------------------

@torch.no_grad()
def plain_sample(model, prompts, noise, *, group_size, stop_ids, pad_id, temperature=1.0, top_p=1.0,
                 finished=lambda rows, ids, mask: None):
    """Sample in one batch: ids, mask, logps, entropy, stopped of a Rollout, without a cache.

    Sequences begin in column 0, and a causal model never sees what is behind their end: so no mask is needed, and this
    is right for every causal model that transformers can run. See `sample`.
    """
    device, (N, T) = model.device, noise.shape
    tokens = [torch.tensor(prompt + [pad_id] * T) for prompt in prompts for _ in range(group_size)]
    lengths = torch.tensor([len(row) - T for row in tokens], device=device)                               # (N,)
    tokens = pad_sequence(tokens, True, pad_id).to(device)                                                # (N, P + T)
    noise, stop, rows = noise.to(device), torch.tensor(stop_ids, device=device), torch.arange(N, device=device)
    ids, mask, logps, entropy = unwritten(noise, pad_id, device)
    stopped = torch.zeros(N, dtype=torch.bool, device=device)
    for t in range(T):
        read = tokens[:, :tokens.shape[1] - T + t]                                                        # (N, P + t)
        logits = model(input_ids=read, use_cache=False).logits[rows, lengths + t - 1]                     # (N, V)
        token, logp, spread = draw(logits, noise[:, t], temperature, top_p)                               # (N,) each
        mask[:, t], tokens[rows, lengths + t] = ~stopped, token
        for kept, new in ((ids, token), (logps, logp), (entropy, spread)):
            kept[:, t] = torch.where(stopped, kept[:, t], new)
        ends = ~stopped & torch.isin(token, stop)
        finished(rows[ends], ids[ends], mask[ends])
        stopped = stopped | ends
        if stopped.all():
            break
    finished(rows[~stopped], ids[~stopped], mask[~stopped])
    return ids, mask, logps, entropy, stopped


def plain_logps(model, rollout):
    """`token_logps` by the model's own forward pass over whole sequences."""
    tokens, before = sequences(rollout)                                                                   # (N, L), (N, T)
    logits = model(input_ids=tokens, use_cache=False).logits                                              # (N, L, V)
    logits = logits.gather(1, before[:, :, None].expand(-1, -1, logits.shape[-1]))                        # (N, T, V)
    logprobs = scaled_logits(logits, rollout.temperature, rollout.top_p, chosen=rollout.ids).log_softmax(-1)
    return torch.where(rollout.mask, logprobs.gather(2, rollout.ids[:, :, None]).squeeze(2), 0.0)         # (N, T)


def sequences(rollout):
    """Prompts and completions without padding between: ids (N, L), and the column before each completion token, (N, T)."""
    ids = torch.cat([rollout.prompt_ids, rollout.ids], 1)                                                 # (N, P + T)
    real = torch.cat([rollout.prompt_mask, rollout.mask], 1)
    ids = ids.gather(1, (~real).long().argsort(dim=1, stable=True))[:, :int(real.sum(1).max())]               # (N, L)
    before = rollout.prompt_mask.sum(1, keepdim=True) - 1 + torch.arange(rollout.ids.shape[1], device=ids.device)
    return ids, before.clamp(max=ids.shape[1] - 1)


# capacity: how many rows of so many tokens to sample at once. Here the logits of all of them are in memory.
PLAIN = SimpleNamespace(sample=plain_sample, logps=plain_logps, capacity=lambda model, tokens: (
    LOGIT_ELEMENTS // (model.config.get_text_config().vocab_size * tokens)))


# ---- the way that suits a model ------------------------------------------------------------------------------------
# grpo/startup.py tries faster ways (grpo/fast.py) on a model, and sets `model.way` to the first that agrees with this one.

def sample(model, prompts, *, group_size, noise, pad_id, finished=lambda rows, ids, mask: None, progress=None, **settings):
    """Sample group_size completions of each prompt; returns one Rollout. Batches of as many groups as memory allows.

    noise: (N, T) uniform in [0, 1), T the most tokens a completion may have. pad_id: what stands in ids where no token
    does. finished: called when completions end, once for each, with their indices (n,) among all N, ids and mask (n, T), so
    that they can be graded while others are sampled. progress: the name of a progress bar, or None.
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
    with tqdm(total=N, desc=progress, disable=progress is None or not leader(), leave=False, delay=3) as bar:
        for i in range(0, len(prompts), size):
            def left(rows, ids, mask):
                bar.update(len(rows))
                finished(i * G + rows, ids, mask)
            parts.append(way.sample(model, prompts[i:i + size], noise[i * G:(i + size) * G], group_size=G, pad_id=pad_id,
                                    finished=left, **settings))
    ids, mask, logps, entropy, stopped = map(torch.cat, zip(*parts))
    if not (logps.isfinite().all() and entropy.isfinite().all()):     # the loss of such rows may look fine
        raise UserError(f"the model's probabilities at temperature {settings.get('temperature', 1.0):g} are not finite: if "
                        "its weights have diverged, start from a sound checkpoint and a lower --lr; else raise --temperature")
    prompt_ids, prompt_mask = left_padded(prompts, pad_id, model.device)
    group = torch.arange(N, device=model.device) // G
    return Rollout(group, prompt_ids[group], prompt_mask[group], ids, mask, logps, entropy, stopped,
                   settings.get("temperature") or 1.0, settings.get("top_p", 1.0))


def token_logps(model, rollout):
    """Log-probability of each completion token under the model, with gradients: (N, T) fp32, 0 where the mask is False.

    Of the distribution that the rollout was sampled from: its temperature (1 of greedy samples), cut to its nucleus.
    """
    return getattr(model, "way", PLAIN).logps(model, rollout)


def micro_batches(rollout, rows, budget):
    """Cut `rows` (indices of N) into lists of at most `budget` padded tokens each (or one row), with little padding.

    Rows are sorted by completion length. Cuts are made where that length changes; dynamic programming finds those that cost
    least: padded tokens, and budget / 64 for each batch.
    """
    prompt, completion = rollout.prompt_mask.sum(1).tolist(), rollout.mask.sum(1).tolist()
    rows = sorted(rows, key=lambda row: (completion[row], prompt[row]))
    P, T = max((prompt[row] for row in rows), default=0), [completion[row] for row in rows]
    cheapest = {0: (0, 0)}                          # place to cut: (tokens of the rows before, where their last batch begins)
    for end in range(1, len(rows) + 1):
        last = next(reversed(cheapest))
        if end < len(rows) and T[end] == T[end - 1] and (end + 1 - last) * (P + T[end]) <= budget:
            continue
        starts = [start for start in cheapest if (end - start) * (P + T[end - 1]) <= budget] or [last]
        cheapest[end] = min((cheapest[start][0] + (end - start) * T[end - 1] + budget // 64, start) for start in starts)
    batches, end = [], len(rows)
    while end:
        start = cheapest[end][1]
        batches, end = [rows[start:end], *batches], start
    return batches


# ---- text in, text out ---------------------------------------------------------------------------------------------
# For every tokenizer and template: a control token spelled in a text stays plain text (or a row could end its turn, and a
# policy write its judge's answer), and the model's text is graded letter by letter.

def encode(tokenizer, texts, max_prompt_length):
    """Token ids of each text as a user's message, up to where the assistant begins: B lists of ints.

    The chat template alone writes control tokens: what spells one in a text is cut in two, and so stays a text, whoever
    wrote it. No special token is added (no second BOS). UserError if the template cannot render a user's message, or for a
    prompt of more than max_prompt_length tokens: cut short it would ask another question.
    """
    ids_of = lambda text: tokenizer(text, add_special_tokens=False).input_ids
    control, newline, prompts = control_tokens(tokenizer), ids_of("\n"), []
    for text in texts:
        message = text.encode("utf-8", "replace").decode()         # half a surrogate pair, which JSON can hold, is no text
        while spelled := next((token for token in control if token in message), None):
            message = message.replace(spelled, spelled[0] + CUT + spelled[1:])
        first, *others = render(tokenizer, message).split(CUT)
        ids = ids_of(first)
        for part in others:                         # alone it might get a space in front, which a newline prevents
            later = ids_of("\n" + part)
            ids += later[len(newline):] if later[:len(newline)] == newline else ids_of(part)
        if not ids:
            raise UserError("the model's tokenizer makes no tokens of a prompt: is it whole?")
        if len(ids) > max_prompt_length:
            raise UserError(f"a prompt has {len(ids)} tokens, the limit is {max_prompt_length}: raise "
                            f"--max-prompt-length or drop the row that begins {text[:60]!r}")
        prompts.append(ids)
    return prompts


def render(tokenizer, text):
    """What the chat template makes of a user's message, up to where the assistant begins: a text."""
    try:
        return tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
    except Exception as error:                      # jinja's errors, and whatever a template raises itself
        raise UserError(f"the model's chat template cannot render a user's message: {error}") from error


def prompt_form(tokenizer):
    """A hash of what the chat template makes of a message, 16 hexadecimal digits: another day it may write another date."""
    return hashlib.sha256(render(tokenizer, CUT).encode()).hexdigest()[:16]


def control_tokens(tokenizer):
    """What a message must not spell: all special tokens, and other added tokens (no words) that the chat template writes."""
    written = f"{render(tokenizer, CUT)} {tokenizer.chat_template}"
    if CUT not in written:
        raise UserError("the model's chat template leaves out what the user says: is it empty, or one for images?")
    return [token.content for token in tokenizer.added_tokens_decoder.values() if len(token.content) > 1 and
            (token.special or token.content in written and not re.fullmatch(r"[\w\s]*", token.content))]


def decode(tokenizer, ids, mask):
    """What the assistant has said, N strings: completions without end and padding tokens. ids, mask: (N, T), see Rollout.

    Before it stands the <think> that some templates write in the assistant's name, so that all see where the thinking ends.
    """
    begun = "<think>" if render(tokenizer, CUT).rstrip().endswith("<think>") else ""
    silent = torch.tensor([tokenizer.pad_token_id, *getattr(tokenizer, "end_ids", [tokenizer.eos_token_id])])
    said = mask.cpu() & ~torch.isin(ids.cpu(), silent)
    return [begun + tokenizer.decode(row[real], clean_up_tokenization_spaces=False) for row, real in zip(ids.cpu(), said)]
