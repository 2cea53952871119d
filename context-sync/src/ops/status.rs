//! `ops status`: how everything stands, on one screen.

use std::process::ExitCode;

use clap::Args;
use indicatif::{HumanBytes, HumanDuration};

use super::{UNASKED, asked::StatusAsked, reach::ReachArgs};
use crate::{
    Failure,
    copies::status::{DeadLettersStatus, PartitionStatus, Status},
    device::table::{Table, shown},
};

#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    reach: ReachArgs,

    #[command(flatten)]
    asked: StatusAsked,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: StatusArgs) -> Result<ExitCode, Failure> {
    let status = args.reach.reach().await.status(args.asked).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    Ok(match (status.unasked.is_empty(), status.problems.is_empty()) {
        (false, _) => ExitCode::from(UNASKED),
        (true, false) => ExitCode::FAILURE,
        (true, true) => ExitCode::SUCCESS,
    })
}

/// Scopes with parked events that fit on the screen.
const PARKED_SHOWN: usize = 10;

fn print(status: &Status) {
    let unknown = || "unknown".to_owned();
    println!("{}  log {}", status.at, status.log_id.clone().unwrap_or_else(unknown));
    let headers = [
        "PARTITION",
        "LOG END",
        "PROJECTED",
        "LAG",
        "WAITING",
        "RAW UP TO",
        "ARCHIVED",
        "LAST HOUR",
        "UNARCHIVED",
    ];
    let mut table = Table::new(headers);
    for own in &status.partitions {
        table.row(cells(own));
    }
    println!("{table}");
    if let Some(catalogue) = &status.catalogue {
        let behind = catalogue.lag.map_or_else(unknown, |lag| lag.to_string());
        println!("catalogue     {} facts, {behind} behind", catalogue.projected);
    }
    if status.partitions.iter().all(|own| own.archived.is_none() && own.segmented.is_none()) {
        println!("archive       none is named, or it has nothing");
    }
    println!("last drill    {}", drill(status));
    match &status.dead_letters {
        None => println!("dead letters  unknown"),
        Some(letters) => print_letters(letters),
    }
    match &status.restores {
        None => println!("restores      unknown"),
        Some(restores) => println!("restores      {} running", restores.len()),
    }
    for restore in status.restores.iter().flatten() {
        let (id, scope, mode) = (&restore.restore_id, &restore.scope, &restore.mode);
        println!("              {scope}: {id} ({mode}), {} restored", restore.restored);
    }
    if let Some(bytes) = status.database_bytes {
        println!("database      {}", HumanBytes(bytes));
    }
    for disk in &status.disks {
        let size = |bytes: Option<u64>| bytes.map_or_else(unknown, |b| HumanBytes(b).to_string());
        let (bytes, free) = (size(disk.bytes), size(disk.free_bytes));
        println!("{:<13} {bytes}, {free} free ({})", disk.what, disk.path);
    }
    for part in &status.unasked {
        println!("not asked     {}: {}", part.part, part.why);
    }
    for problem in &status.problems {
        println!(
            "problem       {}",
            problem.chars().filter(|c| !c.is_control()).collect::<String>()
        );
    }
    match (status.unasked.is_empty(), status.problems.is_empty()) {
        (true, true) => println!("well"),
        (true, false) => println!("not well"),
        (false, _) => println!("not known: some parts could not be asked"),
    }
}

fn print_letters(letters: &DeadLettersStatus) {
    let DeadLettersStatus { refused, refused_scopes, parked } = letters;
    println!("dead letters  {refused} refused, {} scopes parked", parked.len());
    let most = refused_scopes.as_deref().unwrap_or_default();
    for own in most {
        let (scope, records) = (shown(&own.scope), own.records);
        let scope = if scope.is_empty() { "without a key" } else { &scope };
        println!("              {scope}: {records} refused");
    }
    let others = refused - most.iter().map(|own| own.records).sum::<u64>().min(*refused);
    if others > 0 {
        let rest = if most.is_empty() { "whose is not known" } else { "elsewhere" };
        println!("              {rest}: {others} refused; `ops dead-letters list` has all");
    }
    for own in parked.iter().take(PARKED_SHOWN) {
        let (scope, events, reason) = (&own.scope, own.events, shown(&own.reason));
        println!("              {scope}: {events} events since {}: {reason}", own.place);
    }
    if let Some(others) = parked.len().checked_sub(PARKED_SHOWN).filter(|others| *others > 0) {
        println!("              and {others} scopes more; `ops dead-letters list` has all");
    }
}

fn cells(own: &PartitionStatus) -> [String; 9] {
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let age = |seconds: Option<u64>| seconds.map_or_else(|| "-".to_owned(), duration);
    [
        own.partition.to_string(),
        number(own.log_end),
        number(own.projected),
        number(own.lag),
        age(own.waiting_seconds),
        number(own.segmented),
        number(own.archived),
        own.archived_hour.clone().unwrap_or_else(|| "-".to_owned()),
        age(own.unarchived_seconds),
    ]
}

fn duration(seconds: u64) -> String {
    HumanDuration(std::time::Duration::from_secs(seconds)).to_string()
}

fn drill(status: &Status) -> String {
    match &status.drill {
        None if status.dead_letters.is_none() => "unknown".to_owned(),
        None => "never".to_owned(),
        Some(drill) => {
            let how = if drill.well { "well" } else { "not well" };
            format!("{how}, {} ago", duration(drill.seconds))
        }
    }
}
