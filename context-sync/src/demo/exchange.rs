//! A team's messages: pushed by their authors, pulled by another device, pushed again.

use std::collections::HashSet;

use device::{
    upload::{Delivered, Tally, Upload},
    wire,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{ContentHash, Role, Status};

use super::{
    must,
    people::Person,
    world::{World, pull_all},
};
use crate::{
    Failure,
    device::{client::Client, progress::Progress, scope::Scope},
};

/// Authors who push at the same time.
const AT_ONCE: usize = 8;

/// The first author creates the team and takes the others in; each pushes from a device of their own.
pub async fn import(world: &World<'_>, what: &str, progress: &Progress) -> Result<String, Failure> {
    progress.set_total(world.messages() as u64);
    let owner = world.device(world.owner()?, "laptop")?;
    owner.create(&world.team).await?;
    let joins: Vec<_> = world
        .people
        .iter()
        .skip(1)
        .map(|person| owner.set_member(&world.team, &person.user, Role::Member))
        .collect();
    stream::iter(joins).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let pushes: Vec<_> =
        world.people.iter().map(|person| push_own(world, person, progress)).collect();
    let tallies: Vec<Tally> = stream::iter(pushes).buffer_unordered(AT_ONCE).try_collect().await?;
    let sum = |what: fn(&Tally) -> u64| tallies.iter().map(what).sum::<u64>();
    let (created, skipped) = (sum(|tally| tally.synced), sum(|tally| tally.skipped));
    let (messages, contents) = (world.messages() as u64, world.contents()?.len() as u64);
    must(created == contents && created + skipped == messages, || {
        format!(
            "{messages} messages, {contents} contents, but {created} created, {skipped} skipped"
        )
    })?;
    Ok(format!("{what}: {created} created, {skipped} duplicates"))
}

async fn push_own(
    world: &World<'_>,
    person: &Person,
    progress: &Progress,
) -> Result<Tally, Failure> {
    let client = world.device(&person.user, "laptop")?;
    let expected = [Status::Created, Status::Duplicate];
    push_all(&client, &world.team, [person], &expected, progress).await
}

/// Pushes people's messages; each must come out as one of the expected.
async fn push_all<'a>(
    client: &Client,
    scope: &Scope,
    people: impl IntoIterator<Item = &'a Person>,
    expected: &[Status],
    progress: &Progress,
) -> Result<Tally, Failure> {
    let requests = client.in_scope(scope);
    let mut upload = Upload::new(&requests);
    for message in people.into_iter().flat_map(|person| &person.messages) {
        if let Some(delivered) = upload.add(message.clone()).await? {
            check(&delivered, expected, progress)?;
        }
    }
    if let Some(delivered) = upload.finish().await? {
        check(&delivered, expected, progress)?;
    }
    Ok(upload.tally)
}

fn check(delivered: &Delivered, expected: &[Status], progress: &Progress) -> Result<(), Failure> {
    progress.add(delivered.messages);
    if let Some(why) = delivered.rejections.first().or(delivered.no_room.as_ref()) {
        return Err(why.as_str().into());
    }
    let results = delivered.answer.iter().flat_map(|answer| &answer.results);
    match results.map(|result| result.status).find(|status| !expected.contains(status)) {
        Some(status) => Err(format!("a message came out as {status:?}").into()),
        None => Ok(()),
    }
}

/// Another device pulls everything, and reckons the digest itself.
pub async fn pull(world: &World<'_>, progress: &Progress) -> Result<String, Failure> {
    let user = world.people.last().map_or(world.owner()?, |person| person.user.as_str());
    let phone = world.device(user, "phone")?;
    let (messages, page) = pull_all(&phone, &world.team, |count| progress.add(count)).await?;
    let count = messages.len() as u64;
    must(count == page.count, || format!("{count} were pulled, the API counts {}", page.count))?;
    let contents: HashSet<ContentHash> =
        messages.iter().filter_map(|m| m.content.as_deref().map(ContentHash::of)).collect();
    must(contents == world.contents()?, || "what was pulled is not what was pushed".to_owned())?;
    let digest = wire::digest(&messages);
    must(digest == page.digest, || format!("digest {digest} here, {} there", page.digest))?;
    let short: String = digest.to_string().chars().take(8).collect();
    Ok(format!("{count} messages pulled from cursor 0, digest equal ({short}…)"))
}

/// A third device pushes the same contents: nothing changes.
pub async fn push_again(world: &World<'_>, progress: &Progress) -> Result<String, Failure> {
    progress.set_total(world.messages() as u64);
    let tablet = world.device(world.owner()?, "tablet")?;
    let tally =
        push_all(&tablet, &world.team, &world.people, &[Status::Duplicate], progress).await?;
    let messages = world.messages() as u64;
    let contents = world.contents()?.len() as u64;
    must(tally.skipped == messages && tally.cursor == Some(contents), || {
        format!("{} of {messages} were skipped, cursor {:?}", tally.skipped, tally.cursor)
    })?;
    Ok(format!("{messages} pushed again from another device: all duplicates"))
}
