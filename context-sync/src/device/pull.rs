//! `context-sync pull`: the messages of a scope, from a cursor.

use clap::Args;
use device::wire::{PullFrom, PullPage, Pulled};

use super::{
    connection::ConnectionArgs,
    output::{self, Reader, print},
    progress::Progress,
    table::Table,
};
use crate::Failure;

#[derive(Args, Debug)]
pub struct PullArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// Pull what came after this cursor
    #[arg(long, default_value_t = 0)]
    pub cursor: u64,

    /// Messages in a page
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,

    /// Pull page after page until there is no more
    #[arg(long)]
    pub all: bool,

    /// If there is nothing newer, wait up to so many seconds for it (0 to 60)
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub wait: u64,

    /// Print messages as lines of JSON, as everywhere but on a terminal
    #[arg(long)]
    pub json: bool,
}

/// Pulls, and says where to go on.
pub async fn run(args: PullArgs) -> Result<(), Failure> {
    let progress = Progress::new("pulling", "messages", None);
    let client = args.connection.client(progress.notify())?;
    let for_people = !args.json && output::is_for_people();
    let (cursor, limit, wait) = (args.cursor, args.limit, args.wait);
    let mut from = PullFrom { cursor, limit, wait, epoch: None };
    let mut table = Table::new(["cursor", "type", "by", "updated", "content"]);
    let mut pulled = 0;
    let page = loop {
        let page = client.pull(&args.connection.scope, from).await?;
        pulled += page.messages.len() as u64;
        progress.add(page.messages.len() as u64);
        if for_people {
            add_rows(&mut table, &page)?;
        } else if print(page.messages.iter().map(|message| one_line(message.get())))?
            == Reader::Gone
        {
            return Ok(());
        }
        from.cursor = page.cursor.get();
        if !(args.all && page.has_more) {
            break page;
        }
    };
    let line = closing(pulled, &page);
    progress.finish(&line);
    if for_people {
        let _ = print([format!("{table}\n{line}")])?;
    }
    Ok(())
}

/// The API writes a message without line breaks; a line of JSON must not depend on it.
fn one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

fn add_rows(table: &mut Table, page: &PullPage) -> Result<(), Failure> {
    for message in &page.messages {
        let message: Pulled = serde_json::from_str(message.get())?;
        table.row([
            message.cursor.to_string(),
            message.message_type.unwrap_or_else(|| "-".to_owned()),
            message.contributed_by,
            message.updated_at.to_string(),
            message.content.unwrap_or_else(|| "(deleted)".to_owned()),
        ]);
    }
    Ok(())
}

fn closing(pulled: u64, page: &PullPage) -> String {
    let PullPage { cursor, head, count, .. } = page;
    let more = if page.has_more { format!("; more: --cursor {cursor}") } else { String::new() };
    format!("pulled {pulled} messages, cursor {cursor} of {head}, {count} in the scope{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_says_where_to_go_on() {
        let json = r#"{"messages": [], "cursor": 5, "has_more": true, "head": 9, "floor": 0,
            "count": 7, "digest": "0000000000000000000000000000000000000000000000000000000000000000",
            "epoch": "01940f2e-7c00-7000-8000-000000000001"}"#;
        let page: PullPage = serde_json::from_str(json).unwrap();
        assert_eq!(
            closing(5, &page),
            "pulled 5 messages, cursor 5 of 9, 7 in the scope; more: --cursor 5"
        );
    }
}
