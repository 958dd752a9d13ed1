//! The type of a model's weights, as users name it.

use std::str::FromStr;

use turaco_compute::WeightType;

use crate::weights::{DType, Weights};
use crate::{Error, Result};

/// How weights are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ComputeType {
    /// As the file has it if that is a quantised one; else bf16 where the processor multiplies it, f16 on a graphics
    /// processor, else f32.
    #[default]
    Auto,
    /// Single precision, exact.
    F32,
    /// Half precision weights.
    F16,
    /// bfloat16 weights and matrix products.
    Bf16,
    /// Bytes with a scale per 32 inputs (or per row, where the file has those), integer matrix products.
    Q8,
    /// Four bits with a scale and a minimum per 32 inputs, integer matrix products.
    Q4,
}

impl FromStr for ComputeType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "auto" | "default" => Ok(Self::Auto),
            "f32" | "float32" => Ok(Self::F32),
            "f16" | "float16" => Ok(Self::F16),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            "q8" | "q8_0" | "int8" | "int8_float16" | "int8_float32" | "int8_bfloat16" => {
                Ok(Self::Q8)
            }
            "q4" | "q4_0" | "q4_1" | "q4_k" => Ok(Self::Q4),
            _ => Err(Error::InvalidOption {
                option: "compute_type",
                message: format!("`{name}` is not one of auto f32 f16 bf16 q8 (int8) q4"),
            }),
        }
    }
}

impl std::fmt::Display for ComputeType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        })
    }
}

impl ComputeType {
    /// What the device keeps of `weights`; `Auto` is decided by how most of them are stored, then by what multiplies them:
    /// a graphics processor, or this machine's own.
    pub(crate) fn weight_type(self, weights: &Weights, graphics: bool) -> WeightType {
        match self {
            Self::Auto => match stored_type(weights) {
                Some(stored) => stored,
                // Half the bytes to read, and no product is rounded.
                None if graphics => WeightType::F16,
                None if turaco_compute::cpu::has_bf16_products() => WeightType::Bf16,
                None => WeightType::F32,
            },
            Self::F32 => WeightType::F32,
            Self::F16 => WeightType::F16,
            Self::Bf16 => WeightType::Bf16,
            Self::Q8 => WeightType::Q8,
            Self::Q4 => WeightType::Q4,
        }
    }
}

/// The type of a packed file; else the type that most bytes of `weights` have, if it is a quantised one.
fn stored_type(weights: &Weights) -> Option<WeightType> {
    // A packed file may hold some matrices in a more exact type than it is named for, never in a less exact one.
    let is_packed_as = |wanted: &WeightType| {
        let panels = DType::Panels(*wanted);
        weights.iter().any(|(_, tensor)| tensor.dtype == panels)
    };
    if let Some(packed) = WeightType::ALL.into_iter().rev().find(is_packed_as) {
        return Some(packed);
    }
    let mut types: Vec<(Option<WeightType>, usize)> = Vec::new();
    for (_, tensor) in weights.iter() {
        let stored = match tensor.dtype {
            DType::I8 | DType::Q8_0 | DType::Q5_0 | DType::Q5_1 => Some(WeightType::Q8),
            DType::Q4_0 | DType::Q4_1 => Some(WeightType::Q4),
            _ => None,
        };
        match types.iter_mut().find(|(known, _)| *known == stored) {
            Some((_, bytes)) => *bytes += tensor.bytes.len(),
            None => types.push((stored, tensor.bytes.len())),
        }
    }
    types.into_iter().max_by_key(|(_, bytes)| *bytes)?.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Tensor;
    use std::path::Path;

    #[test]
    fn names_of_other_programs_are_known() {
        for (name, expected) in [
            ("INT8", ComputeType::Q8),
            ("int8_float16", ComputeType::Q8),
            ("q8_0", ComputeType::Q8),
            ("q4_K", ComputeType::Q4),
            ("float16", ComputeType::F16),
            ("default", ComputeType::Auto),
        ] {
            assert_eq!(name.parse::<ComputeType>().unwrap(), expected);
        }
        for compute_type in [ComputeType::F32, ComputeType::Q8, ComputeType::Q4] {
            let name = compute_type.to_string();
            assert_eq!(name.parse::<ComputeType>().unwrap(), compute_type);
        }
        assert!("q3".parse::<ComputeType>().is_err());
    }

    #[test]
    fn auto_keeps_what_a_file_was_quantised_to() {
        let mut weights = Weights::new(Path::new("model"));
        let mut add = |name: &str, dtype: DType, len: usize| {
            let bytes = vec![0; dtype.bytes_for(len).unwrap()].into();
            let tensor = Tensor::new(dtype, vec![len], bytes).unwrap();
            weights.insert(name.into(), tensor).unwrap();
            weights.clone()
        };
        let floats = add("a", DType::F32, 64);
        let plain = ComputeType::Auto.weight_type(&floats, false);
        assert!(matches!(plain, WeightType::F32 | WeightType::Bf16));
        let bytes = add("b", DType::Q8_0, 640);
        assert_eq!(ComputeType::Auto.weight_type(&bytes, false), WeightType::Q8);
        let halves = add("c", DType::Q4_1, 6400);
        assert_eq!(
            ComputeType::Auto.weight_type(&halves, false),
            WeightType::Q4
        );
        assert_eq!(
            ComputeType::F16.weight_type(&halves, false),
            WeightType::F16
        );
        // A graphics processor reads floats in 16 bits, and stored types as they are.
        assert_eq!(
            ComputeType::Auto.weight_type(&floats, true),
            WeightType::F16
        );
        assert_eq!(ComputeType::Auto.weight_type(&bytes, true), WeightType::Q8);
    }

    #[test]
    fn auto_keeps_what_a_file_was_packed_as() {
        let mut weights = Weights::new(Path::new("model"));
        for (name, packed, rows) in [("a", WeightType::Q8, 64), ("b", WeightType::Q4, 32)] {
            let len = turaco_compute::cpu::packed::panels_len(packed, rows, 32).unwrap();
            let panels = DType::Panels(packed);
            let tensor = Tensor::new(panels, vec![rows, 32], vec![0; len].into()).unwrap();
            weights.insert(name.into(), tensor).unwrap();
        }
        assert_eq!(
            ComputeType::Auto.weight_type(&weights, false),
            WeightType::Q4
        );
    }
}
