//! Processes or threads that do one thing together, and what they tell each other.
//!
//! A [`Collective`] moves numbers between ranks and adds them up *in the order of the ranks*, in double precision, rounded once:
//! no result depends on which algorithm a library for messages chooses, on which rank is first, or on whether ranks are
//! [`threads()`] of one process or processes on many machines. That has its price. Libraries add up while they pass on, and
//! so does hardware in networks, in whatever order is fastest. Here numbers travel as they are:
//!
//! | call | sent by each of `N` ranks | remark |
//! |---|---|---|
//! | [`sum_f32`](Collective::sum_f32) of `B` bytes | `2 B (N - 1)/N` | as little as the best sum in any order, but `2 (N - 1)` messages instead of `2 log₂ N` |
//! | [`all_gather`](Collective::all_gather) of `B` bytes | `B (N - 1)` | a sum in any order needs `2 B` |
//!
//! So long sums cost nothing but messages, and short ones, such as the statistics of a batch normalisation, grow with the
//! number of ranks.

mod threads;

use std::fmt;

pub use threads::{ThreadRank, threads};

/// What keeps ranks from working together. All of it ends the work of all of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// Another rank has ended.
    #[error("another rank has ended before its work was done")]
    Left,
    /// Ranks that are not at the same place of the same program.
    #[error("rank {rank} gives {found} and rank 0 {expected}: all ranks must be started alike, with the same data")]
    Differs {
        /// The one that is not as the first.
        rank: usize,
        /// What it gives.
        found: String,
        /// What the first one gives.
        expected: String,
    },
    /// A message that is longer than the counts of the library can tell.
    #[error("a message of {len} numbers is too long: at most 2147483647 can be sent")]
    TooLong {
        /// Number of its numbers.
        len: usize,
    },
    /// Text that another rank has sent, and that is none.
    #[error("what rank {rank} has sent cannot be understood: all ranks must run the same version of the program")]
    Malformed {
        /// Who has sent it.
        rank: usize,
    },
}

/// Ranks that do one thing together. Every call is made by all of them, in the same order, and ends when all have made it.
///
/// # Errors
/// All calls: [`CollectiveError`], after which none will succeed.
pub trait Collective: fmt::Debug + Send + Sync {
    /// Which of them this one is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// The values of all ranks, one rank after the other. All give as many.
    ///
    /// # Errors
    /// See the trait.
    fn all_gather(&self, own: &[f64]) -> Result<Vec<f64>, CollectiveError>;

    /// Sums over all ranks, entry by entry, in the order of the ranks, for long lists.
    ///
    /// # Errors
    /// See the trait.
    fn sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// Everybody gets what rank 0 has.
    ///
    /// # Errors
    /// See the trait.
    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError>;

    /// Rank 0 gets what every rank has, in their order, and the others nothing.
    ///
    /// # Errors
    /// See the trait.
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError>;

    /// Waits for all.
    ///
    /// # Errors
    /// See the trait.
    fn barrier(&self) -> Result<(), CollectiveError>;

    /// Sums over all ranks, entry by entry, in the order of the ranks, for short lists.
    ///
    /// # Errors
    /// See the trait.
    fn sum(&self, values: &mut [f64]) -> Result<(), CollectiveError> {
        let all = self.all_gather(values)?;
        for (entry, value) in values.iter_mut().enumerate() {
            let len = all.len() / self.size();
            *value = (0..self.size()).map(|rank| all[rank * len + entry]).fold(0.0, |sum, value| sum + value);
        }
        Ok(())
    }

    /// Makes sure that something is the same for all, as far as a text tells it. Rank 0 finds out.
    ///
    /// # Errors
    /// [`CollectiveError::Differs`], and see the trait.
    fn check_alike(&self, own: &str) -> Result<(), CollectiveError> {
        let all = self.gather(own.as_bytes())?;
        match all.iter().position(|other| other != own.as_bytes()) {
            None => Ok(()),
            Some(rank) => {
                let found = String::from_utf8_lossy(&all[rank]).into_owned();
                Err(CollectiveError::Differs { rank, found, expected: own.to_owned() })
            }
        }
    }

    /// Whether there is a rank for which it is true.
    ///
    /// # Errors
    /// See the trait.
    fn any(&self, own: bool) -> Result<bool, CollectiveError> {
        let mut count = [f64::from(u8::from(own))];
        self.sum(&mut count)?;
        Ok(count[0] > 0.0)
    }

    /// What rank 0 says.
    ///
    /// # Errors
    /// See the trait.
    fn of_first(&self, own: bool) -> Result<bool, CollectiveError> {
        self.any(own && self.rank() == 0)
    }
}

