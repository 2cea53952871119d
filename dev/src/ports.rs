//! Ports for servers that are told where to listen.

use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::LOOPBACK;

/// Below those that systems give to outgoing connections: one of these could take the port of a server while it
/// restarts, or, on the same machine, connect to itself there.
const PORTS: Range<u16> = 20_000..32_768;

/// Each process begins elsewhere, so that two that run at once seldom look at the same port.
static NEXT: LazyLock<AtomicU32> =
    LazyLock::new(|| AtomicU32::new(uuid::Uuid::new_v4().as_fields().0));

/// A port that is free now, and another one with each call. Another process may take it before it is used: who can
/// tries again then.
///
/// # Errors
/// Where none is free, or no socket can be had.
pub fn free_port() -> io::Result<u16> {
    for _ in PORTS {
        let place = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len() as u32;
        let port = PORTS.start + place as u16;
        match TcpListener::bind((LOOPBACK, port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two listeners of one Kafka broker got the same port once, which it refuses.
    #[test]
    fn each_call_gives_another_port() {
        let ports: std::collections::HashSet<u16> =
            (0..5_000).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 5_000);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn a_port_that_is_taken_is_passed_over() {
        let listeners: Vec<_> =
            (0..50).map(|_| TcpListener::bind((LOOPBACK, free_port().unwrap())).unwrap()).collect();
        let taken = |port| listeners.iter().any(|held| held.local_addr().unwrap().port() == port);
        for _ in PORTS {
            assert!(!taken(free_port().unwrap()));
        }
    }
}
