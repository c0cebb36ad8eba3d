"""The store of features: what is read is what was written, and what is damaged, torn or half-written is never read."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_ft import UserError
from hf_ft.cli.app import main
from hf_ft.feature_cache.eviction import (
    ABANDONED,
    cache_entries,
    clear_cache,
    default_root,
    format_size,
    make_room,
    shards,
)
from hf_ft.feature_cache.feature_files import FeatureStore, size_of
from hf_ft.models.layout import Layout

KEY = {"model": "org/tiny", "split": "after layer 3", "precision": "float32"}
FIXED, RAGGED = Layout("float32", (5,)), Layout("float32", (3,), ragged=True)
DTYPES = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)


def prints(numbers: Sequence[int]) -> np.ndarray:
    """Fingerprints of numbered examples; some end in zero bytes, which must count."""
    array = np.zeros((len(numbers), 16), np.uint8)
    array[:, 0] = numbers
    array[:, 7] = 200 - np.asarray(numbers)
    return array


def length(number: int) -> int:
    """The length of a numbered example; one of them is empty."""
    return number % 4


def bits(number: int, layout: Layout) -> torch.Tensor:
    """The features of one example, which are any bits at all (NaN among them)."""
    shape = (length(number), *layout.shape) if layout.ragged else layout.shape
    generator = np.random.default_rng([number, len(layout.shape), layout.ragged])
    if layout.dtype == "bool":
        return torch.from_numpy(np.asarray(generator.random(shape) < 0.5))
    tensor = torch.empty(int(np.prod(shape)), dtype=layout.torch_dtype)
    raw = tensor.view(torch.uint8)
    raw.copy_(torch.from_numpy(generator.integers(0, 256, len(raw), dtype=np.uint8)))
    return tensor.reshape(shape)


def batch(numbers: Sequence[int], layouts: Sequence[Layout]) -> list[torch.Tensor]:
    """The features of several examples, as `put` takes and `take` gives them."""
    return [(torch.cat if layout.ragged else torch.stack)([bits(n, layout) for n in numbers]) for layout in layouts]


def exact(tensors: Sequence[torch.Tensor]) -> list[Any]:
    """Dtype, shape and bits of contiguous tensors."""
    return [(tensor.dtype, tensor.shape, tensor.untyped_storage().tolist()) for tensor in tensors]


def same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    """Whether tensors are the same bit for bit, in dtype and shape too."""
    return exact(one) == exact(other)


def fill(store: FeatureStore, numbers: Sequence[int], layouts: Sequence[Layout]) -> list[int]:
    """Build what is missing of some examples, in two batches of mixed order; the numbers that were."""
    new = [numbers[i] for i in store.missing(prints(numbers))]
    lengths = np.array([length(n) for n in new]) if any(layout.ragged for layout in layouts) else None
    if new:
        with store.build(prints(new), layouts, lengths) as writer:
            order = sorted(range(len(new)), key=lambda i: (i * 7) % 5)
            for rows in filter(None, (order[:3], order[3:])):
                writer.put(np.array(rows), batch([new[i] for i in rows], layouts))
    return new


def names(folder: Path) -> list[str]:
    """What lies in a folder, by name."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def two_shards(tmp_path: Path) -> FeatureStore:
    """Examples 0 to 5 in one shard, 6 to 9 in another, with a fixed and a ragged tensor."""
    store = FeatureStore(tmp_path / "cache", KEY)
    assert fill(store, range(6), [FIXED, RAGGED]) == [0, 1, 2, 3, 4, 5]
    assert fill(store, range(10), [FIXED, RAGGED]) == [6, 7, 8, 9]
    return store


def test_seconds_are_those_of_building(tmp_path: Path) -> None:
    """Who reads a part of two shards is told what building that part took, whichever object built it."""
    store = FeatureStore(tmp_path, KEY)
    for numbers, pause in ((range(4), 2.0), (range(4, 6), 0.0)):
        with store.build(prints(numbers), [FIXED]) as writer:
            time.sleep(pause)
            writer.put(np.arange(len(numbers)), batch(numbers, [FIXED]))
    slow, quick, both = (store.read(prints(numbers)).seconds for numbers in ([0, 1], [4, 5], range(6)))
    assert slow >= 1.0
    assert quick < slow
    assert both == pytest.approx(2 * slow + quick)
    assert FeatureStore(tmp_path, KEY).read(prints([0, 1])).seconds == pytest.approx(slow, abs=1e-5)


