//! Which headers of a request are sent to an endpoint, and which of its response are returned.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Headers of one connection (RFC 9110, section 7.6.1), and those the transport writes itself.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    header::EXPECT,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// Headers between the caller and this server.
const CALLERS_OWN: [HeaderName; 6] = [
    HeaderName::from_static("api-key"),
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
];
/// Headers between this server and the endpoint: they name its host.
const ENDPOINTS_OWN: [HeaderName; 3] =
    [header::ALT_SVC, header::SET_COOKIE, header::STRICT_TRANSPORT_SECURITY];

/// Keeps what an endpoint may know.
pub(super) fn to_endpoint(headers: &mut HeaderMap) {
    remove(headers, &CALLERS_OWN);
}

/// Keeps what a client may know, in a form that this server can write.
///
/// # Errors
/// When the response gives several lengths.
pub(super) fn to_client(headers: &mut HeaderMap) -> Result<(), &'static str> {
    remove(headers, &ENDPOINTS_OWN);
    let lengths: Vec<String> = headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(|value| value.trim().to_owned())
        .collect();
    // Repeated equal lengths count as one (RFC 9110, section 8.6).
    if let [length, others @ ..] = &lengths[..] {
        if others.iter().any(|other| other != length) || length.parse::<u64>().is_err() {
            return Err("it has several lengths");
        }
        if let Ok(length) = HeaderValue::from_str(length) {
            headers.insert(header::CONTENT_LENGTH, length);
        }
    }
    Ok(())
}

/// Removes the headers of one connection, those that `Connection` names, and `others`.
fn remove(headers: &mut HeaderMap, others: &[HeaderName]) {
    let named = headers.get_all(header::CONNECTION).iter();
    let named = named.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let named: Vec<HeaderName> = named.filter_map(|name| name.trim().parse().ok()).collect();
    // A length next to a transfer encoding may be wrong (RFC 9112, section 6.3).
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let is_removed = |name: &&HeaderName| {
        HOP_BY_HOP.contains(name)
            || others.contains(name)
            || named.contains(name)
            || (is_chunked && **name == header::CONTENT_LENGTH)
    };
    let removed: Vec<HeaderName> = headers.keys().filter(is_removed).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn lengths() {
        let table = [("5", Some("5")), ("5, 5", Some("5")), ("5, 6", None), ("x", None)];
        for (length, expected) in table {
            let mut headers =
                HeaderMap::from_iter([(header::CONTENT_LENGTH, length.parse().unwrap())]);
            let result = to_client(&mut headers);
            let kept = headers.get(header::CONTENT_LENGTH).map(|it| it.to_str().unwrap());
            assert_eq!(result.ok().and(kept), expected, "{length}");
        }
    }
}
