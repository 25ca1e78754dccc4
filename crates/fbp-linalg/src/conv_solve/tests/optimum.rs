//! Tolerances and bounds on random convolutions, against the optimum by singular values and the secular equation.

use super::*;
use crate::conv_solve::{ConvMode, ConvSolveParams};
use crate::testkit::rng;
use crate::{SolveSide, StopReason};

/// Geometries that are drawn: so many, or as many as this environment variable says.
const GEOMETRIES: usize = 80;
const GEOMETRIES_FROM: &str = "FBP_CONV_GEOMETRIES";
/// Environment variable for the first seed, for cases that nobody has seen.
const SEED_FROM: &str = "FBP_CONV_SEED";
/// Share of the cases that may end early, if the report says so.
const MOST_EXCUSED: f64 = 0.01;
/// Relative distance from the optimum that counts as none.
const OPTIMAL: f64 = 1e-3;

/// Any small geometry, every fifth with images of one pixel.
fn small_params(rng: &mut ChaCha8Rng) -> Conv2dParams {
    loop {
        let mut upto = |most: usize| rng.random_range(1..=most);
        let pixel = upto(5) == 1;
        let (groups, side) = (upto(3), if pixel { 1 } else { 6 });
        let input = FeatureShape::image(groups * upto(3), upto(side), upto(side));
        let params = Conv2dParams::new(input, groups * upto(3), [upto(3), upto(3)])
            .stride([upto(3), upto(3)])
            .padding([upto(3) - 1, upto(3) - 1])
            .dilation([upto(2), upto(2)])
            .groups(groups);
        if params.check().is_ok_and(|g| g.out_len() <= 160 && g.in_len() <= 160) {
            return params;
        }
    }
}

/// Weights of every kind: well and badly conditioned, with channels of other sizes, equal channels and zeros.
fn small_case(rng: &mut ChaCha8Rng) -> Case {
    let (params, transposed) = (small_params(rng), rng.random_range(0..3) == 0);
    let mut case = Case::new(params, transposed, rng);
    let g = &case.geometry;
    let (channels, taps) = (g.out_shape().channels, g.weight_len() / g.out_shape().channels);
    match rng.random_range(0..8) {
        0 => {
            let condition = 10.0_f64.powf(rng.random_range(0.0..5.0));
            case.weight = kernel(channels, taps, condition, rng);
        }
        1 => {
            for kernel in case.weight.chunks_exact_mut(taps) {
                let size = 10.0_f64.powi(rng.random_range(-3..=3));
                kernel.iter_mut().for_each(|w| *w *= size);
            }
        }
        2 => {
            let first = case.weight[..taps].to_vec();
            case.weight.chunks_exact_mut(taps).for_each(|kernel| kernel.copy_from_slice(&first));
        }
        3 => {
            for kernel in case.weight.chunks_exact_mut(taps) {
                if rng.random_range(0..2) == 0 {
                    kernel.fill(0.0);
                }
            }
        }
        _ => {}
    }
    case
}

/// A batch of one sample whose target is attained by another point, random, near what is observed, zero or met.
fn small_batch<T: Real>(case: &Case, a: &Mat<f64>, rng: &mut ChaCha8Rng) -> Batch<T> {
    let mut batch = match rng.random_range(0..3) {
        0 => Batch::random(case, a, 1, rng),
        _ => Batch::attainable(case, a, 1, rng),
    };
    let observed = batch.observed_out.clone().unwrap();
    match rng.random_range(0..12) {
        0 => batch.target.fill(T::from_f64(0.0)),
        1 => batch.target = observed,
        2 | 3 => {
            let share = 10.0_f64.powf(rng.random_range(-3.0..0.0));
            let between = |y: T, o: T| T::from_f64(o.to_f64() + share * (y.to_f64() - o.to_f64()));
            batch.target = Mat::from_fn(a.nrows(), 1, |i, j| between(batch.target[(i, j)], observed[(i, j)]));
        }
        4 => {
            batch.observed_in.fill(T::from_f64(0.0));
            batch.observed_out = None;
        }
        _ => {}
    }
    batch
}