def shard_of(store: FeatureStore, number: int) -> Path:
    """The folder of the shard that holds an example."""
    wanted = prints([number])[0].tolist()
    (found,) = (path for path in shards(store.folder) if wanted in np.load(path / "examples.npy").tolist())
    return found


# --- What is read is what was written -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(dtype: str, tmp_path: Path) -> None:
    """Subset, superset and repeated examples over two shards: each is stored once, and read bit for bit."""
    layouts = [Layout(dtype, (5,)), Layout(dtype, (2, 3), ragged=True), Layout(dtype, ()), Layout(dtype, (), True)]
    writing = FeatureStore(tmp_path, KEY)
    assert fill(writing, [3, 1, 4, 1, 5, 3], layouts) == [3, 1, 4, 5]
    assert fill(writing, [5, 3], layouts) == []
    assert fill(writing, [9, 1, 9, 0, 8, 4, 7], layouts) == [9, 0, 8, 7]
    for store in (writing, FeatureStore(tmp_path, KEY)):
        assert store.missing(prints([0, 1, 2, 3, 2])).tolist() == [2]
        numbers = [7, 1, 9, 9, 4, 0, 3, 5, 8]
        features = store.read(prints(numbers).view("V16").reshape(-1))
        assert len(features) == len(numbers)
        assert features.layouts == tuple(layouts)
        assert features.lengths is not None
        assert features.lengths.tolist() == [length(n) for n in numbers]
        for rows in ([0, 1, 2, 3, 4, 5, 6, 7, 8], [8, 0, 0, 5], [4], np.array([2, 6])):
            assert same(features.take(rows), batch([numbers[i] for i in rows], layouts))
        assert not same(features.take([1]), features.take([2]))
        assert [len(tensor) for tensor in features.take([])] == [0] * 4
        assert store.notes == []
    assert [entry.examples for entry in cache_entries(tmp_path)] == [8]
    assert len(shards(writing.folder)) == 2


def test_take_gives_memory_of_its_own(two_shards: FeatureStore) -> None:
    """What a training step writes into its batch is not in the next batch, whether from one shard or two."""
    for numbers in ([0], [0, 9]):
        features = two_shards.read(prints(numbers))
        rows = range(len(numbers))
        for tensor in features.take(rows):
            tensor.zero_()
        assert same(features.take(rows), batch(numbers, [FIXED, RAGGED]))


def test_one_fixed_tensor_needs_no_lengths(tmp_path: Path) -> None:
    """Without a ragged layout there are neither offsets nor lengths."""
    store = FeatureStore(tmp_path, KEY)
    fill(store, [1, 2, 3], [FIXED])
    assert names(shards(store.folder)[0]) == ["0.npy", "examples.npy", "shard.json"]
    features = store.read(prints([3, 1]))
    assert features.lengths is None
    assert same(features.take([0, 1]), batch([3, 1], [FIXED]))


def test_files_are_plain_numpy(tmp_path: Path) -> None:
    """Anybody reads them without this package: bfloat16 as its bits, with the true dtype in `shard.json`."""
    store = FeatureStore(tmp_path, KEY)
    layout = Layout("bfloat16", (4,))
    fill(store, [6, 2], [layout])
    (shard,) = shards(store.folder)
    assert np.load(shard / "examples.npy").tolist() == prints([6, 2]).tolist()
    stored = np.load(shard / "0.npy")
    assert stored.dtype == np.uint16
    assert same([torch.from_numpy(stored).view(torch.bfloat16)], batch([6, 2], [layout]))
    assert json.loads((shard / "shard.json").read_text())["layouts"] == [
        {"dtype": "bfloat16", "shape": [4], "ragged": False}
    ]
    assert json.loads((store.folder / "key.json").read_text()) == KEY


