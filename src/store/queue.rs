//! Queue: values handed over by whoever cannot wait -> one thread that can, or a count of what was dropped.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// At most so many values; the oldest makes room for the newest. Those that must be safe are counted apart: none is
/// ever dropped, and when as many wait already no more are taken.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    most: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<(T, Worth)>,
    safe: usize,
    dropped: u64,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    Droppable,
    Safe,
}

impl<T> Queue<T> {
    pub(super) fn new(most: usize) -> Self {
        let state = State { waiting: VecDeque::new(), safe: 0, dropped: 0, closed: false };
        Queue { state: Mutex::new(state), filled: Condvar::new(), most }
    }

    pub(super) fn put(&self, value: T) {
        let mut state = self.lock();
        if state.waiting.len() - state.safe == self.most {
            let oldest = state.waiting.iter().position(|(_, worth)| *worth == Worth::Droppable);
            oldest.and_then(|at| state.waiting.remove(at));
            state.dropped += 1;
        }
        state.waiting.push_back((value, Worth::Droppable));
        self.filled.notify_one();
    }

    /// Takes in what is never dropped, or gives it back: then nothing is written any more, or far too slowly.
    pub(super) fn put_safe(&self, value: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed || state.safe == self.most {
            return Err(value);
        }
        state.safe += 1;
        state.waiting.push_back((value, Worth::Safe));
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for the next value; `None` when it is closed and empty.
    pub(super) fn take(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some((value, worth)) = state.waiting.pop_front() {
                state.safe -= usize::from(worth == Worth::Safe);
                return Some(value);
            }
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_is_counted() {
        let queue = Queue::new(3);
        (0..5).for_each(|value| queue.put(value));
        queue.close();
        let taken: Vec<i32> = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!((taken, queue.dropped()), (vec![2, 3, 4], 2));
    }

    #[test]
    fn what_must_be_safe_is_never_dropped_and_is_bounded_too() {
        let queue = Queue::new(2);
        assert_eq!(queue.put_safe(100), Ok(()));
        (0..5).for_each(|value| queue.put(value));
        assert_eq!(queue.put_safe(101), Ok(()));
        assert_eq!(queue.put_safe(102), Err(102));
        queue.close();
        let taken: Vec<i32> = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!((taken, queue.dropped()), (vec![100, 3, 4, 101], 3));
        assert_eq!(queue.put_safe(103), Err(103), "nobody would take it");
    }

    #[test]
    fn who_waits_is_woken_by_a_value_and_by_the_end() {
        let queue = std::sync::Arc::new(Queue::new(3));
        let other = std::sync::Arc::clone(&queue);
        let taker = std::thread::spawn(move || (other.take(), other.take()));
        queue.put(1);
        queue.close();
        assert_eq!(taker.join().unwrap(), (Some(1), None));
    }
}
