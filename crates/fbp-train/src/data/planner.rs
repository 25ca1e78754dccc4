//! Trajectories of a vehicle: what a planner for driving should give, from the state of the vehicle and a command alone.
//!
//! A kinematic bicycle is driven by a simple controller. It steers towards what the command asks for, no further than a lateral
//! acceleration of 3 m/s² allows and no faster than a steering wheel is turned, and holds a wanted speed with limited
//! acceleration and jerk. Limits make the map from inputs to paths bend: it is smooth in places and has kinks in others, as that of
//! a real vehicle.
//!
//! | input | meaning | unit |
//! |---|---|---|
//! | 0 | speed | 10 m/s |
//! | 1 | acceleration | 4 m/s² |
//! | 2 | steering angle, left positive | 0.5 rad |
//! | 3 | wanted speed | 10 m/s |
//! | 4 | how much of the steering range a turn uses | 1 |
//! | 5, 6, 7 | command: left, straight on, right; one of them 1 | 1 |
//!
//! The outputs are the 8 poses `(x, y)` of the next 4 seconds, one each half second, in metres: x ahead, y to the left of where
//! the vehicle is and points now.
//!
//! # Source
//! Kinematic bicycle: Rajamani, *Vehicle Dynamics and Control*, 2nd ed., §2.2 (with the reference point on the rear axle).
//! Inputs and outputs after the ego-status planners of arXiv:2506.07188; controller and limits: own choice.

use fbp_linalg::FeatureShape;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{DataBundle, DataError, Dataset, Normalization, Outputs};

/// Trajectories of the data set `planner`; a fifth of them are its test set.
pub const SAMPLES: usize = 20_000;
/// Their seed.
pub const SEED: u64 = 0;
/// Numbers that tell the state of the vehicle and the command.
pub const INPUTS: usize = 8;
/// Poses of a trajectory.
pub const POSES: usize = 8;

/// Entries of a pose: x and y.
const POSE: usize = 2;
/// Seconds between poses, and steps of the simulation between them.
const INTERVAL: f64 = 0.5;
const STEPS: usize = 10;
/// Between the axles, m.
const WHEELBASE: f64 = 2.8;
/// Largest steering angle, rad, and how fast it changes, rad/s.
const STEERING: f64 = 0.5;
const STEERING_RATE: f64 = 0.6;
/// Seconds in which the controller closes a gap of the steering angle, of the speed and of the acceleration.
const LAGS: [f64; 3] = [0.4, 1.2, 0.3];
/// Largest lateral acceleration that the controller steers for, m/s².
const LATERAL: f64 = 3.0;
/// Strongest braking and acceleration, m/s², and the strongest jerk, m/s³.
const BRAKING: f64 = 5.0;
const ACCELERATION: f64 = 2.5;
const JERK: f64 = 6.0;
/// Largest speed, m/s.
const SPEED: f64 = 15.0;

/// State of the vehicle.
#[derive(Clone, Copy, Debug)]
struct Vehicle {
    x: f64,
    y: f64,
    heading: f64,
    speed: f64,
    acceleration: f64,
    steering: f64,
}

/// What it is asked to do.
#[derive(Clone, Copy, Debug)]
struct Command {
    /// 1 for left, 0 for straight on, -1 for right.
    side: f64,
    /// Share of the steering range that a turn uses.
    strength: f64,
    speed: f64,
}

impl Vehicle {
    /// Drives for `dt` seconds.
    fn drive(&mut self, command: Command, dt: f64) {
        let [steering_lag, speed_lag, acceleration_lag] = LAGS;
        // Lateral acceleration v² tan δ / L.
        let most = (LATERAL * WHEELBASE / self.speed.powi(2).max(1e-6)).atan().min(STEERING);
        let wanted = (command.side * command.strength * STEERING).clamp(-most, most);
        let rate = ((wanted - self.steering) / steering_lag).clamp(-STEERING_RATE, STEERING_RATE);
        let asked = ((command.speed - self.speed) / speed_lag).clamp(-BRAKING, ACCELERATION);
        let jerk = ((asked - self.acceleration) / acceleration_lag).clamp(-JERK, JERK);
        self.steering += dt * rate;
        self.acceleration += dt * jerk;
        self.speed = (self.speed + dt * self.acceleration).max(0.0);
        self.heading += dt * self.speed * self.steering.tan() / WHEELBASE;
        self.x += dt * self.speed * self.heading.cos();
        self.y += dt * self.speed * self.heading.sin();
    }
}

