"""What finding the rows of a request's ids costs, against the size of the table, and every other way that was tried.

Run: ``taskset -c 1 python benchmarks/id_lookup.py``; it needs 5 GB of memory and the package ranktower-native. The
result goes to ``benchmarks/results/id_lookup-<date>.json``; all times are medians in microseconds. As in a service, a
call has ids of its own, which orjson has just made (or their JSON, where that is what is read), after 8 MiB were
written so that caches are full of other things, and the tables are mapped files. Alternatives are measured in turns, so
that their ratio holds on a machine with other work.
"""

from __future__ import annotations

import argparse
import marshal
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import id_variants as variants
import numpy as np
import orjson
from numpy.typing import NDArray
from ranktower_native import join_ids
from result_file import write_result

from ranktower.embedding_store.ids import IdIndex, key_tails, padded_words, wanted_integers
from ranktower.embedding_store.joined_ids import JoinedIds
from ranktower.embedding_store.native_ids import NativeIdIndex
from ranktower.embedding_store.slots import WINDOW, SlotTable, build_slots, key_words

TURNS = {10: 100, 1000: 100, 10_000: 20}  # by the number of ids in a request
WINDOWS = (1, 2, 3, 4, 6, 8)
Calls = dict[str, Callable[[Any], object]]
_SWEEP = np.zeros(1 << 20)
_NATIVE = "native (kept, where installed)"
_SLOTS = "slots (kept)"
_NONE_STORED = "slots, none of the ids stored"
_NATIVE_JSON = "native, from the request's JSON (kept, where installed)"
_NATIVE_NONE_STORED = "native, none of the ids stored"


def main() -> int:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    options = parser.parse_args()
    result: dict[str, Any] = {"ids to keys, 1000 ids": _conversions()}
    for kind in ("integer ids", "string ids"):
        result[kind] = {str(num_rows): _measure(_keys(num_rows, kind)) for num_rows in options.rows}
    write_result("id_lookup", result, "numpy", "orjson", "ranktower-native")
    return 0


def _measure(keys: NDArray[Any]) -> dict[str, Any]:
    start = time.perf_counter()
    slots = build_slots(keys)
    figures: dict[str, Any] = {
        "slots built in s": round(time.perf_counter() - start, 2),
        "bytes an id in ids.npy": keys.itemsize,
        "bytes an id in slots.npy": round(slots.nbytes / len(keys), 1),
    }
    with tempfile.TemporaryDirectory() as name:
        keys, slots = _mapped(Path(name) / "ids.npy", keys), _mapped(Path(name) / "slots.npy", slots)
        numbers = _mapped(Path(name) / "numbers.npy", (slots & np.uint64(0xFFFFFFFF)).astype(np.uint32))
        # By itself: its thousands of objects would push what the others read out of the last level of caches.
        dictionary: Calls = {"dictionary": variants.dictionary(_python_ids(keys))}
        whole, alone = _whole_lookups(keys, slots), _lookups_alone(keys, slots, numbers)
        generator = np.random.default_rng(1)
        for size, turns in TURNS.items():

            def ids(call: str, size: int = size) -> Callable[[], Any]:
                drawn = _python_ids(keys[generator.integers(0, len(keys), size)])
                if call == _NATIVE_JSON:
                    body = orjson.dumps(drawn)
                    return lambda: body
                return _parsing([_not_stored(one) for one in drawn] if "none of the ids" in call else drawn)

            def digits(call: str, size: int = size) -> Callable[[], Any]:
                return _parsing(list(map(str, _python_ids(keys[generator.integers(0, len(keys), size)]))))

            def words(call: str, size: int = size) -> Callable[[], Any]:
                return key_words(keys[generator.integers(0, len(keys), size)]).copy

            figures[f"ids to rows, {size} ids"] = _in_turns(whole, ids, turns) | _in_turns(dictionary, ids, turns)
            if keys.dtype.kind == "i":
                both = {name: whole[name] for name in (_NATIVE, _SLOTS)}
                figures[f"integers as strings to rows, {size} ids"] = _in_turns(both, digits, turns)
            figures[f"keys to rows, {size} ids"] = _in_turns(alone, words, turns)
    return figures


def _whole_lookups(keys: NDArray[Any], slots: NDArray[np.uint64]) -> Calls:
    """From Python's ids to rows."""
    index, native, search = IdIndex(keys, slots), NativeIdIndex(keys, slots), variants.binary_search(keys)
    is_integer, width = keys.dtype.kind == "i", keys.itemsize

    def before(ids: Any) -> object:
        converted = variants.integers_by_set_and_array(ids) if is_integer else variants.strings_by_split(ids, width)
        return search(key_words(converted))

    def from_json(body: bytes) -> object:
        array = join_ids(body, 0)
        assert array is not None, "strings and integers"
        return native.find(JoinedIds(array.joined, array.num_ids, list))

    return {
        _NATIVE: native.find,
        _NATIVE_JSON: from_json,
        _NATIVE_NONE_STORED: native.find,
        _SLOTS: index.find,
        _NONE_STORED: index.find,
        "binary search (before)": before,
    }


