"""A model in ten lines: reads TERRa records, answers each at once, says when it is ready."""

import json
import sys

print('morocco: {"event": "ready"}', file=sys.stderr, flush=True)
for line in sys.stdin.buffer:
    record = json.loads(line)
    words = set(record["premise"].lower().split())
    known = sum(word in words for word in record["hypothesis"].lower().rstrip(".").split())
    label = "entailment" if known >= 2 else "not_entailment"
    print(json.dumps({"idx": record["idx"], "label": label}), flush=True)
