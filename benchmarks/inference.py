"""How fast transformers answer, against what else could run the same weights.

    python benchmarks/inference.py --work FOLDER                everything; trains the models first, keeps them in FOLDER
    python benchmarks/inference.py --only short mix --rounds 3 --records 1000 --json

Four layers of 256, trained a short while on synthetic tasks. Each contender is a process of its own with two threads,
one computes at a time, and rounds are interleaved in rotating order; a first one is not counted. Medians, and ratios of
medians with the lowest and highest of single rounds.

    short     TERRa records as they are                        mix       half of the premises lengthened by others
    muserc    a passage's answers share it, or recompute it    rucos     the same of candidates
    start     process start -> ready, against torch alone      memory    peak of 1e3 to 1e5 records
    lean      a RuLeanALBERT on TERRa records, against batches of like lengths that are padded
    profile   where the time of short and mix goes, and which share it is of the machine's matrix multiplications

Exits with 1 if a bar is missed or the models' answers are too alike to be compared.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

from morocco_lib import data
from morocco_lib.config.model import ModelParams
from morocco_lib.config.recipe import Recipe
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import Task
from morocco_lib.tasks.jsonl import Record
from morocco_lib.training import fit

HERE = Path(__file__).parent
EXACT = ["CrossEncoder", "OpenVINO f32", "morocco fp32"]
ROUNDED = ["morocco bf16", "OpenVINO int8"]
if "avx512_bf16" in Path("/proc/cpuinfo").read_text():
    ROUNDED.append("OpenVINO bf16")  # elsewhere it computes in fp32, and is refused
PAIRS = ["fixed order", *EXACT, *ROUNDED]
SHARING = ["recomputed", "morocco fp32"]
LEANS = ["fixed order", "like lengths, padded", "morocco fp32"]
RAREST = 0.2  # share of the rarest answer (of what is not the commonest place, in RuCoS)
LONGEST = 400  # tokens of a lengthened record, about
CHARACTERS_A_TOKEN = 4.2  # of the trained tokenizer on these texts
IMPORTS = (
    "import torch, tokenizers, safetensors.torch; from transformers.models.bert.modeling_bert import BertModel; "
    "print('ready', flush=True)"
)
BERT = {"model_type": "bert", "vocab_size": 4000, "hidden_size": 256, "num_hidden_layers": 4}
BERT |= {"num_attention_heads": 4, "intermediate_size": 1024}
WIDE = {**BERT, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}  # as published ones are
LEAN = {**BERT, "model_type": "lean_albert", "embedding_size": 128}
GPT2 = {"model_type": "gpt2", "vocab_size": 4000, "n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 512}
SMALL_GPT2 = {**GPT2, "n_embd": 128, "n_layer": 3}  # the larger one had learnt nothing of MuSeRC after 450 updates
TINY = {**BERT, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
RECIPE = {"batch_size": 32, "learning_rate": 5e-4, "dropout": 0.0, "body_dropout": 0.0, "max_length": 512}


@dataclass(frozen=True)
class Learner:
    """A model that is trained before it is raced.

    Args:
        backbone: What its configuration differs in.
        recipe: What differs from `RECIPE`.
        records: Of the train split; 0 for the task's usual number.
        enlarged: Its words enter at the scale of what its layers add to them: see `begun`.
    """

    task: str
    backbone: dict
    recipe: dict
    records: int = 0
    enlarged: bool = False


MODELS = {
    "terra": Learner("terra", BERT, {"epochs": 5, "pooling": "first"}),
    "muserc": Learner(
        "muserc", SMALL_GPT2, {"epochs": 1, "pooling": "last", "learning_rate": 1e-3}, 700, enlarged=True
    ),
    "rucos": Learner("rucos", GPT2, {"epochs": 1, "pooling": "last", "batch_size": 8}),
    "wide": Learner("terra", WIDE, {"epochs": 0.02, "pooling": "first"}),
    "tiny": Learner("terra", TINY, {"epochs": 1, "pooling": "first"}),
    "lean": Learner("terra", LEAN, {"epochs": 5, "pooling": "mean"}),
}


@dataclass(frozen=True)
class Bar:
    """What must hold of a value: at least or at most a bound; a bound of None is only shown."""

    of: str
    value: float
    rule: str = ""
    bound: float | None = None

    @property
    def passed(self) -> bool | None:
        if self.bound is None:
            return None
        return self.value >= self.bound if self.rule == ">=" else self.value <= self.bound

    def __str__(self) -> str:
        verdict = {None: "", True: "PASS", False: "FAIL"}[self.passed]
        bound = "" if self.bound is None else f"{self.rule} {self.bound:g}"
        return f"{self.of:<58}{self.value:>12.4g}  {bound:<10}{verdict}"


# -- models and records --------------------------------------------------------------------------------------------
def prepared(work: Path, name: str) -> Path:
    """Return the weights of a trained model, which are kept in the work folder."""
    one, folder = MODELS[name], work / name
    if not (folder / fit.RESULT).is_file():
        task, records = get_task(one.task), work / f"{one.task}-records"
        if not records.is_dir():
            data.make_synthetic(records, [one.task], 1, one.records)
        files = {split: data.find_split(records, task, split) for split in ("train", "val")}
        start = {"scratch": one.backbone}
        if one.enlarged:
            start = {"source": str(begun(work / f"{name}-begun", one.backbone, task, task.read(files["train"])))}
        model = ModelParams(name=name, kind="transformer", recipe=Recipe(**{**RECIPE, **one.recipe}), **start)
        folder.mkdir(parents=True, exist_ok=True)
        fit.fit(fit.Plan(model, one.task, files, [1]), folder)
    return folder / "weights"


def begun(folder: Path, backbone: dict, task: Task, records: list[Record]) -> Path:
    """Return a model folder with random weights, of which the words are as large as Gemma makes its own.

    GPT-2 begins with words so small that what attention adds of a long passage drowns them, the question's and the
    answer's too: in so few updates it learns nothing of MuSeRC then.
    """
    from morocco_lib.training import backbones

    made = backbones.from_scratch(backbone, backbones.texts_of(records, task), 1)
    made.model.get_input_embeddings().weight.data *= made.model.config.hidden_size**0.5
    backbones.save_folder(made, folder)
    return folder


def drawn(task_name: str, size: int) -> list[Record]:
    """Return synthetic records that no model was trained on."""
    task, found, seed = get_task(task_name), [], 2
    while len(found) < size:
        with tempfile.TemporaryDirectory() as place:
            data.make_synthetic(Path(place), [task_name], seed)
            for split in ("val", "train"):
                found += data.read_split(Path(place), task, split)[1]
        seed += 1
    return [task.reindex(record, place) for place, record in enumerate(found[:size])]


def lengthened(records: list[Record]) -> list[Record]:
    """Return TERRa records of which half have premises of up to `LONGEST` tokens, joined from others' premises."""
    rng, found = random.Random(1), []
    premises = [record["premise"] for record in records]
    for record in records:
        if rng.random() < 0.5:
            wanted = rng.uniform(60, LONGEST - 80) * CHARACTERS_A_TOKEN
            while len(record["premise"]) < wanted:
                record = {**record, "premise": f"{record['premise']} {rng.choice(premises)}"}
        found.append(record)
    return found


