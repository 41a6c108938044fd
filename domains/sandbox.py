"""Run model-written programs against tests: the reward of the `code` domain.

    run_tests([{"program": "def add(a, b): return a + b", "tests": ["assert add(1, 2) == 3"]}])  ->  [1.0]

A job is {"program": str, "tests": list, "entry_point": str (optional)}. A test is Python code (MBPP's asserts,
HumanEval's `def check` with its call) or {"stdin": str, "stdout": str}, for which the program runs as a script.
1.0: every test passed. 0.0: one did not. nan: the verifier failed (no tests, a test that does not compile or
never asks the program anything, a worker that cannot start), which must not be taken for a wrong answer.

Concept: the program under test never says whether it passed, and never holds the expected answers.

    trainer --job--> worker --fork--> program   runs the model's code, then answers questions over a pipe
      ^                 |                 |^       plain values, as tagged JSON
      +-----verdict-----+ --fork--> checker       runs the test; names that the test lacks are looked up over there

What a script prints goes to the trainer, which compares it. Each end of the pipe is a `Peer`. Values (builtins, Fraction,
datetime, Counter, namedtuples, Python's exceptions) are built anew from JSON (no pickle, no eval), so a lying __eq__ or a
subclass of int stays behind. Other objects stay where they are; a Handle there makes questions of their methods and
operators. So a test has the program's instances, classes and exceptions, and the program a test's functions. Changes to
mutable arguments are mirrored. Values are compared by the checker alone; for objects see `Peer.equal`, and `Peer.ask` for who
may see what a test expects. The worker reads programs but never a test, so neither it nor its forks have answers to leak: the
checker reads the test from the same stream, after its fork.

Names in a test mean, in this order: `entry_point`, always the program's; what the test defines; builtins; modules of
PRELOADED; the program's, or a method of its class Solution. `from solution import f` is the program's, too. Give
`entry_point` where a function shares its name with a builtin. Where a test uses helpers from the prompt (HumanEval's
`poly`), put the prompt in front of the test: the helpers are then the checker's own.

COVERED, each with a hostile test (Linux on x86-64 or arm64; Landlock from 5.13, all of it from 6.12):
  endless loops, sleeping, memory, output, deep or huge return values   wall clock, rlimits, caps on messages
  leaving early (sys.exit, os._exit, atexit), forged replies            silence is a failure; replies are only values
  lying objects, patched builtins and modules                           they live in another process than the test
  reading answers from memory, frames, files or /proc                   they are in none of these; Landlock
  reading a test through the functions that it passes                   they can be called, nothing else
  writing or deleting files outside of the job's directory              Landlock, unprivileged user, audit hook
  fork bombs, daemons, threads, other programs                          seccomp, RLIMIT_NPROC
  signals to others, network, changes of mode, owner or times           seccomp, Landlock
NOT COVERED:
  tests weaker than their task, or that trust the program: eval of its output, comparing through its own helper or order,
    computing what to expect from an argument after the call that may have changed it
  holes in the kernel; side channels (stat shows that a file exists); CPU and memory within the limits
  macOS, and Linux without Landlock or seccomp (a line on stderr says so): there an audit hook guards files, network
    and processes, which stops accidents and simple tricks, not a determined program. Windows: OSError
  honest programs that need threads, subdirectories, > 1 MB of output or a third-party package other than numpy: they
    fail. So do tests that change a list inside the program's object (obj.items.append), which is a copy here
"""
import builtins, datetime, functools, importlib.util, io, itertools, json, math, operator, os, queue, re, shutil
import struct, subprocess, sys, tempfile, threading, time
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from multiprocessing.connection import Connection, Pipe

NOBODY = 65534             # user and group id that a worker takes when started by root
MESSAGE_BYTES = 16 << 20   # longest message between the processes
OUTPUT_BYTES = 1 << 20     # largest file that a program may write, and so longest stdout of a script
FILES_WRITTEN = 64         # how often a program may open a file for writing: bounds the disk that it can fill
START_SECONDS = 20         # wall clock for a worker to start
GRACE_SECONDS = 5          # how long after the timeout a worker may still be silent
# Imported before the forks, so that each program finds them ready; other standard modules load when asked for.
PRELOADED = """abc array atexit base64 binascii bisect calendar cmath collections copy dataclasses datetime decimal enum
fractions functools gc hashlib heapq io itertools json math numbers operator os platform queue random re resource
statistics string struct sys textwrap time types typing unicodedata zlib""".split()
KNOWN = set()              # names of the modules that a worker had before it forked: what both sides have


def say(end, message):
    """Send a message, which JSON can hold, into an end of a pipe (a Connection); OSError if nobody reads there any more."""
    end.send_bytes(json.dumps(message).encode())

def hear(end):
    """The next message that comes; EOFError if none does, OSError if it is longer than MESSAGE_BYTES."""
    return json.loads(end.recv_bytes(MESSAGE_BYTES))


# ---- values and objects: what program and checker say to each other, the same on both sides ----

