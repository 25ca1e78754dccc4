//! The targets of one shard: all of its samples are observed, then those that are open are pooled and reversed together.
//!
//! A network that is right about most samples leaves few of every tile open, and kernels and caches want more than one at a time:
//! on a residual network with 7 % of its samples open, a forward pass of one to three samples took 0.98 ms per sample, of more 0.77.

use std::mem;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fbp_linalg::norm_sq;

use super::goal::WantedOutputs;
use super::stats::TargetStats;
use super::tile::{TileEngine, Worker};
use crate::TrainError;
use crate::metrics::{all_finite, argmax};
use crate::progress::Progress;

/// Pools of a shard, so that no thread waits long for the others; their number does not depend on that of the threads, and so do not
/// the sums of what was found.
const POOLS: usize = 16;
/// Fewest samples of a pool.
const LEAST_POOL: usize = 6;

/// Results for the samples of one shard, allocated once and used again.
#[derive(Debug)]
pub(super) struct ShardBuffers {
    /// Labels.
    pub(super) labels: Vec<u32>,
    /// Outputs wanted of the samples, one after the other; none where there are labels.
    pub(super) wanted: Vec<f32>,
    /// Where the samples are in the files of the data set.
    pub(super) indices: Vec<usize>,
    /// Target features of each stage.
    pub(super) targets: Vec<Vec<f32>>,
    /// For each stage whether the target reaches the goal.
    pub(super) attained: Vec<Vec<u8>>,
    /// Statistics.
    pub(super) stats: TargetStats,
    /// The place of every sample.
    places: Vec<usize>,
}

/// Memory of one thread: of the chain, and of the samples that are given to it.
pub(super) struct ShardWorker {
    worker: Worker,
    input: Vec<f32>,
    labels: Vec<u32>,
    outputs: Vec<f32>,
}

/// What is given of the samples of a shard, one after the other.
#[derive(Clone, Copy)]
struct Given<'a> {
    input: &'a [f32],
    labels: &'a [u32],
    outputs: &'a [f32],
}

/// What is done with samples.
#[derive(Clone, Copy)]
enum Pass {
    /// The features of those that are not open become their targets.
    Observe,
    /// Targets are searched for; all samples are open.
    Reverse,
}

/// Some samples of a shard, and where their results go.
struct Tile<'a> {
    /// Their places in the shard, ascending.
    places: &'a [usize],
    /// Rows of the places from the first to the last of them, at every stage.
    targets: Vec<&'a mut [f32]>,
    attained: Vec<&'a mut [u8]>,
    stats: TargetStats,
    /// The places of open samples.
    open: Vec<usize>,
    error: Option<TrainError>,
}

impl ShardBuffers {
    /// Memory for up to `samples` samples with features of the given lengths.
    pub(super) fn new(samples: usize, feature_lens: &[usize]) -> Self {
        Self {
            labels: vec![0; samples],
            wanted: Vec::new(),
            indices: vec![0; samples],
            targets: feature_lens.iter().map(|len| vec![0.0; samples * len]).collect(),
            attained: feature_lens.iter().map(|_| vec![0; samples]).collect(),
            stats: TargetStats::empty(feature_lens.len()),
            places: Vec::with_capacity(samples),
        }
    }

    /// Sets the number of samples, at most that of the creation.
    pub(super) fn resize(&mut self, samples: usize, feature_lens: &[usize]) {
        self.labels.resize(samples, 0);
        self.indices.resize(samples, 0);
        for ((targets, attained), len) in self.targets.iter_mut().zip(&mut self.attained).zip(feature_lens) {
            targets.resize(samples * len, 0.0);
            attained.resize(samples, 0);
        }
    }

    /// Cuts the results where the places of tiles begin; samples between the tiles belong to none.
    fn cut<'b>(&'b mut self, samples: usize, places: &'b [usize], tile: usize) -> Vec<Tile<'b>> {
        let samples = samples.max(1);
        let mut targets: Vec<_> = self.targets.iter_mut().map(|all| (all.len() / samples, &mut all[..])).collect();
        let mut attained: Vec<_> = self.attained.iter_mut().map(|all| (1, &mut all[..])).collect();
        let (mut tiles, mut begun) = (Vec::with_capacity(places.len().div_ceil(tile)), 0);
        for places in places.chunks(tile) {
            let (first, end) = (places[0], places[places.len() - 1] + 1);
            tiles.push(Tile {
                places,
                targets: targets.iter_mut().map(|rows| take_rows(rows, first - begun, end - first)).collect(),
                attained: attained.iter_mut().map(|rows| take_rows(rows, first - begun, end - first)).collect(),
                stats: TargetStats::empty(targets.len()),
                open: Vec::new(),
                error: None,
            });
            begun = end;
        }
        tiles
    }
}

