"""F23: JSON and npz files that may be anybody's."""

import io
import json
import time
import zipfile

import numpy as np
import pytest

from gen_jax.reading import parse_json, read_npz
from tests.reliability.job import record, run_code


class TestJSON:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b'{"a": 1, "a": 2}', "'a' is there twice"),
            (b'{"a": 1e999}', "1e999 is no finite number"),
            (b'{"a": NaN}', "NaN is no finite number"),
            (b"-Infinity", "-Infinity is no finite number"),
            (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
            (b"[" * 10**6, "nested more than 64 deep"),
            (b" " * (2**20 + 1), "at most 1,048,576 are read"),
            (b"\xff", "decode"),
            (b"{", ""),
        ],
    )
    def test_what_nobody_means_is_refused(self, text, words):
        with pytest.raises(ValueError, match=words):
            parse_json(text)

    def test_no_text_takes_long(self):
        """Of strings that never end, and of those that nearly do."""
        begin = time.monotonic()
        for text in (b'"' + b'\\"' * 500_000, b'"a' * 500_000, b'{"a":' * 150_000, b"\\" * 10**6):
            with pytest.raises(ValueError, match=r"\w"):
                parse_json(text)
        assert time.monotonic() - begin < 5

    def test_brackets_in_strings_do_not_count(self):
        value = {"a": "[" * 100 + '"' + "\\" + "{" * 100, "b": [[1.5, -2, None, True]]}
        assert parse_json(json.dumps(value).encode()) == value


def npy_header(shape, descr="<f4", order=False):
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": order, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


READER = """
import sys
from pathlib import Path
from gen_jax.reading import read_npz
for path in sys.argv[1:]:
    try:
        print("read", read_npz(Path(path))[1])
    except ValueError as error:
        print("refused:", " ".join(str(error).split()))
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


class TestNpz:
    def write(self, path, members, compression=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in members:
                archive.writestr(name, data)

    def test_what_numpy_wrote_is_read(self, tmp_path):
        arrays = {
            "a": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
            "b": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 5))),
            "c": np.float32(3),
            "d": np.zeros((0, 4), np.uint8),
            "e": np.array("text"),
        }
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "x.npz", **arrays)
            found, names = read_npz(tmp_path / "x.npz")
            assert names == list(arrays)
            for name, array in arrays.items():
                np.testing.assert_array_equal(found[name], array)
                assert found[name].dtype == array.dtype
            assert list(read_npz(tmp_path / "x.npz", {"b"}.__contains__)[0]) == ["b"]

    def test_what_is_crafted_is_refused(self, tmp_path):
        """Files that NumPy or zipfile would follow into code or out of memory."""
        objects = io.BytesIO()
        np.save(objects, np.array([{"a": 1}], object), allow_pickle=True)
        good = npy_header((4,)) + bytes(16)
        members = {
            "objects": ([("x.npy", objects.getvalue())], "Python objects"),
            "a bomb": ([("x.npy", npy_header((2**28,)) + bytes(2**30))], "at most 100 times"),
            "a header of terabytes": ([("x.npy", npy_header((10**12,)))], "promises"),
            "too short": ([("x.npy", good[:-4])], "promises 16 bytes"),
            "too long": ([("x.npy", good + b"more")], "promises 16 bytes"),
            "negative": ([("x.npy", npy_header((-1,)))], ""),
            "twice": ([("x.npy", good), ("x.npy", good)], "twice"),
            "no header": ([("x.npy", b"\x80\x04K\x01.")], ""),
        }
        expected = {}
        for name, (content, words) in members.items():
            self.write(tmp_path / f"{name}.npz", content)
            expected[name] = words
        self.write(tmp_path / "good.npz", [("x.npy", good)])
        data = (tmp_path / "good.npz").read_bytes()
        broken = (data[: len(data) // 2], data[:40] + b"zz" + data[42:], b"", b"text")
        for number, content in enumerate(broken):
            (tmp_path / f"broken {number}.npz").write_bytes(content)
            expected[f"broken {number}"] = ""
        # In a process of its own: making these took more memory than reading them may.
        out = run_code(READER, *(tmp_path / f"{name}.npz" for name in expected))
        assert out.returncode == 0, out.stderr[-2000:]
        *answers, peak = out.stdout.splitlines()
        for name, answer in zip(expected, answers, strict=True):
            assert answer.startswith("refused: "), (name, answer)
            assert expected[name] in answer
        assert int(peak) < 200_000  # kB, all of the process
        record("F23", crafted=len(expected), refused=len(answers), peak_kB=int(peak))

    def test_a_name_is_no_path(self, tmp_path):
        good = npy_header((4,)) + bytes(16)
        self.write(tmp_path / "x.npz", [("../../escaped.npy", good)])
        assert list(read_npz(tmp_path / "x.npz")[0]) == ["../../escaped"]
        assert not list(tmp_path.parent.rglob("escaped*"))
