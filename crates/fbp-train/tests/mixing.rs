//! Fine-tuning on samples to repair with other images mixed in: it keeps to the bound that a repair keeps to.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

use fbp_models::{Network, zoo};
use fbp_train::data::{DataBundle, Dataset, Normalization, SPLIT_SEED, Split};
use fbp_train::repair::{Given, MixingOptions, RepairOptions, SampleOrigin, wrong_samples};

/// Images of four classes that a bright quarter tells apart.
fn quarters(seed: usize, samples: usize) -> Dataset {
    let pixel = |k: usize, i: usize| {
        let (row, column) = (i / 28, i % 28);
        let own = (row / 14) * 2 + column / 14 == k % 4;
        (((k * 31 + i * 7 + seed) % 53) + if own { 60 } else { 0 }) as u8
    };
    let images = (0..samples).flat_map(|k| (0..784).map(move |i| pixel(k, i))).collect();
    let labels = (0..samples).map(|k| (k % 4) as u8).collect();
    Dataset::new("quarters", fbp_linalg::FeatureShape::image(1, 28, 28), 4, images, labels).unwrap()
}

#[test]
fn the_mixture_keeps_what_is_right_and_no_state_loses_more_than_is_allowed() {
    let normalization = Normalization::new(vec![0.2], vec![0.3]).unwrap();
    let data = DataBundle::new(quarters(0, 200), quarters(5, 80), normalization, "none");
    let spec = zoo::spec("cnn-mnist-large").unwrap().adapted([1, 28, 28], 4).unwrap();
    let network = Network::new(&spec, 3).unwrap();
    let split = Split::stratified(&data.train, 0.1, SPLIT_SEED).unwrap();
    let candidates = wrong_samples(&network, &data.train, &data.normalization, &split.train, None);
    let samples: Vec<usize> = candidates.unwrap().into_iter().take(12).collect();
    let given = Given { origin: SampleOrigin::default(), samples: &samples };
    let options = MixingOptions {
        learning_rates: vec![1e-3],
        others: vec![2],
        looks: vec![0, 20],
        patience: 1,
        repair: RepairOptions { max_drawdown: 0.0, ..RepairOptions::default() },
    };
    let found = options.run(&network, given, &data).unwrap();
    assert_eq!((found.steps, found.mixed, found.measures.efficacy), (20, 2, 1.0));
    assert!(found.measures.drawdown_validation <= 0.0, "{:?}", found.measures);
    // A gain is demanded that no state has: nothing changes.
    let repair = RepairOptions { max_drawdown: -1.0, ..options.repair };
    let options = MixingOptions { repair, ..options };
    let nothing = options.run(&network, given, &data).unwrap();
    assert_eq!((nothing.steps, nothing.mixed), (0, 0));
    // Every other image is one to repair.
    let all = Given { samples: &split.train, ..given };
    let options = MixingOptions { repair: RepairOptions::default(), ..options };
    let error = options.run(&network, all, &data).unwrap_err();
    assert!(error.to_string().contains("no other training images"), "{error}");
}
