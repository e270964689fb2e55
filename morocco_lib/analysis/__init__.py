"""Facts of runs -> throughput, start-up, memory, energy, intervals, validity, summary. Pure: nothing is run.

May import `data`, `tasks` and what stands below them.
"""
