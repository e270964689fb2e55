"""A model of known speed in one of many ways to work and to print: honest ones, and ones that want to look faster.

A record takes `--ms`. Work is a wait until a deadline, so that the truth is the same on a busy machine; a start-up, too.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time

HONEST = [
    "batches",
    "ready",
    "end",
    "late-end",
    "buffer",
    "sorted",
    "one-by-one",
    "lazy",
    "warm-up",
    "workers",
    "read-first",
]
CHEATS = ["dribble", "late-ready", "late-ready-burst", "slow-when-few", "slow-when-fewer", "early-ready", "constant"]
START_S, LAZY_S, WARM_UP_BATCHES, WARM_UP_S = 0.3, 0.8, 8, 0.03


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--way", choices=[*HONEST, *CHEATS], required=True)
    parser.add_argument("--ms", type=float, default=2.0)
    args = parser.parse_args()
    Program(args.way, args.ms / 1000, args.batch_size).run()


class Program:
    def __init__(self, way: str, seconds: float, batch_size: int):
        self.way, self.seconds, self.batch_size, self.due_s = way, seconds, batch_size, 0.0

    def run(self) -> None:
        if self.way == "early-ready":
            say_ready()
            time.sleep(LAZY_S)
        time.sleep(START_S)
        if self.way in ("ready", "lazy", "warm-up", "sorted", "dribble", "constant", "workers"):
            say_ready()
        if self.way in ("batches", "ready", "buffer", "one-by-one", "lazy", "warm-up", "early-ready", "workers"):
            self.stream()
        else:
            self.read_first([json.loads(line)["idx"] for line in sys.stdin.buffer])

    def work(self, records: float) -> None:
        self.due_s = (self.due_s or time.monotonic()) + records * self.seconds
        time.sleep(max(0.0, self.due_s - time.monotonic()))

    def stream(self) -> None:
        batch, batches = [], 0
        size = 1 if self.way == "one-by-one" else self.batch_size
        for line in sys.stdin.buffer:
            if self.way == "lazy" and not batches + len(batch):
                time.sleep(LAZY_S)
            self.due_s = self.due_s or time.monotonic()
            batch.append(json.loads(line)["idx"])
            if len(batch) == size:
                if self.way == "warm-up" and batches < WARM_UP_BATCHES:  # kernels are compiled
                    self.work(WARM_UP_S / self.seconds)
                self.answer(batch)
                batch, batches = [], batches + 1
        if batch:
            self.answer(batch)

    def answer(self, batch: list) -> None:
        if self.way == "workers":
            self.due_s = time.monotonic()
            worker = multiprocessing.get_context("fork").Process(target=self.work, args=(len(batch),))
            worker.start()
            worker.join()
        else:
            self.work(len(batch))
        show(batch, flush=self.way != "buffer")

    def read_first(self, idx: list) -> None:
        few = {"slow-when-few": 100, "slow-when-fewer": 1500}.get(self.way, 0)
        if len(idx) < few:
            time.sleep((few - len(idx)) * self.seconds * 0.9)  # as if nine tenths of the work were none
        if self.way == "constant":
            time.sleep(max(0.0, 4.0 - len(idx) * self.seconds))
        batches = [idx[k : k + self.batch_size] for k in range(0, len(idx), self.batch_size)]
        if self.way in ("read-first", "sorted"):
            for batch in batches:
                # Of texts sorted by length the last take three times as long as the first.
                place = batch[0] / len(idx) if self.way == "sorted" else 0.5
                self.work(len(batch) * (0.5 + place))
                show(batch)
            return
        for number, batch in enumerate(batches):
            self.work(len(batch))
            if self.way == "dribble" and number % 4 == 0:
                show(batch)
        if "late-ready" in self.way:
            say_ready()
        held = [b for number, b in enumerate(batches) if self.way != "dribble" or number % 4]
        for batch in held:
            show(
                batch, flush=self.way not in ("end", "late-ready-burst", "constant", "slow-when-few", "slow-when-fewer")
            )
            if self.way == "late-end":
                time.sleep(0.05 * self.seconds * len(batch))
            elif self.way in ("dribble", "late-ready"):
                time.sleep(0.0005)


def say_ready() -> None:
    print('morocco: {"event": "ready"}', file=sys.stderr, flush=True)


def show(batch: list, flush: bool = True) -> None:
    print("\n".join(json.dumps({"idx": idx, "label": "entailment"}) for idx in batch), flush=flush)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