# type: (value -> parts, parts -> value). Exact for every value: views compare like views, long ints travel as hex.
TAGS = {int: (lambda v: [hex(v)], lambda p: int(p[0], 16)), bytes: (lambda v: [v.hex()], lambda p: bytes.fromhex(p[0])),
        complex: (lambda v: [v.real, v.imag], lambda p: complex(*p)), list: (list, list), tuple: (list, tuple),
        dict: (lambda v: list(v.items()), dict), type({}.items()): (list, lambda p: dict(p).items()),
        type({}.keys()): (list, lambda p: dict.fromkeys(p).keys()),
        type({}.values()): (list, lambda p: dict(enumerate(p)).values())}
VALUE_OF = {kind.__name__: of for kind, (_, of) in TAGS.items()}
# Values that both sides can make in the way of pickle: from their class, arguments and items.
MADE = {set, frozenset, bytearray, range, Fraction, Decimal, deque, Counter, OrderedDict, defaultdict,
        datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone}
MUTABLE = {list, dict, set, bytearray, deque, Counter, OrderedDict, defaultdict}

# The special methods that an object can have on the other side: operators, which see a second value, and the rest.
ARITHMETIC = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor".split()
OPERATORS = {*ARITHMETIC, *("i" + name for name in ARITHMETIC), "lt", "le", "gt", "ge", "contains"}
SPECIAL = {*OPERATORS, *("r" + name for name in ARITHMETIC), *"""call getitem setitem delitem iter next reversed len bool
    enter exit neg pos abs invert int float complex index round trunc floor ceil""".split()}
named_tuple = functools.cache(namedtuple)

def perform(question, *args, **kwargs):
    """What Python does for a special method: operator.add(*args), len(*args), args[0].__exit__(...)."""
    act = vars(operator).get(f"__{question}__") or question != "exit" and getattr(builtins, question, None)
    return act(*args, **kwargs) if act else getattr(args[0], f"__{question}__")(*args[1:], **kwargs)

def state(value):
    """What an object is made of, as for pickle: [arguments of its class, attributes, items, pairs]."""
    _, *parts = value.__reduce_ex__(2)
    return [list(part) if hasattr(part, "__next__") else part for part in [*parts, None, None, None][:4]]

def asking(question):
    """A special method of an object over there."""
    if question[0] == "r" and question[1:] in ARITHMETIC:
        return lambda self, other: peer.ask(question[1:], other, self)
    return lambda self, *args, **kwargs: peer.ask(question, self, *args, **kwargs)

def attribute(self, name):
    """An attribute of an object over there; but protocols that probe for optional methods stay here."""
    if name.startswith("__") and name != "__name__":
        raise AttributeError(name)
    return peer.ask("getattr", self, name)

class Mirror(type):
    """The class of classes over there: isinstance, except and type() are Python's own, the rest is asked for."""
    __getattr__, __setattr__ = attribute, asking("setattr")
    __call__, __getitem__, __iter__, __len__, __contains__ = map(asking, ("call", "getitem", "iter", "len", "contains"))
    __bool__ = lambda self: True

class Handle(metaclass=Mirror):
    """An object that lives in the other process."""
    __getattr__ = attribute
    def __setattr__(self, name, value):
        if name.startswith("__"):
            return super().__setattr__(name, value)
        peer.ask("setattr", self, name, value)
    def __eq__(self, other):
        return peer.equal(self, other)
    __delattr__, __str__, __repr__, __format__, __hash__ = map(asking, ("delattr", "str", "repr", "format", "hash"))

