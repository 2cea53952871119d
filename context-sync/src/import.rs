//! `context-sync import`: what a team decided already, out of the history of its repository.

pub mod commit;
pub mod git;

use std::path::PathBuf;

use clap::Args;
use device::upload::{Delivered, Tally, Upload};

use crate::{
    Failure,
    device::{connection::ConnectionArgs, output::print, progress::Progress, table::of_tally},
};
use git::History;

#[derive(Args, Debug)]
pub struct ImportArgs {
    /// The git repository whose history is imported
    #[arg(long, value_name = "PATH")]
    pub git: PathBuf,

    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// Print what became of the commits as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Imports every commit that is reachable from HEAD, the oldest first.
pub async fn run(args: ImportArgs) -> Result<(), Failure> {
    let mut history = History::open(&args.git, None).await?;
    let progress = Progress::new("importing", "commits", Some(history.total));
    let client = args.connection.client(progress.notify())?;
    let requests = client.in_scope(&args.connection.scope);
    let mut upload = Upload::new(&requests);
    let mut empty = 0;
    while let Some(commit) = history.next().await? {
        match commit.message()? {
            Some(message) => show(&progress, upload.add(message).await?),
            None => {
                empty += 1;
                progress.add(1);
            }
        }
    }
    show(&progress, upload.finish().await?);
    let tally = upload.tally;
    progress.finish(format!("imported {} commits", tally.messages() + empty));
    report(&tally, empty, args.json)
}

fn show(progress: &Progress, delivered: Option<Delivered>) {
    let Some(delivered) = delivered else { return };
    progress.add(delivered.messages);
    for why in delivered.rejections.iter().chain(&delivered.no_room) {
        progress.note(why);
    }
}

fn report(tally: &Tally, empty: u64, json: bool) -> Result<(), Failure> {
    if json {
        let mut value = tally.json();
        value["empty"] = empty.into();
        let _ = print([value])?;
    } else {
        let note = match empty {
            0 => String::new(),
            empty => format!("commits without a message, left out: {empty}\n"),
        };
        let _ = print([format!("{}{note}", of_tally(tally))])?;
    }
    match tally.not_taken() {
        0 => Ok(()),
        not_taken => Err(format!("{not_taken} commits were rejected").into()),
    }
}
