//! Which API a device's command talks to, and as whom.

use std::{fs, path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args;
use model::{DeviceId, TenantId, UserId};
use serde::Deserialize;
use service::{
    Secret,
    auth::{OrgRole, sign_hs256},
};

use super::{
    client::{Client, Notify, Server},
    scope::Scope,
};
use crate::{
    Failure,
    dev::data_dir::{Addresses, DataDir, DataDirError},
};

/// How long a token that a command makes for itself is good: longer than any import.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3_600);
/// The device where the machine does not say its name.
const NAMELESS_DEVICE: &str = "cli";

/// Where, as whom, and in which scope.
#[derive(Args, Clone, Debug)]
pub struct ConnectionArgs {
    /// The API's URL; if not given, that of the development instance on --data-dir
    #[arg(long, env = "CONTEXT_SYNC_URL")]
    pub url: Option<String>,

    /// The token; if not given, one is signed with the development key of --data-dir
    #[arg(long, env = "CONTEXT_SYNC_TOKEN", hide_env_values = true)]
    pub token: Option<Secret>,

    /// The tenant in a token signed here
    #[arg(long, env = "CONTEXT_SYNC_TENANT", default_value = "acme")]
    pub tenant: String,

    /// The user in a token signed here
    #[arg(long, env = "CONTEXT_SYNC_USER", default_value = "ann")]
    pub user: String,

    /// The user's role in the tenant, in a token signed here
    #[arg(long, env = "CONTEXT_SYNC_ORG_ROLE", default_value = "member")]
    pub org_role: OrgRole,

    /// This device's id; if not given, the machine's name
    #[arg(long, env = "CONTEXT_SYNC_DEVICE", value_parser = DeviceId::new)]
    pub device: Option<DeviceId>,

    /// Whose messages: user, team/ID, project/ID or org/ID
    #[arg(long, env = "CONTEXT_SYNC_SCOPE", default_value = "user")]
    pub scope: Scope,

    /// The data directory of a development instance
    #[arg(long, env = "CONTEXT_SYNC_DATA_DIR", default_value = ".context-sync")]
    pub data_dir: PathBuf,
}

impl ConnectionArgs {
    /// A client for these settings. Nothing is sent yet.
    pub fn client(&self, notify: Notify) -> Result<Client, Failure> {
        let server = Server::new(&self.url()?, notify)?;
        Ok(server.client(self.token()?, self.device()?))
    }

    fn url(&self) -> Result<String, Failure> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let path = self.data_dir.join("addresses.json");
        let json = fs::read(&path).map_err(|error| {
            let path = path.display();
            format!("no --url, and no development instance to take it from ({path}: {error}); start one with `context-sync dev`, or name its --data-dir")
        })?;
        let addresses: Addresses = serde_json::from_slice(&json)
            .map_err(|error| format!("{} is not as it was written: {error}", path.display()))?;
        Ok(addresses.api)
    }

    fn token(&self) -> Result<Secret, Failure> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        let key = DataDir::new(&self.data_dir).read_key().map_err(|error| match error {
            DataDirError::NoKey { path } => Failure::from(format!(
                "no --token, and {} has no development key to sign one with",
                path.display()
            )),
            error => error.into(),
        })?;
        let token = sign_hs256(&key, &self.user, &self.tenant, self.org_role, TOKEN_TTL)?;
        Ok(Secret::new(token))
    }

    /// The tenant and the user that the token names. Whether it is good, the API says.
    pub fn claims(&self) -> Result<(TenantId, UserId), Failure> {
        #[derive(Deserialize)]
        struct Claims {
            tenant_id: String,
            sub: String,
        }
        let unreadable =
            || Failure::from("the token names no tenant_id and sub: it is no JWT of a user");
        let token = self.token()?;
        let payload = token.expose().split('.').nth(1).ok_or_else(unreadable)?;
        let json = URL_SAFE_NO_PAD.decode(payload).map_err(|_| unreadable())?;
        let Claims { tenant_id, sub } = serde_json::from_slice(&json).map_err(|_| unreadable())?;
        Ok((TenantId::new(&tenant_id)?, UserId::new(&sub)?))
    }

    /// This device: as it was named, or by the machine's name.
    pub fn device(&self) -> Result<DeviceId, Failure> {
        if let Some(device) = &self.device {
            return Ok(device.clone());
        }
        let hostname = ["/proc/sys/kernel/hostname", "/etc/hostname"]
            .into_iter()
            .find_map(|path| fs::read_to_string(path).ok());
        let device = hostname.and_then(|name| DeviceId::new(name.trim()).ok());
        match device {
            Some(device) => Ok(device),
            None => Ok(DeviceId::new(NAMELESS_DEVICE)?),
        }
    }
}
