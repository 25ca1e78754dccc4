use faer::{Mat, Par};
use fbp_inverse::{EmbeddingPass, EmbeddingReport, InverseError, OutputEmbedding};
use fbp_linalg::testkit::{Tol, for_seeds, normal_mat};
use fbp_linalg::{Real, assert_close};

const CLASSES: usize = 7;

fn embed<T: Real>(
    embedding: OutputEmbedding,
    logits: &Mat<T>,
    labels: &[usize],
) -> Result<(Mat<T>, Vec<bool>, EmbeddingReport), InverseError> {
    let mut target = Mat::full(logits.nrows(), logits.ncols(), T::from_f64(f64::NAN));
    let mut satisfied = vec![false; labels.len()];
    let pass = EmbeddingPass { logits: logits.as_ref(), labels, target: target.as_mut(), satisfied: &mut satisfied };
    let report = embedding.embed(pass, Par::rayon(2))?;
    Ok((target, satisfied, report))
}

fn labels(count: usize) -> Vec<usize> {
    (0..count).map(|sample| (3 * sample) % CLASSES).collect()
}

/// `min |z - v|²` subject to `z_y >= z_j + m` is solved if and only if `λ_j = v_j - z_j >= 0`,
/// `λ_j (z_y - z_j - m) = 0`, `z_y - v_y = Σ λ_j` and the constraints hold.
fn assert_margin_kkt<T: Real>(logits: &Mat<T>, target: &Mat<T>, labels: &[usize], margin: f64, tol: f64) {
    for (sample, &label) in labels.iter().enumerate() {
        let (v, z) = (|j| logits[(j, sample)].to_f64(), |j| target[(j, sample)].to_f64());
        let mut total = 0.0;
        for j in (0..logits.nrows()).filter(|&j| j != label) {
            let (multiplier, slack) = (v(j) - z(j), z(label) - z(j) - margin);
            assert!(multiplier >= 0.0, "sample {sample}, class {j}: multiplier {multiplier}");
            assert!(slack >= 0.0, "sample {sample}, class {j}: slack {slack:e}");
            assert!((multiplier * slack).abs() <= tol, "sample {sample}, class {j}: {multiplier} × {slack}");
            total += multiplier;
        }
        assert!((z(label) - v(label) - total).abs() <= tol, "sample {sample}: {} and {total}", z(label) - v(label));
    }
}

fn margin_is_projection<T: Real>() {
    for_seeds(20, |rng| {
        let mut logits = normal_mat::<T>(CLASSES, 60, rng);
        for sample in 0..60 {
            for class in 0..CLASSES {
                // Rounded logits tie often; every tenth sample is constant.
                let rounded = (logits[(class, sample)].to_f64() * 2.0).round() / 2.0;
                let value = if sample % 10 == 0 { 1.5 } else { rounded };
                if sample % 2 == 0 {
                    logits[(class, sample)] = T::from_f64(value);
                }
            }
        }
        let labels = labels(60);
        for margin in [0.0, 0.5, 1.0, 30.0] {
            let (target, satisfied, report) = embed(OutputEmbedding::Margin(margin), &logits, &labels).unwrap();
            let tol = Tol::eps::<T>().times(8 * CLASSES).bound((margin + 4.0) * (margin + 4.0));
            assert_margin_kkt(&logits, &target, &labels, margin, tol);
            for (sample, &label) in labels.iter().enumerate() {
                let right = (0..CLASSES)
                    .all(|j| j == label || (logits[(label, sample)] - logits[(j, sample)]).to_f64() >= margin);
                assert_eq!(satisfied[sample], right, "sample {sample}, margin {margin}");
            }
            assert_eq!(report.satisfied, satisfied.iter().filter(|&&right| right).count());
            let (again, satisfied, _) = embed(OutputEmbedding::Margin(margin), &target, &labels).unwrap();
            assert_eq!(again, target, "idempotent bit for bit");
            assert!(satisfied.iter().all(|&right| right));
        }
    });
}

#[test]
fn margin_is_the_projection_in_both_scalars() {
    margin_is_projection::<f64>();
    margin_is_projection::<f32>();
}