/// The optimum of one sample by singular values.
struct Secular<'a> {
    oracle: &'a Oracle,
    /// `Uᵀ r`.
    coords: Vec<f64>,
    /// `|r|²` outside of the range.
    outside: f64,
}

impl<'a> Secular<'a> {
    fn new(oracle: &'a Oracle, r: &Mat<f64>) -> Self {
        let coords = oracle.u.transpose() * r;
        let outside = (r - &oracle.u * &coords).squared_norm_l2();
        Self { oracle, coords: coords.col(0).iter().copied().collect(), outside }
    }

    /// `|d|` and `|A d - r|` of the ridge solution.
    fn lengths(&self, lambda: f64) -> (f64, f64) {
        let smallest = 1e-14 * self.oracle.sigma[0];
        let (mut distance, mut residual) = (0.0, self.outside);
        for (c, s) in self.coords.iter().zip(&self.oracle.sigma) {
            let weight = if *s > smallest { 1.0 / (s * s + lambda) } else { 0.0 };
            distance += (s * weight * c) * (s * weight * c);
            // All is left with an infinite λ, and of what the operator does not reach.
            let rest = if *s > smallest && lambda.is_finite() { lambda * weight * c } else { *c };
            residual += rest * rest;
        }
        (distance.sqrt(), residual.sqrt())
    }

    /// The residual of an exact solution, for which singular values up to this share of the largest count as zero.
    fn least(&self, rank_tol: f64) -> f64 {
        let smallest = rank_tol * self.oracle.sigma[0];
        let dropped = self.coords.iter().zip(&self.oracle.sigma).filter(|(_, s)| **s <= smallest);
        (self.outside + dropped.map(|(c, _)| c * c).sum::<f64>()).sqrt()
    }

    /// The largest λ, but for rounding, at which `keeps` holds, which it does for those below.
    fn lambda(&self, keeps: impl Fn((f64, f64)) -> bool) -> f64 {
        let (mut low, mut high) = (-140.0, 140.0);
        for _ in 0..200 {
            let middle: f64 = 0.5 * (low + high);
            if keeps(self.lengths(middle.exp())) { low = middle } else { high = middle }
        }
        low.exp()
    }
}

/// What came of one case: the excess over the optimum, and whether the report says why.
struct Outcome {
    excess: f64,
    excused: bool,
    text: String,
}

/// Whether an output misses its target by more than is attained, by the matrix; `None` where it is too close to tell.
fn misses<T: Real>(case: &Case, a: &Mat<f64>, (rest, solution): (&Mat<f64>, &Mat<T>)) -> Option<bool> {
    let g = &case.geometry;
    let [co, ci, kh, kw] = g.weight_shape();
    let terms = if case.transposed { co / g.groups() } else { ci } * kh * kw + 1;
    let plane = a.nrows() / case.bias.len();
    let shares = (0..a.nrows()).map(|i| {
        let scale = (0..a.ncols()).map(|j| (a[(i, j)] * solution[(j, 0)].to_f64()).abs()).sum::<f64>();
        let slack = 16.0 * T::EPSILON.to_f64() * (terms as f64).sqrt() * (scale + case.bias[i / plane].abs());
        if rest[(i, 0)] == 0.0 { 0.0 } else { rest[(i, 0)].abs() / slack }
    });
    let worst = shares.fold(0.0, f64::max);
    let rounding = 1e3 * f64::EPSILON / T::EPSILON.to_f64();
    if (worst - 1.0).abs() <= rounding { None } else { Some(worst > 1.0) }
}

/// The plan for weights in the precision of the features.
fn plan_of<T: Real>(case: &Case, config: &ConvSolveConfig, recipe: Option<ConvRecipe>) -> ConvSolvePlan<T> {
    let narrow = |values: &[f64]| values.iter().map(|x| T::from_f64(*x)).collect::<Vec<_>>();
    let (weight, bias) = (narrow(&case.weight), narrow(&case.bias));
    let (geometry, transposed) = (case.geometry, case.transposed);
    let system = ConvSystem { geometry, weight: &weight, bias: Some(&bias), transposed };
    match recipe {
        Some(recipe) => ConvSolvePlan::with_recipe(&system, config, recipe, Par::Seq).unwrap(),
        None => ConvSolvePlan::new(&system, config, Par::Seq).unwrap(),
    }
}

