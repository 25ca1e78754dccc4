//! Convolutions of small geometries in every mode.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_linalg::conv_solve::{ConvMode, ConvSolveParams, ConvSolvePlan, ConvSystem};
use fbp_linalg::conv2d::{Conv2dGeometry, Conv2dParams};
use fbp_linalg::dense::AffineSolve;
use fbp_linalg::testkit::normal_vec;
use fbp_linalg::{FeatureShape, Real, SolveReport, StopReason};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::Finding;
use super::affine::{Affine, ratio};
use super::draw::{chance, decades, rounded};
use super::exact::{Exact, dot, norm};
use super::layer::{fault, narrow, widened};
use super::linear;
use super::svd::Svd;

/// Share by which a distance or residual may exceed the optimum.
const MODE_TOL: f64 = 1e-3;

/// A convolution and the equations that it stands for.
struct Drawn {
    geometry: Conv2dGeometry,
    weight: Vec<f64>,
    bias: Vec<f64>,
    transposed: bool,
    problem: Affine,
    kind: String,
    known: Option<Vec<f64>>,
}

fn geometry(rng: &mut ChaCha8Rng) -> Conv2dGeometry {
    loop {
        let shape = FeatureShape::image(rng.random_range(1..=2), rng.random_range(1..=4), rng.random_range(1..=4));
        let kernel = [rng.random_range(1..=3), rng.random_range(1..=3)];
        let params = Conv2dParams::new(shape, rng.random_range(1..=3), kernel)
            .stride([rng.random_range(1..=2), rng.random_range(1..=2)])
            .padding([rng.random_range(0..=1), rng.random_range(0..=1)]);
        if let Ok(geometry) = params.check() {
            return geometry;
        }
    }
}

/// The matrix of a convolution by plain loops over its definition, and the geometry's kernel sizes.
fn matrix(geometry: &Conv2dGeometry, weight: &[f64]) -> Vec<Vec<f64>> {
    let (input, output) = (geometry.in_shape(), geometry.out_shape());
    let [kh, kw] = geometry.kernel();
    let ([sh, sw], [ph, pw]) = (geometry.stride(), geometry.padding());
    let mut rows = vec![vec![0.0; input.len()]; output.len()];
    for (o, c) in (0..output.channels).flat_map(|o| (0..input.channels).map(move |c| (o, c))) {
        for (oy, ox) in (0..output.height).flat_map(|y| (0..output.width).map(move |x| (y, x))) {
            let row = &mut rows[(o * output.height + oy) * output.width + ox];
            for (ky, kx) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                let (y, x) = (oy * sh + ky, ox * sw + kx);
                if (ph..ph + input.height).contains(&y) && (pw..pw + input.width).contains(&x) {
                    let at = (c * input.height + y - ph) * input.width + x - pw;
                    row[at] += weight[((o * input.channels + c) * kh + ky) * kw + kx];
                }
            }
        }
    }
    rows
}

fn draw<T: Real>(rng: &mut ChaCha8Rng) -> Drawn {
    let geometry = geometry(rng);
    let (cin, cout) = (geometry.in_shape().channels, geometry.out_shape().channels);
    let mut kind = vec![format!("{geometry:?}")];
    let mut weight = normal_vec::<f64>(geometry.weight_len(), rng);
    let taps = weight.len() / (cin * cout);
    if chance(rng, 0.3) {
        kind.push("scaled output channels".into());
        for filter in weight.chunks_mut(cin * taps) {
            let scale = decades(rng, -6.0, 6.0);
            filter.iter_mut().for_each(|w| *w *= scale);
        }
    }
    if chance(rng, 0.15) {
        kind.push("scaled input channels".into());
        let scales: Vec<f64> = (0..cin).map(|_| decades(rng, -6.0, 6.0)).collect();
        for (at, w) in weight.iter_mut().enumerate() {
            *w *= scales[at / taps % cin];
        }
    }
    if cout > 1 && chance(rng, 0.15) {
        kind.push("equal channels".into());
        let (first, rest) = weight.split_at_mut(cin * taps);
        rest[..cin * taps].copy_from_slice(first);
    }
    weight.iter_mut().for_each(|w| *w = rounded::<T>(*w));
    let transposed = chance(rng, 0.25);
    let direct = matrix(&geometry, &weight);
    let (input, output) = (geometry.in_shape(), geometry.out_shape());
    let (from, to) = if transposed { (output, input) } else { (input, output) };
    let rows: Vec<Vec<f64>> =
        if transposed { (0..to.len()).map(|i| direct.iter().map(|row| row[i]).collect()).collect() } else { direct };
    let largest = |c: usize| rows[c * to.plane()..(c + 1) * to.plane()].iter().map(|r| norm(r)).fold(0.0, f64::max);
    let bias: Vec<f64> = (0..to.channels).map(|c| rounded::<T>(largest(c) * rng.random_range(-1.0..1.0))).collect();
    let step = decades(rng, -3.0, 1.0);
    let start: Vec<f64> = (0..from.len()).map(|_| rounded::<T>(rng.random_range(-2.0..2.0))).collect();
    let goal: Vec<f64> = start.iter().map(|v| rounded::<T>(v + step * rng.random_range(-1.0..1.0))).collect();
    let spread: Vec<f64> = bias.iter().flat_map(|&b| std::iter::repeat_n(b, to.plane())).collect();
    let everything = (f64::NEG_INFINITY, f64::INFINITY);
    let mut problem = Affine {
        rows,
        bias: spread,
        start,
        lower: Vec::new(),
        upper: Vec::new(),
        range: everything,
        observed: false,
        outputs: None,
    };
    let consistent = chance(rng, 0.7);
    problem.lower = (0..to.len())
        .map(|i| {
            let off = if consistent { 0.0 } else { problem.scale(i, &goal) * rng.random_range(-1.0..1.0) };
            rounded::<T>(problem.image(i, &goal).value() + off)
        })
        .collect();
    problem.upper.clone_from(&problem.lower);
    kind.push(if consistent { "consistent".into() } else { "any target".into() });
    let kind = if transposed { format!("transposed {}", kind.join(", ")) } else { kind.join(", ") };
    Drawn { geometry, weight, bias, transposed, problem, kind, known: consistent.then_some(goal) }
}

