//! The conformance kit: whether a layer inverse keeps the contract of [`ReverseOperator`](crate::ReverseOperator).
//!
//! ```
//! use fbp_inverse::testkit::{ReverseCheck, check_derivatives, check_reverse_operator};
//! use fbp_inverse::{Activation, ActivationReverse};
//! use fbp_linalg::FeatureShape;
//!
//! let layer = ActivationReverse::<f64>::new("relu", Activation::Relu, FeatureShape::vector(6))?.with_tolerance(0.0)?;
//! println!("{}", check_reverse_operator(&layer, &ReverseCheck::new())?);
//! println!("{}", check_derivatives(&layer, &ReverseCheck::new())?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cases;
mod derivatives;
mod inputs;
mod nearest;
mod outcome;
mod params;
mod run;

pub use derivatives::check_derivatives;
pub use outcome::{Conformance, ConformanceError};
pub use params::ReverseCheck;
pub use run::check_reverse_operator;