/// The case with weights that the features' precision holds.
fn rounded<T: Real>(case: &Case) -> Case {
    let round = |values: &[f64]| values.iter().map(|x| T::from_f64(*x).to_f64()).collect();
    Case { weight: round(&case.weight), bias: round(&case.bias), ..case.clone() }
}

/// Lengths of one answer, and what rounding makes of them.
#[derive(Debug)]
struct Lengths {
    moved: f64,
    missed: f64,
    /// `|v0|` and `|y|`.
    start: f64,
    target: f64,
    in_point: f64,
    in_output: f64,
    /// Share of the largest singular value up to which others count as zero in exact solutions.
    rank_tol: f64,
}

impl Lengths {
    /// The relative excess over the optimum, and whether the bound is kept; `exact` says whether the answer is without λ.
    fn against(&self, mode: ConvMode, secular: &Secular<'_>, exact: bool) -> (f64, bool) {
        let excess = |found: f64, best: f64, rounding: f64| (found - rounding) / best.max(rounding) - 1.0;
        let (_, wanted) = secular.lengths(f64::INFINITY);
        let (_, least) = secular.lengths(0.0);
        let least_exact = secular.least(self.rank_tol);
        match mode {
            ConvMode::Tolerance(delta) if wanted <= delta * self.target => {
                (if self.moved == 0.0 { 0.0 } else { f64::INFINITY }, true)
            }
            // No point does; then the one that misses least.
            ConvMode::Tolerance(delta) if least * (1.0 - OPTIMAL) > delta * self.target => {
                (excess(self.missed, least_exact, self.in_output), exact)
            }
            ConvMode::Tolerance(delta) => {
                let limit = delta * self.target;
                let lambda = secular.lambda(|(_, residual)| residual <= limit);
                let (best, _) = secular.lengths(lambda);
                let per_residual = limit / (lambda * best).max(f64::MIN_POSITIVE);
                let rounding = self.in_point + self.in_output * per_residual;
                (excess(self.moved, best, rounding), self.missed <= limit + self.in_output)
            }
            ConvMode::Auto(_) if self.start == 0.0 => (excess(self.missed, least_exact, self.in_output), true),
            ConvMode::Bounded(rho) | ConvMode::Auto(rho) => {
                let limit = rho * self.start;
                let lambda = secular.lambda(|(distance, _)| distance > limit);
                let (_, best) = secular.lengths(lambda);
                let best = if exact { best.max(least_exact) } else { best };
                let per_distance = lambda * limit / best.max(f64::MIN_POSITIVE);
                let rounding = self.in_output + self.in_point * per_distance;
                (excess(self.missed, best, rounding), self.moved <= limit + self.in_point)
            }
            ConvMode::Exact => unreachable!("not drawn"),
        }
    }
}

