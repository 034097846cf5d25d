# SPDX-License-Identifier: MIT
"""A model directory that can be damaged: what a case changes is written, the rest are links.

Python's standard library only.
"""

import json
import os
import struct
from pathlib import Path

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class ModelDir:
    """`out` as a copy of `source`. Symbolic links stand for files that a case leaves alone."""

    def __init__(self, source: Path, out: Path):
        self.source, self.out = source, out
        out.mkdir(parents=True)
        for path in sorted(source.iterdir()):
            if path.is_file():
                (out / path.name).symlink_to(path.resolve())
        self.config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        raw = (source / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        self.header: dict = json.loads(raw[8:8 + length])
        self.header_bytes = raw[8:8 + length]
        self.data = raw[8 + length:]

    # --- files ----------------------------------------------------------------------------------

    def remove(self, name: str) -> Path:
        path = self.out / name
        path.unlink(missing_ok=True)
        return path

    def write(self, name: str, content: bytes | str) -> None:
        self.remove(name).write_bytes(content.encode() if isinstance(content, str) else content)

    def write_config(self, text: str | None = None, **changes) -> None:
        """config.json with some keys changed (None removes one), or a text instead of it."""
        for key, value in changes.items():
            if value is None:
                self.config.pop(key, None)
            else:
                self.config[key] = value
        self.write("config.json", json.dumps(self.config) if text is None else text)

    def edit_json(self, name: str, **changes) -> None:
        path = self.source / name
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.write(name, json.dumps({**content, **changes}))

    # --- weights --------------------------------------------------------------------------------

    def tensor_names(self) -> list[str]:
        return [name for name in self.header if name != "__metadata__"]

    def name_ending(self, *suffixes: str) -> str:
        """The first tensor whose name ends so."""
        return next(n for n in self.tensor_names() if n.endswith(suffixes))

    def tensor(self, name: str) -> bytes:
        begin, end = self.header[name]["data_offsets"]
        return self.data[begin:end]

    def write_raw(self, header: bytes, data: bytes | None = None,
                  length: int | None = None) -> None:
        """The weights file from parts; `length` is what its first 8 bytes say."""
        prefix = struct.pack("<Q", len(header) if length is None else length)
        self.write(WEIGHTS, prefix + header + (self.data if data is None else data))

    def write_tensors(self, tensors: dict[str, tuple[str, list[int], bytes]],
                      file: str = WEIGHTS) -> None:
        header, data, offset = {}, [], 0
        for name, (dtype, shape, content) in tensors.items():
            header[name] = {"dtype": dtype, "shape": shape,
                            "data_offsets": [offset, offset + len(content)]}
            data.append(content)
            offset += len(content)
        text = json.dumps(header).encode()
        self.write(file, struct.pack("<Q", len(text)) + text + b"".join(data))

    def all_tensors(self) -> dict[str, tuple[str, list[int], bytes]]:
        return {name: (self.header[name]["dtype"], self.header[name]["shape"], self.tensor(name))
                for name in self.tensor_names()}

    def patch(self, name: str, at: int, content: bytes) -> None:
        """Overwrites bytes of one tensor, `at` counted from its begin."""
        begin = self.header[name]["data_offsets"][0] + at
        data = self.data[:begin] + content + self.data[begin + len(content):]
        self.write_raw(self.header_bytes, data)

    # --- shards ---------------------------------------------------------------------------------

    def shard(self, with_index: bool = True) -> list[str]:
        """Splits the weights into two shards; returns the names of the files."""
        tensors = self.all_tensors()
        names = list(tensors)
        files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        parts = [names[:len(names) // 2], names[len(names) // 2:]]
        self.remove(WEIGHTS)
        for file, part in zip(files, parts):
            self.write_tensors({n: tensors[n] for n in part}, file)
        if with_index:
            self.write_index({n: f for f, part in zip(files, parts) for n in part})
        return files

    def write_index(self, weight_map: dict[str, str]) -> None:
        self.write(INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}))

    def point_index_at(self, file: str) -> None:
        """An index that says all tensors are in `file`; the weights file is gone."""
        self.remove(WEIGHTS)
        self.write_index({name: file for name in self.tensor_names()})

    def special(self, name: str, make) -> None:
        """An index that leads to something that is no regular file."""
        self.point_index_at(name)
        make(os.fspath(self.out / name))
