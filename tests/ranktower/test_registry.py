"""Publishing, promoting and rolling back, with damage, races and kills."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import ranktower.registry
from ranktower.errors import ReleaseError
from ranktower.pointer import Pointer, Variation, VariationRole
from ranktower.registry import Registry, hold_release
from ranktower.release import Manifest, read_manifest, write_manifest
from ranktower.verification import hash_files

MakeManifest = Callable[..., Manifest]
Stage = Callable[..., Path]
FIRST, SECOND, THIRD = (f"2026112{day}T100000Z-0123abcd" for day in (3, 4, 5))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def stage(registry: Registry, make_manifest: MakeManifest) -> Stage:
    """``stage(release)`` puts a complete release into staging and returns its folder."""

    def make(release: str, content: bytes = b"rows", model: str = "demo") -> Path:
        folder = registry.staging_dir(model, release)
        (folder / "items").mkdir(parents=True)
        (folder / "items" / "rows.bin").write_bytes(content)
        write_manifest(folder, make_manifest(model=model, release=release, files=hash_files(folder)))
        return folder

    return make


@pytest.fixture
def three(registry: Registry, stage: Stage) -> Registry:
    for release in (SECOND, FIRST, THIRD):
        registry.publish(stage(release))
    return registry


def test_an_empty_registry(registry: Registry) -> None:
    assert registry.releases("demo") == []
    assert registry.current("demo") is None


def test_publishing_moves_a_release_to_its_place(registry: Registry, stage: Stage) -> None:
    staging = stage(FIRST)
    assert registry.releases("demo") == []
    target = registry.publish(staging)
    assert target == registry.root / "demo" / FIRST == registry.release_dir("demo", FIRST)
    assert (target / "items" / "rows.bin").read_bytes() == b"rows"
    assert not staging.exists()
    assert registry.releases("demo") == [FIRST]
    assert registry.current("demo") is None  # published is not promoted


def test_releases_stand_in_the_order_of_their_time(three: Registry) -> None:
    assert three.releases("demo") == [FIRST, SECOND, THIRD]


def test_publishing_again_changes_nothing(registry: Registry, stage: Stage) -> None:
    staging = stage(FIRST)
    target = registry.publish(staging)
    inode = target.stat().st_ino
    assert registry.publish(staging) == target  # a rerun after the move
    assert registry.publish(stage(FIRST)) == target  # a rerun of everything
    assert target.stat().st_ino == inode


def test_another_release_of_the_same_id_is_refused(registry: Registry, stage: Stage) -> None:
    target = registry.publish(stage(FIRST))
    staging = stage(FIRST, b"other rows")
    with pytest.raises(ReleaseError) as caught:
        registry.publish(staging)
    assert str(caught.value) == f"{target}: another release is published under this id"
    assert (target / "items" / "rows.bin").read_bytes() == b"rows"
    assert (staging / "items" / "rows.bin").read_bytes() == b"other rows"


def test_a_damaged_release_is_not_published_and_stays_in_staging(registry: Registry, stage: Stage) -> None:
    staging = stage(FIRST)
    (staging / "items" / "rows.bin").write_bytes(b"ROWS")
    with pytest.raises(ReleaseError, match=r"items/rows\.bin: SHA-256 "):
        registry.publish(staging)
    assert (staging / "items" / "rows.bin").read_bytes() == b"ROWS"
    assert registry.releases("demo") == []


def test_an_unfinished_release_is_not_published(registry: Registry, stage: Stage) -> None:
    staging = stage(FIRST)
    (staging / "items" / "progress.json").write_text("{}")
    with pytest.raises(ReleaseError, match=r"items/progress\.json: not listed in manifest\.json$"):
        registry.publish(staging)
    (staging / "manifest.json").unlink()
    with pytest.raises(ReleaseError, match=r"manifest\.json: cannot be read"):
        registry.publish(staging)


def test_a_release_in_the_wrong_folder_is_refused(registry: Registry, stage: Stage, tmp_path: Path) -> None:
    staging = stage(FIRST)
    renamed = staging.with_name(SECOND)
    staging.rename(renamed)
    with pytest.raises(ReleaseError) as caught:
        registry.publish(renamed)
    expected = f"release: '{FIRST}', but the folder says '{SECOND}'"
    assert str(caught.value) == f"{renamed / 'manifest.json'}: {expected}"
    outside = tmp_path / "demo" / ".staging" / SECOND
    outside.parent.mkdir(parents=True)
    renamed.rename(outside)
    with pytest.raises(ReleaseError, match=r"not in the registry; expected .*registry/<model>/\.staging/"):
        registry.publish(outside)


def test_a_move_that_fails_leaves_staging(registry: Registry, stage: Stage) -> None:
    staging = stage(FIRST)
    target = registry.release_dir("demo", FIRST)
    target.mkdir()
    (target / "something").write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"manifest\.json: cannot be read"):
        registry.publish(staging)
    assert (staging / "manifest.json").exists()


def test_a_crash_before_the_move_publishes_nothing(
    registry: Registry, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = stage(FIRST)

    def crash(folder: Path) -> None:
        raise OSError(5, "Input/output error", str(folder))

    monkeypatch.setattr(ranktower.registry, "fsync_tree", crash)
    with pytest.raises(OSError, match="Input/output error"):
        registry.publish(staging)
    assert registry.releases("demo") == []
    monkeypatch.undo()
    registry.publish(staging)
    assert registry.releases("demo") == [FIRST]


@pytest.mark.parametrize("during", ["verify_release", "fsync_tree"])
def test_another_run_that_publishes_the_same_release_meanwhile_is_no_error(
    during: str, registry: Registry, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = stage(FIRST)
    target = registry.release_dir("demo", FIRST)
    real = getattr(ranktower.registry, during)

    def overtaken(folder: Path) -> object:
        if folder == staging:
            staging.rename(target)
        return real(folder)

    monkeypatch.setattr(ranktower.registry, during, overtaken)
    assert registry.publish(staging) == target
    assert registry.releases("demo") == [FIRST]


def test_promote_and_roll_back(three: Registry) -> None:
    assert three.promote("demo", FIRST) == Pointer(release=FIRST)
    assert three.promote("demo", THIRD) == Pointer(release=THIRD, previous=(FIRST,))
    assert three.promote("demo", SECOND) == Pointer(release=SECOND, previous=(THIRD, FIRST))
    assert three.promote("demo", SECOND) == Pointer(release=SECOND, previous=(THIRD, FIRST))
    assert three.rollback("demo") == Pointer(release=THIRD, previous=(FIRST,))
    assert three.rollback("demo") == three.current("demo") == Pointer(release=FIRST)
    with pytest.raises(ReleaseError, match=r"^model 'demo': no release was promoted before the current one$"):
        three.rollback("demo")
    assert three.current("demo") == Pointer(release=FIRST)


def test_promoting_an_earlier_release_names_it_once(three: Registry) -> None:
    for release in (FIRST, SECOND, FIRST):
        three.promote("demo", release)
    assert three.current("demo") == Pointer(release=FIRST, previous=(SECOND,))


def test_the_pointer_is_one_line_of_json(three: Registry) -> None:
    three.promote("demo", FIRST)
    three.promote("demo", SECOND)
    content = (three.root / "demo" / "current").read_text()
    assert json.loads(content) == {"release": SECOND, "previous": [FIRST]}
    assert content.endswith("\n")


def test_a_release_that_is_not_published_is_not_promoted(three: Registry, stage: Stage) -> None:
    release = "20261126T100000Z-0123abcd"
    stage(release)
    with pytest.raises(ReleaseError) as caught:
        three.promote("demo", release)
    published = f"(published: {FIRST}, {SECOND}, {THIRD})"
    folder = three.release_dir("demo", release)
    assert str(caught.value) == f"{folder}: release {release!r} of model 'demo' is not published {published}"
    with pytest.raises(ReleaseError, match=r"\(published: none\)$"):
        three.promote("nobody", release)


def test_a_damaged_release_is_neither_promoted_nor_rolled_back_to(three: Registry) -> None:
    three.promote("demo", FIRST)
    three.promote("demo", SECOND)
    for release in (FIRST, THIRD):
        (three.release_dir("demo", release) / "items" / "rows.bin").write_bytes(b"ROWS")
    with pytest.raises(ReleaseError, match=rf"{THIRD}/items/rows\.bin: SHA-256 "):
        three.promote("demo", THIRD)
    with pytest.raises(ReleaseError, match=rf"{FIRST}/items/rows\.bin: SHA-256 "):
        three.rollback("demo")
    assert three.current("demo") == Pointer(release=SECOND, previous=(FIRST,))


def test_others_may_move_the_pointer_while_a_release_is_verified(
    three: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for release in (FIRST, SECOND):
        three.promote("demo", release)
    verify, other = ranktower.registry.verify_release, Registry(three.root)

    def promote_meanwhile(folder: Path) -> Manifest:
        monkeypatch.setattr(ranktower.registry, "verify_release", verify)
        other.promote("demo", THIRD)
        return verify(folder)

    monkeypatch.setattr(ranktower.registry, "verify_release", promote_meanwhile)
    with pytest.raises(ReleaseError, match=rf"^model 'demo': the pointer has moved to {THIRD} meanwhile$"):
        three.rollback("demo")
    assert three.current("demo") == Pointer(release=THIRD, previous=(SECOND, FIRST))
    assert three.rollback("demo").release == SECOND

    def vary_meanwhile(folder: Path) -> Manifest:
        monkeypatch.setattr(ranktower.registry, "verify_release", verify)
        other.vary("demo", "canary", Variation(release=THIRD, share=0.1))
        return verify(folder)

    monkeypatch.setattr(ranktower.registry, "verify_release", vary_meanwhile)
    assert three.rollback("demo") == Pointer(release=FIRST, canary=Variation(release=THIRD, share=0.1))


def test_nothing_to_roll_back(registry: Registry) -> None:
    with pytest.raises(ReleaseError, match=r"^model 'demo': no release has been promoted$"):
        registry.rollback("demo")
    assert not registry.root.exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"release": "x"}', b'{"release": "../../etc"}', b"[]", b'{"previous": []}']
)
def test_a_broken_pointer(content: bytes, three: Registry) -> None:
    path = three.root / "demo" / "current"
    path.write_bytes(content)
    with pytest.raises(ReleaseError) as caught:
        three.current("demo")
    assert str(caught.value).startswith(f"{path}: not a pointer: ")


@pytest.mark.parametrize("name", ["..", "a/b", "", ".staging", "a\0b"])
def test_names_that_lead_elsewhere(name: str, three: Registry) -> None:
    for call in (three.releases, three.current, three.rollback):
        with pytest.raises(ReleaseError, match="is not a model name"):
            call(name)
    for make in (three.release_dir, three.staging_dir, three.promote):
        with pytest.raises(ReleaseError, match="is not a model name"):
            make(name, FIRST)
        with pytest.raises(ReleaseError, match="is not a release id"):
            make("demo", name)


def test_stray_files_are_no_releases(three: Registry) -> None:
    (three.root / "demo" / "20261129T100000Z-0123abcd").mkdir()  # no manifest
    (three.root / "demo" / "notes.txt").write_text("hello")
    (three.root / "file").write_text("hello")
    (three.root / ".hidden").mkdir()
    assert three.releases("demo") == [FIRST, SECOND, THIRD]


def test_a_reader_never_sees_half_a_pointer(three: Registry) -> None:
    three.promote("demo", FIRST)
    stop = threading.Event()
    seen: list[Pointer | None] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(Registry(three.root).current("demo"))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        three.promote("demo", (FIRST, SECOND, THIRD)[number % 3])
    stop.set()
    reader.join()
    assert len(seen) > 20
    assert all(pointer is not None for pointer in seen)
    assert {pointer.release for pointer in seen if pointer} <= {FIRST, SECOND, THIRD}


PROMOTE_OFTEN = """
import sys
from pathlib import Path
from ranktower.registry import Registry

