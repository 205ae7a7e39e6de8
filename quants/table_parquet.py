"""Ticks as Parquet: decimal128, which holds every price and size exactly.

A column has one scale, that of the symbol with the most decimals. Arrow itself
moves the others to it, and refuses what would not fit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from quants.errors import SettingsError
from quants.table import Chunk, Int64, Legend, Write, chunk_of


class Parquet:
    """Row groups; the schema says what is what, and decimal128 is exact."""

    def __init__(self, legend: Legend) -> None:
        self.legend = legend
        self.arrow, self.parquet = loaded()
        text = self.arrow.dictionary(self.arrow.int32(), self.arrow.string())
        kinds = dict.fromkeys(legend.texts, text)
        kinds |= {"seq": self.arrow.uint64(), "time_ns": self.arrow.int64()}
        kinds |= {name: self._decimal(self.most(name)) for name in ("price", "size")}
        columns = [(name, kinds[name]) for name in legend.columns]
        self.schema = self.arrow.schema(columns)

    def most(self, column: str) -> int:
        """The scale of a column: no symbol has more decimals."""
        return int(self.legend.decimals(column).max(initial=0))

    @contextmanager
    def writing(self, file: BinaryIO) -> Iterator[Write]:
        """What appends a chunk, as a row group."""
        with self.parquet.ParquetWriter(
            file, self.schema, compression="zstd"
        ) as writer:
            yield lambda chunk: writer.write_batch(self._batch(chunk))

    def _batch(self, chunk: Chunk) -> Any:
        arrow, which = self.arrow, chunk.rows["symbol"]
        columns = {"seq": chunk.seq, "time_ns": chunk.rows["time_ns"]}
        for name, texts in self.legend.texts.items():
            codes = self.legend.codes(name, texts).astype(np.int32)[which]
            words = self.legend.words(name)
            columns[name] = arrow.DictionaryArray.from_arrays(codes, words)
        for name in ("price", "size"):
            values = chunk.rows[name]  # (n,)
            wide = np.stack([values, values >> 63], axis=1)  # (n, 2), 128 bits each
            own, most = self.legend.decimals(name)[which], self.most(name)
            for some in np.unique(own[own < most]).tolist():
                wide[own == some] = self._rescaled(wide[own == some], some, most)
            columns[name] = self._decimals(wide, most)
        arrays = [columns[name] for name in self.legend.columns]
        return arrow.record_batch(arrays, schema=self.schema)

    def read(self, path: Path) -> Iterator[Chunk]:
        """What a file holds."""
        with self.parquet.ParquetFile(path) as file:
            if file.schema_arrow != self.schema:
                raise ValueError("another schema")
            for group in range(file.num_row_groups):  # `iter_batches` reads ahead
                yield from map(self._parsed, file.read_row_group(group).to_batches())

    def _parsed(self, batch: Any) -> Chunk:
        codes = []
        for name in self.legend.texts:
            own = self.legend.codes(name, batch[name].dictionary.to_pylist())
            codes.append(own[batch[name].indices.to_numpy()])
        which = self.legend.symbol(codes)
        sums = []
        for name in ("price", "size"):
            wide, own = limbs(batch[name]), self.legend.decimals(name)[which]
            most = self.most(name)
            for some in np.unique(own[own < most]).tolist():
                wide[own == some] = self._rescaled(wide[own == some], most, some)
            if np.any(wide[:, 0] >> 63 != wide[:, 1]):
                raise ValueError(f"a {name} beyond 64 bits")
            sums.append(wide[:, 0])
        seq, time_ns = (batch[name].to_numpy() for name in ("seq", "time_ns"))
        return chunk_of(seq, time_ns, which, *sums)

    def _decimal(self, scale: int) -> Any:
        return self.arrow.decimal128(38, scale)  # 19 digits of an int64, 18 more

    def _decimals(self, wide: Int64, scale: int) -> Any:
        buffer = self.arrow.py_buffer(np.ascontiguousarray(wide))
        return self.arrow.Array.from_buffers(
            self._decimal(scale), len(wide), [None, buffer]
        )

    def _rescaled(self, wide: Int64, before: int, after: int) -> Int64:
        """The same decimals in units of another scale; the cast is checked."""
        return limbs(self._decimals(wide, before).cast(self._decimal(after)))


def limbs(decimals: Any) -> Int64:
    """The 128-bit integers of a decimal array, low half first, shape (n, 2)."""
    both = np.frombuffer(decimals.buffers()[1], np.int64).reshape(-1, 2)
    return both[decimals.offset :][: len(decimals)].copy()


def loaded() -> tuple[Any, Any]:
    """PyArrow and its Parquet part; an extra, and large.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        way_out = 'pip install "quants-in-motion[parquet]", or write a .csv'
        raise SettingsError(
            "out", ".parquet", f"it needs pyarrow; {way_out}"
        ) from error
    return pyarrow, pyarrow.parquet
