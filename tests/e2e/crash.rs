//! Real processes, and commands to their end: killed, stopped and started again under load, and the servers they lean
//! on. Afterwards every acknowledged push is there exactly once, and `rows == fold(log)`.

mod archiving;
mod chaos;
mod child;
mod clock;
mod demo_command;
mod dev_command;
mod device_commands;
mod expire_command;
mod hangs;
pub(crate) mod load;
mod ops_commands;
mod stalls;
mod sync_command;

pub(crate) use chaos::{ann, flags};
pub(crate) use child::{Child, binary, free_port, run};
