"""Rows of weights, and the squared error with which llama.cpp quantises each: python rows.py

The error is that of llama.cpp's own code, by its library in the package xllamacpp, without an
importance matrix: pip install gguf numpy xllamacpp (made with 0.19.0, 2.4.6 and 2026.10.11549)
"""

import ctypes
import pathlib

import gguf
import numpy as np
import xllamacpp

HERE = pathlib.Path(__file__).parent
COUNT, ROW = 4096, 256

library = ctypes.CDLL(next(map(str, pathlib.Path(xllamacpp.__file__).parent.glob("*.so"))))
chunk = library.ggml_quantize_chunk
chunk.restype = ctypes.c_size_t
chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]


def quantised(values, kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = np.zeros(values.size // block * size, np.uint8)
    written = chunk(int(kind), values.ctypes.data, data.ctypes.data, 0, values.size // ROW, ROW, None)
    assert written == data.size
    return gguf.quants.dequantize(data, kind).reshape(-1)


random = np.random.default_rng(1)
normal = random.standard_normal(COUNT)
# Every 64th value is ten times as large.
outliers = normal * np.where(np.arange(COUNT) % 64 == 5, 10, 1)
# Groups of 32 values of different sizes.
groups = normal * np.repeat(np.exp(random.standard_normal(COUNT // 32)), 32)
# All far above 0, and all far below it, by turns.
shifted = normal + np.where(np.arange(COUNT) // 64 % 2, 3, -3)
rows = {"normal": normal * 0.02, "outliers": outliers * 0.02, "groups": groups * 0.02, "shifted": shifted * 0.02}

writer = gguf.GGUFWriter(HERE / "rows.gguf", "rows")
for name, values in rows.items():
    values = values.astype(np.float16)
    writer.add_tensor(name, values)
    values = values.astype(np.float32)
    for kind in ("Q4_K", "Q6_K", "Q5_0"):
        error = quantised(values, gguf.GGMLQuantizationType[kind]).astype(np.float64) - values
        writer.add_float64(f"{name}.{kind}", float(np.square(error).sum()))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
