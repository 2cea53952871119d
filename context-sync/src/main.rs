//! The `context-sync` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    context_sync::main()
}
