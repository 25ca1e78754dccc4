//! Box-constrained nearest points at the sizes of real layers.
use std::hint::black_box;
use std::time::Instant;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_linalg::conv2d::{Conv2d, Conv2dParams};
use fbp_linalg::testkit::{normal_mat, normal_vec, rng};
use fbp_linalg::{BoxedPass, BoxedPlan, FeatureShape, Real};

fn run<T: Real>(ci: usize, co: usize, h: usize, n: usize) {
    let mut rng = rng(0);
    let geometry = Conv2dParams::new(FeatureShape::image(ci, h, h), co, [5, 5]).check().unwrap();
    let weight: Vec<f64> = normal_vec(geometry.weight_len(), &mut rng);
    let weight: Vec<f64> = weight.iter().map(|w| w / ((ci * 25) as f64).sqrt()).collect();
    let a = Conv2d::new(geometry).dense(&weight).unwrap();
    let (m, nn) = a.shape();
    let o = h - 4;
    let t0 = Instant::now();
    let plan = BoxedPlan::<T>::new(a.as_ref()).unwrap();
    let setup = t0.elapsed();
    let v0 = normal_mat::<f64>(nn, n, &mut rng);
    let v0 = Mat::from_fn(nn, n, |i, j| v0[(i, j)].max(0.0));
    let w0 = &a * &v0;
    let noise = normal_mat::<f64>(m, n, &mut rng);
    let (mut lo, mut hi) = (Mat::from_fn(m, n, |_, _| f64::NEG_INFINITY), Mat::from_fn(m, n, |_, _| f64::INFINITY));
    for j in 0..n { for c in 0..co { for y in 0..o / 2 { for x in 0..o / 2 {
        let idx = |p: usize, q: usize| c * o * o + (2 * y + p) * o + 2 * x + q;
        let all = [idx(0, 0), idx(0, 1), idx(1, 0), idx(1, 1)];
        let best = *all.iter().max_by(|&&p, &&q| w0[(p, j)].total_cmp(&w0[(q, j)])).unwrap();
        let t = ((w0[(best, j)] - 0.1).max(0.0) + 0.1 * noise[(best, j)]).max(0.0);
        for i in all { hi[(i, j)] = if t > 0.0 { t + 0.1 } else { 0.1 }; }
        if t > 0.0 { lo[(best, j)] = t + 0.1; }
    }}}}
    let cv = |m: &Mat<f64>| Mat::from_fn(m.nrows(), m.ncols(), |i, j| T::from_f64(m[(i, j)]));
    let (v0, w0, lo, hi) = (cv(&v0), cv(&w0), cv(&lo), cv(&hi));
    let mut out = Mat::<T>::zeros(nn, n);
    for par in [Par::Seq, Par::rayon(2)] {
        let mut mem = MemBuffer::new(plan.solve_scratch(n, par));
        let mut best = f64::INFINITY; let mut report = None;
        for _ in 0..3 {
            let t = Instant::now();
            report = Some(plan.solve(BoxedPass { observed_in: v0.as_ref(), observed_out: w0.as_ref(), lower: lo.as_ref(), upper: hi.as_ref(), bounds: (T::ZERO, T::INFINITY), solution: out.as_mut() }, par, MemStack::new(&mut mem)).unwrap());
            best = best.min(t.elapsed().as_secs_f64());
        }
        let r = report.unwrap();
        println!("{} {ci}->{co} {par:?}: setup {setup:?} {:.1} us/sample iters {} viol {:e} unatt {} {:?}", T::NAME, best / n as f64 * 1e6, r.iters, r.violation_max, r.unattained, plan.recipe());
    }
    black_box(out);
}
fn main() {
    run::<f32>(3, 3, 12, 512);
    run::<f32>(10, 20, 12, 32);
}