/// Takes rows of a length off the front of a slice, after some that are left out.
fn take_rows<'a, T>((len, rows): &mut (usize, &'a mut [T]), left_out: usize, count: usize) -> &'a mut [T] {
    let (_, from) = mem::take(rows).split_at_mut(left_out * *len);
    let (taken, rest) = from.split_at_mut(count * *len);
    *rows = rest;
    taken
}

impl Given<'_> {
    /// Writes what is given of some places to the memory of a thread.
    fn gather(&self, places: &[usize], to: &mut ShardWorker) {
        fn gather<T: Copy>(from: &[T], samples: usize, places: &[usize], to: &mut Vec<T>) {
            let len = from.len() / samples.max(1);
            to.clear();
            places.iter().for_each(|&place| to.extend_from_slice(&from[place * len..(place + 1) * len]));
        }
        let samples = self.labels.len();
        gather(self.input, samples, places, &mut to.input);
        gather(self.labels, samples, places, &mut to.labels);
        gather(self.outputs, samples, places, &mut to.outputs);
    }
}

impl TileEngine {
    /// One worker for each thread of the current pool.
    pub(super) fn shard_workers(&self) -> Vec<Mutex<ShardWorker>> {
        let (tile, len) = (self.tile_samples(), self.boundary_len(0));
        let worker = || ShardWorker {
            worker: self.worker(),
            input: Vec::with_capacity(tile * len),
            labels: Vec::with_capacity(tile),
            outputs: Vec::new(),
        };
        (0..rayon::current_num_threads()).map(|_| Mutex::new(worker())).collect()
    }

    /// Computes the targets of a shard from the outputs of the first stage; `out.labels` are given.
    ///
    /// Tiles and pools are cut at fixed places and are sequential inside, so the number of threads does not change the result.
    pub(super) fn run(
        &self,
        input: &[f32],
        out: &mut ShardBuffers,
        workers: &[Mutex<ShardWorker>],
        progress: &dyn Progress,
    ) -> Result<(), TrainError> {
        let (labels, outputs) = (mem::take(&mut out.labels), mem::take(&mut out.wanted));
        let given = Given { input, labels: &labels, outputs: &outputs };
        let mut places = mem::take(&mut out.places);
        places.clear();
        places.extend(0..labels.len());
        let observed = self.pass(Pass::Observe, given, (&places, self.tile_samples()), out, workers, progress);
        let found = observed.and_then(|(mut stats, open)| {
            let pool = open.len().div_ceil(POOLS).max(LEAST_POOL).min(self.tile_samples());
            let (found, _) = self.pass(Pass::Reverse, given, (&open, pool), out, workers, progress)?;
            stats.add(&found);
            Ok(stats)
        });
        (out.labels, out.wanted, out.places) = (labels, outputs, places);
        out.stats = found?;
        Ok(())
    }