fn run<T: Real>(case: &Case, rng: &mut ChaCha8Rng) -> Outcome {
    let case = &rounded::<T>(case);
    let a = case.dense();
    let oracle = Oracle::new(&a);
    let mode = match rng.random_range(0..5) {
        0 | 1 => ConvMode::Tolerance(10.0_f64.powf(rng.random_range(-4.0..0.0))),
        2 | 3 => ConvMode::Bounded(10.0_f64.powf(rng.random_range(-3.0..2.0))),
        _ => ConvMode::Auto(10.0_f64.powf(rng.random_range(-3.0..2.0))),
    };
    let config = ConvSolveParams::new().mode(mode).samples_expected(rng.random_range(1..1000)).check().unwrap();
    let all = [ConvRecipe::Pixelwise, ConvRecipe::Dense, ConvRecipe::Boundary, ConvRecipe::Periodic, ConvRecipe::Plain];
    let forced = rng.random_range(0..2) == 0;
    let recipe = all[rng.random_range(0..5)];
    let plan = plan_of::<T>(case, &config, forced.then_some(recipe));
    let batch = small_batch::<T>(case, &a, rng);
    let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
    let (r, d) = batch.corrections(case, &a, &solution);
    let largest = oracle.sigma[0];
    let (start, target) = (batch.observed_in.norm_l2().to_f64(), widen(&batch.target).norm_l2());
    // What rounding the point, and evaluating it, makes of lengths. The iterations work in `f64` with normal equations, which
    // lose as much of a residual as their condition makes of it.
    let in_point = 4.0 * T::EPSILON.to_f64() * widen(&solution).norm_l2();
    let in_output = 4.0 * largest * in_point
        + 4.0 * T::EPSILON.to_f64() * target
        + 16.0 * f64::EPSILON * oracle.condition() * r.norm_l2();
    let rank_tol = a.nrows().max(a.ncols()) as f64 * T::EPSILON.to_f64();
    let (moved, missed) = (d.norm_l2(), (&a * &d - &r).norm_l2());
    let lengths = Lengths { moved, missed, start, target, in_point, in_output, rank_tol };
    let secular = Secular::new(&oracle, &r);
    let (excess, keeps) = lengths.against(mode, &secular, report.side != SolveSide::Regularised);
    let excused = report.stop == StopReason::MaxIterations;
    let stays = match mode {
        ConvMode::Tolerance(delta) => r.norm_l2() <= delta * target,
        ConvMode::Bounded(_) => start == 0.0,
        _ => false,
    };
    assert!(!stays || solution == batch.observed_in, "nothing to do: {mode:?}, {report:?}");
    if let Some(misses) = misses(case, &a, (&(&a * &d - &r), &solution)) {
        assert_eq!(report.unattained, usize::from(misses), "{mode:?}, {report:?}");
    }
    let text = format!(
        "{} {mode:?} {:?} (forced: {forced}) {:?}, transposed {}: excess {excess:.2e}, kept {keeps}, {lengths:?}, singular \
         values {largest:.1e} to {:.1e}\n   {report:?}",
        T::NAME,
        plan.recipe(),
        case.geometry,
        case.transposed,
        oracle.sigma[oracle.sigma.len() - 1],
    );
    Outcome { excess: if keeps { excess } else { f64::INFINITY }, excused, text }
}

#[test]
fn tolerances_and_bounds_are_used_up() {
    let count = std::env::var(GEOMETRIES_FROM).ok().and_then(|n| n.parse().ok()).unwrap_or(GEOMETRIES);
    let first: u64 = std::env::var(SEED_FROM).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let outcomes: Vec<_> = (first..first + count as u64)
        .map(|seed| {
            let rng = &mut rng(seed);
            let case = small_case(rng);
            let outcome = if seed % 2 == 0 { run::<f64>(&case, rng) } else { run::<f32>(&case, rng) };
            Outcome { text: format!("seed {seed}: {}", outcome.text), ..outcome }
        })
        .collect();
    let above = |least: f64| outcomes.iter().filter(|o| !o.excused && o.excess > least).count();
    let decades: Vec<_> = (-6..3).map(|decade| (decade, above(10.0_f64.powi(decade)))).collect();
    let excused = outcomes.iter().filter(|o| o.excused).count();
    println!("{count} geometries, {excused} say that they ended early; excess above 10^k: {decades:?}");
    let faulty: Vec<_> = outcomes.iter().filter(|o| o.excess > OPTIMAL).map(|o| &o.text[..]).collect();
    println!("{}", faulty.join("\n"));
    assert!(outcomes.iter().all(|o| o.excused || o.excess <= OPTIMAL));
    assert!(excused as f64 <= MOST_EXCUSED * count as f64, "{excused} of {count} end early");
}

/// As many equations as unknowns, and small singular values: where exact solutions were returned instead.
#[test]
fn square_layers_use_up_their_tolerance() {
    let params = Conv2dParams::new(FeatureShape::image(2, 14, 9), 2, [5, 3]).padding([2, 1]);
    for seed in 0..3 {
        let rng = &mut rng(seed);
        let case = Case::new(params, false, rng);
        for outcome in [run::<f64>(&case, rng), run::<f32>(&case, rng)] {
            assert!(outcome.excused || outcome.excess <= OPTIMAL, "seed {seed}: {}", outcome.text);
        }
    }
}