class Peer:
    """One end of the line between checker and program: asks about objects of the other end, answers about its own.

    inbox, outbox: ends of pipes. finish(verdict): the way out of the checker, which does not believe the other end: that can
    be wrong, late or hostile, and then the program has failed. None in the program. names: the program's globals, there.
    """
    def __init__(self, inbox, outbox, names=None, finish=None):
        self.inbox, self.outbox, self.names, self.finish, self.asked = inbox, outbox, names, finish, 0
        self.mine = {}          # number: an object that the other end knows of, kept so that its id stays its own
        self.theirs = {}        # number: Handle or Mirror of an object of the other end
        self.classes = set()    # that the test has named: their objects stay objects, even if they are lists or numbers too
        self.fresh = {}         # Handle's number: whether it came from a class or an operator of the test, see `operate`

    def pack(self, value):
        """Value -> what JSON can hold."""
        kind = type(value)
        if value is None or kind in (bool, float, str) or kind is int and -2**62 < value < 2**62:
            return value
        if kind in TAGS:
            return [kind.__name__, *map(self.pack, TAGS[kind][0](value))]
        if isinstance(value, (Mirror, Handle)):
            return ["yours", vars(value)["__number__"]]
        if name := self.standard(value):
            return ["standard", *name]
        if kind in MADE or isinstance(value, Exception) and self.standard(kind):
            return ["made", self.pack(kind), *map(self.pack, state(value))]
        if "numpy" in KNOWN and kind.__module__ == "numpy" and hasattr(kind, "tolist"):
            return ["numpy", str(value.dtype), self.pack(value.tolist())]
        if kind.__bases__ == (tuple,) and hasattr(kind, "_fields") and not any(
                callable(made) for name, made in vars(kind).items() if name not in vars(named_tuple("no_fields", ()))):
            return ["namedtuple", kind.__name__, list(kind._fields), *map(self.pack, value)]
        if kind not in self.classes and (plain := self.plain(value)):
            return self.pack(plain[0])
        self.mine[id(value)] = value
        if isinstance(value, type):
            return ["class", id(value)]
        self.mine[id(kind)] = kind
        return ["mine", id(value), id(kind)]

    def unpack(self, message):
        """JSON -> value, of exact types whatever the sender is; raises on what `pack` never says."""
        if type(message) is not list:
            return message
        tag, *parts = message
        if found := {"yours": self.mine.__getitem__, "class": self.mirror, "mine": self.handle}.get(tag):
            return found(*parts)
        if tag == "standard":
            found = operator.attrgetter(parts[1])(sys.modules[parts[0]])
            if self.finish and not (parts[0] in KNOWN and isinstance(found, type)):
                raise ValueError("no program has to send this")
            return found
        if tag == "namedtuple":
            return named_tuple(parts[0], tuple(parts[1]))(*map(self.unpack, parts[2:]))
        parts = list(map(self.unpack, parts))
        if tag == "numpy":
            return sys.modules["numpy"].array(parts[1], dtype=parts[0])[()]
        if tag != "made":
            return VALUE_OF[tag](parts)
        kind, args, attributes, items, pairs = parts
        if not (kind in MADE or issubclass(kind, Exception)):
            raise ValueError("no value is made like this")
        value = kind(*args)
        if attributes:
            vars(value).update(attributes)
        if items:
            value.extend(items)
        for key, item in pairs or ():
            value[key] = item
        return value

    def standard(self, value):
        """(module, name) of a class, or in the checker a function, that Python's library has on both sides; else None."""
        named = isinstance(value, type) or self.finish and callable(value)
        name, module = named and getattr(value, "__qualname__", None), getattr(value, "__module__", None) or "builtins"
        if type(name) is type(module) is str and module in KNOWN:
            with suppress(AttributeError):
                return (module, name) if operator.attrgetter(name)(sys.modules[module]) is value else None

    def handle(self, number, kind):
        """The object of the other end that has this number, and the class of that number."""
        if number not in self.theirs:
            cls = self.mirror(kind)
            self.theirs[number] = cls.__new__(cls)          # without __init__, which is the other end's
            vars(self.theirs[number])["__number__"] = int(number)
        return self.theirs[number]

    def mirror(self, number):
        """The class of the other end that has this number: its name, bases and special methods. Of bases that both ends
        have only exceptions count, so that `except` works."""
        if number not in self.theirs:
            name, bases, special = self.ask("describe", int(number))
            bases = [base for base in bases if isinstance(base, Mirror) or issubclass(base, Exception)]
            methods = {f"__{name}__": asking(name) for name in special if name in SPECIAL}
            if any(issubclass(base, Exception) for base in bases):
                methods["args"] = property(lambda self: peer.ask("getattr", self, "args"))
            bases = bases if any(isinstance(base, Mirror) for base in bases) else [Handle, *bases]
            self.theirs[number] = Mirror(name, tuple(bases), {**methods, "__number__": int(number), "__module__": "solution"})
        return self.theirs[number]

    def ask(self, question, *args, **kwargs):
        """One question to the other end, and its own questions while it thinks.

        An operator's second value may be what the test expects, and the answer then be the verdict. So an object of the
        program hears of a value only if the test has made it, by calling a class or by an operator, and no function has
        given it back since. Two objects may always meet, and where a subclass of a builtin may not, that builtin does.
        """
        made = [self.fresh.get(vars(arg)["__number__"]) for arg in args if isinstance(arg, (Handle, Mirror))]
        if self.finish and question in OPERATORS and len(made) == 1 and not made[0]:
            one = next(arg for arg in args if isinstance(arg, (Handle, Mirror)))
            if plain := self.ask("plain", one):
                return perform(question, *[plain[0] if arg is one else arg for arg in args])
            if made[0] is False:            # the object may be honest: only it can know
                self.finish("verifier")
            raise TypeError(f"no {question} of a value and an object that a function has returned")
        self.asked += 1
        values = [*args, *kwargs.values()]
        sent = ["ask", question, list(kwargs), list(map(self.pack, values))]
        try:
            say(self.outbox, sent)
            while (message := hear(self.inbox))[0] == "ask":
                self.answer(*message[1:])
            kind, content, after = message
            content = self.unpack(content)
            for old, new in zip(values, map(self.unpack, after)):
                if type(new) is type(old) in MUTABLE:
                    old.clear(), (old.extend if hasattr(old, "extend") else old.update)(new)
            if isinstance(content, Handle):
                number = vars(content)["__number__"]
                new = question == "call" and args[0] in self.classes or question in (*OPERATORS, "enter") and any(made)
                if new or number in self.fresh:
                    self.fresh[number] = new
            if kind != "value" and not isinstance(content, Exception):
                raise EOFError("only exceptions are raised")
        except BaseException:
            if self.finish:
                self.finish("fail")
            raise
        if kind != "value":
            raise content
        return content

    def answer(self, question, names, sent):
        """Answer one question: the value or the exception, and the arguments that it has changed."""
        values = list(map(self.unpack, sent))
        args, kwargs = values[:len(values) - len(names)], dict(zip(names, values[len(values) - len(names):]))
        try:
            if self.finish and question != "describe":      # the program may use what a test passes, and look at no more
                attribute = question in ("getattr", "setattr")
                if not (type(sent[0]) is list and sent[0][0] == "yours" and (
                        type(args[0]).__module__ == "test" and args[1][:1] != "_" if attribute else
                        question in {*SPECIAL, "str", "repr", "format", "hash", "eq"})):
                    raise AttributeError("this belongs to the test")
            own = {"name": self.name, "describe": self.describe, "state": state, "plain": self.plain}.get(question)
            said = "value", self.pack(own(*args) if own else perform(question, *args, **kwargs))
        except Exception as error:
            said = "error", self.pack(error)
        after = [new if type(value) in MUTABLE and (new := self.pack(value)) != old else None
                 for value, old in zip(values, sent)]
        say(self.outbox, [*said, after])

    def name(self, name):
        """The program's global of a name, or else the method of its class Solution."""
        if name not in self.names:
            if hasattr(self.names.get("Solution"), name):
                return getattr(self.names["Solution"](), name)
            raise NameError(f"name {name!r} is not defined")
        if isinstance(self.names[name], type):
            self.classes.add(self.names[name])
        return self.names[name]

    def describe(self, number):
        """[name, bases, special methods] of the class that has a number."""
        kind = self.mine[number]
        special = {name[2:-2] for cls in kind.__mro__[:-1] for name in vars(cls)} & SPECIAL
        return [kind.__name__, [base for base in kind.__bases__ if base is not object], sorted(special)]

    def plain(self, value):
        """[the builtin that an object of a subclass is], or []; str(x) of an Enum is not its value."""
        for base in (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset):
            if isinstance(value, base):
                return [str.__str__(value) if base is str else base(value)]
        return []

    def equal(self, one, other):
        """Whether a Handle equals something. The checker decides itself, by values: two objects of the program are equal
        if the program says so and they are made of equal parts; where it says so alone, that is nan."""
        if not self.finish:
            return self.ask("eq", one, other)
        if not isinstance(other, Handle):
            return self.ask("plain", one) == [other]
        equal = one is other or self.ask("eq", one, other) is True
        if equal and one is not other and self.ask("state", one) != self.ask("state", other):
            self.finish("verifier")
        return equal