def test_another_key_is_another_folder(two_shards: FeatureStore) -> None:
    """Any difference in the key counts, the order of its parts does not."""
    root = two_shards.folder.parent
    assert FeatureStore(root, dict(reversed(KEY.items()))).missing(prints([0])).tolist() == []
    other = FeatureStore(root, {**KEY, "split": "after layer 4"})
    assert other.missing(prints([0])).tolist() == [0]
    assert not other.folder.exists()


def test_features_are_sent_as_paths(tmp_path: Path) -> None:
    """What goes to a worker process is not the data, and reads the same there."""
    store = FeatureStore(tmp_path, KEY)
    layout = Layout("float32", (20_000,))
    fill(store, [1, 2, 3], [layout])
    features = store.read(prints([3, 1]))
    sent = pickle.dumps(features)
    assert len(sent) < 3000
    assert same(pickle.loads(sent).take([0, 1]), batch([3, 1], [layout]))


@pytest.mark.parametrize("layouts", [[FIXED], [RAGGED, Layout("bfloat16", (7, 2)), Layout("bool", ())]])
def test_size_is_foretold(layouts: list[Layout], tmp_path: Path) -> None:
    """To the byte, but for `shard.json`."""
    store = FeatureStore(tmp_path, KEY)
    fill(store, range(10), layouts)
    (shard,) = shards(store.folder)
    expected = size_of(layouts, 10, sum(map(length, range(10))))
    assert sum(path.stat().st_size for path in shard.glob("*.npy")) == expected
    assert 0 < (shard / "shard.json").stat().st_size < 2048


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """At most some 40 bytes per example at the peak, where the tensors of one take 256."""
    count, layout = 300_000, Layout("float32", (64,))
    examples = np.random.default_rng(0).integers(0, 256, (count, 16), dtype=np.uint8)
    rows = np.arange(1000)
    values = torch.zeros(1000, 64)
    store = FeatureStore(tmp_path, KEY)
    tracemalloc.start()
    try:
        assert len(store.missing(examples)) == count
        with store.build(examples, [layout]) as writer:
            for start in range(0, count, 1000):
                writer.put(rows + start, [values])
        del writer
        features = store.read(examples)
        assert len(store.missing(examples)) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert features.take([5])[0].shape == (1, 64)
    assert 10 * count < peak < 42 * count


def test_reading_marks_as_used(two_shards: FeatureStore) -> None:
    """The time of the key is when its features were last read; looking what is missing does not count."""
    root = two_shards.folder.parent
    os.utime(two_shards.folder / "key.json", (1000, 1000))
    two_shards.missing(prints([0]))
    assert [entry.used for entry in cache_entries(root)] == [1000]
    two_shards.read(prints([0]))
    (entry,) = cache_entries(root)
    assert time.time() - entry.used < 100


# --- Mistakes in its use --------------------------------------------------------------------------------------------


def interrupted(store: FeatureStore, error: type[BaseException]) -> None:
    """Put all, then raise."""
    with store.build(prints([1, 2]), [FIXED]) as writer:
        writer.put([0, 1], batch([1, 2], [FIXED]))
        assert len(names(store.folder)) == 2
        raise error


def test_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    """Whatever is raised, an interrupt too: no shard, no leftover, and the error itself goes on."""
    store = FeatureStore(tmp_path, KEY)
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error):
            interrupted(store, error)
        assert names(store.folder) == ["key.json"]
    assert store.missing(prints([1, 2])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("puts", "message"),
    [([[0]], "1 of 2 rows were not put"), ([[0], [0]], "put twice"), ([[0, 0]], "put twice"), ([[0, 1], [1]], "twice")],
)
def test_rows_are_put_exactly_once(puts: list[list[int]], message: str, tmp_path: Path) -> None:
    """Neither a row that was forgotten nor one that was put twice makes a shard."""
    store = FeatureStore(tmp_path, KEY)

    def build() -> None:
        with store.build(prints([1, 2]), [FIXED]) as writer:
            for rows in puts:
                writer.put(rows, batch(rows, [FIXED]))

    with pytest.raises(RuntimeError, match=message):
        build()
    assert names(store.folder) == ["key.json"]


