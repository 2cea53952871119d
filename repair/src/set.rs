//! Items as the protocol's library asks for them.

use negentropy::{Bound, Error, Id, NegentropyStorageBase};

use crate::items::Held;

/// Items in their order, none twice.
#[derive(Debug)]
pub(crate) struct Set<'a>(pub(crate) &'a [Held]);

impl NegentropyStorageBase for Set<'_> {
    fn size(&self) -> Result<usize, Error> {
        Ok(self.0.len())
    }

    fn get_item(&self, place: usize) -> Result<Option<negentropy::Item>, Error> {
        Ok(self.0.get(place).map(item))
    }

    fn iterate(
        &self,
        begin: usize,
        end: usize,
        each: &mut dyn FnMut(negentropy::Item, usize) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let range = self.0.get(begin..end).ok_or(Error::BadRange)?;
        for (place, held) in (begin..end).zip(range) {
            if !each(item(held), place)? {
                break;
            }
        }
        Ok(())
    }

    fn find_lower_bound(&self, first: usize, last: usize, bound: &Bound) -> usize {
        let range = self.0.get(first..last).unwrap_or_default();
        first + range.partition_point(|held| item(held) < bound.item)
    }
}

fn item(held: &Held) -> negentropy::Item {
    negentropy::Item::with_timestamp_and_id(held.millis(), Id::from_byte_array(held.item.0))
}
