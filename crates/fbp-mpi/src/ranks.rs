//! Ranks that MPI has started.

use std::sync::{Mutex, MutexGuard, PoisonError};

use fbp_train::collective::{Collective, CollectiveError, ordered_sum};
use mpi::Threading;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Root, Source};

/// Most numbers of one message: MPI counts with 32 bits.
const LONGEST: usize = 1 << 28;

/// One process of those that `mpirun` or `srun` has started.
///
/// Of MPI it uses what moves data; sums are made here, in the order of the ranks, see [`fbp_train::collective`]. A call that fails
/// ends all processes, as MPI has it.
#[derive(Debug)]
pub struct MpiRank {
    rank: usize,
    size: usize,
    /// Memory of sums. Whoever has it makes a call: MPI is asked by one thread at a time.
    pieces: Mutex<Vec<f32>>,
}

/// Why a process is no rank.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// It has been made one already, or was one.
    #[error("MPI can be started once in a process")]
    Again,
    /// A library that lets no other thread than the first one ask.
    #[error("this MPI library cannot be called from more than one thread: it has to be built with threads")]
    Threads,
}

impl MpiRank {
    /// Makes this process a rank, until the universe is dropped.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start() -> Result<(Universe, Self), StartError> {
        let (universe, threads) = mpi::initialize_with_threading(Threading::Serialized).ok_or(StartError::Again)?;
        if threads < Threading::Serialized {
            return Err(StartError::Threads);
        }
        let world = universe.world();
        let [rank, size] = [world.rank(), world.size()].map(|number| usize::try_from(number).unwrap_or(0));
        Ok((universe, Self { rank, size, pieces: Mutex::default() }))
    }

    /// Ends all processes of the run, this one included.
    pub fn abort(status: i32) -> ! {
        SimpleCommunicator::world().abort(status)
    }

    fn turn(&self) -> MutexGuard<'_, Vec<f32>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the part of each rank begins in a row of `len`, and how long it is.
    fn parts(&self, len: usize) -> (Vec<i32>, Vec<i32>) {
        let start = |rank: usize| len * rank / self.size;
        let starts = (0..self.size).map(|rank| start(rank) as i32).collect();
        (starts, (0..self.size).map(|rank| (start(rank + 1) - start(rank)) as i32).collect())
    }

    /// Every rank gets its part of the rows of all, adds it up, and sends the sums to all.
    fn sum_block(&self, values: &mut [f32], pieces: &mut Vec<f32>) {
        let (starts, counts) = self.parts(values.len());
        let own = counts[self.rank] as usize;
        pieces.clear();
        pieces.resize(own * self.size, 0.0);
        let world = SimpleCommunicator::world();
        let places: Vec<i32> = (0..self.size).map(|rank| (rank * own) as i32).collect();
        let mut received = PartitionMut::new(&mut pieces[..], vec![own as i32; self.size], places);
        world.all_to_all_varcount_into(&Partition::new(&values[..], &counts[..], &starts[..]), &mut received);
        for entry in 0..own {
            // The first part is no longer needed behind the entry.
            pieces[entry] = ordered_sum(self.size, |rank| pieces[rank * own + entry]);
        }
        world.all_gather_varcount_into(&pieces[..own], &mut PartitionMut::new(values, counts, starts));
    }
}

impl Collective for MpiRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_gather(&self, own: &[f64]) -> Result<Vec<f64>, CollectiveError> {
        if own.len() > LONGEST / self.size {
            return Err(CollectiveError::TooLong { len: own.len() });
        }
        let _turn = self.turn();
        let mut all = vec![0.0; own.len() * self.size];
        SimpleCommunicator::world().all_gather_into(own, &mut all[..]);
        Ok(all)
    }

    fn sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let mut pieces = self.turn();
        values.chunks_mut(LONGEST / self.size).for_each(|block| self.sum_block(block, &mut pieces));
        Ok(())
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        let _turn = self.turn();
        let world = SimpleCommunicator::world();
        let first = world.process_at_rank(0);
        let mut len = bytes.len() as u64;
        first.broadcast_into(&mut len);
        bytes.resize(len as usize, 0);
        bytes.chunks_mut(LONGEST).for_each(|block| first.broadcast_into(block));
        Ok(())
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let _turn = self.turn();
        let world = SimpleCommunicator::world();
        if self.rank > 0 {
            let first = world.process_at_rank(0);
            first.send(&(own.len() as u64));
            own.chunks(LONGEST).for_each(|block| first.send(block));
            return Ok(Vec::new());
        }
        let mut all = vec![own.to_vec()];
        for rank in 1..self.size {
            let from = world.process_at_rank(rank as i32);
            let (len, _) = from.receive::<u64>();
            let mut bytes = vec![0; len as usize];
            bytes.chunks_mut(LONGEST).for_each(|block| {
                from.receive_into(block);
            });
            all.push(bytes);
        }
        Ok(all)
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        let _turn = self.turn();
        SimpleCommunicator::world().barrier();
        Ok(())
    }
}
