//! Tokens for development.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use service::{
    Secret,
    auth::{OrgRole, sign_hs256},
};

use crate::{Failure, dev::data_dir::DataDir};

#[derive(Args, Debug)]
pub struct TokenArgs {
    /// The tenant
    #[arg(long)]
    pub tenant: String,

    /// The user
    #[arg(long)]
    pub user: String,

    /// The user's role in the tenant
    #[arg(long, default_value = "member")]
    pub org_role: OrgRole,

    /// How long the token is good: 30s, 15m, 1h, 7d
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    pub ttl: Duration,

    /// The data directory whose development key signs
    #[arg(long, env = "CONTEXT_SYNC_DATA_DIR", default_value = ".context-sync")]
    pub data_dir: PathBuf,

    /// Sign with this secret instead of the development key
    #[arg(long, env = "CONTEXT_SYNC_JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<Secret>,
}

/// Prints the token alone.
pub fn run(args: &TokenArgs) -> Result<(), Failure> {
    let secret = match &args.jwt_secret {
        Some(secret) => secret.clone(),
        None => DataDir::new(&args.data_dir).read_key()?,
    };
    println!("{}", sign_hs256(&secret, &args.user, &args.tenant, args.org_role, args.ttl)?);
    Ok(())
}

/// Reads `30s`, `15m`, `1h`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let takes = || "takes a number and s, m, h or d, such as 1h".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(takes)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(takes()),
    };
    let number: u64 = number.parse().map_err(|_| takes())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(takes)
}
