"""How the original measured a speed, as far as a bare process can be measured so: the yardstick for our way.

As it did: the program is started, the whole input is written and closed, and only then come the samples, a `ps` each
with 0.3 s between them, by the wall clock; a run's total is its last sample less its first; five runs of one record tell
the start-up; speed is records over the median total of five longer runs less the median total of those of one record.
Between writer and program the pipes hold 384 KiB, as those of `docker run`, its daemon and a container do together.

Not as it did: there is no container, so neither the time to make one and to find its pid (0.2 to 0.5 s that vary from
run to run) nor its removal; and no `nvidia-smi`, which makes a sample some 20 ms longer where there is a GPU. All of it
would disturb further, so the yardstick is no worse than the original was.
"""

import fcntl
import subprocess
import time
from collections.abc import Sequence
from statistics import median

RUNS = 5
DELAY_S = 0.3
PROGRAM_PIPE_BYTES = 256 * 1024
RELAY = ["dd", "bs=65536", "iflag=fullblock", "status=none"]  # 64 KiB in its hands, and as much in the writer's pipe


def start(argv: Sequence[str]) -> tuple[subprocess.Popen, subprocess.Popen]:
    """Start a program behind a relay; returns (program, relay), the relay's stdin being where to write."""
    program = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    fcntl.fcntl(program.stdin, fcntl.F_SETPIPE_SZ, PROGRAM_PIPE_BYTES)
    relay = subprocess.Popen(RELAY, stdin=subprocess.PIPE, stdout=program.stdin)
    program.stdin.close()
    return program, relay


def sample(pid: int) -> float | None:
    """Return when a process was seen, in Unix seconds; None: it was not."""
    stamp = time.time()
    done = subprocess.run(["ps", "-p", str(pid), "-o", "%cpu=,rss="], capture_output=True, check=False)
    return stamp if done.returncode == 0 else None


def total_s(argv: Sequence[str], stdin: bytes) -> float:
    """Run a program once and return its last sample less its first; 0 if there is one at most.

    Raises:
        subprocess.CalledProcessError: the program did not end with 0.
    """
    program, relay = start(argv)
    with relay, program:
        relay.stdin.write(stdin)
        relay.stdin.close()
        stamps = []
        while program.poll() is None and (stamp := sample(program.pid)) is not None:
            stamps.append(stamp)
            time.sleep(DELAY_S)
    if program.returncode:
        raise subprocess.CalledProcessError(program.returncode, argv)
    return stamps[-1] - stamps[0] if stamps else 0.0


def speed(argv: Sequence[str], lines: Sequence[bytes], batch_size: int) -> float:
    """Return records a second as the original would have it; it may be negative, and infinite."""
    ones = [total_s([*argv, "--batch-size", "1"], lines[0]) for _ in range(RUNS)]
    longer = [total_s([*argv, "--batch-size", str(batch_size)], b"".join(lines)) for _ in range(RUNS)]
    seconds = median(longer) - median(ones)
    return len(lines) / seconds if seconds else float("inf")
