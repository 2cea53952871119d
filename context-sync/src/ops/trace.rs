//! `ops trace`: the whole way of a push or a message.

use std::process::ExitCode;

use clap::Args;

use super::{asked::TraceAsked, progress, reach::ReachArgs};
use crate::{
    Failure,
    copies::trace::{RECOVERED, Trace, TraceStep, Tracing},
    device::table::shown,
};

#[derive(Args, Debug)]
pub struct TraceArgs {
    #[command(flatten)]
    reach: ReachArgs,

    #[command(flatten)]
    asked: TraceAsked,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: TraceArgs) -> Result<ExitCode, Failure> {
    let mut told = args.reach.reach().await.trace(args.asked).await?;
    let bar = progress("reading {wide_bar} {msg} {pos}/{len} records, {per_sec}, {eta} left");
    while let Some(line) = told.next().await? {
        match line {
            Tracing::Read { partition, records, of } => {
                bar.set_message(format!("partition {partition}:"));
                bar.set_length(of);
                bar.set_position(records);
            }
            Tracing::Found(trace) => {
                bar.finish_and_clear();
                match args.json {
                    true => println!("{}", serde_json::to_string_pretty(&trace)?),
                    false => print(&trace),
                }
                return Ok(ExitCode::SUCCESS);
            }
            Tracing::Failed(why) => {
                bar.finish_and_clear();
                return Err(why.into());
            }
        }
    }
    Err("the process stopped before it was done".into())
}

fn print(trace: &Trace) {
    println!("{} {}  tenant {}  scope {}", trace.what, trace.id, trace.tenant, trace.scope);
    if trace.is_cut {
        println!(
            "the log has lost records that the archive does not have: some events are not shown, nor what became of \
             those without an outcome"
        );
    }
    for step in &trace.steps {
        print_step(step);
    }
    if trace.backups.is_empty() && !trace.is_cut {
        println!("no backup holds a version of it");
    }
    for backup in &trace.backups {
        let cursors: Vec<String> = backup.cursors.iter().map(u64::to_string).collect();
        println!(
            "backup {} ({}, {}) holds cursor {}: {}",
            backup.backup_id,
            backup.backup_type,
            backup.created_at,
            cursors.join(", "),
            shown(&backup.path)
        );
    }
}

fn print_step(step: &TraceStep) {
    let device = step.device.as_ref().map_or_else(String::new, |device| format!(" on {device}"));
    println!(
        "{}  {}  {} {} by {}{device} (org {}), {} bytes",
        step.place,
        step.appended_at,
        step.kind,
        step.command_id,
        step.actor,
        step.org_role,
        step.bytes
    );
    let state = match step.state.as_deref() {
        Some(RECOVERED) => format!("{RECOVERED} from log {}, which was lost", step.log_id),
        state => state.unwrap_or("unknown").to_owned(),
    };
    println!("    {state}: {}", shown(step.outcome.as_deref().unwrap_or("no outcome")));
    for message in &step.messages {
        let cursor = message.cursor.map_or_else(|| "-".to_owned(), |cursor| cursor.to_string());
        let until = message.replaced_at.map_or_else(String::new, |at| format!(", until {at}"));
        println!(
            "    message {}: {} at cursor {cursor}{until}",
            message.message_id, message.status
        );
    }
    match &step.archived_hour {
        Some(hour) => println!("    archived in hour {hour}"),
        None => println!("    in no archived hour yet"),
    }
}
