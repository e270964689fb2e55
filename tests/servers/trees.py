"""Recorded /proc and cgroup files, written into folders that stand for /proc and /sys/fs/cgroup."""

from pathlib import Path

V2_STAT = """anon 105267200
file 3145728
kernel 1212416
kernel_stack 98304
pagetables 475136
sock 0
vmalloc 0
shmem 1048576
zswap 0
file_mapped 1617920
file_dirty 8192
file_writeback 4096
anon_thp 0
inactive_anon 106299392
active_anon 16384
pgfault 28310
pgmajfault 310
"""
V1_STAT = """cache 3145728
rss 105267200
rss_huge 0
shmem 1048576
mapped_file 1617920
dirty 8192
writeback 4096
pgpgin 27456
hierarchical_memory_limit 9223372036854771712
total_cache 4145728
total_rss 205267200
total_shmem 2048576
pgfault 28310
pgmajfault 310
"""
V2_FILES = {
    "memory.stat": V2_STAT,
    "cpu.stat": "usage_usec 1734500\nuser_usec 1500000\nsystem_usec 234500\nnr_periods 0\nnr_throttled 0\n",
    "memory.peak": "115343360\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 0\n",
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "cgroup.procs": "4711\n4712\n",
    "pids.events": "max 7\n",
}
V1_FILES = {
    "memory.stat": V1_STAT,
    "memory.kmem.usage_in_bytes": "1212416\n",
    "memory.max_usage_in_bytes": "115343360\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "memory.limit_in_bytes": "9223372036854771712\n",
    "memory.memsw.limit_in_bytes": "9223372036854771712\n",
    "cgroup.procs": "4711\n4712\n",
}


def plant(folder: Path, files: dict[str, str]) -> Path:
    """Write {path: text} below a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def plant_process(
    proc: Path, pid: int, parent: int = 1, session: int = 10, *, state="S", start=100, status=0,
    cpu=(1, 2, 3, 4), kib=(5000, 3000, 900, 100), tgid=None, swap_kib=0, huge_kib=0, pss_kib=None,
) -> None:  # fmt: skip
    """Write a process below a /proc.

    Args:
        status: Its wait status, for a zombie.
        cpu: Clock ticks of its own, user and system, and of the children that it waited for.
        kib: High-water mark, anonymous, file and shared memory.
        pss_kib: Its share of the file pages.
    """
    stat = [state, parent, session, session, 0, -1, 0, 5, 6, 7, 8, *cpu]
    stat += [20, 0, 1, 0, start, *[0] * 29, status]
    mark, anon, file, shmem = kib
    lines = [f"Name:\tx\nTgid:\t{pid if tgid is None else tgid}\nVmHWM:\t{mark:7} kB\nVmRSS:\t{anon + file + shmem} kB"]
    lines += [f"RssAnon:\t{anon:7} kB\nRssFile:\t{file:7} kB\nRssShmem:\t{shmem:7} kB\nVmData:\t    224 kB"]
    lines += [f"VmSwap:\t{swap_kib:7} kB\nHugetlbPages:\t{huge_kib:7} kB\n"]
    pages = (2 * (anon + file + shmem) // 4, (anon + file + shmem) // 4, (file + shmem) // 4)
    text = f"{pid} (a name) with (brackets)) {' '.join(map(str, stat))}\n"
    statm = f"{' '.join(map(str, pages))} 1 0 1 0\n"
    rollup = {} if pss_kib is None else {"smaps_rollup": f"00-ff ---p [rollup]\nPss:  9 kB\nPss_File:  {pss_kib} kB\n"}
    plant(proc / str(pid), {"stat": text, "status": "\n".join(lines), "statm": statm, **rollup})
