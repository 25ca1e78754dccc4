use std::error::Error;
use std::time::Instant;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_benches::random::{normal_mat, normal_vec, rng, uniform_vec};
use fbp_linalg::conv_solve::{ConvMode, ConvRecipe, ConvSolveParams, ConvSolvePlan, ConvSystem};
use fbp_linalg::conv2d::{Conv2dGeometry, Conv2dParams};
use fbp_linalg::dense::AffineSolve;
use fbp_linalg::{Real, SolveReport, SolveSide};
use serde::{Deserialize, Serialize};

use crate::oracle::{Dense, Plain};

/// Warm calls of which the median counts.
const REPEATS: usize = 5;
/// Seconds after which no further call is made, beside one warm call.
const PATIENCE: f64 = 20.0;
/// Samples that a plan is built for, so that it factors what a data set repays.
const SAMPLES: usize = 10_000;
/// Most features on either side for which the optimum comes from a dense decomposition.
const DENSE_LEN: usize = 4096;

/// One cell: a convolution, its weights and its targets.
pub(crate) struct Cell {
    geometry: Conv2dGeometry,
    condition: f64,
    seed: u64,
    batch: usize,
    weight: Vec<f64>,
    start: Vec<f64>,
    target: Vec<f64>,
}

/// A measurement, with the keys of the results file.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) size: usize,
    pub(crate) padding: usize,
    pub(crate) c_in: usize,
    pub(crate) c_out: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) batch: usize,
    pub(crate) condition: f64,
    pub(crate) seed: u64,
    pub(crate) method: String,
    pub(crate) recipe: String,
    pub(crate) dtype: String,
    pub(crate) threads: usize,
    /// Set-up of the plan and first call. The methods of a cell share what they factor: `auto`, after `bounded`, finds the
    /// factors of regularised solves made.
    pub(crate) first_ms: f64,
    pub(crate) warm_ms: f64,
    pub(crate) residual_relative: f64,
    /// Of the same problem in `f64`; for bounded problems a proved lower bound.
    pub(crate) residual_optimum: Option<f64>,
    pub(crate) distance_relative: f64,
    pub(crate) distance_optimum: Option<f64>,
    /// How the optimum was found: `dense`, `certified`, or `plan` for the library's own plan in `f64`.
    pub(crate) optimum_by: Option<String>,
    pub(crate) regularised: bool,
    pub(crate) lambda: f64,
    /// Steps; none where they were not kept.
    pub(crate) iterations: Option<usize>,
    pub(crate) converged: bool,
}

impl Entry {
    /// Whether another program measured it.
    pub(crate) fn is_peer(&self) -> bool {
        self.method.starts_with("torch-")
    }
}

/// Weights `U diag(logspace(0, -log10 κ)) Vᵀ`.
fn weights(g: &Conv2dGeometry, condition: f64, seed: u64) -> Vec<f64> {
    let mut rng = rng(seed);
    let [rows, ci, kh, kw] = g.weight_shape();
    let (cols, rank) = (ci * kh * kw, rows.min(ci * kh * kw));
    let u = normal_mat::<f64>(rows, rank, &mut rng).qr().compute_thin_Q();
    let v = normal_mat::<f64>(cols, rank, &mut rng).qr().compute_thin_Q();
    let sigma = |k: usize| condition.powf(-(k as f64) / (rank.max(2) - 1) as f64);
    let w = Mat::from_fn(rows, rank, |i, k| u[(i, k)] * sigma(k)) * v.transpose();
    (0..rows * cols).map(|at| w[(at / cols, at % cols)]).collect()
}

impl Cell {
    pub(crate) fn new(params: Conv2dParams, condition: f64, seed: u64, batch: usize) -> Result<Self, Box<dyn Error>> {
        let geometry = params.check()?;
        let weight = weights(&geometry, condition, seed);
        let mut rng = rng(1000 + seed);
        let start = normal_vec::<f64>(batch * geometry.in_len(), &mut rng);
        let mut target = vec![0.0; batch * geometry.out_len()];
        Plain { geometry, weight: &weight }.forward(&start, &mut target);
        let noise = uniform_vec::<f64>(target.len(), 0.0, 1.0, &mut rng);
        target.iter_mut().zip(noise).for_each(|(y, noise)| *y += noise);
        Ok(Self { geometry, condition, seed, batch, weight, start, target })
    }

    /// The observed inputs or the targets, one column per sample.
    fn columns<T: Real>(&self, values: &[f64]) -> Mat<T> {
        let len = values.len() / self.batch;
        Mat::from_fn(len, self.batch, |i, j| T::from_f64(values[j * len + i]))
    }

