//! The line that says: from now on it works. Programs wait for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;
use tollgate_telemetry::Role;

/// Where a broker is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) nats: String,
    pub(super) http: String,
}

#[derive(Serialize)]
struct Line<'a> {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    nats: &'a str,
    http: &'a str,
}

/// One line of JSON. `up` has no role: it has them all.
pub(super) fn line(role: Option<Role>, addresses: &Addresses) -> String {
    let line =
        Line { ready: true, role: role.map(Role::as_str), nats: &addresses.nats, http: &addresses.http };
    // Plain strings cannot fail to serialize.
    serde_json::to_string(&line).unwrap_or_default()
}

/// The URL under which this machine reaches a listener. "Every address" is none to connect to.
pub(super) fn http_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// The same servers without user and password, which nobody else has to see.
pub(super) fn shown_server(server: &str) -> String {
    let without = |url: &str| {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
        format!("{scheme}://{address}")
    };
    server.split(',').map(|url| without(url.trim())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_as_documented() {
        let addresses = Addresses { nats: "nats://127.0.0.1:4222".into(), http: "http://127.0.0.1:1".into() };
        assert_eq!(
            line(None, &addresses),
            r#"{"ready":true,"nats":"nats://127.0.0.1:4222","http":"http://127.0.0.1:1"}"#
        );
        assert!(line(Some(Role::Router), &addresses).starts_with(r#"{"ready":true,"role":"router","#));
    }

    #[test]
    fn urls_can_be_connected_to() {
        for (listens, url) in [
            ("127.0.0.1:80", "http://127.0.0.1:80"),
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            ("[::]:80", "http://[::1]:80"),
            ("10.0.0.1:80", "http://10.0.0.1:80"),
        ] {
            assert_eq!(http_url(listens.parse().expect("an address")), url);
        }
    }

    #[test]
    fn servers_are_shown_without_secrets() {
        for (server, shown) in [
            ("nats://u:p@h:4222, tls://x", "nats://h:4222,tls://x"),
            ("token@h:1", "nats://h:1"),
            ("h", "nats://h"),
        ] {
            assert_eq!(shown_server(server), shown);
        }
    }
}