@pytest.mark.parametrize(
    "tensors",
    [
        [],
        [torch.zeros(1, 5), torch.zeros(3, 3), torch.zeros(1)],
        [torch.zeros(1, 5, dtype=torch.float64), torch.zeros(3, 3)],
        [torch.zeros(1, 6), torch.zeros(3, 3)],
        [torch.zeros(1, 5), torch.zeros(2, 3)],
    ],
    ids=["none", "too many", "dtype", "shape", "length"],
)
def test_tensors_of_another_layout_are_refused(tensors: list[torch.Tensor], tmp_path: Path) -> None:
    """Number, dtype, shape and length must be those that were said."""
    store = FeatureStore(tmp_path, KEY)
    with pytest.raises(ValueError, match="take tensors"), store.build(prints([3]), [FIXED, RAGGED], np.array([3])) as w:
        w.put([0], tensors)
    assert names(store.folder) == ["key.json"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((prints([]), [FIXED]), "no examples"),
        ((prints([1, 2, 1]), [FIXED]), "distinct"),
        ((prints([1]), [RAGGED]), "Lengths are needed"),
        ((prints([1]), [FIXED], np.array([1])), "Lengths are needed"),
        ((prints([1]), [RAGGED], np.array([1, 2])), "1 examples, but lengths"),
        ((prints([1])[:, :15], [FIXED]), "Fingerprints are"),
    ],
)
def test_wrong_calls_are_refused(given: tuple[Any, ...], message: str, tmp_path: Path) -> None:
    """Before anything is made on disk."""
    store = FeatureStore(tmp_path / "cache", KEY)
    with pytest.raises(ValueError, match=message), store.build(*given):
        raise AssertionError("the block was entered")
    assert not (tmp_path / "cache").exists()


def test_a_key_has_one_layout(two_shards: FeatureStore) -> None:
    """Other tensors under the same key mean that the key forgets something."""
    with pytest.raises(RuntimeError, match="key does not say"), two_shards.build(prints([50]), [FIXED]):
        raise AssertionError("the block was entered")


def test_reading_what_is_missing_is_refused(two_shards: FeatureStore) -> None:
    """With how many there are."""
    with pytest.raises(RuntimeError, match="2 of 3 examples are not in"):
        two_shards.read(prints([0, 50, 51]))


# --- Damage ---------------------------------------------------------------------------------------------------------

FILES = ("0.npy", "1.npy", "examples.npy", "offsets.npy", "shard.json")


def noticed(store: FeatureStore, damaged: Path, reason: str) -> None:
    """A store opened anew misses the damaged shard's examples alone, says so once, and builds them again."""
    again = FeatureStore(store.folder.parent, KEY)
    assert again.missing(prints(range(10))).tolist() == [0, 1, 2, 3, 4, 5]
    assert again.notes == [f"a damaged part of the cache ({damaged.name}: {reason}) is built again"]
    assert names(store.folder) == sorted([shard_of(store, 9).name, "key.json"])
    assert fill(again, range(10), [FIXED, RAGGED]) == [0, 1, 2, 3, 4, 5]
    assert same(again.read(prints(range(10))).take(range(10)), batch(range(10), [FIXED, RAGGED]))
    assert len(again.notes) == 1
    after = FeatureStore(store.folder.parent, KEY)
    assert after.missing(prints(range(10))).tolist() == []
    assert after.notes == []


