//! A fixed small number of the random problems that `cargo xtask bench ratios` draws by the ten thousand.

#[path = "../benches/ratios/suite/mod.rs"]
mod suite;

/// Problems per solver.
const CASES: u64 = 200;

fn keeps_every_rule(name: &str) {
    let solver = suite::find(name).expect("a solver of this name");
    let summary = suite::run(solver, CASES, 0);
    assert_eq!(summary.json()["cases"], CASES);
    let violations = summary.violations();
    assert!(violations.is_empty(), "{}\n{}", summary.text(), violations.join("\n"));
}

macro_rules! tests {
    ($($test:ident: $name:literal,)+) => {
        $(
            #[test]
            fn $test() {
                keeps_every_rule($name);
            }
        )+

        #[test]
        fn every_solver_has_a_test() {
            let names: Vec<_> = suite::SOLVERS.iter().map(|solver| solver.name).collect();
            assert_eq!(names, [$($name),+]);
        }
    };
}

tests! {
    linear_systems: "linear",
    boxed_plans: "boxed",
    boxed_samples: "boxed-sample",
    exact_convolutions: "conv-exact",
    convolutions_within_a_tolerance: "conv-tolerance",
    convolutions_within_a_bound: "conv-bounded",
    normalisations: "norm",
    softmax: "softmax",
    max_pooling: "max-pool",
    average_pooling: "average-pool",
}
