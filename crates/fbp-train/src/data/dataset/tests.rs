use super::*;

fn counting(samples: usize) -> Dataset {
    let images = (0..samples * 12).map(|i| (i * 37 % 256) as u8).collect();
    let labels = (0..samples).map(|i| (i % 3) as u8).collect();
    Dataset::new("counting", FeatureShape::image(2, 2, 3), 3, images, labels).unwrap()
}

#[test]
fn faulty_parts_are_refused() {
    let shape = FeatureShape::vector(2);
    let new = |classes, images: &[u8], labels: &[u8]| {
        Dataset::new("faulty", shape, classes, images.to_vec(), labels.to_vec()).unwrap_err()
    };
    assert!(matches!(new(0, &[1, 2], &[0]), DataError::Parameter { .. }));
    assert!(matches!(new(257, &[1, 2], &[0]), DataError::Parameter { .. }));
    assert!(matches!(new(2, &[], &[]), DataError::Empty { .. }));
    assert!(matches!(new(2, &[1, 2, 3], &[0]), DataError::Counts { .. }));
    assert!(matches!(new(2, &[1, 2], &[0, 1]), DataError::Counts { image_count: 1, label_count: 2, .. }));
    assert!(matches!(new(2, &[1, 2, 3, 4], &[0, 2]), DataError::Label { sample: 1, label: 2, .. }));
    let empty = Dataset::new("faulty", FeatureShape::image(0, 2, 2), 2, vec![1], vec![1]).unwrap_err();
    assert!(matches!(empty, DataError::Empty { .. }));
}

#[test]
fn a_subset_keeps_the_order_asked_for() {
    let data = counting(7);
    let part = data.subset(&[6, 0, 6]).unwrap();
    assert_eq!(part.labels(), [0, 0, 0]);
    assert_eq!(part.image(2), data.image(6));
    assert_eq!((data.image(7), data.class_counts()), (None, vec![3, 2, 2]));
    assert_eq!((0..3).map(|index| part.position(index)).collect::<Vec<_>>(), [6, 0, 6]);
    assert_eq!((data.position(5), part.subset(&[2, 1]).unwrap().position(1)), (5, 0));
    assert!(matches!(data.subset(&[7]), Err(DataError::Index { index: 7, len: 7, .. })));
    assert!(matches!(data.subset(&[]), Err(DataError::Empty { .. })));
}

#[test]
fn the_fingerprint_tells_data_apart() {
    let data = counting(4);
    assert_eq!(data.sha256(), counting(4).sha256());
    assert_eq!(data.sha256().len(), 64);
    let mut other = counting(4);
    other.labels[2] = 0;
    assert_ne!(data.sha256(), other.sha256());
    other = counting(4);
    other.shape = FeatureShape::image(3, 2, 2);
    assert_ne!(data.sha256(), other.sha256());
}

#[test]
fn inputs_reach_the_network_as_they_are() {
    let shape = FeatureShape::vector(2);
    let new = |inputs: Vec<f32>| Dataset::of_inputs("own", shape, 2, inputs, vec![0, 1]);
    let data = new(vec![0.5, -1.0, 2.0, 0.25]).unwrap();
    let norm = Normalization::new(vec![0.1; 2], vec![0.5; 2]).unwrap();
    let mut out = [0.0; 4];
    data.subset(&[1, 0]).unwrap().normalise_into(&[0, 1], &norm, &mut out, Par::Seq).unwrap();
    assert_eq!(out, [2.0, 0.25, 0.5, -1.0]);
    assert_eq!((data.images().len(), data.image(0)), (0, None));
    assert_ne!(data.sha256(), new(vec![0.5, -1.0, 2.0, 0.5]).unwrap().sha256());
    let error = new(vec![0.5, 1.0, f32::NAN, 0.0]).unwrap_err();
    assert!(matches!(error, DataError::NonFinite { sample: 1, .. }), "{error}");
}

#[test]
fn normalised_values_are_those_of_the_formula() {
    let data = counting(1100);
    let (mean, std) = ([0.25, -3.0], [0.5, 0.01]);
    let norm = Normalization::new(mean.to_vec(), std.to_vec()).unwrap();
    let indices: Vec<_> = (0..1100).rev().collect();
    let mut out = vec![f32::NAN; 1100 * 12];
    data.normalise_into(&indices, &norm, &mut out, Par::Seq).unwrap();
    for (sample, &index) in indices.iter().enumerate() {
        for (i, &pixel) in data.image(index).unwrap().iter().enumerate() {
            let channel = i / 6;
            let value = (f64::from(pixel) / 255.0 - mean[channel]) / std[channel];
            // Two factors and two operations, each rounded: relative to the largest intermediate value.
            let size = f64::from(pixel) / 255.0 / std[channel] + mean[channel].abs() / std[channel];
            let error = (f64::from(out[sample * 12 + i]) - value).abs();
            assert!(error <= 2.0 * f64::from(f32::EPSILON) * size, "pixel {i} of {index}: off by {error}");
        }
    }
    let mut parallel = vec![f32::NAN; 1100 * 12];
    data.normalise_into(&indices, &norm, &mut parallel, Par::rayon(2)).unwrap();
    assert_eq!(out, parallel);
}

#[test]
fn normalising_checks_its_arguments() {
    let data = counting(3);
    let two = Normalization::new(vec![0.0; 2], vec![1.0; 2]).unwrap();
    let mut out = [0.0; 12];
    let mut run = |indices: &[usize], norm, len: usize| data.normalise_into(indices, norm, &mut out[..len], Par::Seq);
    assert!(matches!(run(&[3], &two, 12), Err(DataError::Index { .. })));
    assert!(matches!(run(&[0], &two, 11), Err(DataError::Length { expected: 12, found: 11, .. })));
    let one = Normalization::fashion_mnist();
    assert!(matches!(run(&[0], &one, 12), Err(DataError::Length { expected: 2, found: 1, .. })));
    run(&[2], &two, 12).unwrap();
}
