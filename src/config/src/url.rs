//! The base address of a provider, checked as far as a typing error goes. What is really behind it, only a
//! call can tell.

/// Why a text is no base address; completes "found one …".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invalid(&'static str);

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// The address without slashes at its end.
pub(crate) fn parse_base(text: &str) -> Result<String, Invalid> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or(Invalid("that does not begin with http:// or https://"))?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic())
        || text.contains(['\\', '"', '<', '>', '`', '{', '}', '|', '^'])
    {
        return Err(Invalid("with a character that addresses do not have"));
    }
    if text.contains(['?', '#']) {
        return Err(Invalid("with a query or fragment; paths are added to the end of a base address"));
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err(Invalid("with a name or password in it; credentials belong into api_key"));
    }
    let (host, port) = split_port(authority).ok_or(Invalid("whose host is not of the form [address]"))?;
    if host.is_empty() {
        return Err(Invalid("without a host"));
    }
    if port.is_some_and(|port| !matches!(port.parse::<u16>(), Ok(1..)) || port.starts_with('+')) {
        return Err(Invalid("whose port is not a number from 1 to 65535"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Host and port; `None` if brackets do not hold an IPv6 address.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let Some(bracketed) = authority.strip_prefix('[') else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let valid = |character: char| character.is_ascii_alphanumeric() || "-._~%".contains(character);
        return host.chars().all(valid).then_some((host, port));
    };
    let (address, after) = bracketed.split_once(']')?;
    address.parse::<std::net::Ipv6Addr>().ok()?;
    match after.strip_prefix(':') {
        Some(port) => Some((address, Some(port))),
        None => after.is_empty().then_some((address, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("https://api.openai.com/v1", Ok("https://api.openai.com/v1")),
            ("http://127.0.0.1:8080/v1//", Ok("http://127.0.0.1:8080/v1")),
            ("http://[::1]:80", Ok("http://[::1]:80")),
            ("http://localhost", Ok("http://localhost")),
            ("ftp://a", Err("begin")),
            ("localhost:80", Err("begin")),
            ("http://", Err("without a host")),
            ("http://:80", Err("without a host")),
            ("http://a:0", Err("port")),
            ("http://a:65536", Err("port")),
            ("http://a:", Err("port")),
            ("http://a:+80", Err("port")),
            ("http://a:1:2", Err("port")),
            ("http://[::1", Err("host")),
            ("http://[::1]80", Err("host")),
            ("http://[x]", Err("host")),
            ("http://a!b", Err("host")),
            ("http://me:secret@a/v1", Err("api_key")),
            ("http://a/v1?key=1", Err("query")),
            ("http://a b", Err("character")),
            ("http://ä", Err("character")),
        ] {
            match (parse_base(text), expected) {
                (Ok(url), Ok(expected)) => assert_eq!(url, expected),
                (Err(Invalid(why)), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
