//! Real processes that are killed, stopped and started again under load, and the servers they lean
//! on. Afterwards every acknowledged push is there exactly once, and `rows == fold(log)`.

mod chaos;
mod child;
mod dev_command;
mod load;
mod sync_command;

pub(crate) use child::{Child, binary, free_port, run};
