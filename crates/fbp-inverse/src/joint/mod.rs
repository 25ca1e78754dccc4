//! The joint problem: the feature nearest to the observed one that the whole frozen rest turns into the goal.
//!
//! ```text
//! min ½|v - z|²   subject to   rest(v) reaches the goal,   v in the interval
//! ```
//!
//! Of the network it needs no more than a [`FrozenRest`] tells: outputs, products with the transposed Jacobian, and the
//! interval of the feature. [`nearest`] is the door for whatever implements that trait; a
//! [`ReverseChain`](crate::ReverseChain) uses the same searches between its layer-wise ones.
//!
//! # Terms
//! The *frozen rest* is everything above a feature, with parameters that stay as they are. *Open samples* are those whose
//! observed output misses the goal; the others are their own targets. The two *sides* of a kink are the pieces of the rest
//! that meet there, each with a linearisation of its own.
//!
//! # The iteration
//! Every step linearises the rest of the network at the last iterate and adds the tightest conditions of the goal to
//! the cuts of the sample; the next iterate is the nearest point that satisfies all its cuts, a box-constrained problem
//! with a handful of rows. On networks of piecewise linear layers the rest is linear around most points, and one to
//! three steps end at the goal. Old cuts stay because the solution often lies on a kink, where the linearisations of
//! its two sides would take turns for ever; and every miss raises what the cuts ask for by a share of it.
//!
//! The first step tells how far the rest is from linear: by what share of the missing margin it ends beside the goal. Where
//! that is little, the point is the nearest one once it is moved to exactly the margin; elsewhere it is refined from there,
//! see the module `settle`. Samples that stay away from the goal start again from other points, see `rescue`.
//!
//! A boundary may have a [`FeatureMetric`] in place of the Euclidean one: `min ½ (v - z)ᵀ C⁻¹ (v - z)` under the same
//! conditions, for goals with margins. Each of its steps is exact too, the interval included; but it moves many entries at
//! once, and crosses more kinks. So the Euclidean target comes first, and stays where nothing nearer in the metric is
//! found.
//!
//! # Where the time goes
//! Spans of level TRACE tell, for a subscriber of `tracing`: `forward` and `products` are passes of the rest, `nearest` the problems
//! with a handful of rows.
//!
//! # Source
//! Repeated linearisation: Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool", CVPR 2016, there for the nearest point of
//! *another* class. Keeping cuts: Kelley, "The cutting-plane method for solving convex programs", J. SIAM 8 (1960).
//! Nearest points within an interval, raised cuts and the use for targets: own derivation.

// From the bottom up, each module uses only those before it: batch, goal, metric, rest; cuts, iterates, problem;
// targets, linearise; memory, step; starts, land, descend, refine; exhaust; settle; search; approach; rescue; nearest.

mod approach;
mod batch;
mod cuts;
mod descend;
mod exhaust;
mod goal;
mod iterates;
mod land;
mod linearise;
mod memory;
mod metric;
mod nearest;
mod problem;
mod refine;
mod rescue;
mod rest;
mod search;
mod settle;
mod starts;
mod step;
mod targets;

pub use crate::tape::{Tape, TapeMemory, TapeMut};
pub(crate) use batch::Batch;
pub(crate) use cuts::{MOST_CUTS, conditions_of_boxes};
pub use goal::{JointGoal, Margins};
pub(crate) use iterates::Sizes;
pub(crate) use memory::JointMemory;
pub use metric::FeatureMetric;
pub use nearest::{JointReport, JointWorkspace, Nearest, nearest};
pub use problem::Effort;
pub(crate) use problem::Problem;
pub(crate) use rescue::{FIRST_STARTS, LAST_STARTS};
pub use rest::{FrozenRest, RestForward, RestVjp};
pub(crate) use search::{Start, joint_scratch};
pub(crate) use targets::{Among, Targets};
