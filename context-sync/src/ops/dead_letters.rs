//! `ops dead-letters`: what became no rows, and what to do about it.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{
    asked::{LettersAsked, ShowAsked},
    progress,
    reach::{Reach, ReachArgs, Told},
};
use crate::{
    Failure,
    copies::dead_letters::{Chosen, Handling, Letter},
    device::table::{Table, shown},
};

/// Letters asked for at once.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List them, in the log's order
    List(ListArgs),
    /// Show one, with its record
    Show(ShowArgs),
    /// Append a refused record anew; fold the parked events of a scope, in order
    #[command(after_help = "Examples:
  context-sync ops dead-letters retry 3-12345 --yes
  context-sync ops dead-letters retry --scope acme/user/ann --yes

A parked event, wherever it is named, means all of its scope. The status is 0 if everything was retried and taken, 1 if
something is left as it was, 3 if it could not be done.")]
    Retry(HandleArgs),
    /// Mark refused records as done with; nothing else comes of it
    #[command(after_help = "Example:
  context-sync ops dead-letters discard 3-12345 --note 'a test of the new client' --yes

A parked event cannot be discarded: every other copy has folded it, so the rows must too.")]
    Discard(HandleArgs),
}

#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    reach: ReachArgs,

    /// Also those that were retried or discarded
    #[arg(long)]
    all: bool,

    /// Print a JSON object a dead letter
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    reach: ReachArgs,

    /// Partition and offset, such as 3-12345
    place: String,

    /// Print one JSON object, with the record's bytes in hex
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub struct HandleArgs {
    #[command(flatten)]
    reach: ReachArgs,

    /// Which: partition and offset, such as 3-12345
    #[arg(value_name = "PLACE", required_unless_present_any = ["scope", "all"])]
    places: Vec<String>,

    /// All of a scope
    #[arg(long, value_name = "TENANT/KIND/NAME", conflicts_with_all = ["places", "all"])]
    scope: Option<String>,

    /// All that nobody has marked
    #[arg(long, conflicts_with = "places")]
    all: bool,

    /// Why, for whoever looks later
    #[arg(long, default_value = "")]
    note: String,

    /// Do it; without, what would be done is said, and nothing is changed
    #[arg(long)]
    yes: bool,

    /// Print a JSON object a dead letter, and the sums last
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: DeadLettersCommand) -> Result<ExitCode, Failure> {
    match command {
        DeadLettersCommand::List(args) => list(args).await,
        DeadLettersCommand::Show(args) => show(args).await,
        DeadLettersCommand::Retry(args) => handle(args, Handle::Retry).await,
        DeadLettersCommand::Discard(args) => handle(args, Handle::Discard).await,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Handle {
    Retry,
    Discard,
}

async fn list(args: ListArgs) -> Result<ExitCode, Failure> {
    let reach = args.reach.reach().await;
    let letters = all_letters(&reach, args.all).await?;
    if args.json {
        for letter in &letters {
            println!("{}", serde_json::to_string(letter)?);
        }
    } else if letters.is_empty() {
        println!("no dead letters");
    } else {
        println!("{}", table(&letters));
    }
    Ok(ExitCode::SUCCESS)
}

async fn all_letters(reach: &Reach, with_marked: bool) -> Result<Vec<Letter>, Failure> {
    let mut letters: Vec<Letter> = Vec::new();
    loop {
        let after = letters.last().map(|letter| letter.place.clone());
        let page = reach.letters(&LettersAsked { with_marked, after, limit: PAGE }).await?;
        let is_last = page.len() < PAGE as usize;
        letters.extend(page);
        if is_last {
            return Ok(letters);
        }
    }
}

fn table(letters: &[Letter]) -> Table {
    let mut table = Table::new(["PLACE", "KIND", "KEY", "TIME", "BYTES", "DONE", "REASON"]);
    for letter in letters {
        let done = match &letter.mark {
            None => "-".to_owned(),
            Some(mark) => match &mark.retried_as {
                Some(place) => format!("retried as {place}"),
                None => mark.mark.clone(),
            },
        };
        table.row([
            letter.place.clone(),
            letter.kind.clone(),
            letter.key.clone(),
            letter.append_time.clone(),
            letter.bytes.to_string(),
            done,
            letter.reason.clone(),
        ]);
    }
    table
}

async fn show(args: ShowArgs) -> Result<ExitCode, Failure> {
    let reach = args.reach.reach().await;
    let letter = reach.letter(&ShowAsked { place: args.place }).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&letter)?);
        return Ok(ExitCode::SUCCESS);
    }
    let line = |what: &str, value: &str| println!("{what:<12} {}", clean(value));
    line("place", &letter.place);
    line("kind", &letter.kind);
    line("reason", &letter.reason);
    line("key", &letter.key);
    line("time", &letter.append_time);
    line("bytes", &letter.bytes.to_string());
    if let Some(record) = &letter.record {
        line("event", &record.event);
        for (what, value) in [
            ("command", &record.command_id),
            ("scope", &record.scope),
            ("actor", &record.actor),
            ("device", &record.device),
        ] {
            if let Some(value) = value {
                line(what, value);
            }
        }
    }
    if let Some(mark) = &letter.mark {
        line(&mark.mark, &format!("{} {}", mark.at, mark.retried_as.clone().unwrap_or_default()));
        line("note", &mark.note);
    }
    Ok(ExitCode::SUCCESS)
}

