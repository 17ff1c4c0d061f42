"""Files that require more memory than their size are refused before anything is loaded."""

import io
import pickle
import re
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from simmim_pl.contracts import InputError
from simmim_pl.runtime.unpickle import require_bounded_memory, unpickle

ROW = torch.arange(12.0)
GOOD: dict[str, Any] = {
    "views": {"row": ROW, "part": ROW[3:7].view(2, 2).t(), "none": torch.zeros(0, 3), "one": torch.zeros(())},
    "repeated, as large as the rest": {"all": torch.zeros(1000), "two": ROW[:2].expand(50, 2)},
    "tied": [ROW, ROW],
    "a parameter": torch.nn.Parameter(ROW),
    "types": [ROW.half(), ROW.bfloat16(), ROW.double(), ROW.long(), ROW > 3, ROW.to(torch.complex64)],
    "plain": {"a": None, "b": True, "c": -5, "d": 2**70, "e": 0.5, "f": "é", 7: (1, ("x", 2)), (1, (2, 3)): []},
    "what schedules and optimizers keep": [Counter("aab"), OrderedDict(a=1), {1, 2}, b"a\xff", 1j, torch.Size([2])],
    "names of torch": [torch.bfloat16, torch.device("cpu"), torch.Size([2, 3])],
}


