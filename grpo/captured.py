"""Decoding with fixed shapes, one CUDA graph per shape: how a GPU samples. Chosen by grpo/startup.py, used by train_grpo.py.

On a GPU a decoded token of a small batch costs as long as the host needs to launch some hundred kernels. A CUDA graph
launches them all at once, but it replays the same shapes at the same addresses. So here nothing has a shape that depends on data:

    slot      holds one row while it is sampled; one whose row has ended takes the next row that waits
    step      feeds the last token of n slots and draws the next; each slot writes its keys at its own length, and sees the
              columns up to it, of the first `width`. It changes fixed tensors in place.
    host      looks only every LOOK steps which rows have ended, fills their slots, and halves n when no row waits

A prompt is read once for its group, as in grpo/fast.py, and copied into slots without padding. On a CPU, where tests compare
ids with the plain way, the same step is called and not replayed. Ids differ from other ways by rounding alone.
"""
# B prompts x G completions = N rows, in S slots, n of them in use; P prompt tokens, T completion tokens, V vocabulary.
if __name__ == "__main__":
    raise SystemExit(__doc__)

import torch
from transformers.cache_utils import DynamicLayer

from grpo import fast
from grpo.rollout import draw, left_padded, unwritten

LOOK = 8            # steps between two looks of the host
WIDTHS = 256        # the columns that attention reads are a multiple of so many: each number is a graph of its own


class Layer(DynamicLayer):
    """Keys and values of one layer, (S, heads, L, head_dim), filled slot by slot; see Slots."""

    def __init__(self, prefilled, slots, L):
        super().__init__()
        self.slots, self.is_initialized = slots, True
        self.dtype, self.device = prefilled.keys.dtype, prefilled.keys.device
        self.prompts = [slots.left_aligned(x) for x in (prefilled.keys, prefilled.values)]        # (B, heads, P, head_dim)
        self.keys, self.values = self.buffers = [x.new_zeros(slots.S, x.shape[1], L, x.shape[-1]) for x in self.prompts]

    def update(self, key_states, value_states, *args, **kwargs):
        n, width = self.slots.n, self.slots.width
        at = self.slots.index[:n], self.slots.length[:n].clamp(max=self.buffers[0].shape[2] - 1)
        for buffer, new in zip(self.buffers, (key_states, value_states)):
            buffer.transpose(1, 2).index_put_(at, new[:, :, 0])
        return [buffer[:n, :, :width] for buffer in self.buffers]