fn solve<T: Real>(drawn: &Drawn, mode: ConvMode) -> Result<(Vec<f64>, SolveReport), String> {
    let cast = |values: &[f64]| -> Vec<T> { values.iter().map(|&x| T::from_f64(x)).collect() };
    let (weight, bias) = (cast(&drawn.weight), cast(&drawn.bias));
    let system = ConvSystem {
        geometry: drawn.geometry,
        weight: &weight,
        bias: Some(bias.as_slice()),
        transposed: drawn.transposed,
    };
    let run = || {
        let config = ConvSolveParams::new().mode(mode).check()?;
        let plan = ConvSolvePlan::<T>::new(&system, &config, Par::Seq)?;
        let (start, target) = (narrow::<T>(&drawn.problem.start), narrow::<T>(&drawn.problem.lower));
        let mut solution = Mat::from_fn(drawn.problem.start.len(), 1, |_, _| T::from_f64(f64::NAN));
        let pass = AffineSolve {
            observed_in: start.as_ref(),
            observed_out: None,
            target: target.as_ref(),
            solution: solution.as_mut(),
        };
        let mut memory = MemBuffer::new(plan.solve_scratch(1, Par::Seq));
        let report = plan.solve(pass, Par::Seq, MemStack::new(&mut memory))?;
        Ok((widened(solution.col_as_slice(0)), report))
    };
    run().map_err(|error: fbp_linalg::LinalgError| error.to_string())
}

pub(crate) fn exact<T: Real>(rng: &mut ChaCha8Rng) -> Finding {
    let drawn = draw::<T>(rng);
    let solved = solve::<T>(&drawn, ConvMode::Exact);
    let early = solved.as_ref().is_ok_and(|(_, report)| report.stop == StopReason::MaxIterations);
    let found = Finding { kind: drawn.kind.clone(), feasible: drawn.known.is_some(), early, ..Finding::default() };
    let solved = solved.map(|(point, report)| (point, report.unattained == 0));
    linear::judge::<T>(&drawn.problem, drawn.known.as_deref(), solved, found)
}

/// The misfit of a problem at its start, in the directions of its singular vectors.
struct Spectrum {
    sigma: Vec<f64>,
    wanted: Vec<f64>,
    /// Square of what no point can attain.
    rest: f64,
}

impl Spectrum {
    fn of(problem: &Affine) -> Self {
        let svd = Svd::of(&problem.rows);
        let mut wanted = Vec::new();
        for (i, &target) in problem.lower.iter().enumerate() {
            let mut sum: Exact = problem.image(i, &problem.start);
            sum.add(-target);
            wanted.push(-sum.value());
        }
        let largest = svd.sigma.iter().copied().fold(0.0, f64::max);
        let cut = largest * f64::EPSILON * problem.rows.len() as f64;
        let (mut sigma, mut along, mut rest) = (Vec::new(), Vec::new(), 0.0);
        for (s, w) in svd.sigma.iter().zip(&svd.right) {
            let share = dot(w, &wanted);
            if *s > cut {
                sigma.push(*s);
                along.push(share);
            } else {
                rest += share * share;
            }
        }
        Self { sigma, wanted: along, rest }
    }

    /// Distance and residual of the solution with a shift.
    fn at(&self, shift: f64) -> (f64, f64) {
        let (mut distance, mut residual) = (0.0, self.rest);
        for (s, w) in self.sigma.iter().zip(&self.wanted) {
            let share = w / (s * s + shift);
            distance += (s * share).powi(2);
            residual += (shift * share).powi(2);
        }
        (distance.sqrt(), residual.sqrt())
    }