/// Inputs and poses of so many trajectories, one after the other; the same seed always gives the same, and more samples begin
/// with those of fewer.
pub fn trajectories(samples: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut inputs, mut poses) = (Vec::with_capacity(samples * INPUTS), Vec::with_capacity(samples * POSES * POSE));
    for _ in 0..samples {
        let mut between = |low: f64, high: f64| low + (high - low) * rng.random::<f64>();
        let (speed, acceleration) = (between(0.0, SPEED), between(-2.0, 2.0));
        let most = (LATERAL * WHEELBASE / speed.powi(2).max(1e-6)).atan().min(STEERING);
        let steering = between(-1.0, 1.0) * most;
        let strength = between(0.1, 1.0);
        // One vehicle in ten is to stop.
        let wanted = if between(0.0, 1.0) < 0.1 { 0.0 } else { between(0.0, SPEED) };
        let side = [1.0, 0.0, -1.0][(between(0.0, 3.0) as usize).min(2)];
        let command = Command { side, strength, speed: wanted };
        let flags = [1.0, 0.0, -1.0].map(|other| f64::from(u8::from(other == side)));
        let state = [speed / 10.0, acceleration / 4.0, steering / STEERING, wanted / 10.0, strength];
        inputs.extend(state.into_iter().chain(flags).map(|value| value as f32));
        let mut vehicle = Vehicle { x: 0.0, y: 0.0, heading: 0.0, speed, acceleration, steering };
        for _ in 0..POSES {
            (0..STEPS).for_each(|_| vehicle.drive(command, INTERVAL / STEPS as f64));
            poses.extend([vehicle.x as f32, vehicle.y as f32]);
        }
    }
    (inputs, poses)
}

/// The trajectories as a data set; the last fifth of them are the test set.
///
/// # Errors
/// [`DataError::Empty`] for fewer than 5 samples.
pub fn bundle(samples: usize, seed: u64) -> Result<DataBundle, DataError> {
    let (mut inputs, mut poses) = trajectories(samples, seed);
    let train = samples - samples / 5;
    let (test_inputs, test_poses) = (inputs.split_off(train * INPUTS), poses.split_off(train * POSES * POSE));
    let data = |name: &str, inputs, poses| {
        let outputs = Outputs::new(poses, POSES * POSE, Some(POSE))?;
        Dataset::of_inputs_with_outputs(name, FeatureShape::vector(INPUTS), inputs, outputs)
    };
    let train = data("planner (training)", inputs, poses)?;
    let test = data("planner (test)", test_inputs, test_poses)?;
    // No folder: it is made here.
    Ok(DataBundle::new(train, test, Normalization::none(INPUTS)?, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_and_more_samples_begin_with_those_of_fewer() {
        let (few, many) = (trajectories(3, 7), trajectories(5, 7));
        assert_eq!((few.0.len(), few.1.len()), (3 * INPUTS, 3 * POSES * POSE));
        assert!(many.0.starts_with(&few.0) && many.1.starts_with(&few.1));
        assert_ne!(trajectories(3, 8).0, few.0);
    }

    #[test]
    fn vehicles_obey_physics_and_commands() {
        let (inputs, poses) = trajectories(2000, 1);
        let mut sides = [0.0_f64; 3];
        for (state, path) in inputs.chunks(INPUTS).zip(poses.chunks(POSES * POSE)) {
            // No two poses are farther apart than the largest speed (and what acceleration adds before it is turned) allows.
            let mut before = [0.0, 0.0];
            for pose in path.chunks(POSE) {
                let step = (pose[0] - before[0]).hypot(pose[1] - before[1]);
                assert!(f64::from(step) <= INTERVAL * (SPEED + ACCELERATION), "{state:?} {path:?}");
                before = [pose[0], pose[1]];
            }
            let command = state[5..].iter().position(|flag| *flag == 1.0).unwrap();
            sides[command] += f64::from(path[POSES * POSE - 1]);
        }
        assert!(sides[0] > 1000.0 && sides[2] < -1000.0 && sides[1].abs() < 0.2 * sides[0], "{sides:?}");
    }

    #[test]
    fn a_straight_path_at_constant_speed_is_that_of_uniform_motion() {
        let mut vehicle = Vehicle { x: 0.0, y: 0.0, heading: 0.0, speed: 8.0, acceleration: 0.0, steering: 0.0 };
        let command = Command { side: 0.0, strength: 1.0, speed: 8.0 };
        (0..40).for_each(|_| vehicle.drive(command, 0.05));
        // 40 additions of 0.4.
        assert!((vehicle.x - 16.0).abs() <= 40.0 * f64::EPSILON * 16.0 && vehicle.y == 0.0);
    }
}
