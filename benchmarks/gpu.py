"""What a GPU makes of full-size models: speed, memory, energy, and how much of its matrix multiplications' peak is used.

    python benchmarks/gpu.py --data russian-superglue                                   prints the table of docs/gpu.md
    python benchmarks/gpu.py --data FOLDER --shapes tiny-bert tiny-gpt2 --seconds 2     tries the program without a GPU

Shapes of published models with random weights, a tokenizer of the task's own texts and the texts of val. Each contender is
a process of its own with one model on the GPU; blocks of `--seconds` are interleaved in rotating order and a first answer
is not counted. The reference is transformers' forward in fp32 on batches in the order of the records.

    records/s       median of the single passes over val, with the lowest and highest
    J/record        of all the GPU, between the first and the last pass of a block, by its energy counter
    process         peak of the process, context included, as NVML reports it; allocated and reserved: torch's own peaks
    of the peak     operations that the tokens of val need (no padding; all layers whole) per second, over those of square
                    matrix multiplications in the same precision, measured before and after each shape

Bar: bf16 at least 5 times the reference. Exits with 1 if it is missed on a GPU. How many answers are equal is shown, but the
weights are random: see benchmarks/inference.py for trained ones.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import torch
from inference import Contender, ratio, same, written

from morocco_lib import data
from morocco_lib.analysis.gpu import gpu_energy, gpu_ram_bytes
from morocco_lib.analysis.run_files import Run
from morocco_lib.models import weights
from morocco_lib.models.transformer.heads import head_of
from morocco_lib.monitors.gpu_sampler import GpuSampler
from morocco_lib.reasons import Reason
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import Task
from morocco_lib.tasks.jsonl import Record
from morocco_lib.training import backbones, finetune


def gpt2(width: int, layers: int, heads: int) -> dict:
    sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 2048}
    return {"model_type": "gpt2", "vocab_size": 50264, **sizes}


def bert(width: int, layers: int, heads: int, vocabulary: int) -> dict:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": "bert", "vocab_size": vocabulary, **sizes, "intermediate_size": 4 * width}


SHAPES = {  # as the published models' configurations say
    "rubert": bert(768, 12, 12, 119547),
    "rugpt3-small": gpt2(768, 12, 12),
    "rugpt3-medium": gpt2(1024, 24, 16),
    "rugpt3-large": gpt2(1536, 24, 16),
    "tiny-bert": bert(64, 2, 2, 8000),
    "tiny-gpt2": gpt2(64, 2, 2),
}
FULL = [name for name in SHAPES if not name.startswith("tiny")]
REFERENCE, NAMES = "fixed order", ["fixed order", "morocco fp32", "morocco bf16"]
PRECISIONS = {"fixed order": torch.float32, "morocco fp32": torch.float32, "morocco bf16": torch.bfloat16}
FASTER = 5.0
HEADER = "| model | contender | records/s | x | J/record | process MiB | allocated MiB | reserved MiB | of the peak | equal |"


def prepared(folder: Path, name: str, task: Task, records: list[Record]) -> Path:
    """Write a weights folder of random weights."""
    backbone = backbones.from_scratch(SHAPES[name], backbones.texts_of(records, task), 1, 0.0)
    backbone.model.resize_token_embeddings(SHAPES[name]["vocab_size"], mean_resizing=False)
    head, width = head_of(task), backbone.model.config.hidden_size
    tensors = {f"body.{key}": tensor for key, tensor in backbone.model.state_dict().items()}
    tensors["head.weight"] = torch.randn(head.outputs, head.width(width)) / width**0.5
    tensors["head.bias"] = torch.zeros(head.outputs)
    values = finetune.values_of(backbone, task, "last" if backbone.causal else "first", 512)
    weights.save(
        finetune.Fitted(values, tensors, backbone.tokenizer), task, folder, name=name, trained_on={"random": True}
    )
    return folder


def operations(name: str, lengths: Iterable[int]) -> float:
    """Return the floating-point operations of a forward pass over sequences: matrix products, two for a multiply-add."""
    shape = SHAPES[name]
    width = shape.get("n_embd") or shape["hidden_size"]
    layers = shape.get("n_layer") or shape["num_hidden_layers"]
    return float(sum(layers * (24 * width**2 * n + 4 * width * n**2) for n in lengths))


def matmul_peak(precision: torch.dtype) -> float:
    """Return operations per second of square matrix products, the best of ten stretches."""
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 256)  # bf16 may take seconds there
    a, b = (torch.randn(size, size, device=device, dtype=precision) for _ in range(2))
    best = 0.0
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(10):
            c = a @ b
        c[0, 0].item()  # waits for the GPU
        best = max(best, 10 * 2 * size**3 / (time.perf_counter() - began))
    del a, b, c
    if device == "cuda":
        torch.cuda.empty_cache()
    return best


def block(one: Contender, records: Path, count: int, seconds: float, place: Path) -> tuple[list[float], Run, dict]:
    """Let a contender answer for so long; return the seconds of each pass, what the GPU did, and the last answer."""
    found, arrivals = [], []
    samples = place / "gpu.jsonl"
    with GpuSampler(samples) as sampler:
        origin = time.monotonic_ns()
        sampler.watch(lambda: [one.process.pid], origin)
        while not found or (time.monotonic_ns() - origin) / 1e9 < seconds:
            reply = one.ask(records)
            found.append(reply["seconds"])
            arrivals.append(((time.monotonic_ns() - origin) / 1e9, count))
        facts = sampler.stop()
    lines = [json.loads(line) for line in samples.read_text().splitlines()] if samples.exists() else []
    samples.unlink(missing_ok=True)
    return found, Run(None, {"gpu": facts if isinstance(facts, dict) else str(facts)}, arrivals, [], lines), reply


def measured(name: str, task: Task, records: list[Record], args, place: Path) -> list[dict]:
    """Return the rows of one shape."""
    folder, path = prepared(place / name, name, task, records), written(place / "val.jsonl", records)
    peaks = {precision: [matmul_peak(precision)] for precision in set(PRECISIONS.values())}
    contenders = [Contender(contender, folder) for contender in NAMES]
    try:
        answered = {one.name: one.ask(path) for one in contenders}
        seconds: dict[str, list[float]] = {contender: [] for contender in NAMES}
        runs: dict[str, list[Run]] = {contender: [] for contender in NAMES}
        reply = {}
        for number in range(args.rounds):
            for one in contenders[number % 3 :] + contenders[: number % 3]:
                found, run, reply[one.name] = block(one, path, len(records), args.seconds, place)
                seconds[one.name] += found
                runs[one.name].append(run)
    finally:
        for one in contenders:
            one.end()
    for precision, known in peaks.items():
        known.append(matmul_peak(precision))
    needed = operations(name, answered[REFERENCE]["lengths"])
    rows = []
    for contender in NAMES:
        energy = [gpu_energy(run) for run in runs[contender]]
        joules = [one[0] / one[1] for one in energy if not isinstance(one, Reason)]
        ram = [one for one in map(gpu_ram_bytes, runs[contender]) if not isinstance(one, Reason)]
        each = [len(records) / s for s in seconds[contender]]
        rows.append(
            {
                "model": name, "contender": contender, "records_per_s": median(each),
                "lowest": min(each), "highest": max(each), "x": ratio(seconds, contender, REFERENCE),
                "j_per_record": median(joules) if joules else None,
                "process_bytes": max(ram) if ram else None,
                "allocated_bytes": reply[contender].get("allocated_bytes"),
                "reserved_bytes": reply[contender].get("reserved_bytes"),
                "share_of_peak": needed / median(seconds[contender]) / max(peaks[PRECISIONS[contender]]),
                "equal": same(answered[contender], answered[REFERENCE]),
                "reasons": sorted({str(one) for one in energy if isinstance(one, Reason)}),
            }
        )  # fmt: skip
    return rows


def show(row: dict) -> str:
    def number(value: float | None, form: str, factor: float = 1) -> str:
        return "-" if value is None else format(value * factor, form)

    speed = f"{row['records_per_s']:,.0f} ({row['lowest']:,.0f} to {row['highest']:,.0f})"
    sizes = (number(row[f"{name}_bytes"], ",.0f", 2**-20) for name in ("process", "allocated", "reserved"))
    cells = [
        row["model"], row["contender"], speed, f"{row['x']:.2f}", number(row["j_per_record"], ".4f"), *sizes,
        f"{row['share_of_peak']:.1%}", f"{row['equal']:.2%}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the official data")
    parser.add_argument("--task", default="terra")
    parser.add_argument("--shapes", nargs="+", default=FULL, choices=SHAPES, metavar="SHAPE")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15.0, help="of a block; energy needs 10")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    task, gpu = get_task(args.task), torch.cuda.is_available()
    records = data.read_split(args.data.resolve(), task, "val")[1]
    rows = []
    device = torch.cuda.get_device_name() if gpu else "no GPU: nothing here is a result"
    if not args.json:
        print(f"{device}, torch {torch.__version__}, {len(records)} records of {task.title}'s val\n")
        print(f"{HEADER}\n|{' --- |' * HEADER.count(' | ')} --- |")
    with tempfile.TemporaryDirectory() as place:
        for name in args.shapes:
            found = measured(name, task, records, args, Path(place))
            rows += found
            if not args.json:
                print("\n".join(map(show, found)), flush=True)
    fast = [row for row in rows if row["contender"] == "morocco bf16"]
    missed = [row["model"] for row in fast if row["x"] < FASTER]
    if args.json:
        print(json.dumps({"device": device, "torch": torch.__version__, "rows": rows, "missed": missed}))
    else:
        print(f"\nbf16 at least {FASTER:g} x: missed by {', '.join(missed) or 'none'}")
    return int(gpu and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
