//! Number formats of stored tensors.

use crate::device::WeightType;

/// How the numbers of a stored tensor are laid out in bytes.
///
/// The block types follow ggml: 32 consecutive values of a row share one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single precision, little endian.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an `F32`.
    Bf16,
    /// IEEE double precision (only ever read, never computed with).
    F64,
    /// Signed bytes; a scale per row or per tensor lives beside the tensor.
    I8,
    /// Signed 16 bit; a scale per tensor lives beside the tensor.
    I16,
    /// Signed 32 bit.
    I32,
    /// Signed 64 bit.
    I64,
    /// Unsigned bytes.
    U8,
    /// ggml `q4_0`: f16 scale, 16 bytes of nibbles, value = d (q - 8).
    Q4_0,
    /// ggml `q4_1`: f16 scale, f16 minimum, 16 bytes of nibbles, value = d q + m.
    Q4_1,
    /// ggml `q5_0`: f16 scale, u32 of fifth bits, 16 bytes of nibbles, value = d (q - 16).
    Q5_0,
    /// ggml `q5_1`: f16 scale, f16 minimum, u32 of fifth bits, 16 bytes of nibbles, value = d q + m.
    Q5_1,
    /// ggml `q8_0`: f16 scale, 32 signed bytes, value = d q.
    Q8_0,
    /// A whole matrix in the order in which kernels read it, see [`crate::cpu::packed`]. Its values cannot be taken apart
    /// without its shape: [`DType::bytes_for`] knows no length for it, [`crate::quant::dequantize`] refuses it.
    Panels(WeightType),
}

impl DType {
    /// Values per indivisible block: 1 for plain types, 32 for block types.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            _ => 1,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Panels(_) => 0,
        }
    }

    /// Bytes of `len` values, or `None` if that is no whole number of blocks or overflows (and for panels).
    pub const fn bytes_for(self, len: usize) -> Option<usize> {
        if !len.is_multiple_of(self.block_len()) || matches!(self, Self::Panels(_)) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The short lower-case name that messages and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Panels(WeightType::F32) => "f32 panels",
            Self::Panels(WeightType::F16) => "f16 panels",
            Self::Panels(WeightType::Bf16) => "bf16 panels",
            Self::Panels(WeightType::Int8) => "int8 panels",
            Self::Panels(WeightType::Q8) => "q8 panels",
            Self::Panels(WeightType::Q4) => "q4 panels",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
