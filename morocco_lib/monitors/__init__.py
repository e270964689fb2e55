"""What a run costs: memory, CPU time and GPU of its processes, and what else the machine does.

May import `errors` and `reasons` alone.
"""
