//! context-sync
