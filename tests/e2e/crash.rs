//! Real processes that are killed, stopped and started again under load, and the servers they lean
//! on. Afterwards every acknowledged push is there exactly once, and `rows == fold(log)`.

mod chaos;
mod child;
mod dev_command;
pub(crate) mod load;

pub(crate) use child::{Child, binary, free_port, run};