class Slots:
    """S slots over a model, what has been sampled so far (ids, mask, logps, entropy, (N, T)), and one step of n slots."""

    def __init__(self, model, prompts, noise, S, group_size, stop_ids, pad_id, temperature, top_p):
        device, self.T = model.device, noise.shape[1]
        self.model, self.S, self.n, self.G, self.how = model, S, S, group_size, (temperature, top_p)
        prompt_ids, prompt_mask = left_padded(prompts, pad_id, device)                            # (B, P)
        self.prompt_lengths, self.L = prompt_mask.sum(1), prompt_ids.shape[1] + self.T            # (B,)
        read, cache, self.named = fast.read_prompts(model, prompt_ids, prompt_mask, logits_to_keep=1)
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            raise ValueError("its cache has layers of other kinds than keys and values of all tokens")
        self.layers = cache.layers = [Layer(layer, self, self.L) for layer in cache.layers]

        self.noise, self.stop = noise.to(device), torch.tensor(stop_ids, device=device)
        self.ids, self.mask, self.logps, self.entropy = unwritten(noise, pad_id, device)
        logits = read.logits[:, -1].repeat_interleave(group_size, 0)                              # (N, V)
        self.ids[:, 0], self.logps[:, 0], self.entropy[:, 0] = draw(logits, self.noise[:, 0], *self.how)
        self.mask[:, 0] = True
        # Of each slot: its number, the row in it, that row's tokens so far (with and without the prompt), whether it runs.
        self.index, self.row = torch.arange(S, device=device), torch.zeros(S, dtype=torch.long, device=device)
        self.length, self.t = torch.zeros(2, S, dtype=torch.long, device=device)
        self.running = torch.zeros(S, dtype=torch.bool, device=device)
        self.graphs = {}                            # (n, width): a step of that shape
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None          # one memory for all graphs

    def left_aligned(self, x):
        """Keys or values of left-padded prompts, (B, heads, P, head_dim), moved to the left: what follows is not read."""
        P = x.shape[2]
        columns = (torch.arange(P, device=x.device) + P - self.prompt_lengths[:, None]).clamp(max=P - 1)            # (B, P)
        return x.gather(2, columns[:, None, :, None].expand_as(x))

    def ends(self, ids):
        """Whether tokens end a completion: bool, of the shape of ids."""
        return (ids[..., None] == self.stop).any(-1)

    def fill(self, free, rows):
        """Put rows, whose first token is drawn already, into free slots. free, rows: lists of ints."""
        free, rows = torch.tensor(free, device=self.ids.device), torch.tensor(rows, device=self.ids.device)
        prompts = rows // self.G
        for layer in self.layers:
            for buffer, prompt in zip(layer.buffers, layer.prompts):
                buffer[free, :, :prompt.shape[2]] = prompt[prompts]
        self.row[free], self.length[free], self.t[free], self.running[free] = rows, self.prompt_lengths[prompts], 1, True

    def keep(self, running):
        """Move the slots that run to the front, so that n can fall to a power of two. running: of n slots, a list of bools."""
        n = 1 << (sum(running) - 1).bit_length()
        holes = [slot for slot in range(n) if not running[slot]]
        movers = [slot for slot in range(n, self.n) if running[slot]]
        to, of = (torch.tensor(some, dtype=torch.long, device=self.ids.device) for some in (holes[:len(movers)], movers))
        for state in (self.row, self.length, self.t, self.running, *(b for layer in self.layers for b in layer.buffers)):
            state[to] = state[of]
        self.n = n

    def step(self):
        """Feed the last token of the first n slots, and draw the next: no shape here depends on data."""
        n = self.n
        row, length, t, running = self.row[:n], self.length[:n], self.t[:n].clamp(max=self.T - 1), self.running[:n].clone()
        seen = torch.arange(self.width, device=row.device) <= length[:, None]                     # (n, width)
        logits = self.model(input_ids=self.ids[row, t - 1][:, None], attention_mask=seen[:, None, None],
                            position_ids=length[:, None], use_cache=True, **self.named).logits[:, -1]                # (n, V)
        token, logp, spread = draw(logits, self.noise[row, t], *self.how)                         # (n,) each
        for kept, new in ((self.ids, token), (self.mask, running), (self.logps, logp), (self.entropy, spread)):
            kept.index_put_((row, t), torch.where(running, new, kept[row, t]))
        self.length[:n] += running
        self.t[:n] += running
        self.running[:n] = running & ~self.ends(token) & (self.t[:n] < self.T)

    def steps(self, width):
        """LOOK steps that read so many columns; on a GPU as replays of a graph, which the first one's shape is captured in."""
        self.width = width
        for _ in range(LOOK):
            if graph := self.graphs.get((self.n, width)):
                graph.replay()
                continue
            self.step()                             # a step like all others, and the warm-up that a capture needs
            if self.pool:
                self.graphs[self.n, width] = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graphs[self.n, width], pool=self.pool):
                    self.step()


def sample(model, prompts, noise, *, group_size, stop_ids, pad_id, temperature=1.0, top_p=1.0,
           finished=lambda rows, ids, mask: None, slots=None):
    """Sample: ids, mask, logps, entropy and stopped of a Rollout; see rollout.sample. slots: S, by default what memory holds.

    ValueError for models whose cache is of another kind.
    """
    (N, T), longest = noise.shape, max(map(len, prompts))
    S = min(N, slots or fast.capacity(model, longest + T))
    with torch.inference_mode():
        state, left = Slots(model, prompts, noise, S, group_size, stop_ids, pad_id, temperature, top_p), {*range(N)}
        waiting = (~state.ends(state.ids[:, 0])).nonzero().squeeze(1).tolist() if T > 1 else []    # they have a second token
        while left:
            running, rows = state.running[:state.n].tolist(), state.row[:state.n].tolist()         # waits for the device
            inside = {row for row, runs in zip(rows, running) if runs}
            if ended := sorted(left - inside - {*waiting}):
                which = torch.tensor(ended, device=state.ids.device)
                finished(which, state.ids[which], state.mask[which])
                left -= {*ended}
            if free := [slot for slot, runs in enumerate(running) if not runs][:len(waiting)]:
                state.fill(free, waiting[:len(free)])
                del waiting[:len(free)]
            elif 0 < len(inside) <= state.n // 2:
                state.keep(running)
            if left:
                width = int(state.length[:state.n].max()) + LOOK
                state.steps(min(state.L, -(-width // WIDTHS) * WIDTHS))
        stopped = (state.ends(state.ids) & state.mask).any(1)                                     # (N,)
        found = state.ids, state.mask, state.logps, state.entropy, stopped
    return tuple(x.clone() for x in found)          # ordinary tensors, which a backward pass may keep
