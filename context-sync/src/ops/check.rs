//! `ops check`: are the rows what the log folds to, and is the archive?

use std::process::ExitCode;

use clap::Args;
use indicatif::ProgressBar;

use super::{UNASKED, asked::CheckAsked, progress, reach::ReachArgs};
use crate::{
    Failure,
    copies::check::{Agreement, ArchiveSide, Checking, ScopeCheck, Sums},
    device::table::shown,
};

#[derive(Args, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    reach: ReachArgs,

    #[command(flatten)]
    asked: CheckAsked,

    /// Print a JSON object a difference, and the sums last
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: CheckArgs) -> Result<ExitCode, Failure> {
    let mut told = args.reach.reach().await.check(args.asked).await?;
    let bar: ProgressBar =
        progress("checking {wide_bar} {msg} {pos}/{len} records, {per_sec}, {eta} left");
    while let Some(line) = told.next().await? {
        match line {
            Checking::Folded { partition, records, of } => {
                bar.set_message(format!("partition {partition}:"));
                bar.set_length(of);
                bar.set_position(records);
            }
            Checking::Differs(difference) => bar.suspend(|| {
                if args.json {
                    println!("{}", serde_json::to_string(&difference).unwrap_or_default());
                    return;
                }
                for problem in &difference.problems {
                    println!("{}: {}", shown(&difference.of), shown(problem));
                }
                if difference.more > 0 {
                    println!("{}: and {} more", shown(&difference.of), difference.more);
                }
            }),
            Checking::Scope(scope) => bar.suspend(|| match args.json {
                true => println!("{}", serde_json::to_string(&scope).unwrap_or_default()),
                false => println!("{}", of_scope(&scope)),
            }),
            Checking::Done(sums) => {
                bar.finish_and_clear();
                match args.json {
                    true => println!("{}", serde_json::to_string(&sums)?),
                    false => print(&sums),
                }
                return Ok(match (sums.is_well(), sums.is_whole()) {
                    (false, _) => ExitCode::FAILURE,
                    (true, true) => ExitCode::SUCCESS,
                    (true, false) => ExitCode::from(UNASKED),
                });
            }
            Checking::Failed(why) => {
                bar.finish_and_clear();
                return Err(why.into());
            }
        }
    }
    Err("the process stopped before it was done".into())
}

fn print(sums: &Sums) {
    for scope in &sums.parked {
        println!("{scope}: its events are parked; it is compared up to there");
    }
    for partition in &sums.only_rows {
        println!(
            "partition {partition}: the log has lost its beginning; only the rows' own sums are compared"
        );
    }
    let Sums { partitions, scopes, messages, differ, archived_scopes, archived_messages, .. } =
        sums;
    match &sums.archive {
        ArchiveSide::Asked => println!(
            "archive: {archived_scopes} scopes with {archived_messages} messages are compared, as its sealed hours have them"
        ),
        ArchiveSide::None => println!("archive: not asked: none is named"),
        ArchiveSide::Unasked(why) => println!("archive: not asked: {}", shown(why)),
    }
    let what = format!("{scopes} scopes with {messages} messages of {partitions} partitions");
    match (sums.is_well(), differ) {
        (true, _) => println!("well: the rows of {what} are what the log folds to{}", also(sums)),
        (_, 0) => println!("not well: of {what}, {} are parked", sums.parked.len()),
        _ => println!("wrong: {differ} differences in {what}"),
    }
}

fn also(sums: &Sums) -> &'static str {
    match sums.archive == ArchiveSide::Asked && sums.archived_scopes > 0 {
        true => ", and so is the archive",
        false => "",
    }
}

/// Which copies of a scope agree with the log.
fn of_scope(ScopeCheck { scope, rows, archive }: &ScopeCheck) -> String {
    let word = |agreement: &Agreement| match agreement {
        Agreement::Agrees => "as the log",
        Agreement::Differs => "not as the log",
        Agreement::NotYet => "not yet",
        Agreement::NotAsked => "not asked",
    };
    format!("{}: rows: {}; archive: {}", shown(scope), word(rows), word(archive))
}