# ---- the program's process: all of it untrusted once the program has started ----
# From here to the trainer's side a job is what one process runs of the trainer's: {"program": str, "stdin": str of a script
# or None, "entry_point": str or None, "numpy": bool, "timeout": seconds, "memory_mb": number}; `shield` is what build_shield
# returns, and `stdlib` the directory of the standard library.

def run_program(job, inbox, outbox, shield):
    """Run the program behind walls; never returns. A script reads the file inbox and prints into the file outbox; another
    program is asked for functions there, by the ends of two pipes."""
    global peer
    script = job["stdin"] is not None
    if script:
        os.dup2(inbox.fileno(), 0), os.dup2(outbox.fileno(), 1)
    else:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(NoInput()))
    confine(shield, job, *[] if script else [inbox.fileno(), outbox.fileno()])
    install_audit_hook(os.getcwd(), shield["stdlib"])
    # Not "__main__" in function mode: an `if __name__ == "__main__": input()` below a good function must not fail it.
    name = "__main__" if script else "solution"
    builtins.exit = builtins.quit = sys.exit         # which -S leaves out
    really = io.open                                 # /dev/stdin leads through /proc, which is closed
    builtins.open = io.open = lambda file, *a, **k: really(os.dup(0) if str(file) == "/dev/stdin" else file, *a, **k)
    sys.argv[:] = ["solution.py"]
    module = sys.modules[name] = type(sys)(name)     # registered, as dataclasses look themselves up
    peer, status = Peer(inbox, outbox, names=vars(module)), 0
    try:
        with suppress(*[] if script else [EOFError]):              # at the end: a driver below a good function
            exec(compile(job["program"].removeprefix("\ufeff"), "<program>", "exec", dont_inherit=True), vars(module))
        if not script:
            say(outbox, "ready")
            while True:                     # until the checker hangs up; SystemExit and its kin are a failure
                peer.answer(*hear(inbox)[1:])
    except SystemExit as stop:
        status = 0 if stop.code is None else stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        status = 1
    if script:                              # fast-output idioms print from atexit
        sys.modules["atexit"]._run_exitfuncs()
        for stream in (sys.stdout, sys.__stdout__):
            with suppress(Exception):
                stream.flush()
    os._exit(status & 255)