/// One process that works alone: sums are what it has itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_gather(&self, own: &[f64]) -> Result<Vec<f64>, CollectiveError> {
        Ok(own.to_vec())
    }

    fn sum_f32(&self, _: &mut [f32]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn broadcast(&self, _: &mut Vec<u8>) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        Ok(vec![own.to_vec()])
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        Ok(())
    }
}

/// The sum that all implementations have in common: `entry(rank)` is added up for `ranks` ranks in their order.
pub fn ordered_sum(ranks: usize, entry: impl Fn(usize) -> f32) -> f32 {
    (0..ranks).map(|rank| f64::from(entry(rank))).fold(0.0, |sum, value| sum + value) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers gathered and added up, long sums, a message, messages, and what is true.
    type Everything = (Vec<f64>, Vec<f32>, Vec<u8>, Vec<Vec<u8>>, [bool; 3]);

    /// What every rank gets of everything.
    fn everything(team: &dyn Collective) -> Everything {
        let (rank, size) = (team.rank() as f64, team.size());
        let gathered = team.all_gather(&[rank, -rank]).unwrap();
        // Sums that the order decides: 1 is lost beside 2⁵³.
        let mut short = vec![if team.rank() == 0 { 1.0 } else { 2.0_f64.powi(53) * (-1.0_f64).powf(rank) }];
        team.sum(&mut short).unwrap();
        let mut long: Vec<f32> =
            (0..1000).map(|entry| (entry as f32).sin() * 10.0_f32.powi(team.rank() as i32)).collect();
        team.sum_f32(&mut long).unwrap();
        let mut bytes = if team.rank() == 0 { vec![1, 2, 3] } else { Vec::new() };
        team.broadcast(&mut bytes).unwrap();
        let lists = team.gather(&vec![team.rank() as u8; team.rank()]).unwrap();
        team.barrier().unwrap();
        let last = team.rank() + 1 == size;
        let flags = [team.any(last).unwrap(), team.any(false).unwrap(), team.of_first(last).unwrap()];
        ([gathered, short].concat(), long, bytes, lists, flags)
    }

    #[test]
    fn sums_are_those_in_the_order_of_the_ranks_on_all_of_them() {
        for size in [1, 2, 3, 7] {
            let found = run_all(size);
            let expected: Vec<f32> = (0..1000)
                .map(|entry| ordered_sum(size, |rank| (entry as f32).sin() * 10.0_f32.powi(rank as i32)))
                .collect();
            let one_by_one =
                |rank: usize| if rank == 0 { 1.0 } else { 2.0_f64.powi(53) * (-1.0_f64).powi(rank as i32) };
            let short = (0..size).map(one_by_one).fold(0.0, |sum, value| sum + value);
            for (rank, (numbers, long, bytes, lists, flags)) in found.into_iter().enumerate() {
                let gathered: Vec<f64> = (0..size).flat_map(|rank| [rank as f64, -(rank as f64)]).collect();
                assert_eq!(numbers, [gathered, vec![short]].concat());
                assert_eq!(long, expected);
                assert_eq!(bytes, [1, 2, 3]);
                let all: Vec<Vec<u8>> = (0..size).map(|rank| vec![rank as u8; rank]).collect();
                assert_eq!(lists, if rank == 0 { all } else { Vec::new() });
                assert_eq!(flags, [true, false, size == 1]);
            }
        }
        assert_eq!(everything(&Alone).1, run_all(1)[0].1);
    }

    fn run_all(size: usize) -> Vec<Everything> {
        std::thread::scope(|scope| {
            let ranks: Vec<_> = threads(size).into_iter().map(|rank| scope.spawn(move || everything(&rank))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn nobody_waits_for_one_who_has_left() {
        let mut ranks = threads(3);
        let last = ranks.pop().unwrap();
        std::thread::scope(|scope| {
            let waiting: Vec<_> = ranks.iter().map(|rank| scope.spawn(|| rank.barrier())).collect();
            drop(last);
            for rank in waiting {
                assert!(matches!(rank.join().unwrap(), Err(CollectiveError::Left)));
            }
        });
        assert!(matches!(ranks[0].any(true), Err(CollectiveError::Left)));
    }

    #[test]
    fn ranks_that_are_not_alike_are_told() {
        let ranks = threads(2);
        std::thread::scope(|scope| {
            let found: Vec<_> =
                ranks.iter().map(|rank| scope.spawn(|| rank.all_gather(&vec![0.0; 1 + rank.rank()]))).collect();
            for rank in found {
                let error = rank.join().unwrap().unwrap_err().to_string();
                assert!(
                    error.starts_with("rank 1 gives a list of 2 numbers and rank 0 a list of 1 numbers"),
                    "{error}"
                );
            }
        });
    }
}
