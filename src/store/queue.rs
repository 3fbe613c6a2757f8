//! Queue: values handed over by whoever cannot wait -> one thread that can, or a count of what was dropped.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// At most so many values; the oldest makes room for the newest.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    most: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    dropped: u64,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(most: usize) -> Self {
        let state = State { waiting: VecDeque::new(), dropped: 0, closed: false };
        Queue { state: Mutex::new(state), filled: Condvar::new(), most }
    }

    pub(super) fn put(&self, value: T) {
        let mut state = self.lock();
        if state.waiting.len() == self.most {
            state.waiting.pop_front();
            state.dropped += 1;
        }
        state.waiting.push_back(value);
        self.filled.notify_one();
    }

    /// Waits for the next value; `None` when it is closed and empty.
    pub(super) fn take(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(value) = state.waiting.pop_front() {
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
    fn who_waits_is_woken_by_a_value_and_by_the_end() {
        let queue = std::sync::Arc::new(Queue::new(3));
        let other = std::sync::Arc::clone(&queue);
        let taker = std::thread::spawn(move || (other.take(), other.take()));
        queue.put(1);
        queue.close();
        assert_eq!(taker.join().unwrap(), (Some(1), None));
    }
}
