use std::error::Error;
use std::fmt;

use fbp_models::{NetworkSpec, zoo};
use serde::{Deserialize, Serialize};

/// A network and the batch that it is measured with.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) batch: usize,
    /// Shape of an image, where it is not that of the zoo.
    input: Option<[usize; 3]>,
}

/// The networks, from small to large images.
pub(crate) const CASES: [Case; 8] = [
    Case { name: "plain-bn", batch: 128, input: None },
    Case { name: "resnet20", batch: 128, input: Some([1, 28, 28]) },
    Case { name: "resnet18-cifar", batch: 32, input: None },
    Case { name: "vit-192-9-12", batch: 32, input: None },
    Case { name: "resnet18", batch: 8, input: None },
    Case { name: "mobilenet-v2", batch: 8, input: None },
    Case { name: "squeezenet1_1", batch: 8, input: None },
    Case { name: "vit-tiny-patch16-224", batch: 8, input: None },
];

impl Case {
    pub(crate) fn spec(&self) -> Result<NetworkSpec, Box<dyn Error>> {
        if self.name == "plain-bn" {
            return Ok(NetworkSpec::from_toml(include_str!("plain-bn.toml"))?);
        }
        let spec = zoo::spec(self.name)?;
        Ok(match self.input {
            Some(input) => spec.adapted(input, spec.classes)?,
            None => spec,
        })
    }
}

/// What is done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Work {
    /// Forward pass, gradients of all parameters and a step of AdamW.
    Step,
    /// Forward pass of a network that stays as it is.
    Inference,
    /// Forward pass of such a network and gradient with respect to the images.
    Product,
}

impl Work {
    pub(crate) const ALL: [Self; 3] = [Self::Step, Self::Inference, Self::Product];

    /// As the results and the peer call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Inference => "inference",
            Self::Product => "product",
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