/// A record's text must not command a terminal.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

async fn handle(args: HandleArgs, what: Handle) -> Result<ExitCode, Failure> {
    let HandleArgs { places, scope, all, note, .. } = args;
    let chosen = Chosen { places, scope, all, note };
    let reach = args.reach.reach().await;
    if !args.yes {
        return would(&reach, &chosen, what).await;
    }
    let told = match what {
        Handle::Retry => reach.retry(chosen).await?,
        Handle::Discard => reach.discard(chosen).await?,
    };
    said(told, args.json).await
}

/// Says what would be done.
async fn would(reach: &Reach, chosen: &Chosen, what: Handle) -> Result<ExitCode, Failure> {
    let mut letters = Vec::new();
    for place in &chosen.places {
        letters.push(reach.letter(&ShowAsked { place: place.clone() }).await?);
    }
    if chosen.places.is_empty() {
        letters = all_letters(reach, false).await?;
        letters.retain(|letter| chosen.scope.as_ref().is_none_or(|scope| *scope == letter.key));
    }
    if !letters.is_empty() {
        println!("{}", table(&letters));
    }
    let name = if what == Handle::Retry { "retry" } else { "discard" };
    println!("nothing is changed: add --yes to {name} these {}", letters.len());
    Ok(ExitCode::FAILURE)
}

async fn said(mut told: Told<Handling>, json: bool) -> Result<ExitCode, Failure> {
    let bar = progress("folding {msg} {pos} events, {per_sec}");
    while let Some(line) = told.next().await? {
        if let Handling::Folding { scope, events } = &line {
            bar.set_message(scope.clone());
            bar.set_position(*events);
            continue;
        }
        if let Handling::Failed(why) = line {
            bar.finish_and_clear();
            return Err(why.into());
        }
        bar.suspend(|| match json {
            true => println!("{}", serde_json::to_string(&line).unwrap_or_default()),
            false => println!("{}", clean(&text(&line))),
        });
        if let Handling::Done { left, .. } = line {
            bar.finish_and_clear();
            return Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Err("the process stopped before it was done; what it said is done".into())
}

fn text(line: &Handling) -> String {
    match line {
        Handling::Folding { scope, events } | Handling::Folded { scope, events } => {
            format!("{scope}: {events} parked events are folded")
        }
        Handling::StillParked { scope, folded, place, reason } => {
            let reason = shown(reason);
            format!("{scope}: {folded} folded, {place} is still refused: {reason}")
        }
        Handling::Appended { place, retried_as, outcome } => {
            format!("{place}: appended as {retried_as}: {outcome}")
        }
        Handling::Discarded { place } => format!("{place}: discarded"),
        Handling::Left { place, why } => format!("{place}: left as it is: {why}"),
        Handling::Done { handled, left } => format!("{handled} handled, {left} left as they were"),
        Handling::Failed(why) => why.clone(),
    }
}
