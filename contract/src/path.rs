//! Scopes and ids in paths.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use model::{InvalidName, ScopeKey, ScopeKind, ScopeName, UserId};
use service::Problem;
use uuid::Uuid;

use crate::Caller;

/// The path under which a scope's messages are, as a router takes it.
pub const fn context(kind: ScopeKind) -> &'static str {
    match kind {
        ScopeKind::User => "/api/v1/context",
        ScopeKind::Team => "/api/v1/teams/{team_id}/context",
        ScopeKind::Project => "/api/v1/projects/{project_id}/context",
        ScopeKind::Org => "/api/v1/orgs/{org_id}/context",
    }
}

/// The path of a team or a project itself, as a router takes it; `None` for what is not created.
pub const fn created(kind: ScopeKind) -> Option<&'static str> {
    match kind {
        ScopeKind::Team => Some("/api/v1/teams/{team_id}"),
        ScopeKind::Project => Some("/api/v1/projects/{project_id}"),
        ScopeKind::User | ScopeKind::Org => None,
    }
}

/// The teams' and projects' paths.
pub fn with_members() -> impl Iterator<Item = (ScopeKind, &'static str)> {
    ScopeKind::ALL.into_iter().filter_map(|kind| Some((kind, created(kind)?)))
}

/// The scope that the path names, within the caller's tenant. A user's own is not named.
///
/// # Errors
/// 400 naming the parameter if it is no name.
pub async fn scope(
    parts: &mut Parts,
    kind: ScopeKind,
    caller: &Caller,
) -> Result<ScopeKey, Problem> {
    let name = match kind {
        ScopeKind::User => ScopeName::new(caller.user.as_str())
            .map_err(|e| Problem::unauthenticated(format!("The token's claim sub {e}")))?,
        ScopeKind::Team => name(parts, "team_id", ScopeName::new).await?,
        ScopeKind::Project => name(parts, "project_id", ScopeName::new).await?,
        ScopeKind::Org => name(parts, "org_id", ScopeName::new).await?,
    };
    Ok(ScopeKey { tenant: caller.tenant.clone(), kind, name })
}

/// The member that the path names.
///
/// # Errors
/// 400 naming the parameter if it is no name.
pub async fn member(parts: &mut Parts) -> Result<UserId, Problem> {
    name(parts, "user_id", UserId::new).await
}

/// The user that the path names, and their own scope within the caller's tenant.
///
/// # Errors
/// 400 naming the parameter if it is no name.
pub async fn user(parts: &mut Parts, caller: &Caller) -> Result<(UserId, ScopeKey), Problem> {
    let user = member(parts).await?;
    let scope = ScopeKey::user(caller.tenant.clone(), &user)
        .map_err(|e| Problem::invalid_request(format!("user_id {e}")))?;
    Ok((user, scope))
}

/// The UUID that the path has as `parameter`.
///
/// # Errors
/// 400 naming the parameter if it is none.
pub async fn uuid(parts: &mut Parts, parameter: &'static str) -> Result<Uuid, Problem> {
    let text = parameters(parts).await;
    let text = text.as_ref().and_then(|parameters| value(parameters, parameter));
    text.and_then(parse_uuid)
        .ok_or_else(|| Problem::invalid_request(format!("{parameter} takes a UUID")))
}

/// Reads a UUID in the contract's form alone: 36 characters, hyphenated.
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|_| text.len() == 36)
}

async fn name<T>(
    parts: &mut Parts,
    parameter: &'static str,
    make: fn(&str) -> Result<T, InvalidName>,
) -> Result<T, Problem> {
    let parameters = parameters(parts).await;
    // What is no UTF-8 is no name.
    let text = parameters.as_ref().and_then(|parameters| value(parameters, parameter));
    make(text.unwrap_or_default()).map_err(|e| Problem::invalid_request(format!("{parameter} {e}")))
}

/// The path's parameters, percent-decoded; `None` if one of them is no UTF-8.
async fn parameters(parts: &mut Parts) -> Option<RawPathParams> {
    RawPathParams::from_request_parts(parts, &()).await.ok()
}

fn value<'a>(parameters: &'a RawPathParams, name: &str) -> Option<&'a str> {
    parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, extract::Request, routing::get};
    use model::{OrgRole, TenantId};
    use tower::ServiceExt;

    use super::*;

    async fn seen(kind: ScopeKind, path: &str) -> String {
        let handler = move |request: Request| async move {
            let caller = Caller {
                tenant: TenantId::new("acme").unwrap(),
                user: UserId::new("ann").unwrap(),
                org_role: OrgRole::Member,
            };
            match scope(&mut request.into_parts().0, kind, &caller).await {
                Ok(scope) => scope.to_string(),
                Err(problem) => problem.to_string(),
            }
        };
        let router: Router = Router::new().route(context(kind), get(handler));
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_path_names_its_scope() {
        assert_eq!(seen(ScopeKind::User, "/api/v1/context").await, "acme/user/ann");
        assert_eq!(
            seen(ScopeKind::Team, "/api/v1/teams/web%7Csite/context").await,
            "acme/team/web|site"
        );
        assert_eq!(seen(ScopeKind::Project, "/api/v1/projects/p/context").await, "acme/project/p");
        assert_eq!(seen(ScopeKind::Org, "/api/v1/orgs/acme/context").await, "acme/org/acme");
    }

    #[tokio::test]
    async fn a_name_that_is_none_is_refused_by_its_parameter() {
        let long = "a".repeat(129);
        for bad in ["..", ".", "a%2Fb", "%2e%2e", "%00", "a%00", "%ff", "caf%C3%A9", "a%20b", &long]
        {
            let seen = seen(ScopeKind::Team, &format!("/api/v1/teams/{bad}/context")).await;
            assert!(seen.starts_with("INVALID_REQUEST: team_id takes 1 to 128"), "{bad}: {seen}");
        }
    }

    #[test]
    fn a_uuid_is_hyphenated() {
        assert!(parse_uuid("01940f2e-7c00-7000-8000-000000000001").is_some());
        for bad in
            ["", "01940f2e7c0070008000000000000001", "{01940f2e-7c00-7000-8000-000000000001}"]
        {
            assert!(parse_uuid(bad).is_none(), "{bad}");
        }
    }
}
