//! Who may not: a stranger, a viewer, a former member.

use std::fmt::Debug;

use device::{
    problem::{ClientError, Problem},
    wire::{PullFrom, PullPage},
};
use model::Role;
use serde_json::json;

use super::{must, world::World};
use crate::{
    Failure,
    device::{client::Client, scope::Scope},
};

const PERMISSION_DENIED: &str = "SYNC_005";

/// Someone of the tenant who is no member pulls.
pub async fn stranger(world: &World<'_>) -> Result<String, Failure> {
    let stranger = world.device("stranger", "laptop")?;
    let refused = refused(pull(&stranger, &world.team).await)?;
    must(!refused.purge, || "a stranger was told to purge".to_owned())?;
    Ok(format!("pulls from the team: {PERMISSION_DENIED}"))
}

/// A viewer of a project pulls from it, and pushes to it.
pub async fn viewer(world: &World<'_>) -> Result<String, Failure> {
    let owner = world.device(world.owner()?, "laptop")?;
    let project = Scope::project("demo-project")?;
    owner.create(&project).await?;
    owner.set_member(&project, "viewer", Role::Viewer).await?;
    let viewer = world.device("viewer", "laptop")?;
    pull(&viewer, &project).await?;
    let message = json!({ "type": "insight", "content": "I only wanted to look" });
    let message = serde_json::value::to_raw_value(&message)?;
    let pushed = viewer.push(&project, [&*message]).await;
    refused(pushed.map(|answer| answer.synced))?;
    Ok(format!("pulls from a project, but pushes to it: {PERMISSION_DENIED}"))
}

/// A member pulls, is removed, and pulls again.
pub async fn former_member(world: &World<'_>) -> Result<String, Failure> {
    let owner = world.device(world.owner()?, "laptop")?;
    owner.set_member(&world.team, "leaver", Role::Member).await?;
    let leaver = world.device("leaver", "laptop")?;
    pull(&leaver, &world.team).await?;
    owner.remove_member(&world.team, "leaver").await?;
    let refused = refused(pull(&leaver, &world.team).await)?;
    must(refused.purge, || "the former member was not told to purge".to_owned())?;
    Ok(format!("pulls after being removed: {PERMISSION_DENIED} with purge"))
}

async fn pull(client: &Client, scope: &Scope) -> Result<u64, ClientError> {
    let page: PullPage = client.pull(scope, PullFrom { limit: 1, ..PullFrom::default() }).await?;
    Ok(page.count)
}

/// The problem of a request that must be refused.
fn refused<T: Debug>(answer: Result<T, ClientError>) -> Result<Problem, Failure> {
    match answer {
        Err(ClientError::Problem(problem)) if problem.code == PERMISSION_DENIED => Ok(*problem),
        Err(error) => Err(error.into()),
        Ok(answer) => Err(format!("it was allowed ({answer:?})").into()),
    }
}
