"""Blocks of every quantised type and their values, by the `gguf` package: python make.py

Blocks are random bytes (with scales that are finite), so that every bit counts. The package is the
reference implementation of the format: pip install gguf numpy
"""

import pathlib

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
BLOCKS = 3
# Where the half-precision scales of a block stand, bytes.
SCALES = {
    "F32": None,
    "F16": None,
    "BF16": None,
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}

random = np.random.default_rng(1)
writer = gguf.GGUFWriter(HERE / "blocks.gguf", "blocks")
writer.add_string("test.text", "naïve ☃")
writer.add_array("test.texts", ["a", "", "日本"])
writer.add_array("test.floats", [0.5, -1.25])
writer.add_int32("test.negative", -7)
writer.add_uint64("test.large", 1 << 40)
writer.add_bool("test.flag", True)
for name, scales in SCALES.items():
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if scales is None:
        values = random.standard_normal((2, 48), dtype=np.float32)
        data = gguf.quants.quantize(values, kind)
    else:
        data = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for at in scales:
            half = (random.standard_normal(BLOCKS) * 0.02).astype(np.float16)
            data[:, at : at + 2] = half.view(np.uint8).reshape(BLOCKS, 2)
    values = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(-1)
    writer.add_tensor(name, data, raw_dtype=kind)
    writer.add_tensor(f"{name}.values", values)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