def fuller(title: str, records: list[Record]) -> list[Record]:
    """Return records whose passages are followed by two others, and which ask for some of what the first one asks.

    That makes 13 candidates and 25 answers a record, about as in the official train records of RuCoS and MuSeRC (13.2 and 23.5); their passages
    are longer still.
    """
    rng = random.Random(1)
    found = []
    for record in records:
        passage, (more, last) = record["passage"], (r["passage"] for r in rng.sample(records, 2))
        text = "\n".join((passage["text"], more["text"], last["text"]))
        moved = len(passage["text"]) + 1
        if title == "rucos":
            entities = [{**e, "start": e["start"] + moved, "end": e["end"] + moved} for e in more["entities"]]
            asked = {"entities": passage["entities"] + entities}
        else:
            others = [
                {**q, "idx": q["idx"] + 10**6, "answers": [{**a, "idx": a["idx"] + 10**6} for a in q["answers"]]}
                for q in more["questions"][:1]
            ]
            asked = {"questions": passage["questions"] + others}
        found.append({**record, "passage": {**passage, "text": text, **asked}})
    return found


def written(path: Path, records: list[Record]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


# -- contenders ----------------------------------------------------------------------------------------------------
class Contender:
    """A process that answers a file of records on request."""

    def __init__(self, name: str, weights: Path):
        argv = [sys.executable, str(HERE / "contenders.py"), name, str(weights)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), "2")
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | threads | {"CI": "true"}
        )
        self.name = name
        self._read()

    def ask(self, records: Path) -> dict:
        self.process.stdin.write(f"{records}\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def raced(names: list[str], weights: Path, records: Path, rounds: int) -> tuple[dict, dict]:
    """Return (name -> what it answered, name -> seconds of each round)."""
    contenders = [Contender(name, weights) for name in names]
    try:
        answered = {one.name: one.ask(records) for one in contenders}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number in range(rounds):
            first = number % len(contenders)
            for one in contenders[first:] + contenders[:first]:
                seconds[one.name].append(one.ask(records)["seconds"])
        return answered, seconds
    finally:
        for one in contenders:
            one.end()


def ratio(seconds: dict, name: str, over: str) -> float:
    """Return how many times as fast one contender is as another: the ratio of medians."""
    return median(seconds[over]) / median(seconds[name])


def table(title: str, records: int, seconds: dict, base: str) -> str:
    """Return records/s of each contender, and its speed against the base's with the extremes of single rounds."""
    lines = [f"{title:<28}{'records/s':>10}{'x':>8}   single rounds"]
    for name, times in seconds.items():
        each = [b / t for b, t in zip(seconds[base], times, strict=True)]
        speed = records / median(times)
        lines.append(
            f"  {name:<26}{speed:>10.0f}{ratio(seconds, name, base):>8.2f}   {min(each):.2f} to {max(each):.2f}"
        )
    return "\n".join(lines)


def same(one: dict, other: dict) -> float:
    """Return the share of equal answers."""
    return float(np.mean([a == b for a, b in zip(one["labels"], other["labels"], strict=True)]))


def distance(one: dict, other: dict) -> float:
    """Return the greatest difference of logits over the other's standard deviation."""
    a, b = np.array(one["logits"]), np.array(other["logits"])
    return float(np.abs(a - b).max() / b.std())


def described(title: str, one: dict) -> tuple[str, Bar]:
    """Return what a workload is like, and whether its answers differ enough to be compared."""
    counts = Counter(one["labels"])
    rarest = min(counts.values()) if set(counts) <= {0, 1, "entailment", "not_entailment"} and len(counts) > 1 else 0
    if not rarest:
        rarest = len(one["labels"]) - max(counts.values())
    low, middle, high = np.quantile(one["lengths"], [0, 0.5, 1])
    description = (
        f"{title}: {len(one['lengths'])} sequences of {low:.0f} to {high:.0f} tokens, half have over {middle:.0f}"
    )
    return description, Bar(f"{title}: rarest answer", rarest / len(one["labels"]), ">=", RAREST)


# -- what is measured ----------------------------------------------------------------------------------------------
def pairs(title: str, args, say: Callable[[str], None]) -> tuple[list[Bar], dict]:
    weights, records = prepared(args.work, "terra"), drawn("terra", args.records)
    records = lengthened(records) if title == "mix" else records
    answered, seconds = raced(PAIRS, weights, written(args.work / f"{title}.jsonl", records), args.rounds)
    description, bar = described(title, answered["fixed order"])
    say(f"{description}\n{table(title, len(records), seconds, 'fixed order')}")
    gold = {"labels": [record["label"] for record in records]}
    say("  right: " + ", ".join(f"{name} {same(one, gold):.4f}" for name, one in answered.items()))
    bars = [bar, Bar(f"{title}: sequences that were cut", max(a["truncated"] for a in answered.values()), "<=", 0)]
    for name in EXACT:
        bars.append(Bar(f"{title}: {name}, equal answers", same(answered[name], answered["fixed order"]), ">=", 1))
        bars.append(Bar(f"{title}: {name}, max |dlogit| / sd", distance(answered[name], answered["fixed order"]), "<=", 1e-3))  # fmt: skip
    bars += [
        Bar(f"{title}: {name}, equal answers", same(answered[name], answered["fixed order"]), ">=", 0.99)
        for name in ROUNDED
    ]
    bars.append(Bar(f"{title}: morocco fp32 over CrossEncoder", ratio(seconds, "morocco fp32", "CrossEncoder"), ">=", 1.2))  # fmt: skip
    bars.append(Bar(f"{title}: morocco fp32 over OpenVINO f32", ratio(seconds, "morocco fp32", "OpenVINO f32")))
    return bars, seconds


def compared(
    title: str, records: list[Record], names: list[str], bar: tuple[str, str, float], args, say: Callable[[str], None]
) -> tuple[list[Bar], dict]:
    """Race contenders with the model of this title: the kit, the last one, answers as the first does.

    Args:
        bar: What is said of the kit's speed, over which contender's, and how many times it is at least.
    """
    first, *_, kit = names
    answered, seconds = raced(
        names, prepared(args.work, title), written(args.work / f"{title}.jsonl", records), args.rounds
    )
    description, rarest = described(title, answered[first])
    say(f"{description}\n{table(title, len(records), seconds, first)}")
    text, over, least = bar
    return [
        rarest,
        Bar(f"{title}: equal answers", same(answered[kit], answered[first]), ">=", 1),
        Bar(f"{title}: max |dlogit| / sd", distance(answered[kit], answered[first]), "<=", 1e-3),
        Bar(f"{title}: {text}", ratio(seconds, kit, over), ">=", least),
    ], seconds


def sharing(title: str, args, say: Callable[[str], None]) -> tuple[list[Bar], dict]:
    records = fuller(title, drawn(title, max(args.records // 20, 20)))
    return compared(title, records, SHARING, ("shared prefix over recomputing", "recomputed", 4), args, say)


def lean(title: str, args, say: Callable[[str], None]) -> tuple[list[Bar], dict]:
    bar = "morocco fp32 over padded", "like lengths, padded", 1.3
    return compared(title, drawn("terra", args.records), LEANS, bar, args, say)


def start(title: str, args, say: Callable[[str], None]) -> tuple[list[Bar], dict]:
    weights = str(prepared(args.work, "terra"))
    infer = [sys.executable, "-m", "morocco_lib", "infer", weights]
    read = f"import torch; from safetensors.torch import load_file; load_file({weights + '/model.safetensors'!r}); print('ready', flush=True)"
    ways = {
        "torch, and the weights": [sys.executable, "-c", read],
        "the imports": [sys.executable, "-c", IMPORTS],
        "morocco infer": infer,
        "with --backend openvino": [*infer, "--backend", "openvino"],
    }
    if args.image:
        ways["in a container"] = ["docker", "run", "-i", "--rm", args.image]
    for argv in ways.values():
        until_ready(argv)  # files into the cache
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(max(args.rounds, 5)):
        first = number % len(ways)
        order = list(ways)[first:] + list(ways)[:first]
        for name in order:
            seconds[name].append(until_ready(ways[name]))
    lines = [f"  {name:<26}{median(times):>10.2f} s" for name, times in seconds.items()]
    say("\n".join(["start: process start -> ready", *lines]))
    over = 1 / ratio(seconds, "morocco infer", "torch, and the weights")
    return [Bar("start: morocco infer / torch, and the weights", over, "<=", 1.15)], seconds


def until_ready(argv: list[str]) -> float:
    began = time.perf_counter()
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while b"ready" not in (line := process.stdout.readline()):
        if not line:
            raise SystemExit(f"{argv[1:4]} ended with {process.wait()}")
    seconds = time.perf_counter() - began
    process.communicate()
    return seconds


def memory(title: str, args, say: Callable[[str], None]) -> tuple[list[Bar], dict]:
    weights, records = prepared(args.work, "tiny"), drawn("terra", 1000)
    task, peaks = get_task("terra"), {}
    for size in (1_000, 10_000, 100_000):
        many = (task.reindex(task.strip_labels(records[place % 1000]), place) for place in range(size))
        path = written(args.work / "many.jsonl", many)
        peaks[size] = peak_bytes([sys.executable, "-m", "morocco_lib", "infer", str(weights)], path)
    lines = [f"  {size:>7} records{peak / 2**20:>12.1f} MiB" for size, peak in peaks.items()]
    say("\n".join(["memory: peak resident", *lines]))
    return [Bar("memory: 1e5 records / 1e3 records", peaks[100_000] / peaks[1_000], "<=", 1.1)], peaks


# -- where the time goes -------------------------------------------------------------------------------------------
KINDS_OF_WORK = {  # operators of torch -> what they are here
    "linear layers": ("aten::addmm", "aten::addmm_", "aten::mm"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::bmm", "aten::baddbmm"),
    "GELU": ("aten::gelu", "aten::gelu_"),
    "norms": ("aten::native_layer_norm",),
    "copies": ("aten::copy_", "aten::cat", "aten::clone", "aten::index", "aten::index_select", "aten::add_"),
}
SIDE = 2048  # of the matrices whose multiplication is the machine's peak


def profile(title: str, args, say: Callable[[str], None]) -> tuple[list[Bar], dict]:
    import torch

    from morocco_lib.models import weights

    torch.set_num_threads(2)
    one, other = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    bars, raw = [], {}
    for (size, fewer), (texts, change) in product((("terra", 1), ("wide", 4)), (("short", list), ("mix", lengthened))):
        model, _ = weights.load(prepared(args.work, size))
        name = f"{texts}, width {model.backend.hidden}"
        records = [model.task.strip_labels(record) for record in change(drawn("terra", args.records // fewer))]
        lengths = [len(encoded.ids) for (encoded,) in model.reader([model.task.parts(record) for record in records])]
        needed, peaks, seconds = sum(operations(n, MODELS[size].backbone) for n in lengths), [], []
        for _ in range(args.rounds + 1):
            peaks.append(2 * SIDE**3 / timed(torch.mm, one, other))
            seconds.append(timed(lambda: model.answer(records, 32)))  # noqa: B023
        share = needed / median(seconds[1:]) / median(peaks[1:])
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            whole = timed(model.answer, records, 32)
        spent = {event.key: event.self_cpu_time_total / 1e6 for event in seen.key_averages()}
        parts = {kind: sum(spent.get(key, 0) for key in keys) / whole for kind, keys in KINDS_OF_WORK.items()}
        parts["other operators"] = sum(s for key, s in spent.items() if key.startswith("aten::")) / whole - sum(
            parts.values()
        )
        parts["Python, and waiting for the tokenizer"] = 1 - sum(parts.values())
        head = f"{name}: {needed / median(seconds[1:]) / 1e9:.0f} of {median(peaks[1:]) / 1e9:.0f} GFLOP/s"
        say("\n".join([head, *(f"  {kind:<40}{part:>8.1%}" for kind, part in parts.items())]))
        bars.append(Bar(f"{name}: share of the peak of matrix multiplication", share))
        raw[name] = {"share": share, "parts": parts}
    return bars, raw


def timed(call: Callable, *args: object) -> float:
    began = time.perf_counter()
    call(*args)
    return time.perf_counter() - began


def operations(tokens: int, bert: dict) -> int:
    """Return the floating-point operations of one sequence through BERT: of the last layer, what its first token takes."""
    hidden, inner, layers = bert["hidden_size"], bert["intermediate_size"], bert["num_hidden_layers"]
    a_row, of_keys = 2 * hidden * (2 * hidden + 2 * inner), 2 * hidden * 2 * hidden
    return (layers - 1) * tokens * (a_row + of_keys + 4 * tokens * hidden) + a_row + tokens * (of_keys + 4 * hidden)


# A process starts with the peak of the one it was forked from, and this one may have trained models.
PEAK = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL); "
PEAK += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"


def peak_bytes(argv: list[str], stdin: Path) -> int:
    with stdin.open("rb") as records:
        words = [sys.executable, "-I", "-S", "-c", PEAK, *argv]
        done = subprocess.run(words, stdin=records, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"infer ended with {done.returncode}: {done.stderr[-300:]}")
    return int(done.stdout) * 1024


PARTS = {
    "short": pairs,
    "mix": pairs,
    "muserc": sharing,
    "rucos": sharing,
    "lean": lean,
    "start": start,
    "memory": memory,
    "profile": profile,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="keeps trained models; default: a temporary folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--image", help="start: one that `morocco build` made of FOLDER/terra/weights, started beside")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    say = (lambda text: print(text, file=sys.stderr, flush=True)) if args.json else lambda text: print(f"{text}\n")
    bars: list[Bar] = []
    raw = {}
    with tempfile.TemporaryDirectory() as place:
        args.work = (args.work or Path(place)).resolve()
        args.work.mkdir(parents=True, exist_ok=True)
        for part in args.only:
            found, raw[part] = PARTS[part](part, args, say)
            bars += found
    if args.json:
        print(json.dumps({"bars": [asdict(bar) | {"passed": bar.passed} for bar in bars], "raw": raw}))
    else:
        print("\n".join(map(str, bars)))
    return int(any(bar.passed is False for bar in bars))


if __name__ == "__main__":
    sys.exit(main())
