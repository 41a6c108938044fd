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

Each end of the pipe is a `Peer`. Values (builtins, Fraction, datetime, Counter, namedtuples, Python's exceptions) are built
anew from JSON (no pickle, no eval), so a lying __eq__ or a subclass of int stays behind. Other objects stay where they are;
a Handle there makes questions of their methods and operators. So a test has the program's instances, classes and exceptions,
and the program a test's functions. Changes to mutable arguments are mirrored. Values are compared by the checker alone; for
objects see `Peer.equal`, and `Peer.ask` for who may see what a test expects. The worker reads programs but never a test, so
neither it nor its forks have answers to leak: the checker reads the test from the same stream, after its fork.

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

Try it:  python -m domains.sandbox
"""
import builtins, datetime, functools, importlib.util, io, itertools, json, math, operator, os, re, select, shutil
import struct, subprocess, sys, tempfile, threading, time
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction

NOBODY = 65534             # user and group id that a worker takes when started by root
MESSAGE_BYTES = 16 << 20   # longest message between the processes
OUTPUT_BYTES = 1 << 20     # longest stdout of a script, and largest file that a program may write
FILES_WRITTEN = 64         # how often a program may open a file for writing: bounds the disk that it can fill
START_SECONDS = 20         # wall clock for a worker to start
GRACE_SECONDS = 5          # how long after the timeout a worker may still be silent
# Imported before the forks, so that each program finds them ready; other standard modules load when asked for.
PRELOADED = """abc array atexit base64 binascii bisect calendar cmath collections copy dataclasses datetime decimal enum
fractions functools gc hashlib heapq io itertools json math numbers operator os platform queue random re resource
statistics string struct sys textwrap time types typing unicodedata zlib""".split()
KNOWN = set()              # names of the modules that a worker had before it forked: what both sides have


# ---- messages: 8 bytes of length, then JSON ----

def frame(message):
    """A message, which JSON can hold, as the bytes that are written."""
    data = json.dumps(message).encode()
    return len(data).to_bytes(8, "big") + data

def write(fd, data):
    """Write all of some bytes to a file descriptor; OSError if nobody reads there any more."""
    data = memoryview(data)
    while data:
        data = data[os.write(fd, data):]

def receive(fd):
    """The next message that comes; EOFError if none does, or one longer than MESSAGE_BYTES."""
    data, size = bytearray(), 8
    while len(data) < size:
        chunk = os.read(fd, min(size - len(data), 1 << 20))
        data += chunk
        if size == 8 == len(data):
            size += int.from_bytes(data, "big")
        if not chunk or size > MESSAGE_BYTES + 8:
            raise EOFError("the other side is gone, or too talkative")
    return json.loads(data[8:])


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

class Mirror(type):
    """The class of classes over there: isinstance, except and type() are Python's own, the rest is asked for."""
    def __getattr__(self, name):            # as below
        if name.startswith("__"):
            raise AttributeError(name)
        return peer.ask("getattr", self, name)
    def __setattr__(self, name, value):
        peer.ask("setattr", self, name, value)
    __call__, __getitem__, __iter__, __len__, __contains__ = map(asking, ("call", "getitem", "iter", "len", "contains"))
    __bool__ = lambda self: True

class Handle(metaclass=Mirror):
    """An object that lives in the other process."""
    def __getattr__(self, name):
        if name.startswith("__") and name != "__name__":    # protocols that probe for optional methods stay here
            raise AttributeError(name)
        return peer.ask("getattr", self, name)
    def __setattr__(self, name, value):
        if name.startswith("__"):
            return super().__setattr__(name, value)
        peer.ask("setattr", self, name, value)
    def __eq__(self, other):
        return peer.equal(self, other)
    __delattr__, __str__, __repr__, __format__, __hash__ = map(asking, ("delattr", "str", "repr", "format", "hash"))

class Peer:
    """One end of the line between checker and program: asks about objects of the other end, answers about its own.

    finish(letter): the way out of the checker, which does not believe the other end: that can be wrong, late or hostile, and
    then the program has failed. None in the program. names: the program's globals, in the program.
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
        if type(message) is dict:
            raise ValueError("no value travels as a dict")
        if type(message) is not list:
            return message
        tag, *parts = message
        if tag in ("yours", "class", "mine"):
            return {"yours": self.mine.__getitem__, "class": self.mirror, "mine": self.handle}[tag](*parts)
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
                self.finish(b"?")
            raise TypeError(f"no {question} of a value and an object that a function has returned")
        self.asked += 1
        values = [*args, *kwargs.values()]
        question_frame = frame(["ask", question, list(kwargs), list(map(self.pack, values))])
        try:
            write(self.outbox, question_frame)
            while (message := receive(self.inbox))[0] == "ask":
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
                self.finish(b"0")
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
        reply = frame([*said, after])
        if len(reply) > MESSAGE_BYTES:
            reply = frame(["error", self.pack(ValueError("too long to return")), []])
        write(self.outbox, reply)

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
            self.finish(b"?")
        return equal


# ---- the program's process: all of it untrusted once the program has started ----
# From here to the trainer's side a job is what one process runs of the trainer's: {"program": str, "script": bool,
# "entry_point": str or None, "numpy": bool, "timeout": seconds, "memory_mb": number}. Its tests are a message of their own,
# a list of texts or one {"stdin", "stdout"}. Ends of pipes (inbox, control, verdict...) are file descriptors, `shield` is
# what build_shield returns, `stdlib` the directory of the standard library.

def run_program(job, inbox, outbox, shield):
    """Run the program behind walls, as a script from inbox to outbox or to be asked there; never returns."""
    global peer
    if job["script"]:
        inbox, outbox = os.dup2(inbox, 0), os.dup2(outbox, 1)
    else:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(NoInput()))
    confine(shield, job, inbox, outbox)
    install_audit_hook(os.getcwd(), shield["stdlib"])
    # Not "__main__" in function mode: an `if __name__ == "__main__": input()` below a good function must not fail it.
    name = "__main__" if job["script"] else "solution"
    builtins.exit = builtins.quit = sys.exit         # which -S leaves out
    really = io.open                                 # /dev/stdin leads through /proc, which is closed
    builtins.open = io.open = lambda file, *a, **k: really(os.dup(0) if str(file) == "/dev/stdin" else file, *a, **k)
    sys.argv[:] = ["solution.py"]
    module = sys.modules[name] = type(sys)(name)     # registered, as dataclasses look themselves up
    peer, status = Peer(inbox, outbox, names=vars(module)), 0
    try:
        with suppress(*() if job["script"] else [EOFError]):       # at the end: a driver below a good function
            exec(compile(job["program"].removeprefix("\ufeff"), "<program>", "exec", dont_inherit=True), vars(module))
        if not job["script"]:
            write(outbox, frame("ready"))
            while True:                     # until the checker hangs up; SystemExit and its kin are a failure
                peer.answer(*receive(inbox)[1:])
    except SystemExit as stop:
        status = 0 if stop.code is None else stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        status = 1
    if job["script"]:                       # fast-output idioms print from atexit
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
    abspath, fsdecode, writes = os.path.realpath, os.fsdecode, [0]
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    forbidden = ("subprocess.", "socket.", "ctypes.", "fcntl.", "resource.", "sqlite3.", "syslog.", "signal.",
                 "_thread.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "os.kill",
                 "os.ch", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.truncate", "os.utime", "os.setxattr",
                 "os.removexattr")
    def under(folder, path):
        return isinstance(path, int) or (abspath(fsdecode(path or ".")) + "/").startswith(folder + "/")
    def hook(event, args):
        if event == "open" and (args[2] & writing) and not isinstance(args[0], int):
            writes[0] += 1
            allowed = fsdecode(args[0]) == os.devnull or under(directory, args[0]) and writes[0] <= FILES_WRITTEN
        elif event in ("open", "os.listdir", "os.scandir"):
            allowed = under(directory, args[0]) or args[0] in ("/dev/null", "/dev/urandom") or (
                under(stdlib, args[0]) and "-packages/" not in fsdecode(args[0]))
        elif event in ("os.remove", "os.rename"):
            allowed = all(under(directory, part) for part in args)
        else:                               # asyncio makes a pair of sockets for itself
            allowed = not event.startswith(forbidden) or event in ("socket.__new__", "sqlite3.connect/handle") or (
                event == "sqlite3.connect" and args[0] == ":memory:")
        if not allowed:
            raise PermissionError(f"sandbox: {event} is not allowed here")
    sys.addaudithook(hook)


# ---- the checker's process: runs the test; only it knows what to expect ----

def run_checker(job, control, from_program, to_program, verdict, shield):
    """Read the tests from `control` and run them behind walls; never returns.

    Writes to `verdict`: b"t" when the tests are read, then b"1" (passed), b"0" or b"?" (the verifier failed).
    """
    global peer
    def finish(letter):                     # not an exception: a test's own `except:` could swallow that
        os.write(verdict, letter)
        os._exit(0)
    tests = receive(control)
    os.write(verdict, b"t")                 # tells the worker that the stream is at the next job again
    confine(shield, job, from_program, to_program, verdict)
    if job["script"]:
        finish(b"1" if same_output(tests, from_program, to_program) else b"0")
    try:
        tests = [compile(test, "<test>", "exec", dont_inherit=True) for test in tests]
    except Exception:                       # a SyntaxError, or test too long or too deep
        finish(b"?")
    peer = Peer(from_program, to_program, finish=finish)

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
        ready = receive(from_program) == "ready"
    except BaseException:
        finish(b"0")
    for test in tests:
        before = peer.asked
        try:
            exec(test, Names(__name__="test"))
        except BaseException:               # what went wrong before the first question is not the program's fault
            finish(b"0" if peer.asked > before else b"?")
    finish(b"1" if ready and peer.asked else b"?")

def same_output(test, from_program, to_program):
    """Does a script print what the test expects (`same_text`)?

    Feeds stdin and reads stdout at once, because either pipe may fill up first. False for more than OUTPUT_BYTES too many.
    """
    feed, output = test["stdin"].encode("utf-8", "surrogatepass"), bytearray()
    os.set_blocking(to_program, False)
    poller = select.poll()
    poller.register(from_program, select.POLLIN), poller.register(to_program, select.POLLOUT)
    while len(output) <= OUTPUT_BYTES + len(test["stdout"]):
        for fd, _ in poller.poll():
            if fd == from_program:
                chunk = os.read(fd, 1 << 16)
                output += chunk
                if not chunk:
                    return same_text(output.decode("utf-8", "replace"), test["stdout"])
            else:
                try:
                    feed = feed[os.write(fd, feed[:1 << 16]):]
                except BrokenPipeError:     # a program need not read its input
                    feed = b""
                if not feed:
                    poller.unregister(fd), os.close(fd)
    return False

def same_text(printed, expected):
    """Whether two texts are the same except for blanks at ends of lines and of the text, and for a millionth of a
    number that is expected with a decimal point or an exponent."""
    pieces = lambda text: [piece for line in text.rstrip().split("\n") for piece in (*re.split(r"(\s+)", line.rstrip()), "\n")]
    def same(got, want):
        if got == want or not re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?", want):
            return got == want
        with suppress(ValueError):
            return math.isclose(float(got), float(want), rel_tol=1e-6, abs_tol=1e-9)
        return False
    printed, expected = pieces(printed), pieces(expected)
    return len(printed) == len(expected) and all(map(same, printed, expected))


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

    directory: the working directory from now on, where programs may write. OSError if root cannot be given up.
    """
    import ctypes, platform
    libc, stdlib = ctypes.CDLL(None, use_errno=True), os.path.realpath(os.path.dirname(os.__file__))
    def call(name, *args):
        args = [ctypes.c_char_p(arg) if isinstance(arg, bytes) else ctypes.c_long(arg) for arg in args]
        result = getattr(libc, name)(*args)
        if result < 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
        return result
    shield = {"call": call, "stdlib": stdlib, "linux": sys.platform == "linux", "ruleset": None, "filter": None}
    missing = shield["missing"] = []
    if shield["linux"]:
        call("prctl", 4, 0, 0, 0, 0)        # PR_SET_DUMPABLE: /proc/PID/mem of worker and forks is closed
        call("prctl", 38, 1, 0, 0, 0)       # PR_SET_NO_NEW_PRIVS
    try:
        abi, shield["ruleset"] = landlock_rules(call, stdlib, directory) if shield["linux"] else (0, None)
    except OSError:                         # an old kernel, or a container that forbids it
        abi = 0
    missing += [f"Landlock (ABI {abi}, 6 wanted)"] if abi < 6 else []
    arch, numbers = DENIED.get(platform.machine() if shield["linux"] else "", (0, ""))
    if arch:
        numbers = [int(number) for number in f"{numbers} {DENIED_BOTH}".split()]
        # Classic BPF. Calls in another architecture's numbering, x32's too, are denied as a whole.
        steps = [(0x20, 0, 0, 4), (0x15, 0, len(numbers) + 3, arch),                 # load the architecture; other?
                 (0x20, 0, 0, 0), (0x35, len(numbers) + 1, 0, 0x40000000),           # load the call's number; x32?
                 *((0x15, len(numbers) - at, 0, number) for at, number in enumerate(numbers)),
                 (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)]                 # return: allow; EPERM
        code = shield["code"] = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
        shield["filter"] = struct.pack("HP", len(steps), ctypes.addressof(code))
    else:
        missing.append("seccomp")

    library = os.open(stdlib, os.O_RDONLY)
    os.chdir(directory)
    if os.geteuid() == 0:
        os.chown(".", NOBODY, NOBODY)
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
    kept = sorted({0, 1, 2, *keep, shield.get("library", 0), shield["ruleset"] or 0, 4096})
    for low, high in itertools.pairwise(kept):
        os.closerange(low + 1, high)
    for name, most in (("AS", job["memory_mb"] << 20), ("CPU", math.ceil(job["timeout"]) + 1), ("FSIZE", OUTPUT_BYTES),
                       ("NOFILE", 64), ("CORE", 0), ("NPROC", 0)):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(*() if shield["linux"] else (ValueError, OSError)):      # macOS refuses some
            resource.setrlimit(kind, (most, most))
    sys.modules["random"].seed(0)           # with the fixed hash seed: the same program gets the same reward again
    if shield["linux"]:
        shield["call"]("prctl", 1, 9, 0, 0, 0)                                 # PR_SET_PDEATHSIG: die with the worker
    if shield["ruleset"] is not None:
        shield["call"]("syscall", 446, shield["ruleset"], 0)                   # landlock_restrict_self
        os.close(shield["ruleset"])
    if shield["filter"]:
        shield["call"]("prctl", 22, 2, shield["filter"], 0, 0)                 # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


# ---- the worker: a small warm interpreter that forks two processes per job ----

def start(function, *args):
    """Fork a process that does function(*args) and ends, with status 1 if that returns; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*args)
        finally:
            os._exit(1)                     # never back into the worker's loop
    return pid

def worker(directory, packages=None):
    """A worker's life: on stdin come jobs, each with its tests, on stdout go verdicts, until the trainer hangs up.

    packages: the folder from which numpy is imported when a job names it; without it, there is no numpy.
    The first message is {"missing": [walls this system lacks]}, or {"error": why} and nothing more.
    """
    control, answers, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    del sys.path[0]                         # this file's own folder
    sys.dont_write_bytecode = True
    def rehearse():
        try:
            confine(shield, {"timeout": 1, "memory_mb": 512})
        except OSError as error:
            os._exit(error.errno)
        with suppress(OSError):
            os.fork()
            os._exit(255)
        os._exit(0)
    try:
        for name in PRELOADED + [name for name in ("bz2", "lzma", "sqlite3") if importlib.util.find_spec(f"_{name}")]:
            importlib.import_module(name)
        packages = packages and os.open(packages, os.O_RDONLY)
        shield = build_shield(directory)
        status = os.waitpid(start(rehearse), 0)[1]
        if status:
            raise OSError("programs could fork" if status >> 8 == 255 else f"no walls: {os.strerror(status >> 8)}")
    except Exception as error:
        return write(answers, frame({"error": f"worker cannot start: {error}"}))
    write(answers, frame({"missing": shield["missing"]}))
    with suppress(EOFError):                # the trainer hangs up
        while True:
            job = receive(control)
            if job["numpy"] and packages and "numpy" not in sys.modules:
                sys.path.append(f"/proc/self/fd/{packages}")
                for name in ("numpy", "numpy.testing", "numpy.random"):
                    importlib.import_module(name)
                sys.path.pop()
            if len(KNOWN) < len(sys.modules):
                KNOWN.update(sys.modules.keys() - {"__main__"})
                sys.modules["gc"].freeze()  # the forks share these pages as long as nobody writes to them
            write(answers, frame(grade(job, control, shield)))

def grade(job, control, shield):
    """Fork program and checker, wait for the verdict until the deadline, leave nothing behind.

    Returns "pass", "fail" or "verifier"; ends the worker where the tests may still be in `control`.
    """
    deadline = time.monotonic() + job["timeout"]
    (inbox, to_program), (from_program, outbox), (verdict_end, verdict) = os.pipe(), os.pipe(), os.pipe()
    program = start(run_program, job, inbox, outbox, shield)
    checker = start(run_checker, job, control, from_program, to_program, verdict, shield)
    for fd in (inbox, to_program, from_program, outbox, verdict):
        os.close(fd)
    said, running, poller = b"", {program, checker}, select.poll()
    poller.register(verdict_end, select.POLLIN)
    while len(said) < 2 and poller.poll(max(0, deadline - time.monotonic()) * 1000):
        chunk = os.read(verdict_end, 2)
        if not chunk:
            break
        said += chunk
    os.close(verdict_end)
    while job["script"] and said == b"t1" and program in running:              # right output; now a clean exit
        pid, status = os.waitpid(program, os.WNOHANG)
        running.discard(pid)
        if pid and status or time.monotonic() > deadline:
            said = b"t0"
        time.sleep(0 if pid else 0.0005)
    for pid in running:
        for kill in (os.kill, os.killpg):
            with suppress(OSError):
                kill(pid, 9)
        os.waitpid(pid, 0)
    for entry in os.scandir("."):           # empty again for the next program
        with suppress(OSError):
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
    if not said:                            # the test may still be in the stream: start afresh
        os._exit(1)
    return {b"t1": "pass", b"t?": "verifier"}.get(said, "fail")


# ---- the trainer's side ----

@functools.cache                            # each remark once
def tell(remark):
    print(f"sandbox: {remark}", file=sys.stderr)

def start_worker(directory):
    """A worker (a Popen) whose programs run in `directory`, or None; what is wrong or weaker goes to stderr, once."""
    # -s -S: no site-packages. A fixed hash seed makes rewards repeatable; the environment is otherwise empty.
    command = [sys.executable, "-s", "-S", "-X", "utf8", os.path.abspath(__file__), "--worker", directory]
    if numpy := importlib.util.find_spec("numpy"):
        command.append(os.path.dirname(os.path.dirname(numpy.origin)))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               bufsize=0, env={"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}, start_new_session=True)
    hello = talk(process, b"", START_SECONDS) or {"error": "worker did not start"}
    if "error" in hello:
        tell(hello["error"])
        return stop_worker(process)
    for part in hello["missing"]:
        tell(f"weaker here, without {part}")
    return process

def stop_worker(process):
    """Kill a worker and close its pipes; returns None, because there is no worker now."""
    process.kill(), process.wait(), process.stdin.close(), process.stdout.close()

def talk(process, data, seconds):
    """Write `data` (bytes) to a worker, read one message; None if it died, or was killed here after `seconds`."""
    clock = threading.Timer(seconds, process.kill)     # ends a blocked write as well as a blocked read
    clock.start()
    try:
        write(process.stdin.fileno(), data)
        return receive(process.stdout.fileno())
    except (OSError, EOFError):
        return None
    finally:
        clock.cancel()

def grade_all(waiting, results, root, settings):
    """One thread of the trainer: take jobs until none is left, and keep one worker alive for them, in a folder of its own.

    waiting: a deque of jobs as JSON, shared by the threads. results: {job as JSON: reward}, filled here. root: a directory.
    settings: {"timeout": seconds, "memory_mb": number}.
    """
    process, directory = None, tempfile.mkdtemp(dir=root)
    while waiting:
        try:
            key = waiting.popleft()
        except IndexError:                  # another thread was faster
            break
        program, tests, entry_point = json.loads(key)
        code = [test for test in tests or () if isinstance(test, str)]
        scripts = [test for test in tests or () if not isinstance(test, str)]
        valid = len(key) <= MESSAGE_BYTES and all(
            isinstance(test, dict) and type(test.get("stdin")) is type(test.get("stdout")) is str for test in scripts)
        verdict = "verifier"
        for test in [code] * bool(code) + scripts if valid else ():
            job = {"program": program, "script": test is not code, "entry_point": entry_point, "numpy": "numpy" in key,
                   **settings}
            for _ in range(2):              # a worker lost twice: the job is what the two have in common, so it fails
                process = process or start_worker(directory)
                if not process:             # left to the other workers; nan if there are none
                    return waiting.appendleft(key)
                verdict = talk(process, frame(job) + frame(test), settings["timeout"] + GRACE_SECONDS)
                if verdict:
                    break
                process = stop_worker(process)
            if verdict != "pass":
                break
        results[key] = {"pass": 1.0, "verifier": math.nan}.get(verdict, 0.0)
    if process:
        stop_worker(process)

def run_tests(jobs, *, timeout=4.0, memory_mb=512, workers=None):
    """Rewards of `jobs` in order: 1.0, 0.0 or nan (see the module's docstring). OSError where there is no fork.

    timeout    wall seconds for all code tests of a job together, and for each stdin test
    memory_mb  address space of a program, and of a checker
    workers    processes; default: CPU cores. Identical jobs are graded once.
    """
    if not hasattr(os, "fork"):
        raise OSError("sandbox: needs an operating system with fork (Linux; macOS with weaker walls)")
    keys = [json.dumps([job["program"], job["tests"], job.get("entry_point")]) for job in jobs]
    waiting, results, settings = deque(dict.fromkeys(keys)), {}, {"timeout": timeout, "memory_mb": memory_mb}
    root = tempfile.mkdtemp(prefix="sandbox-")
    os.chmod(root, 0o711)                   # each worker owns one folder in it
    threads = [threading.Thread(target=grade_all, daemon=True, args=(waiting, results, root, settings))
               for _ in range(min(workers or os.cpu_count() or 1, len(waiting)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()                   # every wait inside has a deadline, so this one ends
    finally:
        waiting.clear()
        shutil.rmtree(root, ignore_errors=True)
    return [results.get(key, math.nan) for key in keys]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        tests = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]
        for program in ("def add(a, b): return a + b", "def add(a, b): return a - b", "import os; os._exit(0)"):
            print(run_tests([{"program": program, "tests": tests}])[0], program)
