/// The elementwise functions, with the parameters and formulas of PyTorch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `x` for `x >= 0`, else `slope · x`
    LeakyRelu {
        /// Slope of the negative side.
        slope: f64,
    },
    /// `x` limited to `[min, max]`
    HardTanh {
        /// Lower end.
        min: f64,
        /// Upper end.
        max: f64,
    },
    /// `tanh x`
    Tanh,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `x/6 + 1/2` limited to `[0, 1]`
    HardSigmoid,
    /// `x` for `x > 0`, else `alpha · (exp(x) - 1)`
    Elu {
        /// Scale of the negative side.
        alpha: f64,
    },
    /// `ln(1 + exp(x))`
    Softplus,
    /// `x · Φ(x)`, Φ the normal distribution
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`
    GeluTanh,
    /// `x · sigmoid(x)`
    Silu,
    /// `x · hard_sigmoid(x)`
    HardSwish,
    /// `x · tanh(softplus(x))`
    Mish,
}

impl Activation {
    /// Whether `x <= y` implies `f(x) <= f(y)`, so that the function and a maximum can change places.
    pub fn is_nondecreasing(self) -> bool {
        match self {
            Self::Relu | Self::Relu6 | Self::HardTanh { .. } | Self::Tanh => true,
            Self::Sigmoid | Self::HardSigmoid | Self::Softplus => true,
            Self::LeakyRelu { slope } => slope >= 0.0,
            Self::Elu { alpha } => alpha >= 0.0,
            Self::Gelu | Self::GeluTanh | Self::Silu | Self::HardSwish | Self::Mish => false,
        }
    }

    /// What is wrong with the parameters, if anything: NaN, infinity, or an empty interval.
    pub(crate) fn fault(self) -> Option<String> {
        match self {
            Self::LeakyRelu { slope } if !slope.is_finite() => Some(format!("slope {slope} is not finite")),
            Self::Elu { alpha } if !(alpha.is_finite() && alpha > 0.0) => {
                Some(format!("alpha {alpha} is not a positive number"))
            }
            Self::HardTanh { min, max } if !(min.is_finite() && max.is_finite() && min < max) => {
                Some(format!("min {min} and max {max} are not an interval"))
            }
            _ => None,
        }
    }
}