class NoInput(io.RawIOBase):
    """The stdin of a program that is asked for functions: whoever reads it meets the end."""
    def readable(self):
        return True
    def readinto(self, buffer):
        raise EOFError("no input here")

def install_audit_hook(directory, stdlib):
    """Write in `directory` alone, read there and in stdlib, or PermissionError: the only guard where the kernel has none."""
    abspath, fsdecode, writes = os.path.realpath, os.fsdecode, itertools.count(1)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    forbidden = ("os.", "subprocess.", "socket.", "ctypes.", "fcntl.", "resource.", "sqlite3.", "syslog.", "signal.",
                 "_thread.")
    harmless = ("os.putenv", "os.unsetenv", "os.walk", "os.fwalk", "socket.__new__", "sqlite3.connect/handle")
    def under(folder, path):
        return isinstance(path, int) or (abspath(fsdecode(path or ".")) + "/").startswith(folder + "/")
    def hook(event, args):
        if event == "open" and (args[2] & writing) and not isinstance(args[0], int):
            allowed = fsdecode(args[0]) == os.devnull or under(directory, args[0]) and next(writes) <= FILES_WRITTEN
        elif event in ("open", "os.listdir", "os.scandir"):
            allowed = under(directory, args[0]) or args[0] in ("/dev/null", "/dev/urandom") or (
                under(stdlib, args[0]) and "-packages/" not in fsdecode(args[0]))
        elif event in ("os.remove", "os.rename"):
            allowed = all(under(directory, part) for part in args)
        else:                               # asyncio makes a pair of sockets for itself
            allowed = not event.startswith(forbidden) or event in harmless or (
                event == "sqlite3.connect" and args[0] == ":memory:")
        if not allowed:
            raise PermissionError(f"sandbox: {event} is not allowed here")
    sys.addaudithook(hook)


# ---- the checker's process: runs the test; only it knows what to expect ----

def run_checker(job, control, inbox, outbox, verdict, shield):
    """Hear the tests from `control`, run them behind walls, and say into `verdict` that they are heard, then "pass", "fail"
    or "verifier", where that failed; never returns."""
    global peer
    def finish(word):                       # not an exception: a test's own `except:` could swallow that
        say(verdict, word)
        os._exit(0)
    tests = hear(control)
    say(verdict, "heard")
    confine(shield, job, inbox.fileno(), outbox.fileno(), verdict.fileno())
    try:
        tests = [compile(test, "<test>", "exec", dont_inherit=True) for test in tests]
    except Exception:                       # a SyntaxError, or test too long or too deep
        finish("verifier")
    peer = Peer(inbox, outbox, finish=finish)

    def of_program(name):
        value = peer.ask("name", name)
        if isinstance(value, Mirror) and name[:1].isupper():        # a function's name does not call a class
            peer.classes.add(value)
        return value

    class Names(dict):
        """Globals of a test, in the order that the module's docstring gives."""
        def __getitem__(self, name):
            if name == job["entry_point"]:
                return of_program(name)
            if name in self or name.startswith("__"):
                return dict.__getitem__(self, name)
            if hasattr(builtins, name):
                return getattr(builtins, name)
            return sys.modules[name] if name in PRELOADED else of_program(name)

    class Solution(type(sys)):
        """The module `solution`, from which tests import the program's names."""
        __all__ = ()
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return of_program(name)

    sys.modules["solution"] = Solution("solution")
    try:
        ready = hear(inbox) == "ready"
    except BaseException:
        finish("fail")
    for test in tests:
        before = peer.asked
        try:
            exec(test, Names(__name__="test"))
        except BaseException:               # what went wrong before the first question is not the program's fault
            finish("fail" if peer.asked > before else "verifier")
    finish("pass" if ready and peer.asked else "verifier")


# ---- walls: built once in the worker, put up in each fork before it runs any code ----

# System calls denied (EPERM), by machine and for both. In order: start processes and threads; signals, tracing, limits
# and priorities of others; network; memory that RLIMIT_AS does not count; modes, owners, times, attributes, links and
# directories; doors into the kernel.
DENIED = {"x86_64": (0xC000003E, """56 57 58 59 322  62 200 234 129 297 101 310 311 312 302 160 141 142 144 203 314
              251 256 279  41  319 29 64 68 240  90 91 92 93 94 268 260 132 235 261 280 188 189 190 197 198 199 86 265
              88 266 83 258 133 259 76  272 308 161 165 248 249 250 298 304 321 323"""),
          "aarch64": (0xC00000B7, """220 221 281  129 130 131 138 240 117 270 271 272 261 164 140 118 119 122 274 30
              238 239  198  279 194 190 186 180  52 53 54 55 88 5 6 7 14 15 16 37 36 34 33 45  97 268 51 40 217 218 219
              241 265 280 282""")}
DENIED_BOTH = "435  424 434 438 440 448  425  447  452 463 466  428 429 430 442"