/// `min |w v - y|` or `min |v - v0|` of one pixel, with nothing between the numbers.
fn one_pixel<T: Real>((w, start, target): (f64, f64, f64), mode: ConvMode, expected: f64) {
    let params = Conv2dParams::new(FeatureShape::image(1, 1, 1), 1, [1, 1]);
    let case = Case { weight: vec![w], bias: vec![0.0], ..Case::new(params, false, &mut rng(1)) };
    let config = ConvSolveParams::new().mode(mode).check().unwrap();
    let all = [ConvRecipe::Pixelwise, ConvRecipe::Dense, ConvRecipe::Boundary, ConvRecipe::Periodic, ConvRecipe::Plain];
    for recipe in all.map(Some).into_iter().chain([None]) {
        let plan = plan_of::<T>(&case, &config, recipe);
        let one = |x: f64| Mat::from_fn(1, 1, |_, _| T::from_f64(x));
        let batch = Batch { observed_in: one(start), observed_out: None, target: one(target) };
        let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
        let found = solution[(0, 0)].to_f64();
        let text = format!("{} {recipe:?} {mode:?}: {found}, {report:?}", T::NAME);
        assert!((found - expected).abs() <= OPTIMAL * (expected - start).abs(), "{text}");
        assert_ne!(report.stop, StopReason::MaxIterations, "{text}");
        // The bounds are met from within.
        match mode {
            ConvMode::Tolerance(delta) if w != 0.0 => {
                assert!((w * found - target).abs() <= delta * target.abs(), "{text}")
            }
            ConvMode::Bounded(rho) | ConvMode::Auto(rho) => {
                assert!((found - start).abs() <= rho * start.abs(), "{text}")
            }
            ConvMode::Tolerance(_) | ConvMode::Exact => {}
        }
    }
}

#[test]
fn one_pixel_ends_at_its_tolerance_or_bound() {
    for (numbers, mode, expected) in [
        ((1.0, 0.0, 1.0), ConvMode::Tolerance(0.1), 0.9),
        ((-3.0, 1.0, 6.0), ConvMode::Tolerance(0.25), -1.5),
        ((2.0, 1.0, -1.0), ConvMode::Bounded(0.1), 0.9),
        ((2.0, 1.0, -1.0), ConvMode::Auto(0.1), 0.9),
        ((2.0, 1.0, -1.0), ConvMode::Bounded(2.0), -0.5),
        ((1e-3, 1.0, 1.0), ConvMode::Auto(10.0), 11.0),
        ((0.0, 1.0, 1.0), ConvMode::Tolerance(0.1), 1.0),
        ((0.0, 1.0, 1.0), ConvMode::Bounded(0.1), 1.0),
    ] {
        one_pixel::<f64>(numbers, mode, expected);
        one_pixel::<f32>(numbers, mode, expected);
    }
}

/// Square layers with padding, whose smallest singular values are small beside `max(m, n)` roundings of the weights.
fn keeps_singular_values<T: Real>(seed: u64) {
    let rng = &mut rng(seed);
    let params = Conv2dParams::new(FeatureShape::image(2, 14, 9), 2, [5, 3]).padding([2, 1]);
    let case = &rounded::<T>(&Case::new(params, false, rng));
    let a = case.dense();
    let condition = Oracle::new(&a).condition();
    let config = ConvSolveParams::new().mode(ConvMode::Exact).check().unwrap();
    let plan = plan_of::<T>(case, &config, Some(ConvRecipe::Dense));
    let (_, report) = Batch::<T>::attainable(case, &a, 2, rng).solve(&plan, Par::Seq).unwrap();
    let text = format!("{} condition {condition:.1e}: {report:?}", T::NAME);
    assert_eq!((report.side, report.rank, report.unattained), (SolveSide::Nearest, 252, 0), "{text}");
}

#[test]
fn a_dense_layer_keeps_the_singular_values_that_its_weights_resolve() {
    for seed in 0..5 {
        keeps_singular_values::<f32>(seed);
        keeps_singular_values::<f64>(seed);
    }
}
