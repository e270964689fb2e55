"""What a run costs: readers of cgroup and /proc, and the sampler that calls them. Nothing here knows a task."""