def build_shield(directory):
    """Open what the walls need while that is still allowed, then give up root. Returns what `confine` takes.

    directory: the working directory from now on, where programs may write. The worker may in the one around it. OSError if
    root cannot be given up.
    """
    import ctypes, platform
    libc, stdlib = ctypes.CDLL(None, use_errno=True), os.path.realpath(os.path.dirname(os.__file__))
    def call(name, *args):
        args = [ctypes.c_char_p(arg) if isinstance(arg, bytes) else ctypes.c_long(arg) for arg in args]
        result = getattr(libc, name)(*args)
        if result < 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
        return result
    linux, abi = sys.platform == "linux", 0
    shield = {"call": call, "stdlib": stdlib, "linux": linux, "ruleset": None, "filter": None, "missing": []}
    if linux:
        call("prctl", 4, 0, 0, 0, 0)        # PR_SET_DUMPABLE: /proc/PID/mem of worker and forks is closed
        call("prctl", 38, 1, 0, 0, 0)       # PR_SET_NO_NEW_PRIVS
        with suppress(OSError):             # an old kernel, or a container that forbids it
            abi, shield["ruleset"] = landlock_rules(call, stdlib, directory)
    arch, numbers = DENIED.get(platform.machine() if linux else "", (0, ""))
    if arch:
        numbers = [int(number) for number in f"{numbers} {DENIED_BOTH}".split()]
        # Classic BPF. Calls in another architecture's numbering, x32's too, are denied as a whole.
        steps = [(0x20, 0, 0, 4), (0x15, 0, len(numbers) + 3, arch),                 # load the architecture; other?
                 (0x20, 0, 0, 0), (0x35, len(numbers) + 1, 0, 0x40000000),           # load the call's number; x32?
                 *((0x15, len(numbers) - at, 0, number) for at, number in enumerate(numbers)),
                 (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)]                 # return: allow; EPERM
        code = shield["code"] = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
        shield["filter"] = struct.pack("HP", len(steps), ctypes.addressof(code))
    shield["missing"] = [f"Landlock (ABI {abi}, 6 wanted)"] * (abi < 6) + ["seccomp"] * (not arch)

    library = os.open(stdlib, os.O_RDONLY)
    os.chdir(directory)
    if os.geteuid() == 0:
        os.chown(".", NOBODY, NOBODY), os.chown("..", NOBODY, NOBODY)
        os.setgroups([]), os.setgid(NOBODY), os.setuid(NOBODY)
        with suppress(PermissionError):
            os.setuid(0)
            raise OSError("could not give up root")
    # A Python installed below /root is out of nobody's sight: import through the open directory instead.
    if not os.access(f"{stdlib}/os.py", os.R_OK):
        for path in [sys.path, *(module.__path__ for module in sys.modules.values() if hasattr(module, "__path__"))]:
            path[:] = [os.path.realpath(part).replace(stdlib, f"/proc/self/fd/{library}", 1) for part in path]
        sys.path_importer_cache.clear()
        shield["library"] = library
    return shield

def landlock_rules(call, stdlib, directory):
    """ABI and ruleset (a descriptor): read the standard library, read and write `directory`; no TCP, no signals, no more.

    call: a function of libc by its name; OSError where the kernel refuses.
    """
    create, add_rule = 444, 445
    abi = call("syscall", create, 0, 0, 1)
    every = (1 << 13 + (abi >= 2) + (abi >= 3)) - 1 | (abi >= 5) << 15
    rights = struct.pack("QQQ", every, 3, 3)[:8 if abi < 4 else 16 if abi < 6 else 24]       # files, TCP, scopes
    ruleset = call("syscall", create, rights, len(rights), 0)
    def allow(path, bits):
        fd = os.open(path, os.O_PATH)
        call("syscall", add_rule, ruleset, 1, struct.pack("=Qi", bits & every, fd), 0)
        os.close(fd)
    write_file, read_file, read_dir, remove, make, truncate = (1 << bit for bit in (1, 2, 3, 5, 8, 14))
    for entry in os.scandir(stdlib):        # one by one, to leave out site-packages: data sets may lie there
        if not entry.name.endswith("-packages") and os.path.exists(entry.path):
            allow(entry.path, read_file | read_dir if entry.is_dir() else read_file)
    allow(stdlib, read_dir)
    allow(directory, read_file | read_dir | write_file | remove | make | truncate)
    allow("/dev/null", read_file | write_file | truncate)
    allow("/dev/urandom", read_file)
    return abi, ruleset

