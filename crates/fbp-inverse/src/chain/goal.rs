use crate::TargetBox;
use crate::joint::{JointGoal, Margins};

/// Which targets a reverse pass makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetMode {
    /// At every boundary the nearest feature within the range of the layers below that the whole rest of the network
    /// turns into the goal, with exactly the margin; samples for which that iteration fails start again from other points,
    /// are reversed layer by layer and tried again from there, and climb from up to 124 more points as a last resort. The rest of
    /// a network is not convex: nearer points may exist, above all where it is far from linear, and there the one that is
    /// found depends on rounding. So it is with boxes that have room in every entry, as outputs within a tolerance have. Other
    /// goals without margins go layer by layer first: equations at the output are mostly too far for the iteration.
    #[default]
    Attainable,
    /// Layer by layer, with boxes and within the ranges of the layers below; misses are corrected jointly.
    ///
    /// Needs no derivatives. Every step is a nearest point, but not their composition, which lies farther away than that of
    /// [`Attainable`](Self::Attainable).
    LayerWise,
    /// Layer by layer with points and without ranges: the published method. Verified, but not corrected.
    Point,
}

/// What the output of the chain should be.
#[derive(Clone, Copy, Debug)]
pub struct ChainGoal<'a, T> {
    /// The wanted output: `out × N`.
    pub target_out: TargetBox<'a, T>,
    /// For classifiers: what counts as reached. Without it, the box itself does.
    ///
    /// In mode [`LayerWise`](TargetMode::LayerWise) the target is then widened to all outputs that do as well: the
    /// label's logit may be larger than its target, and the others anything that keeps the margin to that target.
    pub margins: Option<Margins<'a>>,
}

impl<'a, T: Copy> ChainGoal<'a, T> {
    /// What the joint iteration looks for.
    pub(super) fn joint(&self) -> JointGoal<'a, T> {
        match self.margins {
            Some(margins) => JointGoal::Margins(margins),
            None => JointGoal::Box { lower: self.target_out.lower, upper: self.target_out.upper },
        }
    }
}