    /// Solves once or until the median of the warm calls is known.
    fn run<T: Real>(&self, plan: &ConvSolvePlan<T>, repeats: usize) -> Result<Outcome, Box<dyn Error>> {
        let par = Par::rayon(0);
        let (start, target) = (self.columns::<T>(&self.start), self.columns::<T>(&self.target));
        let mut solution = Mat::<T>::zeros(plan.cols(), self.batch);
        let begin = Instant::now();
        let mut memory = MemBuffer::new(plan.solve_scratch(self.batch, par));
        let mut call = || {
            let call = Instant::now();
            let (observed_in, target) = (start.as_ref(), target.as_ref());
            let pass = AffineSolve { observed_in, observed_out: None, target, solution: solution.as_mut() };
            let report = plan.solve(pass, par, MemStack::new(&mut memory))?;
            Ok::<_, Box<dyn Error>>((call.elapsed().as_secs_f64() * 1e3, report))
        };
        let (_, mut report) = call()?;
        let first_ms = begin.elapsed().as_secs_f64() * 1e3;
        let mut times = Vec::new();
        while times.len() < repeats && (times.is_empty() || begin.elapsed().as_secs_f64() < PATIENCE) {
            let (time, again) = call()?;
            times.push(time);
            report = again;
        }
        times.sort_by(f64::total_cmp);
        // Against the inputs as they were rounded.
        let moved = (0..self.start.len()).map(|at| {
            let (i, j) = (at % plan.cols(), at / plan.cols());
            solution[(i, j)].to_f64() - start[(i, j)].to_f64()
        });
        let warm_ms = times.get(times.len() / 2).copied().unwrap_or(first_ms);
        Ok(Outcome { first_ms, warm_ms, report, moved: moved.collect() })
    }

    /// Measures the modes that the entries lack.
    pub(crate) fn measure_new(
        &self,
        modes: &[(&str, ConvMode)],
        entries: &mut Vec<Entry>,
    ) -> Result<(), Box<dyn Error>> {
        let new: Vec<_> = modes.iter().copied().filter(|(method, _)| !self.is_in(entries, method)).collect();
        if new.is_empty() { Ok(()) } else { self.measure(&new, entries) }
    }

    /// Whether the cell was measured before with this method.
    fn is_in(&self, entries: &[Entry], method: &str) -> bool {
        let g = &self.geometry;
        let layer = (g.in_shape().height, g.in_shape().channels, g.out_shape().channels);
        let shape = (g.padding()[0], g.kernel()[0], g.stride()[0]);
        entries.iter().filter(|e| e.method == method).any(|e| {
            (e.size, e.c_in, e.c_out) == layer
                && (e.padding, e.kernel, e.stride) == shape
                && (e.condition, e.seed, e.batch) == (self.condition, self.seed, self.batch)
        })
    }

    /// Solves in every mode in `f32`, each beside the optimum of the same problem in `f64`.
    fn measure(&self, modes: &[(&str, ConvMode)], entries: &mut Vec<Entry>) -> Result<(), Box<dyn Error>> {
        let (plan, setup_ms) = self.plan::<f32>()?;
        let dense = self.geometry.in_len().max(self.geometry.out_len()) <= DENSE_LEN;
        let dense = dense.then(|| Dense::new(&self.system()));
        let needs_double = |mode| match mode {
            ConvMode::Exact => dense.is_none(),
            ConvMode::Tolerance(_) => false,
            ConvMode::Bounded(_) | ConvMode::Auto(_) => true,
        };
        let double = modes.iter().any(|(_, mode)| needs_double(*mode)).then(|| self.in_double(&plan)).transpose()?;
        for &(method, mode) in modes {
            let config = ConvSolveParams::new().mode(mode).samples_expected(SAMPLES).check()?;
            let begin = Instant::now();
            let with_mode = plan.with_config(&config);
            let setup_ms = setup_ms + begin.elapsed().as_secs_f64() * 1e3;
            let found = self.run(&with_mode, REPEATS)?;
            let double = double.as_ref().map(|double| double.with_config(&config));
            let optimum = self.optimum(mode, dense.as_ref(), double.as_ref())?;
            self.keep(entries, (method, plan.recipe()), setup_ms, &found, optimum);
        }
        Ok(())
    }

    /// The best that any method can do in this mode, where it is known.
    fn optimum(
        &self,
        mode: ConvMode,
        dense: Option<&Dense>,
        double: Option<&ConvSolvePlan<f64>>,
    ) -> Result<Option<Optimum>, Box<dyn Error>> {
        let at = |by, moved: Vec<f64>| Optimum { by, residual: self.missed(&moved), distance: length(&moved) };
        Ok(match (mode, dense, double) {
            (ConvMode::Exact, Some(dense), _) => Some(at("dense", dense.nearest(&self.wanted(), self.batch))),
            (ConvMode::Exact, None, Some(double)) => Some(at("plan", self.run(double, 0)?.moved)),
            (ConvMode::Tolerance(tolerance), Some(dense), _) => {
                let targets = self.target.chunks_exact(self.geometry.out_len());
                let limits: Vec<f64> = targets.map(|target| tolerance * length(target)).collect();
                Some(at("dense", dense.nearest_within(&self.wanted(), &limits)))
            }
            (ConvMode::Bounded(bound) | ConvMode::Auto(bound), _, Some(double)) => {
                let moved = self.run(double, 0)?.moved;
                let residual = self.certified(&moved, bound);
                Some(Optimum { by: "certified", residual, distance: length(&moved) })
            }
            _ => None,
        })
    }