def confine(shield, job, *keep):
    """Put up the walls around this process, for good: close all files except 0, 1, 2 and `keep`, limit the rest."""
    import resource
    os.setsid()
    for low, high in itertools.pairwise(sorted({0, 1, 2, *keep, shield.get("library", 0), shield["ruleset"] or 0, 4096})):
        os.closerange(low + 1, high)
    for name, most in (("AS", job["memory_mb"] << 20), ("CPU", math.ceil(job["timeout"]) + 1), ("FSIZE", OUTPUT_BYTES),
                       ("NOFILE", 64), ("CORE", 0), ("NPROC", 0)):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(*[] if shield["linux"] else [ValueError, OSError]):      # macOS refuses some
            resource.setrlimit(kind, (most, most))
    sys.modules["random"].seed(0)           # with the fixed hash seed: the same program gets the same reward again
    if shield["linux"]:
        shield["call"]("prctl", 1, 9, 0, 0, 0)                                 # PR_SET_PDEATHSIG: die with the worker
    if shield["ruleset"] is not None:
        shield["call"]("syscall", 446, shield["ruleset"], 0)                   # landlock_restrict_self
        os.close(shield["ruleset"])
    if shield["filter"]:
        shield["call"]("prctl", 22, 2, shield["filter"], 0, 0)                 # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


# ---- the worker: a small warm interpreter that forks a program, and perhaps a checker, for each job ----

def start(function, *args):
    """Fork a process that does function(*args) and ends, with status 1 if that returns; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*args)
        finally:
            os._exit(1)                     # never back into the worker's loop
    return pid

def ended(pid, deadline=0.0):
    """The exit status of a child; one that still runs at the deadline is killed, with its group."""
    while (found := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.0005)
    if found == (0, 0):
        for kill in (os.kill, os.killpg):
            with suppress(OSError):
                kill(pid, 9)
        found = os.waitpid(pid, 0)
    return found[1]

def worker(directory, control, packages=None):
    """A worker's life: jobs come from `control`, a descriptor, a function's with its tests behind it, and verdicts go back.

    packages: the folder from which numpy is imported when a job names it; without it, there is no numpy.
    The first message is {"missing": [walls this system lacks]}, or {"error": why} and nothing more.
    """
    control = Connection(int(control))
    del sys.path[0]                         # this file's own folder
    sys.dont_write_bytecode = True
    def rehearse():
        confine(shield, {"timeout": 1, "memory_mb": 512})
        with suppress(OSError):             # by fork: then it would end with status 1
            os.fork()
            os._exit(1)
        os._exit(0)
    try:
        for name in PRELOADED + [name for name in ("bz2", "lzma", "sqlite3") if importlib.util.find_spec(f"_{name}")]:
            importlib.import_module(name)
        packages = packages and os.open(packages, os.O_RDONLY)
        os.makedirs(f"{directory}/run", exist_ok=True)
        shield = build_shield(f"{directory}/run")
        if ended(start(rehearse), time.monotonic() + START_SECONDS):
            raise OSError("its walls cannot be put up, or programs could fork")
    except Exception as error:
        return say(control, {"error": f"worker cannot start: {error}"})
    say(control, {"missing": shield["missing"]})
    with suppress(EOFError):                # the trainer hangs up
        while True:
            job = hear(control)
            if job["numpy"] and packages and "numpy" not in sys.modules:
                sys.path.append(f"/proc/self/fd/{packages}")
                for name in ("numpy", "numpy.testing", "numpy.random"):
                    importlib.import_module(name)
                sys.path.pop()
            if len(KNOWN) < len(sys.modules):
                KNOWN.update(sys.modules.keys() - {"__main__"})
                sys.modules["gc"].freeze()  # the forks share these pages as long as nobody writes to them
            say(control, (run_function if job["stdin"] is None else run_script)(job, control, shield))
            for entry in os.scandir("."):   # empty again for the next program
                with suppress(OSError):
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)

def run_script(job, control, shield):
    """[what it printed] of a script that ends well in time, else "fail"."""
    with tempfile.TemporaryFile(dir="..") as given, tempfile.TemporaryFile(dir="..") as printed:
        given.write(job["stdin"].encode("utf-8", "surrogatepass"))
        given.seek(0)
        status = ended(start(run_program, job, given, printed, shield), time.monotonic() + job["timeout"])
        printed.seek(0)
        return "fail" if status else [printed.read().decode("utf-8", "replace")]

def run_function(job, control, shield):
    """Fork checker and program, wait for the verdict until the deadline: "pass", "fail" or "verifier".

    The program starts when the checker has the tests, so that they are in `control` no more. EOFError if that fails.
    """
    (inbox, to_program), (from_program, outbox), (verdicts, verdict) = (Pipe(duplex=False) for _ in range(3))
    checker = start(run_checker, job, control, from_program, to_program, verdict, shield)
    verdict.close()
    hear(verdicts)
    program = start(run_program, job, inbox, outbox, shield)
    for side in (inbox, to_program, from_program, outbox):
        side.close()
    said = "fail"
    with suppress(EOFError):
        if verdicts.poll(job["timeout"]):
            said = hear(verdicts)
    ended(program), ended(checker)
    return said


# ---- the trainer's side ----

tell = functools.cache(lambda remark: print(f"sandbox: {remark}", file=sys.stderr))       # each remark once

class Worker:
    """The trainer's end of a worker, whose programs run in `directory`; started for the first job, and anew after a loss."""
    def __init__(self, directory):
        self.directory, self.process = directory, None

    def start(self):
        """Start it; what is wrong or weaker goes to stderr, once."""
        # -s -S: no site-packages. A fixed hash seed makes rewards repeatable; the environment is otherwise empty.
        self.control, theirs = Pipe()
        command = [sys.executable, "-s", "-S", "-X", "utf8", os.path.abspath(__file__), "--worker", self.directory,
                   str(theirs.fileno())]
        if numpy := importlib.util.find_spec("numpy"):
            command.append(os.path.dirname(os.path.dirname(numpy.origin)))
        env = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self.process = subprocess.Popen(command, env=env, pass_fds=[theirs.fileno()], start_new_session=True,
                                            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL))
        hello = self.talk(START_SECONDS) or {"error": "worker did not start"}
        for part in hello.get("missing", ()):
            tell(f"weaker here, without {part}")
        if "error" in hello:
            tell(hello["error"])
            self.stop()

    def stop(self):
        """Kill it, if it runs."""
        if self.process:
            self.process.kill(), self.process.wait(), self.control.close()
        self.process = None

    def talk(self, seconds, *messages):
        """Send messages, return the one that comes back; None if the worker died, or was killed here after `seconds`."""
        clock = threading.Timer(seconds, self.process.kill)        # ends a blocked write as well as a blocked read
        clock.start()
        try:
            for message in messages:
                say(self.control, message)
            return hear(self.control)
        except (OSError, EOFError):
            return None
        finally:
            clock.cancel()

    def run(self, job, *tests):
        """The worker's word on a job; None if no worker can be started. A worker lost twice is what the two tries have in
        common, the job, so that fails."""
        for _ in range(2):
            if not self.process:
                self.start()
            if not self.process:
                return None
            if said := self.talk(job["timeout"] + GRACE_SECONDS, job, *tests):
                return said
            self.stop()
        return "fail"