    /// The least residual without the singular values that count as zero for weights of a precision, the rule of
    /// [`SolveConfig::rank_tol`](fbp_linalg::SolveConfig::rank_tol).
    fn least_residual(&self, problem: &Affine, epsilon: f64) -> f64 {
        let largest = self.sigma.iter().copied().fold(0.0, f64::max);
        let cut = problem.rows.len().max(problem.start.len()) as f64 * epsilon * largest;
        let pairs = self.sigma.iter().zip(&self.wanted).filter(|(s, _)| **s <= cut);
        (self.rest + pairs.map(|(_, w)| w * w).sum::<f64>()).sqrt()
    }

    /// The shift at which `length`, which grows with it, reaches `bound`; 0 where it is beyond it from the start.
    fn shift(&self, grows: impl Fn((f64, f64)) -> bool) -> f64 {
        let largest = self.sigma.iter().copied().fold(0.0, f64::max).powi(2);
        if largest == 0.0 || grows(self.at(0.0)) {
            return 0.0;
        }
        let (mut low, mut high) = ((largest * 1e-40).ln(), (largest * 1e20).ln());
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            *(if grows(self.at(middle.exp())) { &mut high } else { &mut low }) = middle;
        }
        low.exp()
    }
}

/// Lengths that a point comes to: its distance, its residual, and what rounding may add to the latter.
fn lengths<T: Real>(problem: &Affine, point: &[f64]) -> (f64, f64, f64) {
    let rows = 0..problem.rows.len();
    let residual = rows.clone().map(|i| problem.miss(i, point)).fold(0.0_f64, f64::hypot);
    let noise = rows.map(|i| problem.slack::<T>(i, point)).fold(0.0_f64, f64::hypot);
    (super::exact::distance(point, &problem.start), residual, noise)
}

/// Judges a mode that need not attain its target: `rated` gives the error over what is allowed.
fn mode<T: Real>(drawn: &Drawn, mode: ConvMode, rated: impl Fn(&Spectrum, [f64; 5]) -> f64) -> Finding {
    let found = Finding { kind: format!("{mode:?}, {}", drawn.kind), ..Finding::default() };
    let (point, report) = match solve::<T>(drawn, mode) {
        Ok(solved) => solved,
        Err(error) => return Finding { broken: Some(error), ..found },
    };
    let problem = &drawn.problem;
    if let Some(fault) = fault(&point, problem.range) {
        return Finding { broken: Some(fault), ..found };
    }
    let (distance, residual, noise) = lengths::<T>(problem, &point);
    let spectrum = Spectrum::of(problem);
    let step = 16.0 * T::EPSILON.to_f64() * (norm(&point) + norm(&problem.start));
    Finding {
        attained: report.unattained == 0,
        early: report.stop == StopReason::MaxIterations,
        definition: problem.ratios::<T>(&point).definition,
        optimality: Some(rated(&spectrum, [distance, residual, noise, step, norm(&problem.lower)])),
        ..found
    }
}

/// The nearest point within a residual.
pub(crate) fn tolerance<T: Real>(rng: &mut ChaCha8Rng) -> Finding {
    let drawn = draw::<T>(rng);
    let delta = decades(rng, -3.0, -0.3);
    mode::<T>(&drawn, ConvMode::Tolerance(delta), |spectrum, [distance, residual, noise, step, size]| {
        let bound = delta * size;
        let shift = spectrum.shift(|(_, residual)| residual >= bound);
        let (optimum, least) = if spectrum.at(f64::MAX.sqrt()).1 <= bound { (0.0, 0.0) } else { spectrum.at(shift) };
        // Out of reach, an exact solution is due.
        let least = if shift == 0.0 { spectrum.least_residual(&drawn.problem, T::EPSILON.to_f64()) } else { least };
        let over = ratio((residual - bound.max(least)).max(0.0), MODE_TOL * bound.max(least) + noise);
        // Out of reach, the nearest of the best is asked for, whose distance rounding decides.
        let far = if shift == 0.0 { 0.0 } else { ratio((distance - optimum).max(0.0), MODE_TOL * optimum + step) };
        over.max(far)
    })
}

/// The smallest residual within a distance.
pub(crate) fn bounded<T: Real>(rng: &mut ChaCha8Rng) -> Finding {
    let drawn = draw::<T>(rng);
    let rho = decades(rng, -2.0, 1.0);
    let asked = if chance(rng, 0.5) { ConvMode::Bounded(rho) } else { ConvMode::Auto(rho) };
    let reach = rho * norm(&drawn.problem.start);
    mode::<T>(&drawn, asked, |spectrum, [distance, residual, noise, step, size]| {
        let shift = spectrum.shift(|(distance, _)| distance <= reach);
        let (_, optimum) = spectrum.at(shift);
        let over = ratio((residual - optimum).max(0.0), MODE_TOL * optimum.max(size) + noise);
        over.max(ratio((distance - reach).max(0.0), MODE_TOL * reach + step))
    })
}