#[test]
fn margin_matches_the_sorted_closed_form() {
    for_seeds(20, |rng| {
        let logits = normal_mat::<f64>(CLASSES, 40, rng);
        let (labels, margin) = (labels(40), 0.7);
        let (target, ..) = embed(OutputEmbedding::Margin(margin), &logits, &labels).unwrap();
        for (sample, &label) in labels.iter().enumerate() {
            let mut others: Vec<f64> = (0..CLASSES).filter(|&j| j != label).map(|j| logits[(j, sample)]).collect();
            others.sort_by(|a, b| b.total_cmp(a));
            let mean = |k: usize| {
                (logits[(label, sample)] + others[..k].iter().map(|u| u + margin).sum::<f64>()) / (k + 1) as f64
            };
            let level = (0..CLASSES).map(mean).fold(f64::NEG_INFINITY, f64::max);
            let expected: Vec<f64> = (0..CLASSES)
                .map(|j| if j == label { level } else { logits[(j, sample)].min(level - margin) })
                .collect();
            assert_close!(target.col(sample).as_mat(), expected, Tol::eps::<f64>().times(2 * CLASSES));
        }
    });
}

#[test]
fn margin_holds_exactly_where_rounding_would_break_it() {
    for_seeds(10, |rng| {
        let logits = normal_mat::<f32>(CLASSES, 200, rng);
        let logits = Mat::from_fn(CLASSES, 200, |i, j| logits[(i, j)] * 1.0e5 + 3.3e6);
        let (target, satisfied, _) = embed(OutputEmbedding::Margin(0.1), &logits, &labels(200)).unwrap();
        assert!(satisfied.iter().any(|&right| !right));
        for (sample, label) in labels(200).into_iter().enumerate() {
            for j in (0..CLASSES).filter(|&j| j != label) {
                let gap = f64::from(target[(label, sample)]) - f64::from(target[(j, sample)]);
                assert!(gap >= f64::from(0.1_f32), "sample {sample}, class {j}: gap {gap}");
            }
        }
    });
}

#[test]
fn max_assign_and_one_hot() {
    let logits = Mat::from_fn(3, 2, |i, j| [[1.0, 20.0, -30.0], [2.0, 0.0, 1.0]][j][i]);
    let (target, satisfied, _) = embed(OutputEmbedding::MaxAssign, &logits, &[0, 0]).unwrap();
    assert_eq!(target.col_as_slice(0), [10.0, 10.0, -10.0]);
    assert_eq!(target.col_as_slice(1), [2.0, 0.0, 1.0]);
    assert_eq!(satisfied, [false, true]);
    let (target, ..) = embed(OutputEmbedding::OneHot, &logits, &[2, 1]).unwrap();
    assert_eq!(target.col_as_slice(0), [0.0, 0.0, 1.0]);
    assert_eq!(target.col_as_slice(1), [0.0, 1.0, 0.0]);
}

#[test]
fn bad_input_is_refused() {
    let logits = Mat::<f32>::zeros(3, 2);
    for margin in [-0.1, f64::NAN, f64::INFINITY] {
        let refused = embed(OutputEmbedding::Margin(margin), &logits, &[0, 1]).unwrap_err();
        assert!(matches!(refused, InverseError::Parameter { name: "margin", .. }), "{refused}");
    }
    let refused = embed(OutputEmbedding::Margin(0.0), &logits, &[0, 3]).unwrap_err();
    assert_eq!(refused, InverseError::Label { sample: 1, label: 3, classes: 3 });
    assert!(matches!(embed(OutputEmbedding::OneHot, &logits, &[0]), Err(InverseError::Solve { .. })));
    let nan = Mat::from_fn(3, 2, |i, j| if (i, j) == (1, 1) { f32::NAN } else { 0.0 });
    assert!(matches!(embed(OutputEmbedding::MaxAssign, &nan, &[0, 0]), Err(InverseError::Solve { .. })));
    let (_, _, report) = embed(OutputEmbedding::OneHot, &Mat::<f32>::zeros(3, 0), &[]).unwrap();
    assert_eq!(report, EmbeddingReport::default());
}
