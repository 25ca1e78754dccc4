use std::fmt;

use serde::{Deserialize, Serialize};

use super::options::Method;
use crate::settings::Choice;

/// Shares of the way to what the images say.
const SHARES: [f64; 2] = [0.5, 1.0];
/// Dampings of the ridge, as shares of the mean second moment of the features.
const RIDGES: [f64; 4] = [1.0, 0.1, 1e-2, 1e-3];
/// Leads of the label that are asked of outputs.
const MARGINS: [f64; 2] = [1.0, 4.0];
/// Dampings of the change of the logits.
const DAMPINGS: [f64; 4] = [1.0, 0.1, 1e-2, 1e-3];
/// Dampings of all layers, and shares of the step of all but the last one.
const LAYER_RIDGES: [f64; 3] = [1.0, 0.1, 1e-2];
const LAYER_SHARES: [f64; 2] = [0.2, 1.0];
/// Learning rates of fine-tuning, of the last layer alone, and beside something that holds the weights.
const RATES: [f64; 4] = [1e-4, 3e-4, 1e-3, 3e-3];
const HEAD_RATES: [f64; 4] = [1e-3, 3e-3, 1e-2, 3e-2];
const HELD_RATES: [f64; 2] = [1e-3, 3e-3];
/// Strengths of the anchor.
const ANCHORS: [f64; 2] = [10.0, 100.0];
/// Weight of target outputs beside labels.
const ALPHAS: [f64; 2] = [0.1, 0.3];

/// A way to adapt a network with its settings; those that it does not have are left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The way.
    pub method: Method,
    /// Learning rate of AdamW, at the start of a cosine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Strength `β` of the anchor: every step ends with `w ← (w + ηβ w₀) / (1 + ηβ)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<f64>,
    /// Weight of the distance to target outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Damping of a closed form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damping: Option<f64>,
    /// Lead of the label that is asked of outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Share of the way to the statistics of the images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method.name())?;
        let settings = [
            ("rate", self.rate),
            ("anchor", self.anchor),
            ("alpha", self.alpha),
            ("damping", self.damping),
            ("margin", self.margin),
            ("share", self.share),
        ];
        settings
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .try_for_each(|(name, value)| write!(f, ", {name} {value}"))
    }
}

impl Candidate {
    pub(super) fn of(method: Method) -> Self {
        Self { method, rate: None, anchor: None, alpha: None, damping: None, margin: None, share: None }
    }

    /// The network as it is.
    pub fn leave() -> Self {
        Self::of(Method::Leave)
    }

    /// Everything that a method tries, the smallest change first.
    pub fn grid(method: Method) -> Vec<Self> {
        let own = Self::of(method);
        let rates = |rates: [f64; 4]| rates.into_iter().map(|rate| Self { rate: Some(rate), ..own }).collect();
        let held = |of: &dyn Fn(f64, usize) -> Self| {
            HELD_RATES.into_iter().flat_map(|rate| [0, 1].map(|place| of(rate, place))).collect()
        };
        match method {
            Method::Auto => Vec::new(),
            Method::Leave => vec![own],
            Method::Renormalise | Method::Statistics => SHARES.map(|share| Self { share: Some(share), ..own }).to_vec(),
            Method::Head => {
                let of = |margin: f64, damping: f64| Self { margin: Some(margin), damping: Some(damping), ..own };
                MARGINS.into_iter().flat_map(|margin| RIDGES.map(|damping| of(margin, damping))).collect()
            }
            Method::HeadRefit => DAMPINGS.map(|damping| Self { damping: Some(damping), ..own }).to_vec(),
            Method::LayerWise => {
                let of = |share: f64, damping: f64| Self { share: Some(share), damping: Some(damping), ..own };
                LAYER_SHARES.into_iter().flat_map(|share| LAYER_RIDGES.map(|damping| of(share, damping))).collect()
            }
            Method::HeadFineTune => rates(HEAD_RATES),
            Method::Tail | Method::Full => rates(RATES),
            Method::L2Sp => held(&|rate, place| Self { rate: Some(rate), anchor: Some(ANCHORS[1 - place]), ..own }),
            Method::Joint => held(&|rate, place| Self { rate: Some(rate), alpha: Some(ALPHAS[1 - place]), ..own }),
        }
    }
}
