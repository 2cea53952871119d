//! Quotas: how much a scope and a tenant may hold, what they hold, and what operators have set.

use model::TenantId;
use sqlx::Connection;

use crate::{
    config::DatabaseConfig,
    connect::{self, answered_at},
    error::ReadModelError,
    pool::answer_within,
};

/// What may be held at most. 0: no quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Bytes of content and metadata in a scope.
    pub scope_bytes_max: u64,
    /// Live messages in a scope.
    pub scope_messages_max: u64,
    /// Bytes of content and metadata in all scopes of a tenant.
    pub tenant_bytes_max: u64,
    /// Live messages in all scopes of a tenant.
    pub tenant_messages_max: u64,
}

/// What operators have set for one tenant. `None`: what the process is configured with counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub scope_bytes_max: Option<u64>,
    pub scope_messages_max: Option<u64>,
    pub tenant_bytes_max: Option<u64>,
    pub tenant_messages_max: Option<u64>,
}

impl Overrides {
    /// The quotas that count for the tenant.
    pub fn over(self, configured: Quotas) -> Quotas {
        Quotas {
            scope_bytes_max: self.scope_bytes_max.unwrap_or(configured.scope_bytes_max),
            scope_messages_max: self.scope_messages_max.unwrap_or(configured.scope_messages_max),
            tenant_bytes_max: self.tenant_bytes_max.unwrap_or(configured.tenant_bytes_max),
            tenant_messages_max: self.tenant_messages_max.unwrap_or(configured.tenant_messages_max),
        }
    }
}

/// What a scope and its tenant hold now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub scope_messages: u64,
    pub scope_bytes: u64,
    pub tenant_bytes: u64,
    pub tenant_messages: u64,
    pub overrides: Overrides,
}

/// A tenant, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantQuotas {
    pub tenant_id: String,
    pub overrides: Overrides,
    /// Live messages in all its scopes.
    pub messages: u64,
    /// Bytes of content and metadata in all its scopes.
    pub bytes: u64,
}

type Max = Option<i64>;
type Row = (String, Max, Max, Max, Max, i64, i64);

/// Tenants for whom operators have set something, or the one named, whatever it has.
pub async fn show(
    config: &DatabaseConfig,
    tenant: Option<&TenantId>,
) -> Result<Vec<TenantQuotas>, ReadModelError> {
    let mut connection = connect::login(config).await?;
    let asking = sqlx::query_as(
        "select t.tenant_id, q.scope_bytes_max, q.scope_messages_max, q.tenant_bytes_max,
             q.tenant_messages_max, coalesce(sum(u.live_count), 0)::bigint, coalesce(sum(u.live_bytes), 0)::bigint
         from (select tenant_id from context_sync_settings.quotas where $1::text is null
               union all select $1 where $1 is not null) as t
             left join context_sync_settings.quotas q on q.tenant_id = t.tenant_id
             left join tenant_usage u on u.tenant_id = t.tenant_id
         group by 1, 2, 3, 4, 5 order by 1",
    )
    .bind(tenant.map(TenantId::as_str))
    .fetch_all(&mut connection);
    let asking = async { asking.await.map_err(refused) };
    let rows: Vec<Row> = answered_at(config, answer_within(config), asking).await?;
    connection.close().await.ok();
    Ok(rows.into_iter().map(of_row).collect())
}

fn of_row(
    (tenant_id, scope_bytes, scope_messages, tenant_bytes, tenant_messages, messages, bytes): Row,
) -> TenantQuotas {
    let overrides = overrides([scope_bytes, scope_messages, tenant_bytes, tenant_messages]);
    TenantQuotas {
        tenant_id,
        overrides,
        messages: messages.unsigned_abs(),
        bytes: bytes.unsigned_abs(),
    }
}

/// In the order of the fields.
pub(crate) fn overrides(set: [Max; 4]) -> Overrides {
    let [scope_bytes_max, scope_messages_max, tenant_bytes_max, tenant_messages_max] =
        set.map(|max| max.map(i64::unsigned_abs));
    Overrides { scope_bytes_max, scope_messages_max, tenant_bytes_max, tenant_messages_max }
}

/// Sets what is `Some` for the tenant; what was set before and is `None` here stays.
pub async fn set(
    config: &DatabaseConfig,
    tenant: &TenantId,
    overrides: &Overrides,
) -> Result<(), ReadModelError> {
    let max = |max: Option<u64>| max.map(|max| i64::try_from(max).unwrap_or(i64::MAX));
    let mut connection = connect::login(config).await?;
    let setting = sqlx::query(
        "insert into context_sync_settings.quotas as q
             (tenant_id, scope_bytes_max, scope_messages_max, tenant_bytes_max, tenant_messages_max)
         values ($1, $2, $3, $4, $5)
         on conflict (tenant_id) do update
         set scope_bytes_max = coalesce(excluded.scope_bytes_max, q.scope_bytes_max),
             scope_messages_max = coalesce(excluded.scope_messages_max, q.scope_messages_max),
             tenant_bytes_max = coalesce(excluded.tenant_bytes_max, q.tenant_bytes_max),
             tenant_messages_max = coalesce(excluded.tenant_messages_max, q.tenant_messages_max),
             set_at = now()",
    )
    .bind(tenant.as_str())
    .bind(max(overrides.scope_bytes_max))
    .bind(max(overrides.scope_messages_max))
    .bind(max(overrides.tenant_bytes_max))
    .bind(max(overrides.tenant_messages_max))
    .execute(&mut connection);
    let setting = async { setting.await.map_err(refused) };
    answered_at(config, answer_within(config), setting).await?;
    connection.close().await.ok();
    Ok(())
}

/// Forgets all that was set for the tenant; whether there was anything.
pub async fn unset(config: &DatabaseConfig, tenant: &TenantId) -> Result<bool, ReadModelError> {
    let mut connection = connect::login(config).await?;
    let forgetting = sqlx::query("delete from context_sync_settings.quotas where tenant_id = $1")
        .bind(tenant.as_str())
        .execute(&mut connection);
    let forgetting = async { forgetting.await.map_err(refused) };
    let done = answered_at(config, answer_within(config), forgetting).await?;
    connection.close().await.ok();
    Ok(done.rows_affected() > 0)
}

/// A login without the right is no database that is down.
fn refused(error: sqlx::Error) -> ReadModelError {
    const NO_PRIVILEGE: &str = "42501";
    let code = error.as_database_error().and_then(|database| database.code());
    if code.as_deref() == Some(NO_PRIVILEGE) {
        ReadModelError::MayNotSet(error)
    } else {
        error.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_counts_and_zero_is_set() {
        let configured = Quotas {
            scope_bytes_max: 1,
            scope_messages_max: 2,
            tenant_bytes_max: 3,
            tenant_messages_max: 4,
        };
        assert_eq!(Overrides::default().over(configured), configured);
        let set = Overrides { scope_messages_max: Some(0), ..Overrides::default() };
        assert_eq!(set.over(configured), Quotas { scope_messages_max: 0, ..configured });
    }
}