for _ in range(15):
    Registry(Path(sys.argv[1])).promote("demo", sys.argv[2])
"""


def test_promotions_of_two_processes_do_not_lose_each_other(three: Registry) -> None:
    three.promote("demo", THIRD)
    command = [sys.executable, "-c", PROMOTE_OFTEN, str(three.root)]
    processes = [subprocess.Popen([*command, release]) for release in (FIRST, SECOND)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    pointer = three.current("demo")
    assert pointer is not None
    # Whoever came last, the other two were served before, each named once.
    assert sorted([pointer.release, *pointer.previous]) == [FIRST, SECOND, THIRD]


def test_a_change_waits_for_the_one_before_it(three: Registry) -> None:
    three.promote("demo", FIRST)
    promotion = threading.Thread(target=three.promote, args=("demo", SECOND))
    with (three.root / "demo" / ".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a promotion or rollback of another process holds it
        promotion.start()
        promotion.join(timeout=0.3)
        assert promotion.is_alive()
        assert three.current("demo") == Pointer(release=FIRST)
    promotion.join(timeout=30)
    assert three.current("demo") == Pointer(release=SECOND, previous=(FIRST,))


@pytest.mark.parametrize("role", ["canary", "shadow"])
def test_a_release_is_tried_beside_the_current_one(role: VariationRole, three: Registry) -> None:
    three.promote("demo", FIRST)
    variation = Variation(release=SECOND, share=0.05)
    pointer = three.vary("demo", role, variation)
    assert pointer == three.current("demo") == Pointer.model_validate({"release": FIRST, role: variation})
    assert json.loads((three.root / "demo" / "current").read_text()) == {
        "release": FIRST,
        "previous": [],
        role: {"release": SECOND, "share": 0.05},
    }
    assert three.promote("demo", THIRD).variation(role) == variation
    assert three.rollback("demo").variation(role) == variation
    assert three.vary("demo", role, None) == three.current("demo") == Pointer(release=FIRST)


def test_nothing_is_tried_before_something_is_served(three: Registry, registry: Registry) -> None:
    with pytest.raises(ReleaseError, match=r"^model 'demo': no release has been promoted$"):
        three.vary("demo", "canary", Variation(release=SECOND, share=0.05))
    with pytest.raises(ReleaseError, match=r"^model 'nobody': no release has been promoted$"):
        three.vary("nobody", "canary", None)


def test_only_a_published_and_sound_release_is_tried(three: Registry, stage: Stage) -> None:
    before = three.promote("demo", FIRST)
    (three.release_dir("demo", SECOND) / "items" / "rows.bin").write_bytes(b"ROWS")
    with pytest.raises(ReleaseError, match=rf"{SECOND}/items/rows\.bin: SHA-256 "):
        three.vary("demo", "canary", Variation(release=SECOND, share=0.05))
    with pytest.raises(ReleaseError, match=rf"release '{THIRD}' of model 'other' is not published \(published: none\)"):
        three.vary("demo", "shadow", Variation(release=THIRD, share=1, model="other"))
    assert three.current("demo") == before
    three.publish(stage(THIRD, model="other"))
    assert three.vary("demo", "shadow", Variation(release=THIRD, share=1, model="other")).shadow is not None


def test_what_the_pointers_name(three: Registry, stage: Stage) -> None:
    assert three.named("demo") == set()
    three.promote("demo", FIRST)
    three.promote("demo", SECOND)
    three.vary("demo", "canary", Variation(release=THIRD, share=0.1))
    assert three.named("demo") == {FIRST, SECOND, THIRD}
    three.vary("demo", "canary", None)
    three.publish(stage(FIRST, model="other"))
    three.promote("other", FIRST)
    three.vary("other", "shadow", Variation(release=THIRD, share=0.1, model="demo"))
    assert three.named("demo") == {FIRST, SECOND, THIRD}
    assert three.named("other") == {FIRST}
    assert three.models() == ["demo", "other"]
    (three.root / "other" / "current").write_text("nonsense")
    with pytest.raises(ReleaseError, match="not a pointer"):
        three.named("demo")


def test_a_release_that_is_being_removed_is_neither_held_nor_promoted(three: Registry) -> None:
    folder = three.release_dir("demo", SECOND)
    with (folder / "manifest.json").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as gc takes it
        for attempt in (lambda: hold_release(folder), lambda: three.promote("demo", SECOND)):
            with pytest.raises(ReleaseError, match=rf"{SECOND}: is being removed$"):
                attempt()
    with hold_release(folder), hold_release(folder):  # any number may hold it
        three.promote("demo", SECOND)
    with pytest.raises(ReleaseError, match=r"manifest\.json: cannot be read: No such file"):
        hold_release(three.release_dir("demo", "20261129T100000Z-0123abcd"))


def test_the_manifest_is_the_last_word_on_what_is_published(three: Registry) -> None:
    assert read_manifest(three.release_dir("demo", FIRST)).release == FIRST
    assert os.listdir(three.root / "demo" / ".staging") == []
