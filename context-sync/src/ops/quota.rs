//! `ops quota`: what operators set for a tenant, instead of what the processes are configured with.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use model::TenantId;
use readmodel::{
    DatabaseConfig,
    quotas::{self, Overrides, TenantQuotas},
};
use serde_json::json;

use crate::{Failure, dev::data_dir::DataDir, device::table::Table};

#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// Show what is set, and what those tenants hold
    Show(ShowArgs),
    /// Set quotas of a tenant; those not named stay as they are
    Set(SetArgs),
    /// Forget what was set for a tenant: what the processes are configured with counts again
    Unset(UnsetArgs),
}

/// Which read model; the login is the one that migrates.
#[derive(Args, Debug)]
struct Where {
    #[command(flatten)]
    database: DatabaseConfig,

    /// Where the development instance is kept, if no --database-url is named
    #[arg(long, env = "CONTEXT_SYNC_DATA_DIR", default_value = ".context-sync")]
    data_dir: PathBuf,
}

#[derive(Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    at: Where,

    /// This tenant alone, whether something is set for it or not
    #[arg(long, value_parser = TenantId::new)]
    tenant: Option<TenantId>,

    /// Print a JSON object a tenant
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("quotas").required(true).multiple(true))]
pub struct SetArgs {
    #[command(flatten)]
    at: Where,

    #[arg(long, value_parser = TenantId::new)]
    tenant: TenantId,

    /// Bytes of content and metadata in each of its scopes, at most; 0: no quota
    #[arg(long, group = "quotas")]
    scope_bytes_max: Option<u64>,

    /// Live messages in each of its scopes, at most; 0: no quota
    #[arg(long, group = "quotas")]
    scope_messages_max: Option<u64>,

    /// Bytes of content and metadata in all its scopes, at most; 0: no quota
    #[arg(long, group = "quotas")]
    tenant_bytes_max: Option<u64>,

    /// Live messages in all its scopes, at most; 0: no quota
    #[arg(long, group = "quotas")]
    tenant_messages_max: Option<u64>,
}

#[derive(Args, Debug)]
pub struct UnsetArgs {
    #[command(flatten)]
    at: Where,

    #[arg(long, value_parser = TenantId::new)]
    tenant: TenantId,
}

pub(super) async fn run(command: QuotaCommand) -> Result<ExitCode, Failure> {
    match command {
        QuotaCommand::Show(args) => {
            let shown = quotas::show(&args.at.database()?, args.tenant.as_ref()).await?;
            print(&shown, args.json);
        }
        QuotaCommand::Set(args) => {
            let database = args.at.database()?;
            let overrides = Overrides {
                scope_bytes_max: args.scope_bytes_max,
                scope_messages_max: args.scope_messages_max,
                tenant_bytes_max: args.tenant_bytes_max,
                tenant_messages_max: args.tenant_messages_max,
            };
            quotas::set(&database, &args.tenant, &overrides).await?;
            print(&quotas::show(&database, Some(&args.tenant)).await?, false);
        }
        QuotaCommand::Unset(args) => {
            let tenant = &args.tenant;
            let was_set = quotas::unset(&args.at.database()?, tenant).await?;
            let what = if was_set { "is forgotten" } else { "was nothing" };
            println!("what was set for {tenant} {what}: the configured quotas count");
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Where {
    fn database(&self) -> Result<DatabaseConfig, Failure> {
        let mut database = self.database.clone();
        if database.database_url.is_none() {
            database.database_url = DataDir::new(&self.data_dir).read_addresses()?.database;
        }
        Ok(database)
    }
}

fn print(tenants: &[TenantQuotas], json: bool) {
    if json {
        for tenant in tenants {
            println!("{}", to_json(tenant));
        }
        return;
    }
    if tenants.is_empty() {
        println!("nothing is set for any tenant: the configured quotas count");
        return;
    }
    let mut table = Table::new([
        "TENANT",
        "MESSAGES",
        "BYTES",
        "SCOPE_MESSAGES_MAX",
        "SCOPE_BYTES_MAX",
        "TENANT_MESSAGES_MAX",
        "TENANT_BYTES_MAX",
    ]);
    for tenant in tenants {
        let Overrides {
            scope_bytes_max,
            scope_messages_max,
            tenant_bytes_max,
            tenant_messages_max,
        } = tenant.overrides;
        table.row([
            tenant.tenant_id.clone(),
            tenant.messages.to_string(),
            tenant.bytes.to_string(),
            shown(scope_messages_max),
            shown(scope_bytes_max),
            shown(tenant_messages_max),
            shown(tenant_bytes_max),
        ]);
    }
    println!("{table}");
}

/// What is not set is configured.
fn shown(max: Option<u64>) -> String {
    match max {
        None => "(configured)".to_owned(),
        Some(0) => "(none)".to_owned(),
        Some(max) => max.to_string(),
    }
}

/// null: not set; 0: no quota.
fn to_json(tenant: &TenantQuotas) -> serde_json::Value {
    let Overrides { scope_bytes_max, scope_messages_max, tenant_bytes_max, tenant_messages_max } =
        tenant.overrides;
    json!({
        "tenant_id": tenant.tenant_id, "messages": tenant.messages, "bytes": tenant.bytes,
        "scope_messages_max": scope_messages_max, "scope_bytes_max": scope_bytes_max,
        "tenant_messages_max": tenant_messages_max, "tenant_bytes_max": tenant_bytes_max,
    })
}
