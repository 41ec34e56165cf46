// Element types of safetensors files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace stableqat {

// In the format's own order, from the smallest alignment up.
enum class DType : std::uint8_t { kBool, kU8, kI8, kF8E5M2, kF8E4M3, kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kF64, kI64, kU64 };

// Size of one element in bytes.
std::size_t dtype_size(DType dtype) noexcept;

// The format's name: "F32", "BF16", "F8_E4M3".
std::string_view dtype_name(DType dtype) noexcept;

// nullopt for a name that is not listed.
std::optional<DType> parse_dtype(std::string_view name) noexcept;

}  // namespace stableqat
