//! Measurements of the last five minutes, for the gauges that the contract defines over them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

/// How long a note counts.
pub const WINDOW: Duration = Duration::from_secs(300);
/// Notes are summed up in slots of this length, which leave the window whole.
const SLOT: Duration = Duration::from_secs(10);
const SLOTS: usize = (WINDOW.as_secs() / SLOT.as_secs()) as usize;
/// How often what is shown is brought up to date.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// Shows something of the last five minutes for as long as there is anything in them. `T` is what
/// one slot sums up.
pub struct Recent<T>(Arc<Shared<T>>);

struct Shared<T> {
    ring: Mutex<Ring<T>>,
    show: fn(&[T]),
}

struct Ring<T> {
    begun: Instant,
    /// The slot that notes go to, counted from `begun`.
    slot: u64,
    slots: [T; SLOTS],
    /// The slot of the last note.
    last: u64,
    /// Somebody brings what is shown up to date.
    shown: bool,
}

impl<T: Copy + Default + Send + 'static> Recent<T> {
    /// `show` gets the slots, in no order.
    pub fn new(show: fn(&[T])) -> Self {
        let ring = Ring::new(Instant::now());
        Self(Arc::new(Shared { ring: Mutex::new(ring), show }))
    }

    /// Adds to the present slot. Must be called in a Tokio runtime.
    pub fn note(&self, add: impl FnOnce(&mut T)) {
        let mut ring = self.0.lock();
        ring.note(Instant::now(), add);
        if !ring.shown {
            ring.shown = true;
            drop(ring);
            tokio::spawn(show(Arc::downgrade(&self.0)));
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Ring<T>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows the slots until they are empty, so that an idle process' gauge goes back to nothing.
async fn show<T: Copy + Default>(shared: Weak<Shared<T>>) {
    while let Some(shared) = shared.upgrade() {
        let slots = {
            let mut ring = shared.lock();
            ring.advance(Instant::now());
            ring.shown = !ring.is_empty();
            ring.shown.then_some(ring.slots)
        };
        (shared.show)(&slots.unwrap_or([T::default(); SLOTS]));
        if slots.is_none() {
            return;
        }
        drop(shared);
        tokio::time::sleep(SHOW_EVERY).await;
    }
}

impl<T: Copy + Default> Ring<T> {
    fn new(begun: Instant) -> Self {
        Self { begun, slot: 0, slots: [T::default(); SLOTS], last: 0, shown: false }
    }

    fn note(&mut self, now: Instant, add: impl FnOnce(&mut T)) {
        self.advance(now);
        self.last = self.slot;
        add(&mut self.slots[place(self.slot)]);
    }

    /// Empties the slots that have come round since the last call.
    fn advance(&mut self, now: Instant) {
        let slot = now.saturating_duration_since(self.begun).as_secs() / SLOT.as_secs();
        let passed = slot.saturating_sub(self.slot).min(SLOTS as u64);
        for step in 1..=passed {
            self.slots[place(slot - passed + step)] = T::default();
        }
        self.slot = self.slot.max(slot);
    }

    fn is_empty(&self) -> bool {
        self.slot - self.last >= SLOTS as u64
    }
}

const fn place(slot: u64) -> usize {
    (slot % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_counts_for_five_minutes() {
        let begun = Instant::now();
        let mut ring = Ring::<u32>::new(begun);
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let sum = |ring: &mut Ring<u32>, seconds| {
            ring.advance(at(seconds));
            (ring.slots.iter().sum::<u32>(), ring.is_empty())
        };
        ring.note(at(1), |n| *n += 1);
        ring.note(at(9), |n| *n += 1);
        ring.note(at(100), |n| *n += 5);
        assert_eq!(sum(&mut ring, 299), (7, false));
        assert_eq!(sum(&mut ring, 300), (5, false));
        assert_eq!(sum(&mut ring, 399), (5, false));
        assert_eq!(sum(&mut ring, 400), (0, true));
        ring.note(at(10_000), |n| *n += 3);
        assert_eq!(sum(&mut ring, 10_001), (3, false));
    }
}
