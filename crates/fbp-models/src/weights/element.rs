//! Types of numbers in files, and how they become weights.

use std::fmt;

use half::{bf16, f16};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

/// Type of the numbers of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ElementType {
    /// 64-bit floating point.
    F64,
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, IEEE 754.
    F16,
    /// 16-bit floating point with the range of `F32`.
    BF16,
    /// Signed integers of 64 bits.
    I64,
    /// Signed integers of 32 bits.
    I32,
    /// Signed integers of 16 bits.
    I16,
    /// Signed integers of 8 bits.
    I8,
    /// Unsigned integers of 64 bits.
    U64,
    /// Unsigned integers of 32 bits.
    U32,
    /// Unsigned integers of 16 bits.
    U16,
    /// Unsigned integers of 8 bits.
    U8,
    /// Truth values, one byte each.
    Bool,
    /// What safetensors knows beyond these: numbers of 8 bits and fewer, complex ones.
    Other,
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl From<Dtype> for ElementType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F64 => Self::F64,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::BF16,
            Dtype::I64 => Self::I64,
            Dtype::I32 => Self::I32,
            Dtype::I16 => Self::I16,
            Dtype::I8 => Self::I8,
            Dtype::U64 => Self::U64,
            Dtype::U32 => Self::U32,
            Dtype::U16 => Self::U16,
            Dtype::U8 => Self::U8,
            Dtype::BOOL => Self::Bool,
            _ => Self::Other,
        }
    }
}

impl From<pytorch_reader::DType> for ElementType {
    fn from(dtype: pytorch_reader::DType) -> Self {
        use pytorch_reader::DType;
        match dtype {
            DType::F64 => Self::F64,
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            DType::I64 => Self::I64,
            DType::I32 => Self::I32,
            DType::I16 => Self::I16,
            DType::I8 => Self::I8,
            DType::U64 => Self::U64,
            DType::U32 => Self::U32,
            DType::U16 => Self::U16,
            DType::U8 => Self::U8,
            DType::Bool => Self::Bool,
        }
    }
}

/// Calls `read` with every element of so many bytes.
fn each<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().map(|&element| read(element)).collect()
}

impl ElementType {
    /// Whether the numbers are floating-point numbers that can be weights.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes of one number; `None` for [`Other`](Self::Other).
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::F64 | Self::I64 | Self::U64 => Some(8),
            Self::F32 | Self::I32 | Self::U32 => Some(4),
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => Some(2),
            Self::I8 | Self::U8 | Self::Bool => Some(1),
            Self::Other => None,
        }
    }

    /// The numbers as `f32`, and whether none of them had to be rounded; `None` if they are no floating-point numbers.
    /// The bytes are in the order of the processor.
    pub(super) fn weights(self, bytes: &[u8]) -> Option<(Vec<f32>, bool)> {
        match self {
            Self::F32 => Some((each(bytes, f32::from_ne_bytes), true)),
            Self::F16 => Some((each(bytes, |b| f16::from_ne_bytes(b).to_f32()), true)),
            Self::BF16 => Some((each(bytes, |b| bf16::from_ne_bytes(b).to_f32()), true)),
            Self::F64 => {
                let wide = each(bytes, f64::from_ne_bytes);
                let exact = wide.iter().all(|&value| f64::from(value as f32) == value);
                Some((wide.into_iter().map(|value| value as f32).collect(), exact))
            }
            _ => None,
        }
    }

    /// The numbers as `i64`; `None` if they are no integers, or one does not fit.
    pub(super) fn integers(self, bytes: &[u8]) -> Option<Vec<i64>> {
        match self {
            Self::I64 => Some(each(bytes, i64::from_ne_bytes)),
            Self::I32 => Some(each(bytes, |b| i64::from(i32::from_ne_bytes(b)))),
            Self::I16 => Some(each(bytes, |b| i64::from(i16::from_ne_bytes(b)))),
            Self::I8 => Some(each(bytes, |b| i64::from(i8::from_ne_bytes(b)))),
            Self::U64 => each(bytes, |b| i64::try_from(u64::from_ne_bytes(b)).ok()).into_iter().collect(),
            Self::U32 => Some(each(bytes, |b| i64::from(u32::from_ne_bytes(b)))),
            Self::U16 => Some(each(bytes, |b| i64::from(u16::from_ne_bytes(b)))),
            Self::U8 | Self::Bool => Some(each(bytes, |[b]| i64::from(b))),
            _ => None,
        }
    }

    /// Whether every value is a number of this type.
    pub(super) fn fits(self, values: &[f32]) -> bool {
        let same = |value: f32, back: f32| value.to_bits() == back.to_bits();
        match self {
            Self::F64 | Self::F32 => true,
            Self::F16 => values.iter().all(|&v| same(v, f16::from_f32(v).to_f32())),
            Self::BF16 => values.iter().all(|&v| same(v, bf16::from_f32(v).to_f32())),
            _ => false,
        }
    }

    /// Appends the values as numbers of this type, little-endian; those that do not fit are rounded.
    pub(super) fn write(self, values: &[f32], into: &mut Vec<u8>) {
        for &value in values {
            match self {
                Self::F64 => into.extend(f64::from(value).to_le_bytes()),
                Self::F16 => into.extend(f16::from_f32(value).to_le_bytes()),
                Self::BF16 => into.extend(bf16::from_f32(value).to_le_bytes()),
                _ => into.extend(value.to_le_bytes()),
            }
        }
    }
}

/// Turns elements of so many bytes from little-endian into the order of the processor.
pub(super) fn to_native(bytes: &mut [u8], size: usize) {
    if cfg!(target_endian = "big") && size > 1 {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_a_type_comes_back_bit_for_bit() {
        let values = [0.0_f32, -0.0, 1.0, -2.5, 6.103_515_6e-5];
        for kind in [ElementType::F64, ElementType::F32, ElementType::F16, ElementType::BF16] {
            let mut bytes = Vec::new();
            assert!(kind.fits(&values), "{kind}");
            kind.write(&values, &mut bytes);
            to_native(&mut bytes, kind.size().unwrap());
            let (back, exact) = kind.weights(&bytes).unwrap();
            assert!(exact);
            assert_eq!(back.map_bits(), values.to_vec().map_bits(), "{kind}");
        }
    }

    trait Bits {
        fn map_bits(&self) -> Vec<u32>;
    }

    impl Bits for Vec<f32> {
        fn map_bits(&self) -> Vec<u32> {
            self.iter().map(|v| v.to_bits()).collect()
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        for kind in [ElementType::F16, ElementType::BF16, ElementType::I64] {
            assert!(!kind.fits(&[0.5, 0.1]), "{kind}");
        }
        let wide = [0.1_f64.to_ne_bytes(), 0.5_f64.to_ne_bytes()].concat();
        assert_eq!(ElementType::F64.weights(&wide), Some((vec![0.1, 0.5], false)));
        assert_eq!(ElementType::U64.integers(&u64::MAX.to_ne_bytes()), None);
        assert_eq!(ElementType::I32.integers(&(-3_i32).to_ne_bytes()), Some(vec![-3]));
    }
}
