//! Finding out whether a device has drifted, and mending it.

use device::{
    problem::ClientError,
    wire::{Fetched, Reconciled},
};
use model::{Epoch, Item, reconcile::Claim};
use reqwest::Method;
use serde_json::json;

use super::{ANSWER_WITHIN, Call, Client, JSON, OCTETS};
use crate::device::scope::Scope;

impl Client {
    /// Asks whether the device has drifted.
    pub async fn reconcile(
        &self,
        scope: &Scope,
        claim: &Claim,
        epoch: Option<Epoch>,
    ) -> Result<Reconciled, ClientError> {
        let Claim { cursor, count, digest } = claim;
        let body = json!({ "cursor": cursor, "epoch": epoch, "count": count, "digest": digest });
        let path = format!("{}/reconcile", scope.context_path());
        let call = asking(&path, body.to_string().into_bytes(), JSON);
        self.send(call).await?.read(&path)
    }

    /// Sends a frame of a repair; the answer's.
    pub async fn compare(&self, scope: &Scope, frame: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        let path = format!("{}/reconcile/messages", scope.context_path());
        Ok(self.send(asking(&path, frame, OCTETS)).await?.body)
    }

    /// Fetches messages. What is in neither list is to be asked for again.
    pub async fn fetch(&self, scope: &Scope, items: &[Item]) -> Result<Fetched, ClientError> {
        let path = format!("{}/messages", scope.context_path());
        let body = json!({ "ids": items }).to_string().into_bytes();
        self.send(asking(&path, body, JSON)).await?.read(&path)
    }
}

fn asking<'a>(path: &'a str, body: Vec<u8>, media: &'static str) -> Call<'a> {
    let (method, within) = (Method::POST, ANSWER_WITHIN);
    Call { method, path, body: Some(body), media, key: None, within }
}
