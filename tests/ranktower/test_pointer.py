"""What a pointer says, and which users a canary gets."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from ranktower.errors import ReleaseError
from ranktower.pointer import Pointer, Variation

FIRST, SECOND, THIRD = (f"2026112{day}T100000Z-0123abcd" for day in (3, 4, 5))


def test_without_trials_it_reads_as_in_older_versions() -> None:
    pointer = Pointer(release=SECOND, previous=(FIRST,))
    assert pointer.to_bytes() == f'{{"release":"{SECOND}","previous":["{FIRST}"]}}\n'.encode()
    assert Pointer.from_bytes(pointer.to_bytes(), source="here") == pointer


def test_with_trials_it_comes_back_as_it_was() -> None:
    canary, shadow = Variation(release=SECOND, share=0.05), Variation(release=THIRD, share=1, model="other")
    pointer = Pointer(release=FIRST, canary=canary, shadow=shadow)
    content = pointer.to_bytes()
    assert content.count(b"\n") == 1
    assert json.loads(content) == {
        "release": FIRST,
        "previous": [],
        "canary": {"release": SECOND, "share": 0.05},
        "shadow": {"release": THIRD, "share": 1, "model": "other"},
    }
    assert Pointer.from_bytes(content, source="here") == pointer


@pytest.mark.parametrize(
    "canary",
    [
        {"release": SECOND},
        {"release": SECOND, "share": 0},
        {"release": SECOND, "share": 1.01},
        {"release": SECOND, "share": "NaN"},
        {"release": "latest", "share": 0.1},
        {"release": SECOND, "share": 0.1, "model": "../other"},
        {"release": SECOND, "share": 0.1, "more": 1},
    ],
)
def test_a_wrong_variation_is_a_wrong_pointer(canary: dict[str, Any]) -> None:
    content = json.dumps({"release": FIRST, "canary": canary}).encode()
    with pytest.raises(ReleaseError, match=r"^here: not a pointer: "):
        Pointer.from_bytes(content, source="here")


def test_promoting_ends_the_trial_of_that_release_and_no_other() -> None:
    variation = Variation(release=SECOND, share=0.1)
    pointer = Pointer(release=FIRST, canary=variation, shadow=variation)
    assert pointer.promoted(SECOND) == Pointer(release=SECOND, previous=(FIRST,))
    assert pointer.promoted(THIRD) == Pointer(release=THIRD, previous=(FIRST,), canary=variation, shadow=variation)
    # Served already: nothing changes, not even a trial of the release against itself.
    same = Pointer(release=SECOND, shadow=variation)
    assert same.promoted(SECOND) is same
    # Another model's release of the same name is another release.
    other = Pointer(release=FIRST, canary=Variation(release=SECOND, share=0.1, model="other"))
    assert other.promoted(SECOND).canary == other.canary


def test_rolling_back_keeps_the_trials_of_others() -> None:
    variation = Variation(release=THIRD, share=0.1)
    pointer = Pointer(release=SECOND, previous=(FIRST,), canary=variation, shadow=variation)
    assert pointer.rolled_back() == Pointer(release=FIRST, canary=variation, shadow=variation)
    assert Pointer(release=FIRST).rolled_back() == Pointer(release=FIRST)


def test_rolling_back_to_a_release_ends_its_trial() -> None:
    own, other = Variation(release=FIRST, share=0.1), Variation(release=FIRST, share=0.1, model="other")
    pointer = Pointer(release=SECOND, previous=(FIRST,), canary=own, shadow=other)
    assert pointer.rolled_back() == Pointer(release=FIRST, shadow=other)


def test_the_history_has_an_end() -> None:
    pointer = Pointer(release=FIRST)
    for number in range(150):
        pointer = pointer.promoted(f"20270101T{number:06d}Z-0123abcd")
    assert len(pointer.previous) == 100
    assert pointer.previous[0] == "20270101T000148Z-0123abcd"


def test_what_it_names() -> None:
    pointer = Pointer(
        release=FIRST,
        previous=(SECOND, "20260101T000000Z-00000000"),
        canary=Variation(release=THIRD, share=0.1),
        shadow=Variation(release=THIRD, share=0.1, model="other"),
    )
    assert pointer.names("demo") == {("demo", FIRST), ("demo", SECOND), ("demo", THIRD), ("other", THIRD)}


def test_a_user_is_chosen_by_the_hash_of_the_formats_page() -> None:
    variation = Variation(release=FIRST, share=0.25)
    for user in (12, "12", "user-7", "ключ-ß", -3, "a:b"):
        first_eight = hashlib.sha256(f"{FIRST}:{user}".encode()).digest()[:8]
        assert variation.has_user(user) == (int.from_bytes(first_eight, "big") < 2**62)
    everybody, nobody = Variation(release=FIRST, share=1), Variation(release=FIRST, share=1e-18)
    for user in ("", "a\0b", "\ud800", 10**5000, 7):  # among them what can be no id
        assert everybody.has_user(user)
        assert not nobody.has_user(user)


def test_shares_are_kept_and_grow() -> None:
    users = range(5000)
    before: set[int] = set()
    for share in (0.01, 0.1, 0.5, 0.9):
        chosen = {user for user in users if Variation(release=FIRST, share=share).has_user(user)}
        assert before <= chosen
        deviation = (5000 * share * (1 - share)) ** 0.5
        assert abs(len(chosen) - 5000 * share) < 5 * deviation
        before = chosen
