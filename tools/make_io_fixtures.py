#!/usr/bin/env python3
"""Makes the files tests/golden/data/io_* with programs that are not ours: gguf, safetensors and numpy from PyPI.

Needs: pip install gguf==0.19.0 safetensors==0.8.0 numpy. Usage: make_io_fixtures.py [OUTPUT_FOLDER]. The output depends on nothing else.
"""

import os
import sys
import zlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors import _safetensors_rust as rust

# Types decoded to expected values: rows, row length, and where the block's fp16 fields lie (random bytes there would give NaN).
QUANTIZED = {
    Type.Q4_0: (3, 64, [0]),
    Type.Q4_1: (3, 64, [0, 2]),
    Type.Q5_0: (3, 64, [0]),
    Type.Q5_1: (3, 64, [0, 2]),
    Type.Q8_0: (3, 64, [0]),
    Type.Q2_K: (1, 256, [80, 82]),
    Type.Q3_K: (1, 256, [108]),
    Type.Q4_K: (2, 256, [0, 2]),
    Type.Q5_K: (1, 256, [0, 2]),
    Type.Q6_K: (2, 256, [208]),
    Type.TQ1_0: (1, 256, [52]),
    Type.TQ2_0: (1, 256, [64]),
}
PLAIN = {Type.F32: np.float32, Type.F16: np.float16, Type.F64: np.float64}


