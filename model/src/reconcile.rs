//! Whether a device has drifted from its scope, and what mends it (WF-CS-012).

use serde::{Deserialize, Serialize};

use crate::{cursor::Cursor, hash::Digest};

/// What a device says of itself. What it does not say is not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    pub cursor: Cursor,
    /// Of the live messages that it holds.
    pub count: Option<u64>,
    pub digest: Option<Digest>,
}

/// Where the scope is, and what its live messages sum up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeSums {
    pub head: Cursor,
    pub floor: Cursor,
    pub count: u64,
    pub digest: Digest,
}

/// How a device stands to its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Drift {
    InSync,
    /// It missed something.
    Behind,
    /// It has seen what the scope has not: the scope lost something, or the cursor is not what it was.
    Ahead,
    /// It holds something else than the scope, or its cursor is of another history.
    Diverged,
}

/// What the device is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    None,
    /// Pull from its cursor.
    Pull,
    /// Compare what it holds with the scope, and mend what differs.
    Repair,
    /// Pull from 0.
    Resync,
}

/// What there is to say to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconciled {
    pub status: Drift,
    pub action: Remedy,
    /// Where the device's next pull begins, once it has done what `action` says. A repair compares with a scope
    /// that goes on moving: what comes after this head is pulled, whether the repair has seen it or not.
    pub cursor: Cursor,
}

/// Whether a cursor still says something. `base` is up to where cursors of the device's epoch do; `None`: its
/// epoch is the one in force, or it named none.
pub fn is_good(cursor: Cursor, base: Option<Cursor>) -> bool {
    base.is_none_or(|base| cursor <= base)
}

/// The first rule that fits.
pub fn reconcile(claim: &Claim, base: Option<Cursor>, scope: &ScopeSums) -> Reconciled {
    let Claim { cursor, count, digest } = *claim;
    let differs = count.is_some_and(|count| count != scope.count)
        || digest.is_some_and(|digest| digest != scope.digest);
    let (status, action) = if !is_good(cursor, base) {
        (Drift::Diverged, Remedy::Resync)
    } else if cursor > scope.head {
        (Drift::Ahead, Remedy::Repair)
    } else if Cursor::ZERO < cursor && cursor < scope.floor {
        (Drift::Behind, Remedy::Repair)
    } else if cursor < scope.head {
        (Drift::Behind, Remedy::Pull)
    } else if differs {
        (Drift::Diverged, Remedy::Repair)
    } else {
        (Drift::InSync, Remedy::None)
    };
    let cursor = match action {
        Remedy::Resync => Cursor::ZERO,
        Remedy::Repair => scope.head,
        Remedy::Pull | Remedy::None => cursor,
    };
    Reconciled { status, action, cursor }
}
