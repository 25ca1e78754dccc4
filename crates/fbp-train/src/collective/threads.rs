use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Collective, CollectiveError, ordered_sum};

/// A rank that is a thread of this process. When it is dropped, the others no longer wait for it but end.
pub struct ThreadRank {
    rank: usize,
    meeting: Arc<Meeting>,
}

/// Ranks for so many threads: one for each.
pub fn threads(size: usize) -> Vec<ThreadRank> {
    let table = || (0..size).map(|_| Message::Nothing).collect();
    let state = State { tables: [table(), table()], round: 0, arrived: 0, has_left: false };
    let meeting = Arc::new(Meeting { size, state: Mutex::new(state), changed: Condvar::new() });
    (0..size).map(|rank| ThreadRank { rank, meeting: meeting.clone() }).collect()
}

/// What a rank lays on the table.
#[derive(Debug)]
enum Message {
    Nothing,
    Doubles(Vec<f64>),
    Singles(Vec<f32>),
    Bytes(Vec<u8>),
}

/// Where the ranks meet, again and again.
struct Meeting {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What they have laid down, in two rounds that take turns: nobody is in the round after the next while one still looks.
    tables: [Vec<Message>; 2],
    round: usize,
    arrived: usize,
    has_left: bool,
}

impl fmt::Debug for ThreadRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {} of {}", self.rank, self.meeting.size)
    }
}

impl Drop for ThreadRank {
    fn drop(&mut self) {
        self.meeting.lock().has_left = true;
        self.meeting.changed.notify_all();
    }
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Message {
    fn kind(&self) -> String {
        match self {
            Self::Nothing => "nothing".into(),
            Self::Doubles(list) => format!("a list of {} numbers", list.len()),
            Self::Singles(list) => format!("{} numbers to add up", list.len()),
            Self::Bytes(_) => "a message".into(),
        }
    }
}

impl ThreadRank {
    /// Lays a message down, waits for those of all, and looks at them.
    fn meet<R>(&self, own: Message, look: impl FnOnce(&[Message]) -> R) -> Result<R, CollectiveError> {
        let mut state = self.meeting.lock();
        if state.has_left {
            return Err(CollectiveError::Left);
        }
        let round = state.round;
        state.tables[round % 2][self.rank] = own;
        state.arrived += 1;
        if state.arrived == self.meeting.size {
            (state.arrived, state.round) = (0, round + 1);
            self.meeting.changed.notify_all();
        }
        while state.round == round {
            if state.has_left {
                return Err(CollectiveError::Left);
            }
            state = self.meeting.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let table = &state.tables[round % 2];
        let [expected, found] = [0, self.other(table)].map(|rank| table[rank].kind());
        if expected != found {
            return Err(CollectiveError::Differs { rank: self.other(table), found, expected });
        }
        Ok(look(table))
    }

    /// The first one that is not as rank 0, or rank 0.
    fn other(&self, table: &[Message]) -> usize {
        let first = table[0].kind();
        table.iter().position(|message| message.kind() != first).unwrap_or(0)
    }
}

impl Collective for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.size
    }

    fn all_gather(&self, own: &[f64]) -> Result<Vec<f64>, CollectiveError> {
        self.meet(Message::Doubles(own.to_vec()), |table| {
            let lists = table.iter().map(|message| if let Message::Doubles(list) = message { &list[..] } else { &[] });
            lists.flatten().copied().collect()
        })
    }

    fn sum_f32(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        self.meet(Message::Singles(values.to_vec()), |table| {
            let lists: Vec<&[f32]> = table
                .iter()
                .map(|message| if let Message::Singles(list) = message { &list[..] } else { &[] })
                .collect();
            for (entry, value) in values.iter_mut().enumerate() {
                *value = ordered_sum(lists.len(), |rank| lists[rank][entry]);
            }
        })
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        let own = if self.rank == 0 { std::mem::take(bytes) } else { Vec::new() };
        *bytes = self.meet(Message::Bytes(own), |table| bytes_of(&table[0]))?;
        Ok(())
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        self.meet(Message::Bytes(own.to_vec()), |table| match self.rank {
            0 => table.iter().map(bytes_of).collect(),
            _ => Vec::new(),
        })
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.meet(Message::Nothing, |_| ())
    }
}

/// The bytes of a message that is known to have some.
fn bytes_of(message: &Message) -> Vec<u8> {
    if let Message::Bytes(bytes) = message { bytes.clone() } else { Vec::new() }
}
