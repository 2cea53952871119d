//! What a device asks of the API.

use std::future::Future;

use model::{Epoch, Item, PushAnswer, reconcile::Claim};
use serde_json::value::RawValue;

use crate::{
    problem::ClientError,
    wire::{Fetched, PullFrom, PullPage, Reconciled},
};

/// The requests of a device about one scope. Each is answered for good: what is worth another try was tried again.
pub trait Requests {
    /// Pushes messages, each the JSON text of one, and waits for their outcome. Nothing is applied twice for a day,
    /// whoever sends it again under this Idempotency-Key. `epoch`: that their base cursors are of.
    fn push(
        &self,
        key: String,
        epoch: Option<Epoch>,
        messages: Vec<&RawValue>,
    ) -> impl Future<Output = Result<PushAnswer, ClientError>>;

    /// Pulls one page.
    fn pull(&self, from: PullFrom) -> impl Future<Output = Result<PullPage, ClientError>>;

    /// Asks whether the device has drifted.
    fn reconcile(
        &self,
        claim: &Claim,
        epoch: Option<Epoch>,
    ) -> impl Future<Output = Result<Reconciled, ClientError>>;

    /// Sends a frame of a repair; the answer's.
    fn compare(&self, frame: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, ClientError>>;

    /// Fetches messages. What is in neither list is to be asked for again.
    fn fetch(&self, items: &[Item]) -> impl Future<Output = Result<Fetched, ClientError>>;
}