@pytest.mark.parametrize("where", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_noticed(name: str, where: float, two_shards: FeatureStore) -> None:
    """In whatever file, wherever in it."""
    damaged = shard_of(two_shards, 0)
    assert tuple(names(damaged)) == FILES
    content = bytearray((damaged / name).read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    (damaged / name).write_bytes(content)
    noticed(two_shards, damaged, f"{name} is not what was written")


def test_every_byte_of_the_description_counts(tmp_path: Path) -> None:
    """`shard.json`, which holds the checksums, is one itself."""
    store = FeatureStore(tmp_path, KEY)
    fill(store, [1, 2], [FIXED])
    (shard,) = shards(store.folder)
    whole = {path.name: path.read_bytes() for path in shard.iterdir()}
    for i in range(len(whole["shard.json"])):
        shard.mkdir(exist_ok=True)
        for name, content in whole.items():
            (shard / name).write_bytes(content)
        torn = bytearray(whole["shard.json"])
        torn[i] ^= 1
        (shard / "shard.json").write_bytes(torn)
        assert len(FeatureStore(tmp_path, KEY).missing(prints([1, 2]))) == 2, f"byte {i}"


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_noticed(name: str, two_shards: FeatureStore) -> None:
    """As after a crash of the machine."""
    damaged = shard_of(two_shards, 0)
    os.truncate(damaged / name, (damaged / name).stat().st_size // 2)
    noticed(two_shards, damaged, f"{name} is not what was written")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(name: str, two_shards: FeatureStore) -> None:
    """Without `shard.json` the rest is not trusted either."""
    damaged = shard_of(two_shards, 0)
    (damaged / name).unlink()
    noticed(two_shards, damaged, f"{name} is missing")


def test_a_shard_of_another_key_is_noticed(two_shards: FeatureStore) -> None:
    """Sound files in the wrong place are the wrong features."""
    other = FeatureStore(two_shards.folder.parent, {**KEY, "split": "elsewhere"})
    fill(other, range(6), [FIXED, RAGGED])
    damaged = shard_of(two_shards, 0)
    shutil.rmtree(damaged)
    shutil.move(shards(other.folder)[0], damaged)
    noticed(two_shards, damaged, "it belongs to another key")


def test_a_damaged_key_is_written_again(two_shards: FeatureStore) -> None:
    """It is for people to read, so nothing is lost with it."""
    path = two_shards.folder / "key.json"
    path.write_bytes(b"\xff{")
    assert [entry.what for entry in cache_entries(two_shards.folder.parent)] == [two_shards.folder.name]
    again = FeatureStore(two_shards.folder.parent, KEY)
    again.read(prints(range(10)))
    assert again.notes == []
    assert json.loads(path.read_text()) == KEY


# --- Other processes ------------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.feature_cache.test_feature_files import KEY, FIXED, RAGGED, FeatureStore, batch, np, prints, length
store = FeatureStore(Path(sys.argv[1]), KEY)
with store.build(prints(range(6)), [FIXED, RAGGED], np.array([length(n) for n in range(6)])) as writer:
    writer.put([0, 1, 2], batch(range(3), [FIXED, RAGGED]))
    print("half", flush=True)
    sys.stdin.readline()
    writer.put([3, 4, 5], batch(range(3, 6), [FIXED, RAGGED]))
print("whole", flush=True)
"""
"""Builds examples 0 to 5, and waits in the middle until it is told to go on."""


def child(root: Path) -> subprocess.Popen[str]:
    """A process in the middle of building."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), str(Path(__file__).parents[2])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


def test_killed_while_building(tmp_path: Path) -> None:
    """SIGKILL in the middle: nothing of it is read, all of it is removed by the next that builds."""
    process = child(tmp_path)
    store = FeatureStore(tmp_path, KEY)
    (begun,) = store.folder.glob(".building-*")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert set(names(begun)) == {*FILES} - {"shard.json"}
    (entry,) = cache_entries(tmp_path)
    assert entry.examples == 0
    assert 0 < entry.unfinished < entry.size
    assert store.missing(prints(range(6))).tolist() == [0, 1, 2, 3, 4, 5]
    assert begun.exists()
    fill(store, range(4), [FIXED, RAGGED])
    assert not begun.exists()
    assert names(store.folder) == sorted([shard_of(store, 0).name, "key.json"])
    assert same(store.read(prints(range(4))).take(range(4)), batch(range(4), [FIXED, RAGGED]))


def test_two_processes_building_the_same(tmp_path: Path) -> None:
    """Both are in the middle at the same time, both end well, and one shard stays."""
    pair = [child(tmp_path), child(tmp_path)]
    store = FeatureStore(tmp_path, KEY)
    assert len(list(store.folder.glob(".building-*"))) == 2
    for process in pair:
        assert process.communicate("go on\n", timeout=60) == ("whole\n", None)
        assert process.returncode == 0
    assert names(store.folder) == sorted([shard_of(store, 0).name, "key.json"])
    assert same(store.read(prints(range(6))).take(range(6)), batch(range(6), [FIXED, RAGGED]))
    assert store.notes == []


def test_what_a_living_process_builds_stays(tmp_path: Path) -> None:
    """Neither building, nor clearing, nor making room takes it away; the process ends well."""
    process = child(tmp_path)
    store = FeatureStore(tmp_path, KEY)
    fill(store, [7, 8], [FIXED, RAGGED])
    assert clear_cache(tmp_path) > 0
    assert len(make_room(tmp_path, needed=0, limit=0, keep=tmp_path / "none")) == 1
    assert len(list(store.folder.glob(".building-*"))) == 1
    assert process.communicate("go on\n", timeout=60) == ("whole\n", None)
    assert FeatureStore(tmp_path, KEY).missing(prints([0, 5, 7])).tolist() == [2]


def test_leftovers_of_other_machines_stay_a_week(tmp_path: Path) -> None:
    """Their processes cannot be seen from here, as on a shared disk."""
    store = FeatureStore(tmp_path, KEY)
    old, new = (store.folder / f".building-far-away-{i}-0123abcd" for i in (1, 2))
    other = store.folder / ".building-site"
    for folder in (old, new, other):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - ABANDONED - 60,) * 2)
    os.utime(new, (time.time() - ABANDONED + 60,) * 2)
    os.utime(other, (0, 0))
    fill(store, [1], [FIXED])
    assert not old.exists()
    assert new.exists()
    assert other.exists()


def test_what_another_process_removed_can_still_be_read(two_shards: FeatureStore) -> None:
    """An open store holds its maps; one that is opened then misses all, and calls nothing damaged."""
    features = two_shards.read(prints(range(10)))
    assert clear_cache(two_shards.folder.parent) > 0
    assert not two_shards.folder.exists()
    assert same(features.take(range(10)), batch(range(10), [FIXED, RAGGED]))
    again = FeatureStore(two_shards.folder.parent, KEY)
    assert len(again.missing(prints(range(10)))) == 10
    assert again.notes == []
    fill(again, range(3), [FIXED, RAGGED])
    clear_cache(again.folder.parent)
    assert same(again.read(prints([2, 0])).take([0, 1]), batch([2, 0], [FIXED, RAGGED]))


# --- Full disks -----------------------------------------------------------------------------------------------------

REMEDY = r"in {folder}: {reason}\. Give another folder with --cache_dir, .* or train with --cache off\."


def test_too_little_room_is_said_before_writing(tmp_path: Path) -> None:
    """More than any disk has: the folder, the bytes, the remedies; nothing is left."""
    store = FeatureStore(tmp_path, KEY)
    expected = r"cannot be written \(4294967296\.0 GiB\) " + REMEDY.format(
        folder=store.folder, reason="No space left.*"
    )
    with pytest.raises(UserError, match=expected), store.build(prints([1]), [Layout("uint8", (2**62,))]):
        raise AssertionError("the block was entered")
    assert names(store.folder) == ["key.json"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """Here its parent is a file."""
    (tmp_path / "file").write_text("mine")
    store = FeatureStore(tmp_path / "file", KEY)
    assert store.missing(prints([1])).tolist() == [0]
    with pytest.raises(UserError, match=REMEDY.format(folder=store.folder, reason="Not a directory")):
        fill(store, [1], [FIXED])
    assert (tmp_path / "file").read_text() == "mine"


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.feature_cache.test_feature_files import *
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
store = FeatureStore(Path(sys.argv[1]), KEY)
for numbers in ([1], [2, 3, 4]):
    try:
        print(fill(store, numbers, [Layout("uint8", (2**19,))]))
    except UserError as error:
        print(error)
print(*names(store.folder))
"""


def test_a_limit_on_files_is_said(tmp_path: Path) -> None:
    """What the system refuses when room is allocated becomes one error as well."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    store = FeatureStore(tmp_path, KEY)
    built, error, left = done.stdout.splitlines()
    assert built == "[1]"
    assert re.search(REMEDY.format(folder=store.folder, reason="File too large"), error)
    assert left.split() == sorted([shard_of(store, 1).name, "key.json"])


FULL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.feature_cache.test_feature_files import *
root, layout = Path(sys.argv[1]), Layout("uint8", (2**19,))
store = FeatureStore(root, KEY)
try:
    with store.build(prints([1, 2]), [layout]) as writer:
        try:
            with (root / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
        except OSError:
            print("full")
        writer.put([0, 1], batch([1, 2], [layout]))
        print("written")
except UserError as error:
    print(error)
(root / "filler").unlink()
print(*names(store.folder))
print(*fill(store, [1, 2], [layout]))
assert same(store.read(prints([2])).take([0]), batch([2], [layout]))
"""


def test_a_disk_that_fills_up_while_writing(tmp_path: Path) -> None:
    """A real file system of 4 MiB, filled by somebody else in the middle: one error, not a signal, and no leftover."""
    script = 'mount -t tmpfs -o size=4m none "$1" && exec "$2" -c "$3" "$1" "$4"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a file system of their own")
    done = subprocess.run(
        [*command, sys.executable, FULL, str(Path(__file__).parents[2])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    full, written, error, left, built = done.stdout.splitlines()
    assert (full, written, left, built) == ("full", "written", "key.json", "1 2")
    assert re.search(REMEDY.format(folder=FeatureStore(tmp_path, KEY).folder, reason="No space left.*"), error)


# --- Housekeeping ---------------------------------------------------------------------------------------------------


@pytest.fixture
def three_keys(tmp_path: Path) -> list[FeatureStore]:
    """Three keys, last used 3, 2 and 1 days ago, beside what is not the cache's."""
    stores = []
    for i in range(3):
        store = FeatureStore(tmp_path, {"model": f"org/model-{i}", "split": f"after layer {i}"})
        fill(store, range(2 + i), [FIXED])
        os.utime(store.folder / "key.json", (time.time() - (3 - i) * 86400,) * 2)
        stores.append(store)
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "key.json").write_text("{}")
    (tmp_path / ("0" * 32)).mkdir()
    (tmp_path / ("0" * 32) / "mine.txt").write_text("mine")
    return stores


def left_in(root: Path) -> list[str]:
    """The models that a cache still holds; what is not the cache's must be there as it was."""
    assert {path.name for path in root.iterdir() if path.name in ("mine.txt", "work", "0" * 32)} == {
        *("mine.txt", "work", "0" * 32)
    }
    assert (root / ("0" * 32) / "mine.txt").exists()
    return [entry.what.split(",")[0].removeprefix("org/model-") for entry in cache_entries(root)]


def test_entries_say_what_is_there(three_keys: list[FeatureStore], tmp_path: Path) -> None:
    """The least recently used first, with the bytes that the files take."""
    found = cache_entries(tmp_path)
    assert [entry.what for entry in found] == [f"org/model-{i}, after layer {i}" for i in range(3)]
    assert [entry.examples for entry in found] == [2, 3, 4]
    assert [entry.unfinished for entry in found] == [0, 0, 0]
    for entry, store in zip(found, three_keys, strict=True):
        assert entry.folder == store.folder
        assert entry.size == sum(path.stat().st_size for path in store.folder.rglob("*.*"))
    assert cache_entries(tmp_path / "nowhere") == []


def test_make_room_takes_the_least_recently_used(three_keys: list[FeatureStore], tmp_path: Path) -> None:
    """As many as needed, to the byte, and never the one that room is made for."""
    sizes = [entry.size for entry in cache_entries(tmp_path)]
    total, keep = sum(sizes), three_keys[0].folder
    assert make_room(tmp_path, needed=100, limit=total + 100, keep=keep) == []
    assert left_in(tmp_path) == ["0", "1", "2"]
    removed = make_room(tmp_path, needed=100, limit=total + 99, keep=keep)
    assert [entry.what for entry in removed] == ["org/model-1, after layer 1"]
    assert left_in(tmp_path) == ["0", "2"]
    assert make_room(tmp_path, needed=0, limit=sizes[0] - 1, keep=keep) == []
    assert left_in(tmp_path) == ["0", "2"]
    assert len(make_room(tmp_path, needed=0, limit=sizes[0], keep=keep)) == 1
    assert left_in(tmp_path) == ["0"]


def test_the_folder_is_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the environment, else it lies in the home of Hugging Face."""
    from huggingface_hub.constants import HF_HOME

    monkeypatch.delenv("HF_FT_CACHE", raising=False)
    assert default_root() == Path(HF_HOME) / "hf_ft" / "features"
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "mine"))
    assert default_root() == tmp_path / "mine"


def test_the_command_lists(
    three_keys: list[FeatureStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The most recently used first, long names wrapped, the total and the folder; the same with HF_FT_CACHE."""
    long = FeatureStore(tmp_path, {"describe": "a very long name of a model " * 5})
    fill(long, [1], [FIXED])
    assert main(["cache", "list", "--cache_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert re.fullmatch(r"features +examples +size +last used", lines[0])
    assert re.search(r"^org/model-2, after layer 2 +4 +\d+ bytes \d{4}-\d\d-\d\d \d\d:\d\d$", printed, re.MULTILINE)
    rows = [line.split(",")[0] for line in lines if line.startswith("org/")]
    assert rows == ["org/model-2", "org/model-1", "org/model-0"]
    name = [line[:37].strip() for line in lines[1 : lines.index(next(x for x in lines if x.startswith("org/")))]]
    assert " ".join(name) == ("a very long name of a model " * 5).strip()
    assert re.fullmatch(rf"[\d.]+ KiB in {re.escape(str(tmp_path))}", lines[-1])
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path))
    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out == printed


def test_the_command_says_what_was_not_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the total, as it may be what fills the disk."""
    process = child(tmp_path)
    process.kill()
    process.wait()
    assert main(["cache", "list", "--cache_dir", str(tmp_path)]) == 0
    assert re.search(r"bytes in .*, \d+ bytes of it unfinished$", capsys.readouterr().out)
    assert main(["cache", "clear", "--cache_dir", str(tmp_path)]) == 0
    assert names(tmp_path) == []


def test_the_command_clears(three_keys: list[FeatureStore], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is old enough, then all; the bytes that it says are those that were freed, and nothing else is touched."""
    sizes = [entry.size for entry in cache_entries(tmp_path)]
    assert main(["cache", "clear", "--cache_dir", str(tmp_path), "--older_than", "1.5"]) == 0
    assert left_in(tmp_path) == ["2"]
    assert capsys.readouterr().out == f"Freed {format_size(sizes[0] + sizes[1])} in {tmp_path}\n"
    assert main(["cache", "clear", "--cache_dir", str(tmp_path)]) == 0
    assert left_in(tmp_path) == []
    assert not three_keys[2].folder.exists()
    assert capsys.readouterr().out == f"Freed {format_size(sizes[2])} in {tmp_path}\n"
    assert main(["cache", "list", "--cache_dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"0 bytes in {tmp_path}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "No action for the cache. Use list or clear."),
        (["lsit"], "Unknown action 'lsit'. Did you mean 'list'? Choose from: list, clear."),
        (["list", "--older_than", "2"], "--older_than is an option of hf-ft cache clear only."),
        (["clear", "--older_than", "-1"], "--older_than must be at least 0, not -1.0."),
        (["clear", "--older_than", "nan"], "--older_than must be a number, not nan."),
        (["clear", "--cache_dir", "{root}/wrok"], "No such cache folder: {root}/wrok. Did you mean {root}/work?"),
        (["list", "--cache_dir", "{root}/mine.txt"], "{root}/mine.txt is a file."),
        (["clear", "all"], "Unexpected 'all' on the command line"),
    ],
)
def test_mistakes_on_the_command_line(
    words: list[str],
    message: str,
    three_keys: list[FeatureStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, exit code 2, and nothing is removed."""
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path))
    assert main(["cache", *(word.format(root=tmp_path) for word in words)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {message.format(root=tmp_path)}")
    assert printed.err.count("\n") == 1
    assert left_in(tmp_path) == ["0", "1", "2"]


def test_listing_needs_no_torch(two_shards: FeatureStore) -> None:
    """In a fresh process the listing answers without the heavy packages."""
    root = str(two_shards.folder.parent)
    script = (
        "import sys; from hf_ft.cli import main; main(['cache', 'list', '--cache_dir', sys.argv[1]])\n"
        "print('HEAVY', sorted({'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, check=True)
    assert "org/tiny, after layer 3" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"