def random_blocks(random, kind, rows, length, half_fields):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (rows * length // elements, size), dtype=np.uint8)
    for field in half_fields:
        values = random.normal(0, 0.1, (blocks.shape[0], 1)).astype(np.float16)
        blocks[:, field : field + 2] = values.view(np.uint8)
    return blocks.reshape(rows, -1)


def save_safetensors(path, tensors, metadata=None):
    """tensors: name -> (dtype as safetensors spells it in its API, shape, array of bytes)."""
    specs, keep = {}, []
    for name, (dtype, shape, data) in tensors.items():
        raw = np.frombuffer(bytes(data), dtype=np.uint8)
        keep.append(raw)
        specs[name] = rust.TensorSpec(dtype=dtype, shape=list(shape), data_ptr=raw.ctypes.data, data_len=raw.nbytes)
    rust.serialize_file(specs, path, metadata)


def float32_tensors(values):
    return {name: ("float32", v.shape, np.ascontiguousarray(v, dtype=np.float32).tobytes()) for name, v in values.items()}


def make_gguf(folder):
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(os.path.join(folder, "io_types.gguf"), "llama")
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_uint64("test.u64", 2**63 - 1)
    writer.add_int64("test.i64", -(2**63))
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.true", True)
    writer.add_bool("test.false", False)
    writer.add_string("test.string", "caf\u00e9")
    writer.add_array("test.strings", ["a", "", "\u0120b"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -1.5])
    writer.add_array("test.bools", [True, False, True])
    expected = {}
    for kind, dtype in PLAIN.items():
        values = random.normal(0, 1, (3, 5)).astype(dtype)
        writer.add_tensor(kind.name, values)
        expected[kind.name] = values
    values = random.normal(0, 1, (3, 5)).astype(np.float32)
    bf16 = gguf.quants.quantize(values, Type.BF16)
    writer.add_tensor("BF16", bf16, raw_dtype=Type.BF16)
    expected["BF16"] = gguf.quants.dequantize(bf16, Type.BF16)
    writer.add_tensor("I32", np.arange(8, dtype=np.int32).reshape(2, 2, 2))
    for kind, (rows, length, half_fields) in QUANTIZED.items():
        blocks = random_blocks(random, kind, rows, length, half_fields)
        writer.add_tensor(kind.name, blocks, raw_dtype=kind)
        expected[kind.name] = gguf.quants.dequantize(blocks, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_safetensors(os.path.join(folder, "io_types_expected.safetensors"), float32_tensors(expected))


def make_tiny_gguf(folder):
    """Small enough to be cut at every byte; its last tensor ends at a multiple of the alignment, so that no padding follows."""
    writer = gguf.GGUFWriter(os.path.join(folder, "io_tiny.gguf"), "llama")
    writer.add_array("test.strings", ["one", "two"])
    writer.add_array("test.floats", [0.5])
    writer.add_custom_alignment(64)
    writer.add_tensor("a", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("b", np.arange(16, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_safetensors(folder):
    integers = {
        "bool": ("bool", np.array([True, False, True])),
        "u8": ("uint8", np.array([0, 255], np.uint8)),
        "i8": ("int8", np.array([-128, 127], np.int8)),
        "i16": ("int16", np.array([-32768, 32767], np.int16)),
        "u16": ("uint16", np.array([0, 65535], np.uint16)),
        "i32": ("int32", np.array([-(2**31), 2**31 - 1], np.int32)),
        "u32": ("uint32", np.array([0, 2**32 - 1], np.uint32)),
        "i64": ("int64", np.array([-(2**63), 2**63 - 1], np.int64)),
        "u64": ("uint64", np.array([0, 2**64 - 1], np.uint64)),
    }
    tensors = {name: (dtype, v.shape, v.tobytes()) for name, (dtype, v) in integers.items()}
    special = [0.0, -0.0, 1.0, -1.5, 2.0**-24, 2.0**-14, 65504.0, 1e-40, 3.4e38, np.inf, -np.inf, 1 / 3]
    with np.errstate(over="ignore"):
        f16 = np.array(special).astype(np.float16).reshape(3, 4)
    f32 = np.array(special, np.float32).reshape(3, 4)
    f64 = np.array(special, np.float64).reshape(2, 6)
    bf16 = gguf.quants.quantize(f32, Type.BF16)
    tensors["f16"] = ("float16", f16.shape, f16.tobytes())
    tensors["bf16"] = ("bfloat16", f32.shape, bf16.tobytes())
    tensors["f32"] = ("float32", f32.shape, f32.tobytes())
    tensors["f64"] = ("float64", f64.shape, f64.tobytes())
    tensors["f8_e4m3"] = ("float8_e4m3fn", (2,), b"\x38\x40")
    tensors["f8_e5m2"] = ("float8_e5m2", (2,), b"\x3c\x40")
    tensors["scalar"] = ("float32", (), np.float32(2.5).tobytes())
    tensors["empty"] = ("float32", (0, 3), b"")
    save_safetensors(os.path.join(folder, "io_dtypes.safetensors"), tensors, {"format": "pt"})
    values = {"f16": f16, "bf16": gguf.quants.dequantize(bf16, Type.BF16), "f32": f32, "f64": f64}
    with np.errstate(over="ignore", under="ignore"):
        save_safetensors(os.path.join(folder, "io_dtypes_expected.safetensors"), float32_tensors(values))


# The six vectors of llama.cpp's block formats: codes lo + (5i + i/7) mod N at scale 0.5, and the CRC-32 of the block.
def block_q4_0(q):
    n = (q + 8).astype(np.uint8)
    return HALF.tobytes() + (n[:16] | n[16:] << 4).tobytes()


def block_q2_0(q):
    c = (1 - q).astype(np.uint8).reshape(16, 4)
    return (-HALF).tobytes() + (c << np.array([0, 2, 4, 6], np.uint8)).sum(1).astype(np.uint8).tobytes()


def two_bit_planes(c):
    c = c.astype(np.uint8).reshape(2, 4, 32)
    return (c << np.array([0, 2, 4, 6], np.uint8)[None, :, None]).sum(1).astype(np.uint8).tobytes()


def block_tq2_0(q):
    return two_bit_planes(1 - q) + (-HALF).tobytes()


def block_q2_k(q):
    return b"\x21" * 16 + two_bit_planes(q + 2) + HALF.tobytes() * 2


def block_q3_k(q):
    high = ((q >= 0).astype(np.uint8).reshape(8, 32) << np.arange(8, dtype=np.uint8)[:, None]).sum(0).astype(np.uint8)
    return high.tobytes() + two_bit_planes((q + 4) & 3) + b"\x11" * 8 + b"\xaa" * 4 + HALF.tobytes()


def block_tq1_0(q):
    def region(t, width, digits):
        value = np.zeros(width, np.int64)
        for n in range(5):
            value = value * 3 + (t[n * width : (n + 1) * width] + 1 if n < digits else 0)
        return ((value * 256 + 242) // 243).astype(np.uint8).tobytes()

    return region(q[:160], 32, 5) + region(q[160:240], 16, 5) + region(q[240:], 4, 4) + HALF.tobytes()


def make_encoded(folder):
    """Floats as gguf-py rounds them. Values near a rounding boundary are none of the fixture's business: ggml's own depend on contraction."""
    values = np.random.default_rng(9).normal(0, 0.1, (4, 256)).astype(np.float32)
    values[1] = 0
    tensors = {"values": ("float32", values.shape, values.tobytes())}
    for kind in (Type.Q8_0, Type.Q4_0, Type.F16, Type.BF16):
        data = gguf.quants.quantize(values, kind).tobytes()
        tensors[kind.name] = ("uint8", (len(data),), data)
    save_safetensors(os.path.join(folder, "io_encoded.safetensors"), tensors)


HALF = np.float16(0.5)
BLOCKS = [
    (block_q4_0, -8, 16, 32, 0xBB842384),
    (block_q2_0, -2, 4, 64, 0x29E03925),
    (block_tq2_0, -2, 4, 256, 0xB3F06B00),
    (block_q2_k, -2, 4, 256, 0x9F05C3A7),
    (block_q3_k, -4, 8, 256, 0xADF2E9F8),
    (block_tq1_0, -1, 3, 256, 0x84C07416),
]


def make_blocks(folder):
    with open(os.path.join(folder, "io_blocks.bin"), "wb") as file:
        for make, low, levels, length, crc in BLOCKS:
            i = np.arange(length)
            block = make(low + (5 * i + i // 7) % levels)
            assert zlib.crc32(block) == crc, f"{make.__name__}: {zlib.crc32(block):08x}"
            file.write(block)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "..", "tests", "golden", "data")
    os.makedirs(folder, exist_ok=True)
    make_gguf(folder)
    make_tiny_gguf(folder)
    make_safetensors(folder)
    make_blocks(folder)
    make_encoded(folder)


if __name__ == "__main__":
    main()