def same(a: Any, b: Any) -> bool:
    """Whether values with nested tensors are equal."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize("case", GOOD)
@pytest.mark.parametrize("archive", [True, False])
def test_written_values_are_read_back(tmp_path: Path, case: str, archive: bool) -> None:
    torch.save(GOOD[case], tmp_path / "x.pt", _use_new_zipfile_serialization=archive)
    assert same(unpickle(tmp_path / "x.pt"), GOOD[case])


@pytest.mark.parametrize("archive", [True, False])
def test_a_network_and_the_state_of_its_optimizer_are_read(tmp_path: Path, archive: bool) -> None:
    net = resnet18()
    optimizer = torch.optim.AdamW(net.parameters())
    sum(parameter.sum() for parameter in net.parameters()).backward()
    optimizer.step()
    saved = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=archive)
    assert same(unpickle(tmp_path / "x.pt"), saved)


def repack(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Rewrite an archive, entry by entry."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


def archive(path: Path, instructions: bytes) -> None:
    """A torch archive with these instructions between the start and the end of its pickle."""
    torch.save(ROW, path)
    repack(path, lambda name, content: b"\x80\x02" + instructions + b"." if name.endswith("data.pkl") else content)


def test_a_compressed_archive_is_refused_before_unpacking(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"state_dict": {"x": torch.zeros(5_000_000)}}, path)
    repack(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    assert torch.load(path, weights_only=True)["state_dict"]["x"].shape == (5_000_000,)  # torch would unpack it
    with pytest.raises(InputError, match=r"x.pt was not read, because it is compressed, .* may unpack to any size"):
        unpickle(path)


def test_entries_that_share_bytes_are_counted_separately(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({str(i): torch.zeros(1000) for i in range(2)}, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as whole:
        offsets = [entry.header_offset for entry in whole.infolist() if entry.filename.endswith(("data/0", "data/1"))]
        grown = len(content) + 1
    # Both entries have the same offset, and each declares the size of the file.
    content = content.replace(struct.pack("<I", offsets[1]), struct.pack("<I", offsets[0]))
    content = content.replace(struct.pack("<II", 4000, 4000), struct.pack("<II", grown, grown))
    path.write_bytes(content)
    with pytest.raises(InputError, match="not read, because its contents are larger than the file"):
        unpickle(path)


def zeros(path: Path, numbers: int, archive: bool = True) -> bytes:
    """The file that torch writes for this many zeros."""
    torch.save({"x": torch.zeros(numbers)}, path, _use_new_zipfile_serialization=archive)
    return path.read_bytes()


def the_old_format_and_an_archive_behind(path: Path) -> bytes:
    """torch reads the start of the file, zipfile the end."""
    harmful = zeros(path, 10, archive=False).replace(b"K\nNt", INT + b"Nt")
    return harmful + zeros(path, 1)


def a_list_in_the_comment(path: Path) -> bytes:
    """The records place the directory there, and torch trusts them.

    zipfile assumes a prefix before the archive, reads the directory that ends at the records, and shifts its entries.
    """
    content = zeros(path, 1)[:-98]
    place = content.index(b"PK\x01\x02")
    listed, shift = content[place:], len(content) - place + 22
    other = bytearray(listed)
    for entry in re.finditer(b"PK\x01\x02", listed):
        field = slice(entry.start() + 42, entry.start() + 46)
        other[field] = (int.from_bytes(other[field], "little") + shift).to_bytes(4, "little")
    records = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 7, 7, len(listed), len(content) + 22, len(listed))
    return content[:place] + other + records + listed


def a_record_that_only_torch_reads(path: Path) -> bytes:
    """torch follows the locator to the first of two, zipfile reads the one before the locator."""
    content = zeros(path, 1)
    place = content.index(b"PK\x01\x02")
    record = content[-98:-50] + struct.pack("<Q", place + 56)
    locator = content[-42:-34] + struct.pack("<Q", place) + content[-26:-22]
    return content[:place] + record + content[place:-98] + record + locator + content[-22:]


def a_comment(path: Path) -> bytes:
    """A comment, which could contain another directory."""
    return zeros(path, 1)[:-2] + b"\x04\x00text"


DOUBLE = {
    the_old_format_and_an_archive_behind: "asks for 8000000000 bytes of memory",
    a_list_in_the_comment: "cannot be read as a checkpoint",
    a_record_that_only_torch_reads: "cannot be read as a checkpoint",
    a_comment: "cannot be read as a checkpoint",
}


@pytest.mark.parametrize("make", DOUBLE)
def test_a_file_that_torch_and_zipfile_read_differently_is_refused(
    tmp_path: Path, make: Callable[[Path], bytes]
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(make(path))
    with zipfile.ZipFile(path) as whole:  # which accepts all of them
        assert whole.testzip() is None
    with pytest.raises(InputError, match=DOUBLE[make]):
        unpickle(path)


INT = b"\x8a\x05" + (2 * 10**9).to_bytes(5, "little")
TEXT = b"X" + struct.pack("<I", 10_000) + b"x" * 10_000 + b"q\x01X\x06\x00\x00\x00latin1q\x02"
DOUBLED = b"K\x01\x85q\x00" + b"".join(bytes([104, i, 104, i, 0x86, 113, i + 1]) for i in range(60))


def copies(name: bytes, of: bytes) -> bytes:
    """A hundred pairs in a dict or list, passed to successive calls: the original each time, or the last result."""
    pairs = b"".join(bytes([75, i, 75, i]) for i in range(100))
    numbers = b"}(" + pairs + b"u" if b"collections" in name else b"](" + pairs + b"e"
    return numbers + b"q\x00c" + name + b"\nq\x01h\x00\x85Rq\x02" + (b"h\x01" + of + b"\x85Rq\x02") * 3


COPIED = "it copies .* values: it may be malicious"
CONTAINERS = [b"builtins\nset", b"torch\nSize", b"collections\nCounter", b"collections\nOrderedDict"]
BOMBS = {
    "memory by a number": (b"cbuiltins\nbytearray\n" + INT + b"\x85R", "more than tensors and plain values"),
    "a tensor by a number": (b"ctorch\nTensor\n" + INT + b"\x85R", "more than tensors and plain values"),
    "a storage by a number": (b"ctorch.storage\nUntypedStorage\n" + INT + b"\x85R", "more than tensors"),
    "a call within a call": (b"ctorch._tensor\n_rebuild_from_type_v2\n" + INT + b"\x85R", "more than tensors"),
    "a text, copied": (
        b"c_codecs\nencode\nq\x00" + TEXT + b"".join(b"h\x00h\x01h\x02\x86R" for _ in range(100)),
        "asks for .* bytes of memory",
    ),
    "a key of 2 to the 60 values": (b"}" + DOUBLED + b"K\x01s", "a key in it consists of too many nested tuples"),
    "a key of many values": (b"}(" + b"K\x01" * 5000 + b"tK\x01s", "a key in it consists of too many nested tuples"),
    "pairs with such": (
        DOUBLED + b"ccollections\nOrderedDict\n]](h<K\x01ea\x85R",
        "a key in it consists of too many nested tuples",
    ),
    **{f"{name.decode()} again": (copies(name, b"h\x00"), COPIED) for name in CONTAINERS},
    **{f"{name.decode()} of the last": (copies(name, b"h\x02"), COPIED) for name in CONTAINERS},
    "a set of a text": (b"cbuiltins\nset\n" + TEXT.partition(b"q\x01")[0] + b"\x85R", "more than tensors"),
    "a set as what is given": (b"ctorch\nSize\ncbuiltins\nset\n](K\x01K\x02\x86e\x85RR", "more than tensors"),
    "a method by another name": (
        b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x05sb",
        "more than tensors and plain values",
    ),
    "a set of such": (DOUBLED + b"cbuiltins\nset\n]h<a\x85R", "a key in it consists of too many nested tuples"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_instructions_with_unbounded_memory_or_time_are_refused(tmp_path: Path, case: str) -> None:
    instructions, says = BOMBS[case]
    archive(tmp_path / "x.pt", instructions)
    with pytest.raises(InputError, match=says):
        unpickle(tmp_path / "x.pt")


def test_storages_of_the_old_format_are_not_larger_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"x": torch.zeros(10)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"K\nNt", INT + b"Nt"))  # the number of elements of the storage
    with pytest.raises(InputError, match="asks for 8000000000 bytes of memory"):
        unpickle(path)


def test_a_shape_must_be_a_literal_tuple(tmp_path: Path) -> None:
    """The result of a call could be anything; torch would enlarge a storage of the old format to it."""
    path = tmp_path / "x.pt"
    content = zeros(path, 10, archive=False)
    for written, called in ((b"K\n\x85", b"M\x00\x80\x85"), (b"K\x01\x85", b"K\x01\x85")):
        assert content.count(written) == 1
        content = content.replace(written, b"ctorch\nSize\n" + called + b"\x85R")
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"storage has wrong byte size.*131072"):  # it did
        torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match="arguments of a call are not a tuple"):
        require_bounded_memory(path)


@pytest.mark.parametrize("archive", [True, False])
def test_expanded_tensors_larger_than_the_file_are_refused(tmp_path: Path, archive: bool) -> None:
    torch.save({"x": ROW[:1].expand(10**9)}, tmp_path / "x.pt", _use_new_zipfile_serialization=archive)
    with pytest.raises(InputError, match="expands few numbers to more bytes than the file has"):
        unpickle(tmp_path / "x.pt")


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(torch.zeros(10), path)
    repack(path, lambda name, content: content.replace(b"K\n\x85", b"K\x0b\x85"))  # its shape
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        unpickle(path)


@pytest.mark.parametrize("content", [b"", b"x", b"[" * 1000, pickle.dumps({}, 2), b"\x80\x02X\xff\xff\xff\xffx", b"PK"])
def test_pickles_not_written_by_torch_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        unpickle(tmp_path / "x.pt")


def test_other_archives_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as whole:
        whole.writestr("readme.txt", "hello")
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        unpickle(tmp_path / "x.pt")