    fn system(&self) -> Plain<'_> {
        Plain { geometry: self.geometry, weight: &self.weight }
    }

    fn plan<T: Real>(&self) -> Result<(ConvSolvePlan<T>, f64), Box<dyn Error>> {
        let config = ConvSolveParams::new().mode(ConvMode::Exact).samples_expected(SAMPLES).check()?;
        let system = ConvSystem { geometry: self.geometry, weight: &self.weight, bias: None, transposed: false };
        let begin = Instant::now();
        let plan = ConvSolvePlan::<T>::new(&system, &config, Par::rayon(0))?;
        Ok((plan, begin.elapsed().as_secs_f64() * 1e3))
    }

    fn in_double(&self, plan: &ConvSolvePlan<f32>) -> Result<ConvSolvePlan<f64>, Box<dyn Error>> {
        match plan.for_features::<f64>() {
            Some(plan) => Ok(plan),
            None => Ok(self.plan::<f64>()?.0),
        }
    }

    /// `y - A v0`.
    fn wanted(&self) -> Vec<f64> {
        let mut image = vec![0.0; self.target.len()];
        self.system().forward(&self.start, &mut image);
        self.target.iter().zip(image).map(|(y, image)| y - image).collect()
    }

    /// `|A v - y| / |y|`.
    fn missed(&self, moved: &[f64]) -> f64 {
        let at: Vec<f64> = self.start.iter().zip(moved).map(|(v0, d)| v0 + d).collect();
        let mut image = vec![0.0; self.target.len()];
        self.system().forward(&at, &mut image);
        image.iter_mut().zip(&self.target).for_each(|(image, y)| *image -= y);
        length(&image) / length(&self.target)
    }

    /// Proved lower bound of the residual within `bound` norms of the observed input, relative to the target.
    fn certified(&self, moved: &[f64], bound: f64) -> f64 {
        let (rows, cols) = (self.geometry.out_len(), self.geometry.in_len());
        let wanted = self.wanted();
        let samples = wanted.chunks_exact(rows).zip(moved.chunks_exact(cols)).zip(self.start.chunks_exact(cols));
        let squares: f64 = samples
            .map(|((wanted, moved), start)| self.system().least_residual(wanted, moved, bound * length(start)).powi(2))
            .sum();
        squares.sqrt() / length(&self.target)
    }

    fn keep(
        &self,
        entries: &mut Vec<Entry>,
        (method, recipe): (&str, ConvRecipe),
        setup_ms: f64,
        found: &Outcome,
        optimum: Option<Optimum>,
    ) {
        let g = &self.geometry;
        let size = length(&self.start);
        let entry = Entry {
            size: g.in_shape().height,
            padding: g.padding()[0],
            c_in: g.in_shape().channels,
            c_out: g.out_shape().channels,
            kernel: g.kernel()[0],
            stride: g.stride()[0],
            batch: self.batch,
            condition: self.condition,
            seed: self.seed,
            method: method.to_owned(),
            recipe: format!("{recipe:?}"),
            dtype: "f32".to_owned(),
            threads: Par::rayon(0).degree(),
            first_ms: setup_ms + found.first_ms,
            warm_ms: found.warm_ms,
            residual_relative: self.missed(&found.moved),
            residual_optimum: optimum.as_ref().map(|optimum| optimum.residual),
            distance_relative: length(&found.moved) / size,
            distance_optimum: optimum.as_ref().map(|optimum| optimum.distance / size),
            optimum_by: optimum.map(|optimum| optimum.by.to_owned()),
            regularised: found.report.side == SolveSide::Regularised,
            lambda: found.report.lambda,
            iterations: Some(found.report.iters),
            converged: found.report.stop != fbp_linalg::StopReason::MaxIterations,
        };
        println!(
            "{}->{} {size}x{size} p{} κ {:.0e} seed {} {method} {}: first {:.0} ms, warm {:.1} ms, residual {:.3e} \
             ({:.3e}), distance {:.4} ({:.4}), λ {:.1e}, {}",
            entry.c_in,
            entry.c_out,
            entry.padding,
            entry.condition,
            entry.seed,
            entry.recipe,
            entry.first_ms,
            entry.warm_ms,
            entry.residual_relative,
            entry.residual_optimum.unwrap_or(f64::NAN),
            entry.distance_relative,
            entry.distance_optimum.unwrap_or(f64::NAN),
            entry.lambda,
            if entry.converged { "converged" } else { "NOT CONVERGED" },
            size = entry.size,
        );
        entries.push(entry);
    }
}

/// What one method did with one cell.
struct Outcome {
    first_ms: f64,
    warm_ms: f64,
    report: SolveReport,
    /// `v - v0`.
    moved: Vec<f64>,
}

/// The best that any method can do.
struct Optimum {
    by: &'static str,
    residual: f64,
    distance: f64,
}

fn length(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}