def _lookups_alone(keys: NDArray[Any], slots: NDArray[np.uint64], numbers: NDArray[np.uint32]) -> Calls:
    """From words to rows."""
    calls: Calls = {}
    for width in WINDOWS:
        kept = " (kept)" if width == WINDOW else ""
        calls[f"slots, window of {width}{kept}"] = SlotTable(keys, slots, window=width).find
    calls["slots of row numbers alone, in rounds"] = variants.rounds_of_row_numbers(keys, numbers)
    calls["binary search (before)"] = variants.binary_search(keys)
    calls["binary search, request sorted"] = variants.sorted_binary_search(keys)
    if keys.dtype.kind == "i":
        calls["buckets by value"] = variants.buckets_by_value(keys)
    return calls


def _conversions() -> dict[str, dict[str, float]]:
    """From 1,000 of Python's ids to keys."""
    integers, strings = (_keys(1_000_000, kind) for kind in ("integer ids", "string ids"))
    width, tails = strings.itemsize, key_tails(strings.itemsize)
    generator = np.random.default_rng(2)

    def drawn(keys: NDArray[Any], convert: Callable[[Any], Any]) -> Callable[[str], Callable[[], Any]]:
        return lambda call: _parsing([convert(one) for one in keys[generator.integers(0, len(keys), 1000)].tolist()])

    from_integers: Calls = {
        "marshal (native)": lambda ids: marshal.dumps(ids, 2),
        "types counted in a list, numpy.fromiter (kept)": wanted_integers,
        "set of types, numpy.array (before)": variants.integers_by_set_and_array,
        "numpy.array finds the type": variants.integers_by_inference,
        "array.array": variants.integers_by_array_module,
        "struct.pack": variants.integers_by_struct,
    }
    from_digits: Calls = {
        "joined (native)": _joined,
        "passes over the bytes, numpy.fromstring (kept)": wanted_integers,
        "regular expression, numpy.fromstring (before)": variants.digits_by_regular_expression,
        "int of each": variants.digits_by_int,
    }
    from_strings: Calls = {
        "joined (native)": _joined,
        "joined, a window from each id (kept)": lambda ids: padded_words(ids, tails),
        "joined, split, numpy.array (before)": lambda ids: variants.strings_by_split(ids, width),
        "numpy.array": lambda ids: variants.strings_by_array(ids, width),
    }
    mixed: Calls = {"str of each, then as strings": wanted_integers}
    return {
        "integers": _in_turns(from_integers, drawn(integers, int), 200),
        "strings in a table of integers": _in_turns(from_digits, drawn(integers, str), 200),
        "both in a table of integers": _in_turns(mixed, drawn(integers, lambda one: one if one % 2 else str(one)), 200),
        "strings": _in_turns(from_strings, drawn(strings, bytes.decode), 200),
        "integers in a table of strings": _in_turns(
            {"str of each, then as strings": lambda ids: padded_words(ids, tails)}, drawn(integers, int), 200
        ),
    }


def _in_turns(calls: Calls, request: Callable[[str], Callable[[], Any]], turns: int) -> dict[str, float]:
    """Median microseconds of each call. ``request`` draws one, and what it returns makes it afresh, unmeasured."""
    requests = [{name: request(name) for name in calls} for _ in range(turns)]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in requests:
        for name, call in calls.items():
            np.add(_SWEEP, 1.0, out=_SWEEP)
            ids = turn[name]()
            start = time.perf_counter()
            call(ids)
            times[name].append((time.perf_counter() - start) * 1e6)
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


def _parsing(ids: list[Any]) -> Callable[[], Any]:
    body = orjson.dumps(ids)
    return lambda: orjson.loads(body)


def _joined(ids: list[str]) -> bytes:
    return "\0".join(ids).encode()


def _keys(num_rows: int, kind: str) -> NDArray[Any]:
    """Sorted keys: random integers below 2^40, or strings made of them, 6 to 18 bytes in three words."""
    generator = np.random.default_rng(0)
    drawn = np.unique(generator.integers(0, 1 << 40, num_rows + num_rows // 1000 + 10))
    keys = np.sort(generator.permutation(drawn)[:num_rows])
    return keys if kind == "integer ids" else np.sort(np.char.add(b"item-", keys.astype("S19")))


def _python_ids(keys: NDArray[Any]) -> list[Any]:
    return [one.decode() if isinstance(one, bytes) else one for one in keys.tolist()]


def _not_stored(one: Any) -> Any:
    return f"{one[:-1]}x" if isinstance(one, str) else one + (1 << 41)


def _mapped(path: Path, content: NDArray[Any]) -> NDArray[Any]:
    with path.open("wb") as file:
        np.save(file, content)
        file.flush()
        os.fsync(file.fileno())  # or the system would still be writing while the look-ups are measured
    return np.asarray(np.lib.format.open_memmap(path, mode="r"))


if __name__ == "__main__":
    raise SystemExit(main())