    /// Does the same with all places, in tiles; gives what was found, and which places are open.
    fn pass(
        &self,
        pass: Pass,
        given: Given<'_>,
        (places, tile): (&[usize], usize),
        out: &mut ShardBuffers,
        workers: &[Mutex<ShardWorker>],
        progress: &dyn Progress,
    ) -> Result<(TargetStats, Vec<usize>), TrainError> {
        let tiles: Vec<_> = out.cut(given.labels.len(), places, tile).into_iter().map(Mutex::new).collect();
        let next = AtomicUsize::new(0);
        rayon::scope(|scope| {
            for worker in workers {
                scope.spawn(|_| {
                    // Every task has a worker of its own, so the lock is always free.
                    let Ok(mut worker) = worker.lock() else { return };
                    while let Some(tile) = tiles.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if progress.stop_asked() {
                            return;
                        }
                        let Ok(mut tile) = tile.lock() else { return };
                        given.gather(tile.places, &mut worker);
                        let done = match pass {
                            Pass::Observe => self.observe_tile(&mut worker, &mut tile),
                            Pass::Reverse => self.reverse_tile(&mut worker, &mut tile, progress),
                        };
                        tile.error = done.err();
                    }
                });
            }
        });
        // What has been asked for stays asked for.
        if progress.stop_asked() {
            let left = "the shards that are done are kept; the same command makes the others";
            return Err(TrainError::Stopped { left: left.into() });
        }
        let (mut stats, mut open) = (TargetStats::empty(self.stages()), Vec::new());
        for tile in tiles {
            // A panic of a worker has ended the scope above with the same panic.
            let Ok(mut tile) = tile.into_inner() else { continue };
            if let Some(error) = tile.error {
                return Err(error);
            }
            stats.add(&tile.stats);
            open.append(&mut tile.open);
        }
        Ok((stats, open))
    }

    fn observe_tile(&self, worker: &mut ShardWorker, tile: &mut Tile<'_>) -> Result<(), TrainError> {
        let ShardWorker { worker, input, labels, outputs } = worker;
        let open = self.open_samples(worker, input, WantedOutputs { labels, outputs })?;
        tile.open.extend(open.iter().map(|&sample| tile.places[sample]));
        let Worker { work, was_right, .. } = worker;
        let mut passed = 0;
        for (sample, &place) in tile.places.iter().enumerate() {
            if tile.open.get(passed) == Some(&place) {
                passed += 1;
                continue;
            }
            // What is attained misses a tolerance by rounding at most.
            let right = was_right[sample] || !outputs.is_empty();
            tile.stats.add_satisfied(was_right[sample]);
            for stage in 0..self.stages() {
                let observed = fbp_linalg::column("features", self.chain.observed(stage, work), sample)
                    .map_err(fbp_inverse::InverseError::in_layer("features"))?;
                tile.write(stage, place, (observed, true))?;
                tile.stats.stages[stage].add_satisfied(right, was_right[sample], norm_sq(observed));
            }
        }
        Ok(())
    }

    fn reverse_tile(
        &self,
        worker: &mut ShardWorker,
        tile: &mut Tile<'_>,
        progress: &dyn Progress,
    ) -> Result<(), TrainError> {
        let ShardWorker { worker, input, labels, outputs } = worker;
        let report = self.reverse(worker, input, WantedOutputs { labels, outputs }, progress)?;
        let Worker { work, labels, was_right, .. } = worker;
        tile.stats.set_chain(&report);
        tile.stats.right_before = was_right.iter().filter(|&&right| right).count();
        for stage in 0..self.stages() {
            let found = self.chain.target(stage, work);
            for (sample, &place) in tile.places.iter().enumerate() {
                let target = fbp_linalg::column("targets", found, sample)
                    .map_err(fbp_inverse::InverseError::in_layer("targets"))?;
                let attained = self.chain.attained(stage, sample, work);
                tile.write(stage, place, (target, attained))?;
                let right = match outputs[..] {
                    [] => argmax(self.chain.pushed(stage, sample, work)) == labels[sample],
                    _ => attained,
                };
                tile.stats.stages[stage].count_right(right, was_right[sample]);
            }
        }
        Ok(())
    }
}

impl Tile<'_> {
    /// Writes the target of a place, and whether it is attained.
    ///
    /// # Errors
    /// [`TrainError::NonFiniteOutput`].
    fn write(&mut self, stage: usize, place: usize, (target, attained): (&[f32], bool)) -> Result<(), TrainError> {
        let row = place - self.places[0];
        self.targets[stage][row * target.len()..(row + 1) * target.len()].copy_from_slice(target);
        self.attained[stage][row] = u8::from(attained);
        if all_finite(target) { Ok(()) } else { Err(TrainError::NonFiniteOutput) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_cut_at_the_places_of_tiles() {
        let mut buffers = ShardBuffers::new(7, &[2, 1]);
        for (tile, value) in buffers.cut(7, &[1, 2, 4, 6], 2).iter_mut().zip([1.0, 2.0]) {
            for &place in tile.places {
                tile.write(0, place, (&[value, value], true)).unwrap();
            }
            let last = tile.places[1];
            tile.write(1, last, (&[value], true)).unwrap();
            assert!(tile.write(1, last, (&[f32::NAN], true)).is_err());
        }
        assert_eq!(buffers.targets[0], [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 2.0, 2.0, 0.0, 0.0, 2.0, 2.0]);
        assert_eq!(buffers.attained, [[0, 1, 1, 0, 1, 0, 1], [0, 0, 1, 0, 0, 0, 1]]);
        assert!(buffers.targets[1][2].is_nan() && buffers.targets[1][3] == 0.0);
    }
}
