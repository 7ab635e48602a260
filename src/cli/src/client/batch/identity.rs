//! How the lines of a batch file become identities.
//!
//! The rule is part of the contract (`docs/cli.md`), so that any program can find the answer to a line:
//! `id = UUIDv5(UUIDv5(URL namespace, "tollgate:<team>.<group>"), custom_id)`, in its usual form of 36
//! characters. Neither team nor group can hold a dot, so no two pairs share a namespace. The team and the
//! group are in it so that ids from different batches can stand side by side in one report.

use tollgate_protocol::{Digest, Group, RequestId, Team};
use uuid::Uuid;

/// The id of the line with this `custom_id`.
pub(crate) fn request_id(team: &Team, group: &Group, custom_id: &str) -> RequestId {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("tollgate:{team}.{group}").as_bytes());
    let id = Uuid::new_v5(&namespace, custom_id.as_bytes()).hyphenated().to_string();
    // Hexadecimal digits and hyphens are always a valid id; the fallback only spares a panic.
    RequestId::parse(&id).unwrap_or_else(|_| RequestId::from_sequence(0))
}

/// The group of a file that was given none: `b-` and half of the file's SHA-256. The same file is the same
/// group, so submitting it again continues it.
pub(crate) fn default_group(file: &[u8]) -> Group {
    let digest = Digest::of(file).to_string();
    Group::parse(&format!("b-{}", &digest[..32])).unwrap_or_else(|_| Group::none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_rule_is_the_documented_one() {
        let (team, group) = (Team::parse("research").unwrap(), Group::parse("batch-1").unwrap());
        // Python: uuid5(uuid5(NAMESPACE_URL, "tollgate:research.batch-1"), "request-1")
        assert_eq!(request_id(&team, &group, "request-1").as_str(), "fe371429-cd93-5950-ac64-c5b892484942");
        assert_eq!(default_group(b"").as_str(), "b-e3b0c44298fc1c149afbf4c8996fb924");
    }

    proptest! {
        #[test]
        fn different_custom_ids_have_different_ids(ids in proptest::collection::hash_set(".{1,40}", 1..60)) {
            let (team, group) = (Team::parse("t").unwrap(), Group::parse("g").unwrap());
            let distinct: std::collections::HashSet<_> =
                ids.iter().map(|id| request_id(&team, &group, id)).collect();
            prop_assert_eq!(distinct.len(), ids.len());
            for id in &distinct {
                prop_assert!(RequestId::parse(id.as_str()).is_ok());
            }
        }

        #[test]
        fn the_same_custom_id_elsewhere_is_another_request(a in "[a-z_-]{1,9}", b in "[a-z_-]{1,9}", id in ".{1,9}") {
            prop_assume!(a != b && a != "_" && b != "_");
            let (team_a, team_b) = (Team::parse(&a).unwrap(), Team::parse(&b).unwrap());
            let (group_a, group_b) = (Group::parse(&a).unwrap(), Group::parse(&b).unwrap());
            prop_assert_ne!(request_id(&team_a, &group_a, &id), request_id(&team_a, &group_b, &id));
            prop_assert_ne!(request_id(&team_a, &group_b, &id), request_id(&team_b, &group_a, &id));
        }
    }
}
