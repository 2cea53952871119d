//! The `context-sync` command.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// What one thread allocated another frees, all day: glibc has them wait for each other (docs/decisions/0026-allocator.md).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    context_sync::main()
}