def grade(key, idle, settings):
    """The reward of a job in JSON, by one of the idle workers (a queue). settings: "timeout" in seconds and "memory_mb"."""
    program, tests, entry_point = json.loads(key)
    code = [test for test in tests or () if isinstance(test, str)]
    scripts = [test for test in tests or () if not isinstance(test, str)]
    if not tests or len(key) > MESSAGE_BYTES or not all(
            isinstance(test, dict) and type(test.get("stdin")) is type(test.get("stdout")) is str for test in scripts):
        return math.nan
    job, worker = {"program": program, "entry_point": entry_point, "numpy": "numpy" in key, **settings}, idle.get()
    try:
        for test in [code] * bool(code) + scripts:
            said = worker.run(job | {"stdin": None}, code) if test is code else worker.run(job | {"stdin": test["stdin"]})
            if type(said) is list:          # of a script that ended well
                said = "pass" if same_text(said[0], test["stdout"]) else "fail"
            if said != "pass":
                return 0.0 if said == "fail" else math.nan
    finally:
        idle.put(worker)
    return 1.0

def same_text(printed, expected):
    """Whether two texts are the same except for blanks at ends of lines and of the text, and for a millionth of a
    number that is expected with a decimal point or an exponent."""
    def same(got, want):
        if got == want or not re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?", want):
            return got == want
        with suppress(ValueError):
            return math.isclose(float(got), float(want), rel_tol=1e-6, abs_tol=1e-9)
        return False
    def same_line(got, want):
        got, want = (re.split(r"(\s+)", line.rstrip()) for line in (got, want))
        return len(got) == len(want) and all(map(same, got, want))
    printed, expected = (text.rstrip().split("\n") for text in (printed, expected))
    return len(printed) == len(expected) and all(map(same_line, printed, expected))

def run_tests(jobs, *, timeout=4.0, memory_mb=512, workers=None):
    """Rewards of `jobs` in order: 1.0, 0.0 or nan (see the module's docstring). OSError where there is no fork.

    timeout    wall seconds for all code tests of a job together, and for each stdin test
    memory_mb  address space of a program, and of a checker
    workers    processes; default: CPU cores. Identical jobs are graded once.
    """
    if not hasattr(os, "fork"):
        raise OSError("sandbox: needs an operating system with fork (Linux; macOS with weaker walls)")
    keys = [json.dumps([job["program"], job["tests"], job.get("entry_point")]) for job in jobs]
    todo, idle = list(dict.fromkeys(keys)), queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as root:
        os.chmod(root, 0o711)               # each worker owns one folder in it
        team = [Worker(tempfile.mkdtemp(dir=root)) for _ in range(min(workers or os.cpu_count() or 1, len(todo)))]
        for worker in team:
            idle.put(worker)
        grade_one = functools.partial(grade, idle=idle, settings={"timeout": timeout, "memory_mb": memory_mb})
        try:
            with ThreadPoolExecutor(len(team) or 1) as pool:       # every wait inside has a deadline
                rewards = dict(zip(todo, pool.map(grade_one, todo)))
        finally:
            for worker in team:
                worker.stop()
    return [rewards[key] for key in keys]


if __name__ == "__main__":
    worker(*sys.argv[2:]) if sys.argv[1:2] == ["--worker"] else sys.exit(__doc__)
