//! Reading a restore's body.

use contract::{Caller, path::parse_uuid};
use model::{BackupId, RestoreMode, ScopeKey, ScopeKind, ScopeName, Timestamp};
use serde_json::{Map, Value};
use service::Problem;

/// What to restore, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RestoreBody {
    pub(crate) which: Which,
    pub(crate) mode: RestoreMode,
    pub(crate) dry_run: bool,
    /// Another scope's backup, of the same tenant.
    pub(crate) source: Option<ScopeKey>,
}

/// Which backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Backup(BackupId),
    /// The state at a moment.
    AsOf(Timestamp),
}

impl RestoreBody {
    /// Reads `{"backup_id" | "as_of", "mode", "dry_run"?, "source"?}`; other fields are ignored, null counts as
    /// absent.
    ///
    /// # Errors
    /// 400 naming the field and what it takes.
    pub(crate) fn parse(body: &[u8], caller: &Caller) -> Result<Self, Problem> {
        let mut fields: Map<String, Value> = serde_json::from_slice(body).map_err(|_| {
            Problem::invalid_request(
                r#"The body takes a JSON object such as {"backup_id": "…", "mode": "merge"}"#,
            )
        })?;
        fields.retain(|_, value| !value.is_null());
        Ok(Self {
            which: which(&fields)?,
            mode: mode(fields.get("mode"))?,
            dry_run: dry_run(fields.get("dry_run"))?,
            source: fields.get("source").map(|source| parse_source(source, caller)).transpose()?,
        })
    }
}

fn which(fields: &Map<String, Value>) -> Result<Which, Problem> {
    match (fields.get("backup_id"), fields.get("as_of")) {
        (Some(id), None) => {
            id.as_str().and_then(parse_uuid).map(|id| Which::Backup(BackupId(id))).ok_or_else(
                || Problem::invalid_request("backup_id takes the id of a backup, a UUID"),
            )
        }
        (None, Some(time)) => time
            .as_str()
            .and_then(Timestamp::parse_rfc3339)
            .map(Which::AsOf)
            .ok_or_else(|| Problem::invalid_request("as_of takes an RFC 3339 time")),
        (None, None) | (Some(_), Some(_)) => Err(Problem::invalid_request(
            "backup_id takes the id of a backup, or as_of a time: one of the two is required",
        )),
    }
}

fn mode(mode: Option<&Value>) -> Result<RestoreMode, Problem> {
    let text = mode.and_then(Value::as_str);
    RestoreMode::ALL
        .into_iter()
        .find(|mode| Some(mode.as_str()) == text)
        .ok_or_else(|| Problem::invalid_request("mode takes merge or replace"))
}

fn dry_run(dry_run: Option<&Value>) -> Result<bool, Problem> {
    match dry_run {
        None => Ok(false),
        Some(Value::Bool(dry_run)) => Ok(*dry_run),
        Some(_) => Err(Problem::invalid_request("dry_run takes true or false")),
    }
}

fn parse_source(source: &Value, caller: &Caller) -> Result<ScopeKey, Problem> {
    let part = |name: &str| source.get(name).and_then(Value::as_str);
    let kind = ScopeKind::ALL.into_iter().find(|kind| Some(kind.as_str()) == part("scope_type"));
    let name = part("scope_id").and_then(|name| ScopeName::new(name).ok());
    match (kind, name) {
        (Some(kind), Some(name)) => Ok(ScopeKey { tenant: caller.tenant.clone(), kind, name }),
        _ => Err(Problem::invalid_request(
            r#"source takes {"scope_type": "user" | "team" | "project" | "org", "scope_id": "…"}"#,
        )),
    }
}

#[cfg(test)]
mod tests {
    use model::{OrgRole, TenantId, UserId};

    use super::*;

    const ID: &str = "01940f2e-7c00-7000-8000-000000000001";

    fn parse(body: &str) -> Result<RestoreBody, Problem> {
        let caller = Caller {
            tenant: TenantId::new("acme").unwrap(),
            user: UserId::new("ann").unwrap(),
            org_role: OrgRole::Member,
        };
        RestoreBody::parse(body.as_bytes(), &caller)
    }

    #[test]
    fn the_founding_request_and_what_goes_beyond() {
        let founding = parse(&format!(r#"{{"backup_id": "{ID}", "mode": "merge"}}"#)).unwrap();
        assert!(matches!(founding.which, Which::Backup(id) if id.to_string() == ID));
        assert_eq!((founding.mode, founding.dry_run), (RestoreMode::Merge, false));
        assert_eq!(founding.source, None);
        let more = r#"{"as_of": "2025-12-30T10:00:00+01:00", "mode": "replace", "dry_run": true,
            "source": {"scope_type": "project", "scope_id": "shop"}, "backup_id": null, "x": 1}"#;
        let more = parse(more).unwrap();
        let moment = Timestamp::parse_rfc3339("2025-12-30T09:00:00Z").unwrap();
        assert_eq!((more.which, more.mode), (Which::AsOf(moment), RestoreMode::Replace));
        assert_eq!(
            (more.dry_run, more.source.unwrap().to_string()),
            (true, "acme/project/shop".into())
        );
    }

    #[test]
    fn what_it_does_not_take_is_named() {
        let id = format!(r#""backup_id": "{ID}""#);
        for (body, field) in [
            ("", "The body takes"),
            ("[]", "The body takes"),
            (r#"{"mode": "merge"}"#, "backup_id takes"),
            (
                &format!(r#"{{{id}, "as_of": "2025-12-30T10:00:00Z", "mode": "merge"}}"#),
                "backup_id takes",
            ),
            (r#"{"backup_id": "x", "mode": "merge"}"#, "backup_id takes"),
            (r#"{"as_of": "yesterday", "mode": "merge"}"#, "as_of takes"),
            (&format!("{{{id}}}"), "mode takes merge or replace"),
            (&format!(r#"{{{id}, "mode": "overwrite"}}"#), "mode takes merge or replace"),
            (&format!(r#"{{{id}, "mode": "merge", "dry_run": 1}}"#), "dry_run takes"),
            (&format!(r#"{{{id}, "mode": "merge", "source": "x"}}"#), "source takes"),
            (
                &format!(
                    r#"{{{id}, "mode": "merge", "source": {{"scope_type": "team", "scope_id": "a/b"}}}}"#
                ),
                "source takes",
            ),
        ] {
            let problem = parse(body).unwrap_err();
            assert_eq!(problem.code(), "INVALID_REQUEST", "{body}");
            assert!(problem.detail().starts_with(field), "{body}: {}", problem.detail());
        }
    }
}
