//! Headers between NATS and the protocol crate.

use async_nats::HeaderMap;
use tollgate_protocol::header::Headers;

/// A message's headers, if it has any, as the protocol crate reads them.
#[derive(Clone, Copy, Debug)]
pub struct HeaderView<'a>(pub Option<&'a HeaderMap>);

impl Headers for HeaderView<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0?.get_last(name).map(|value| value.as_str())
    }
}

/// Builds headers. Values that NATS cannot carry (line breaks) are left out: they can only come from a
/// message that reached us by a way that checks nothing.
pub fn headers<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        put(&mut map, name, value);
    }
    map
}

/// Sets one header.
pub fn put(map: &mut HeaderMap, name: &str, value: &str) {
    let name: Result<async_nats::HeaderName, _> = name.parse();
    let value: Result<async_nats::HeaderValue, _> = value.parse();
    if let (Ok(name), Ok(value)) = (name, value) {
        map.insert(name, value);
    }
}
