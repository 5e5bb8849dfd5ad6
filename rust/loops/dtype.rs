//! The types of array elements, and the types in which they are computed.

/// The type of an array's elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum DType {
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// Two binary32.
    C64,
    /// Two binary64.
    C128,
}

/// The type in which a rule computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compute {
    /// float32, also for 16-bit arrays.
    F32,
    /// float64.
    F64,
    /// complex64.
    C64,
    /// complex128.
    C128,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 | Self::C64 => 8,
            Self::C128 => 16,
        }
    }

    /// The type in which arrays of this type are computed.
    #[must_use]
    pub const fn compute(self) -> Compute {
        match self {
            Self::F16 | Self::BF16 | Self::F32 => Compute::F32,
            Self::F64 => Compute::F64,
            Self::C64 => Compute::C64,
            Self::C128 => Compute::C128,
        }
    }

    /// Whether elements have an imaginary part.
    #[must_use]
    pub const fn is_complex(self) -> bool {
        matches!(self, Self::C64 | Self::C128)
    }

    /// NumPy's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::C64 => "complex64",
            Self::C128 => "complex128",
        }
    }

    /// The type with NumPy's name `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F16, Self::BF16, Self::F32, Self::F64, Self::C64, Self::C128].into_iter().find(|d| d.name() == name)
    }
}

impl Compute {
    /// The storage type of values of this type.
    #[must_use]
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
            Self::C64 => DType::C64,
            Self::C128 => DType::C128,
        }
    }

    /// The storage type of the real numbers that go with it.
    #[must_use]
    pub const fn real(self) -> DType {
        match self {
            Self::F32 | Self::C64 => DType::F32,
            Self::F64 | Self::C128 => DType::F64,
        }
    }
}
