"""The section of docs/performance.md on how to size a fleet."""

from __future__ import annotations

from page_parts import missing, note, table
from sizing import all_costs
from targets import Results

from ranktower.embedding_store.codec import ROW_DTYPES, ROW_KINDS, RowLayout


def sizing(results: Results) -> str:
    """How to size a fleet."""
    found = results.get("request_stages")
    if found is None:
        return f"## How to size a fleet\n\n{missing('request_stages')}"
    costs = all_costs(results)
    names = {
        "local": "local", "strings": "local, string ids", "embedding_rows": "local, embedding rows", "redis": "Redis",
        "redis_server": "Redis, redis-server's own",
    }  # fmt: skip
    rows = [[word, *(f"{costs[key][of]:g}" for of in ("fixed_us", "per_candidate_us"))] for key, word in names.items()]
    cores = (
        "`cores = requests/s × (a + b × candidates) / 0.5`, in seconds. Half of what a core can do is the share at"
        " which"
        " latency is still near that of an idle service, see above. A worker is one process on one core."
    )
    text = [
        "## How to size a fleet",
        "A request takes processor time `a + b × candidates`, fitted to the processor time in the tables above:",
        table(["rows from", "a, µs", "b, µs a candidate"], rows),
        cores,
        "`ranktower size` does the sums.",
        *_memory(results, costs["worker_private_mb"]),
        note(found),
    ]
    return "\n\n".join(text)


def _memory(results: Results, worker_mb: float | None) -> list[str]:
    """Bytes of rows and ids, of a worker, and of Redis."""
    sizes = {
        f"{dtype} {kind} rows": RowLayout(4, 32, 32, dtype, bytes(8), kind).row_size
        for dtype in ROW_DTYPES
        for kind in ROW_KINDS
    }
    told = ", ".join(f"{size:,} as {name}" for name, size in sizes.items())
    text = ["Memory of a machine: the tables, which its workers share."]
    text.append(f"Bytes of a row: {told}; a user's is an embedding row.")
    if (lookup_result := results.get("id_lookup")) is not None:
        largest = max(lookup_result["integer ids"], key=int)
        of = lookup_result["integer ids"][largest]
        index = of["bytes an id in ids.npy"] + of["bytes an id in slots.npy"]
        text.append(f"An integer id and its place in the index take {index:.0f} bytes more.")
    if worker_mb is not None:
        text.append(f"Each worker holds at most {worker_mb:.0f} MB of its own besides.")
    if (redis_result := results.get("redis_fetch")) is not None:
        sent = redis_result["of_redis"]["raw multi-embeddings"]["bytes_sent"]
        row = redis_result["redis_bytes_a_row"]["raw multi-embeddings"]
        text.append(f"Redis takes {row:.0f} bytes a row, and sends {sent:,} for 1,000 candidates.")
    return [" ".join(text)]
