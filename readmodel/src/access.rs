//! Who is who in a scope: what requests are authorised by before the log.

use model::{LogId, OrgRole, Role, ScopeKey, Standing, TenantId, Timestamp, UserId};
use uuid::Uuid;

use crate::{
    error::ReadModelError,
    pool::Pool,
    quotas::{Usage, overrides},
};

/// A user and a scope, and what the user's token says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccessQuery {
    pub scope: ScopeKey,
    pub user: UserId,
    pub org_role: OrgRole,
}

/// Who somebody is in a scope, and what it and its tenant hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub standing: Standing,
    pub usage: Usage,
}

/// Standing, role, what the scope and the tenant hold, and what operators have set.
type AccountRow = (
    bool,
    bool,
    Option<String>,
    [i64; 4],
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Uuid,
);

/// The users' accounts in the scopes, in the order asked, and the log that they are of: one round trip for all.
///
/// # Errors
/// [`ReadModelError::NotMigrated`] while no projector has said yet which log this is: nobody is a member of anything
/// then, and nobody is to be told so.
pub async fn accounts(
    pool: &Pool,
    asked: &[AccessQuery],
) -> Result<(LogId, Vec<Account>), ReadModelError> {
    let scopes: Vec<Uuid> = asked.iter().map(|query| query.scope.reference().0).collect();
    let tenants: Vec<&str> = asked.iter().map(|query| query.scope.tenant.as_str()).collect();
    let users: Vec<&str> = asked.iter().map(|query| query.user.as_str()).collect();
    let rows = sqlx::query_as::<_, AccountRow>(
        "select s.scope is not null, r.user_id is not null, r.role,
             array[coalesce(s.live_count, 0), coalesce(s.live_bytes, 0), u.count, u.bytes],
             q.scope_bytes_max, q.scope_messages_max, q.tenant_bytes_max, q.tenant_messages_max,
             source.log_id
         from unnest($1::uuid[], $2::text[], $3::text[]) with ordinality
                 as asked (scope, tenant_id, user_id, place)
             cross join source
             cross join lateral (
                 select coalesce(sum(live_count), 0)::bigint as count, coalesce(sum(live_bytes), 0)::bigint as bytes
                 from tenant_usage where tenant_usage.tenant_id = asked.tenant_id) u
             left join scopes s on s.scope = asked.scope and s.tenant_id = asked.tenant_id
             left join members r on r.scope = asked.scope and r.tenant_id = asked.tenant_id
                 and r.user_id = asked.user_id
             left join context_sync_settings.quotas q on q.tenant_id = asked.tenant_id
         order by asked.place",
    )
    .bind(scopes)
    .bind(tenants)
    .bind(users)
    .fetch_all(pool)
    .await?;
    let log = rows.first().filter(|_| rows.len() == asked.len()).map(|row| LogId(row.8));
    let log = log.ok_or(ReadModelError::NotMigrated)?;
    let account = |(query, row): (&AccessQuery, AccountRow)| {
        let (exists, is_member, role, held, ..) = row;
        let [scope_messages, scope_bytes, tenant_messages, tenant_bytes] =
            held.map(i64::unsigned_abs);
        let member = is_member.then(|| role.as_deref().and_then(Role::parse));
        Account {
            standing: Standing::of(&query.scope, &query.user, query.org_role, exists, member),
            usage: Usage {
                scope_messages,
                scope_bytes,
                tenant_bytes,
                tenant_messages,
                overrides: overrides([row.4, row.5, row.6, row.7]),
            },
        }
    };
    Ok((log, asked.iter().zip(rows).map(account).collect()))
}

/// A row of a scope's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    pub user: String,
    pub role: Role,
    pub since: Timestamp,
}

/// A scope's present members, by user id; and the asker's standing.
///
/// # Errors
/// [`ReadModelError::NotMigrated`] while no projector has said yet which log this is.
pub async fn members(
    pool: &Pool,
    asked: &AccessQuery,
) -> Result<(Standing, Vec<MemberRow>), ReadModelError> {
    let mut transaction = pool.begin().await?;
    set_tenant(&mut transaction, &asked.scope.tenant).await?;
    let rows = sqlx::query_as::<_, (String, Option<String>, i64)>(
        "select user_id, role, since_us from members
         where scope = $1 and tenant_id = $2 and (role is not null or user_id = $3)
         order by user_id",
    )
    .bind(asked.scope.reference().0)
    .bind(asked.scope.tenant.as_str())
    .bind(asked.user.as_str())
    .fetch_all(&mut *transaction)
    .await?;
    let standing = standing(&mut transaction, asked).await?;
    transaction.commit().await?;
    let row = |(user, role, since): (String, Option<String>, i64)| {
        let role = role.as_deref().and_then(Role::parse)?;
        Some(MemberRow { user, role, since: Timestamp::from_micros(since) })
    };
    Ok((standing, rows.into_iter().filter_map(row).collect()))
}

/// How many users beside this one are or were members of a scope (the ingest role).
pub async fn other_members(
    pool: &Pool,
    scope: &ScopeKey,
    user: &UserId,
) -> Result<u64, ReadModelError> {
    let others: i64 = sqlx::query_scalar(
        "select count(*) from members where scope = $1 and tenant_id = $2 and user_id <> $3",
    )
    .bind(scope.reference().0)
    .bind(scope.tenant.as_str())
    .bind(user.as_str())
    .fetch_one(pool)
    .await?;
    Ok(others.unsigned_abs())
}

/// The asker's standing, in a transaction whose tenant is set.
pub(crate) async fn standing(
    connection: &mut sqlx::PgConnection,
    asked: &AccessQuery,
) -> Result<Standing, ReadModelError> {
    let row: Option<(bool, bool, Option<String>)> = sqlx::query_as(
        "select exists (select from scopes where scope = $1 and tenant_id = $2), r.user_id is not null, r.role
         from source
             left join members r on r.scope = $1 and r.tenant_id = $2 and r.user_id = $3",
    )
    .bind(asked.scope.reference().0)
    .bind(asked.scope.tenant.as_str())
    .bind(asked.user.as_str())
    .fetch_optional(connection)
    .await?;
    let (exists, is_member, role) = row.ok_or(ReadModelError::NotMigrated)?;
    let member = is_member.then(|| role.as_deref().and_then(Role::parse));
    Ok(Standing::of(&asked.scope, &asked.user, asked.org_role, exists, member))
}

/// Row level security shows this tenant's rows until the transaction ends.
pub(crate) async fn set_tenant(
    connection: &mut sqlx::PgConnection,
    tenant: &TenantId,
) -> Result<(), ReadModelError> {
    sqlx::query("select set_config('context_sync.tenant', $1, true)")
        .bind(tenant.as_str())
        .execute(connection)
        .await?;
    Ok(())
}
