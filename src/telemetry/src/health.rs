//! Whether this process can do its work, and if not, why. Pure: [`crate::http`] shows it.

use serde::Serialize;

/// A part of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Admits, orders and routes requests.
    Router,
    /// Calls the providers.
    Worker,
    /// Folds usage into money.
    Ledger,
    /// Serves request/reply.
    Ask,
}

impl Role {
    /// All of them, in the order they are started: whoever takes work comes after whoever it goes to.
    pub const ALL: [Self; 4] = [Self::Ledger, Self::Worker, Self::Router, Self::Ask];

    /// Its name, on the command line and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Worker => "worker",
            Self::Ledger => "ledger",
            Self::Ask => "ask",
        }
    }
}

/// What a role does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleState {
    /// Not ready yet.
    Starting,
    /// At work.
    Ready,
    /// Finishing what it has in hand, taking nothing new.
    Draining,
    /// Over.
    Stopped,
}

/// The connection to the nats-server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nats {
    /// Whether it stands.
    pub connected: bool,
    /// The last operation that the server did not permit us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violation: Option<String>,
}

/// Everything that decides on readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The connection.
    pub nats: Nats,
    /// The roles of this process.
    pub roles: Vec<(Role, RoleState)>,
}

impl Health {
    /// Before anything has started.
    pub fn starting(roles: &[Role]) -> Self {
        Self {
            nats: Nats { connected: false, violation: None },
            roles: roles.iter().map(|role| (*role, RoleState::Starting)).collect(),
        }
    }

    /// Notes what a role does now.
    pub fn set(&mut self, role: Role, state: RoleState) {
        for entry in self.roles.iter_mut().filter(|(known, _)| *known == role) {
            entry.1 = state;
        }
    }

    /// Why this process cannot do its work; empty when it can. A violation alone is no reason: it is shown,
    /// since it explains time-outs, but work that needs no such permission goes on.
    pub fn reasons(&self) -> Vec<String> {
        let nats = (!self.nats.connected).then(|| "not connected to the nats-server".to_owned());
        let roles = self.roles.iter().filter_map(|(role, state)| {
            let doing = match state {
                RoleState::Ready => return None,
                RoleState::Starting => "is starting",
                RoleState::Draining => "is draining",
                RoleState::Stopped => "has stopped",
            };
            Some(format!("the {} {doing}", role.as_str()))
        });
        nats.into_iter().chain(roles).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_connected_with_every_role_at_work() {
        let mut health = Health::starting(&[Role::Router, Role::Ask]);
        assert_eq!(
            health.reasons(),
            ["not connected to the nats-server", "the router is starting", "the ask is starting"]
        );
        health.nats.connected = true;
        health.set(Role::Router, RoleState::Ready);
        health.set(Role::Ask, RoleState::Ready);
        health.set(Role::Ledger, RoleState::Stopped);
        assert_eq!(health.reasons(), Vec::<String>::new(), "a role of another process does not count");
        health.set(Role::Router, RoleState::Draining);
        assert_eq!(health.reasons(), ["the router is draining"]);
    }
}
